"""What is done for objects when the process is forked."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TypeVar

__all__ = ["at_fork"]

T = TypeVar("T")


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
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**{when: for_each(do) for when, do in wanted.items() if do is not None})
    return objects
