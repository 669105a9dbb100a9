"""What is done for objects when the process is forked."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

__all__ = ["at_fork", "no_fork"]

T = TypeVar("T")

no_fork = threading.RLock()
"""No other thread forks the process while this is held; what is done meanwhile must be short."""

_before: list[Callable[[], None]] = []
_after_in_parent: list[Callable[[], None]] = []
_after_in_child: list[Callable[[], None]] = []


def at_fork(
    *,
    before: Callable[[T], None] | None = None,
    after_in_parent: Callable[[T], None] | None = None,
    after_in_child: Callable[[T], None] | None = None,
) -> weakref.WeakSet[T]:
    """Have something done at each fork for each object in the set that is returned."""
    objects: weakref.WeakSet[T] = weakref.WeakSet()

    def for_each(action: Callable[[T], None]) -> Callable[[], None]:
        def run() -> None:
            for one in list(objects):
                action(one)

        return run

    for hooks, action in (
        (_before, before),
        (_after_in_parent, after_in_parent),
        (_after_in_child, after_in_child),
    ):
        if action is not None:
            hooks.append(for_each(action))
    return objects


def _call(hooks: list[Callable[[], None]]) -> None:
    for hook in hooks:
        hook()


def _ahead() -> None:
    # Before all else: who has it may be interrupted by a finalizer that counts a failure, and so
    # waits for a lock that the forking thread must not have by then.
    no_fork.acquire()
    _call(_before)


def _in_parent() -> None:
    try:
        _call(_after_in_parent)
    finally:
        no_fork.release()


def _in_child() -> None:
    try:
        _call(_after_in_child)
    finally:
        no_fork.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_ahead, after_in_parent=_in_parent, after_in_child=_in_child)
