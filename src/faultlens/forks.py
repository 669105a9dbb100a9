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

    wanted = {
        "before": before,
        "after_in_parent": after_in_parent,
        "after_in_child": after_in_child,
    }
    _register(**{when: for_each(do) for when, do in wanted.items() if do is not None})
    return objects


def _register(**hooks: Callable[[], object]) -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**hooks)


_register(before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=no_fork.release)
