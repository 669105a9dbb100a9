"""What was learnt about failures, in bounded memory and without a lock.

Exceptions are recorded in any thread and in finalizers, where waiting for a lock may never end.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import Generic, TypeVar

from faultlens.identity import IdentityMap

__all__ = ["LIMIT", "Bounded", "Claims", "Ordinals"]

V = TypeVar("V")

LIMIT = 16384
"""How many keys are remembered at most. At least half of them, the latest used, always are."""


class Bounded(Generic[V]):
    """A dict that forgets what was not used for longest.

    Keys: tuples of plain str and int, so that no code of strangers runs to compare them.

    Two generations: what is used moves to the young one, and when that is full it becomes the old
    one, whose keys are forgotten. Every step is one atomic operation of a dict; threads that race
    at the very change of generations may forget a key too early.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._half = max(1, limit // 2)
        self._generations: tuple[dict[Hashable, V], dict[Hashable, V]] = ({}, {})
        self._ageing = threading.Lock()  # only ever tried, never waited for

    def __len__(self) -> int:
        return sum(map(len, self._generations))

    def get(self, key: Hashable) -> V | None:
        young, old = self._generations
        value = young.get(key)
        if value is None and (value := old.get(key)) is not None:
            value = self._keep(young, key, value)
        return value

    def setdefault(self, key: Hashable, value: V) -> V:
        """The value of the key, which is `value` if it had none."""
        young, old = self._generations
        known = young.get(key) or old.get(key)
        return self._keep(young, key, value if known is None else known)

    def _keep(self, young: dict[Hashable, V], key: Hashable, value: V) -> V:
        value = young.setdefault(key, value)
        if len(young) >= self._half and self._ageing.acquire(blocking=False):
            try:
                if self._generations[0] is young:
                    self._generations = ({}, young)
            finally:
                self._ageing.release()
        return value


class Claims:
    """Which exception was the first to show a failure; keeps none of them alive."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._first: Bounded[tuple[weakref.ref[BaseException], str]] = Bounded(limit)

    def claim(self, key: Hashable, exc: BaseException, name: str) -> str | None:
        """None if `exc` is the first with this key, also when asked again; else who was: a name."""
        reference, first = self._first.setdefault(key, (weakref.ref(exc), name))
        return None if reference() is exc else first

    def holder(self, key: Hashable, exc: BaseException) -> str | None:
        """As `claim`, but an unclaimed key stays so."""
        found = self._first.get(key)
        return None if found is None or found[0]() is exc else found[1]


class Ordinals:
    """Numbers the exceptions of a class within one replay of a workflow.

    Workflow code is deterministic, so the n-th exception of a class is the same failure each time.
    """

    def __init__(self) -> None:
        self._raised: IdentityMap[dict[str, list[weakref.ref[BaseException]]]] = IdentityMap()

    def number(self, context: object, name: str, exc: BaseException) -> int:
        """The exception's number; the same when asked again at once."""
        try:
            by_name = self._raised.get(context)
            if by_name is None:
                by_name = {}
                self._raised.set(context, by_name)
        except TypeError:  # None, before there is a context
            return 0
        raised = by_name.setdefault(name, [])
        if not raised or raised[-1]() is not exc:
            raised.append(weakref.ref(exc))
        return len(raised) - 1
