from __future__ import annotations

import os

import pytest

from tests import children


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the developer's shell has set for faultlens or OpenTelemetry."""
    for name in list(os.environ):
        if name.startswith(children.PREFIXES):
            monkeypatch.delenv(name)
