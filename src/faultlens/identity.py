"""A map from objects, by identity, that does not touch the objects."""

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
    """A map from objects, by identity, to values.

    It keeps no object alive (but see `keep`) and calls none of its code, since it may be unhashable
    or equal to others. It leaves no mark on it, since marks would travel through pickle. An id is
    reused after its object dies, so a reference beside it tells whether the object is the same.

    Changed only by single, atomic operations: objects die at any time, in any thread.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Callable[[], object], V]] = {}
        self._forget = self._forgotten  # one bound method for all references

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, obj: object, value: V) -> None:
        """Remember `value` until the object dies.

        Does nothing if the object does not support weak references, as instances of built-in
        exception classes: a later object at the same address could not be told apart.
        """
        try:
            reference = _Reference(obj, self._forget)
        except TypeError:
            return
        reference.key = key = id(obj)
        self._entries[key] = (reference, value)

    def keep(self, obj: object, value: V) -> None:
        """Remember `value` and keep the object alive until `discard`."""
        self._entries[id(obj)] = (lambda: obj, value)

    def discard(self, obj: object) -> None:
        """Forget the object's value."""
        if self.get(obj) is not None:
            self._entries.pop(id(obj), None)

    def get(self, obj: object) -> V | None:
        """The object's value; None if it has none."""
        entry = self._entries.get(id(obj))
        return entry[1] if entry is not None and entry[0]() is obj else None

    def _forgotten(self, reference: _Reference) -> None:
        entry = self._entries.get(reference.key)
        if entry is not None and entry[0] is reference:
            del self._entries[reference.key]
