"""``faultlens serve``: ``/metrics`` for all processes of a host, in a process of its own.

Needs no SDK: it reads the store that the others write.
"""

from __future__ import annotations

import errno
import logging
import platform
import signal
import sqlite3
import sys
import threading
from dataclasses import replace
from types import FrameType

from prometheus_client import CollectorRegistry

from faultlens import __version__, endpoint, settings
from faultlens.exposition.families import Collector
from faultlens.exposition.server import MetricsServer
from faultlens.exposition.store import Store
from faultlens.settings import Settings
from faultlens.sinks.counters import Counters

__all__ = ["serve"]


def serve(*, host: str | None, port: int | None, store: str | None) -> int:
    """Serve a store until SIGTERM or Ctrl-C; returns the exit status.

    host, port, store: instead of what the environment says.
    """
    try:
        wanted = _settings(host, port, store)
        return _serve(wanted)
    except _Refused as error:
        print(f"faultlens serve: {error}", file=sys.stderr)
        return 1


class _Refused(Exception):
    """Why there is nothing to serve; one line."""


def _settings(host: str | None, port: int | None, store: str | None) -> Settings:
    wanted = settings.load()
    if store is not None:
        try:
            wanted = replace(wanted, store=settings.store_path(store))
        except ValueError as error:
            raise _Refused(f"--store {store}: {error}") from error
    return replace(
        wanted,
        host=wanted.host if host is None else host,
        port=wanted.port if port is None else port,
    )


def _serve(wanted: Settings) -> int:
    if wanted.store is None:
        raise _Refused("FAULTLENS_STORE=off: there is no store to serve. Name one with --store")
    info = {"version": __version__, "detector": "none", "python": platform.python_version()}
    counters = Counters(info)
    store = Store(wanted.store, lambda: counters.drop("store_error"))
    counters.keep_in(store)
    try:
        store.open()
    except (OSError, sqlite3.Error) as error:
        raise _Refused(f"the store cannot be used: {error}") from error
    registry = CollectorRegistry()
    registry.register(Collector(store.read, lambda: info))
    server = MetricsServer(registry, wanted.host, wanted.port, __version__, lambda: store.identity)
    end = _end_by_signal()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    taken = endpoint.bind_error(wanted.host, wanted.port)
    if taken is not None:
        _refuse_unless_served(taken, wanted, store)
    server.start_or_stand_by()
    url = endpoint.metrics_url(server.host, server.port)
    if taken is None:
        print(f"{url} has the counts in {store.directory}; Ctrl-C ends it.", flush=True)
    else:
        print(f"{url} has them already, by another process; this one stands by.", flush=True)
    end.wait()
    server.stop()
    store.end()
    return 0


def _refuse_unless_served(error: OSError, wanted: Settings, store: Store) -> None:
    where = endpoint.address(wanted.host, wanted.port)
    if error.errno != errno.EADDRINUSE:
        raise _Refused(f"{where} cannot be served: {error.strerror or error}")
    who = endpoint.stranger(wanted.host, wanted.port, store.identity)
    if who is not None:
        raise _Refused(f"{where} is taken by {who}. Choose another with --port")


def _end_by_signal() -> threading.Event:
    end = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        end.set()

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    return end
