"""The interpreter's own clocks, threads, locks, sockets and modules, even if the host patches them.

gevent and eventlet replace functions in the standard modules, perhaps before faultlens is imported.
freezegun and ``patch("time.time")`` replace them later, freezegun in every module that has them. A
second instance of a built-in module has its own functions, which none of these replaces.
"""

from __future__ import annotations

import os
import sys
from _socket import close, getaddrinfo, socket
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import BuiltinImporter, PathFinder
from importlib.util import module_from_spec
from math import ceil
from typing import Any

__all__ = [
    "POLLIN",
    "POLLOUT",
    "RLock",
    "allocate_lock",
    "close",
    "get_ident",
    "getaddrinfo",
    "locks_are_eventlets",
    "modules",
    "monotonic",
    "pristine",
    "sleep",
    "socket",
    "start_new_thread",
    "stderr",
    "time",
    "wait",
    "write",
]


modules = sys.modules
"""Those of the program. In a sandbox, as Temporal runs workflows in, `sys.modules` has others."""


def pristine(name: str) -> Any:
    """A second instance of a built-in module, not entered in `sys.modules`."""
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name)
    if spec is None or spec.loader is None:
        return import_module(name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_time, _thread, _select = map(pristine, ("time", "_thread", "select"))
_os = pristine(os.name)

time: Callable[[], float] = _time.time
monotonic: Callable[[], float] = _time.monotonic
sleep: Callable[[float], None] = _time.sleep
get_ident: Callable[[], int] = _thread.get_ident
start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = _thread.start_new_thread
allocate_lock = _thread.allocate_lock
RLock = _thread.RLock
write: Callable[[int, bytes], int] = _os.write

POLLIN, POLLOUT = 1, 4


def locks_are_eventlets() -> bool:
    """Whether the program's new locks are eventlet's: two threads that meet at one can hang."""
    lock = getattr(modules.get("threading"), "Lock", None)
    return str(getattr(lock, "__module__", "")).startswith("eventlet.")


def stderr() -> int:
    """The descriptor of the program's stderr. Raises OSError if it has none, or has closed it."""
    if sys.__stderr__ is None:
        raise OSError("the process has no stderr")
    descriptor = sys.__stderr__.fileno()
    # Programs start with a stderr that children inherit, and `os.dup2` keeps it so. What Python
    # opens is not inherited: a daemon has closed its stderr, and a file of its own has the number.
    if os.name == "posix" and not os.get_inheritable(descriptor):
        raise OSError("the program has closed its stderr, and another file has its number")
    return descriptor


def wait(watched: Mapping[int, int], seconds: float) -> dict[int, int]:
    """Wait for events on these descriptors; returns the events that occurred, by descriptor.

    watched: the events to wait for, by descriptor.
    seconds: how long to wait at most.
    """
    poll = _select.poll()
    for number, events in watched.items():
        poll.register(number, events)
    return dict(poll.poll(ceil(seconds * 1000)))


def _wait_by_select(watched: Mapping[int, int], seconds: float) -> dict[int, int]:
    if not watched:  # select() on Windows refuses to wait for nothing
        sleep(seconds)
        return {}
    reading = [number for number, events in watched.items() if events & POLLIN]
    writing = [number for number, events in watched.items() if events & POLLOUT]
    readable, writable, _ = _select.select(reading, writing, [], seconds)
    return {**dict.fromkeys(readable, POLLIN), **dict.fromkeys(writable, POLLOUT)}


if not hasattr(_select, "poll"):
    wait = _wait_by_select
