"""Remembers things about objects without touching them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["IdentityMap"]

V = TypeVar("V")


class _Reference(weakref.ref[object]):
    __slots__ = ("key",)

    key: int
    """The object's id."""


class IdentityMap(Generic[V]):
    """Values by an object's identity.

    Keeps no object alive (but see `keep`), calls none of its code (it may be unhashable, or equal
    to others), and leaves no mark on it: marks travel through pickle. An id is sound only beside a
    reference that tells whether the object behind it is still the same.

    Changed by single, atomic operations only: objects die at any time, in any thread.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Callable[[], object], V]] = {}
        self._forget = self._forgotten  # one bound method for all references

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, obj: object, value: V) -> None:
        """Remember `value` until the object dies.

        Nothing is remembered of an object that takes no weak reference, as an instance of a
        built-in exception class: it could not be told from its successor at the same address.
        """
        try:
            reference = _Reference(obj, self._forget)
        except TypeError:
            return
        reference.key = key = id(obj)
        self._entries[key] = (reference, value)

    def keep(self, obj: object, value: V) -> None:
        """Remember `value`, and keep the object alive, until `discard`."""
        self._entries[id(obj)] = (lambda: obj, value)

    def discard(self, obj: object) -> None:
        """Forget what is remembered about the object."""
        if self.get(obj) is not None:
            self._entries.pop(id(obj), None)

    def get(self, obj: object) -> V | None:
        """What is remembered about the object; None if nothing is."""
        entry = self._entries.get(id(obj))
        return entry[1] if entry is not None and entry[0]() is obj else None

    def _forgotten(self, reference: _Reference) -> None:
        entry = self._entries.get(reference.key)
        if entry is not None and entry[0] is reference:
            del self._entries[reference.key]
