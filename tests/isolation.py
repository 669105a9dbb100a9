"""Keeps what is run from here away from the counts of the user who runs it.

Without FAULTLENS_STORE, faultlens counts in a directory that all programs of the user share. The
packages `tests` and `benchmarks` call `isolate` when they are imported, before any SDK is.
"""

from __future__ import annotations

import os
from pathlib import Path

PREFIXES = ("FAULTLENS", "OTEL_", "K8S_NODE_NAME", "NODE_NAME", "PROMETHEUS_")
"""How the variables begin that faultlens and OpenTelemetry read."""

ENVIRONMENT = {"FAULTLENS_STORE": "off"}
"""In memory, unless a test names a directory of its own."""


def isolate() -> None:
    """Keep this process, and those that it starts, from the user's store."""
    os.environ.update(ENVIRONMENT)


def users_store() -> dict[Path, int]:
    """The user's store and its files, each with the moment of its last change."""
    from faultlens.settings import store_path

    store = store_path("")
    assert store is not None
    found = {}
    for path in (store.directory, *store.directory.glob("*")):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # there is none, or it has just gone
            pass
    return found
