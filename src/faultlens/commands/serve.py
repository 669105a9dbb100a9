"""``faultlens serve``: ``/metrics`` for all processes of a host, in a process of its own.

Needs no SDK: it reads the store that the others write.
"""

from __future__ import annotations

import errno
import logging
import platform
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from faultlens import __version__, settings
from faultlens.background import Background
from faultlens.commands import endpoint
from faultlens.commands.store import Refused, chosen_store
from faultlens.exposition import families
from faultlens.exposition.front import FrontPage
from faultlens.exposition.ledgers import Ledgers
from faultlens.exposition.serving import Server
from faultlens.settings import Settings, StorePath

__all__ = ["serve"]


def serve(*, host: str | None, port: int | None, store: str | None) -> int:
    """Serve a store until SIGTERM or Ctrl-C; returns the exit status.

    host, port, store: instead of what the environment says.
    """
    wanted = settings.load()
    wanted = wanted._replace(
        host=wanted.host if host is None else host,
        port=wanted.port if port is None else port,
    )
    try:
        return _serve(wanted, chosen_store(wanted, store, make=True))
    except Refused as error:
        print(f"faultlens: {error}", file=sys.stderr)
        return 1


def _serve(wanted: Settings, store: StorePath) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    ledgers = Ledgers(
        store, None, lambda reason: logging.warning("faultlens: the store: %s", reason)
    )
    info = {"version": __version__, "detector": "none", "python": platform.python_version()}
    collector = families.Collector(ledgers.read, lambda: info)
    server = Server(
        {
            "/metrics": lambda accept: families.page(collector, accept),
            "/": FrontPage(ledgers.read, __version__, lambda: ledgers.identity),
        },
        wanted.host,
        wanted.port,
        lambda: ledgers.identity,
    )
    wait_for_the_end = _end_by_signal()
    taken = endpoint.bind_error(wanted.host, wanted.port)
    if taken is not None:
        _refuse_unless_served(taken, wanted, ledgers.identity)
    server.run()  # now, so that its port is known
    background = Background()
    background.add(server)
    background.start()
    url = endpoint.metrics_url(server.host, server.port)
    if taken is None:
        print(f"{url} has the counts in {store.directory}; Ctrl-C ends it.", flush=True)
    else:
        print(f"{url} has them already, by another process; this one stands by.", flush=True)
    wait_for_the_end()
    background.stop(patience=10)
    return 0


def _refuse_unless_served(error: OSError, wanted: Settings, store: str) -> None:
    where = endpoint.address(wanted.host, wanted.port)
    if error.errno != errno.EADDRINUSE:
        raise Refused(f"{where} cannot be served: {error.strerror or error}")
    who = endpoint.stranger(wanted.host, wanted.port, store)
    if who is not None:
        raise Refused(f"{where} is taken by {who}. Choose another with --port")


def _end_by_signal() -> Callable[[], None]:
    """Returns what waits for SIGTERM or Ctrl-C.

    Not an Event: its lock may be held by the thread in which the handler would wait for it.
    """
    lock = threading.Lock()
    lock.acquire()

    def handler(number: int, frame: FrameType | None) -> None:
        if lock.locked():
            lock.release()

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)

    def wait() -> None:
        # A signal that comes just before this sleeps does not wake it.
        while not lock.acquire(timeout=1):
            pass

    return wait
