"""Notices the construction of SDK exceptions by a ``__new__`` on each root class of an SDK.

A constructed exception is not raised yet, so this only fills `Pending`. Every class keeps its
signature, pickling and attributes; `uncover` removes everything again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any, NamedTuple

from faultlens import guard


class Watch(NamedTuple):
    """The callbacks for watched classes."""

    born: Callable[[BaseException], None]
    """Called with each new instance."""
    finalizer: Callable[[BaseException], None] | None
    """Called with each instance that is about to be freed; may be None."""
    defined: Callable[[type[BaseException]], None]
    """Called with each subclass, including future ones."""


_vars_of = type.__dict__["__dict__"].__get__  # bypasses a user's metaclass


class Birth(weakref.ref[BaseException]):
    """A weak reference to an SDK exception that was constructed but not yet raised.

    The mechanism that creates it sets its attributes: an ``__init__`` would double the cost.
    """

    __slots__ = ("key", "number", "thread")

    key: int
    """The exception's id."""
    number: int
    """The order of construction, if the mechanism needs it."""
    thread: int
    """The thread that constructed it, if the mechanism needs it."""


Raised = Callable[[BaseException, "FrameType | None"], "BaseException | bool"]
"""A mechanism calls this with an exception that was raised and the raising frame (None if gone).

Returns True if the exception was handled or deferred, and False if the mechanism must report it
again in the next frame that it unwinds. If a signal handler raised an exception after the count,
returns that one, which the mechanism then raises.
"""

Pending = dict[int, Birth]
"""The constructed but not yet raised SDK exceptions of all threads, by `id`.

The exceptions may be unhashable, or equal to one another, so they cannot be keys. Python may give
the id of a dead object to another one, so each entry also refers to its exception. The reference is
weak, so it does not keep the exception alive.

Changed only by single, atomic operations. Births, raises and deaths happen in any thread, and a
finalizer or signal handler can cause one in the middle of another.
"""


def cover(root: type[BaseException], watch: Watch) -> None:
    """Watch `root` and its subclasses, including future ones."""
    _patch(root, "__new__", _new(root, watch))
    _patch(root, "__init_subclass__", _init_subclass(root, watch))
    if watch.finalizer is not None:
        _patch(root, "__del__", _del(root, watch.finalizer))
    for cls in _subclasses(root):
        _cover_subclass(cls, watch)


def uncover(root: type[BaseException]) -> None:
    """Undo `cover` on `root` and on all its subclasses."""
    for cls in (root, *_subclasses(root)):
        for name in ("__new__", "__init_subclass__", "__del__"):
            _unpatch(cls, name)


def _cover_subclass(cls: type, watch: Watch) -> None:
    """Patch the methods of a user's class that may not call the root's.

    ``class E(ValueError, RuntimeUserError)`` finds ValueError's ``__new__`` first, and a user's
    method need not call the one that it overrides. Reporting a birth twice is harmless.
    """
    own = _vars_of(cls)
    constructor = next(
        _vars_of(base)["__new__"] for base in guard.mro(cls) if "__new__" in _vars_of(base)
    )
    if not _ours(constructor):
        _patch(cls, "__new__", _new(cls, watch))
    if "__init_subclass__" in own:
        _patch(cls, "__init_subclass__", _init_subclass(cls, watch))
    if "__del__" in own and watch.finalizer is not None:
        _patch(cls, "__del__", _del(cls, watch.finalizer))
    watch.defined(cls)


def _new(cls: type, watch: Watch) -> staticmethod[..., Any]:
    born, original = watch.born, _vars_of(cls).get("__new__")
    if original is None:

        def __new__(subclass: Any, /, *args: Any, **kwargs: Any) -> Any:
            # super(), not BaseException: subclasses of ImportError or OSError refuse its __new__.
            exc = super(cls, subclass).__new__(subclass, *args, **kwargs)  # type: ignore[arg-type]
            born(exc)
            return exc
    else:
        construct = original.__get__(None, cls)
        traceback_of = guard.traceback_of  # still reachable at exit, when module globals are gone

        def __new__(subclass: Any, /, *args: Any, **kwargs: Any) -> Any:
            exc = construct(subclass, *args, **kwargs)
            # The user's __new__ may return anything, even an exception that was raised before.
            if issubclass(type(exc), BaseException) and traceback_of(exc) is None:
                born(exc)
            return exc

    signature = type.__getattribute__(cls, "__init__") if original is None else _function(original)
    if isinstance(signature, FunctionType):  # keeps inspect.signature(cls) as it was
        __new__.__wrapped__ = signature  # type: ignore[attr-defined]
    return staticmethod(__new__)


def _init_subclass(cls: type, watch: Watch) -> classmethod[Any, ..., None]:
    original = _vars_of(cls).get("__init_subclass__")

    def __init_subclass__(subclass: Any, /, **kwargs: Any) -> None:
        if original is None:
            super(cls, subclass).__init_subclass__(**kwargs)  # type: ignore[arg-type]
        else:
            original.__get__(None, subclass)(**kwargs)
        try:
            _cover_subclass(subclass, watch)
        except Exception:
            pass  # the host can still use a class that cannot be patched

    return classmethod(__init_subclass__)


def _del(cls: type, finalizer: Callable[[BaseException], None]) -> FunctionType:
    original = _vars_of(cls).get("__del__")

    def __del__(self: Any) -> None:
        finalizer(self)
        if original is not None:
            original(self)

    assert isinstance(__del__, FunctionType)
    return __del__


def _patch(cls: type, name: str, replacement: Any) -> None:
    """Set a class attribute, and remember the original for `_unpatch`."""
    original = _vars_of(cls).get(name)
    if _ours(original):
        return
    _function(replacement).__faultlens_original__ = original
    type.__setattr__(cls, name, replacement)  # bypasses a user's metaclass


def _unpatch(cls: type, name: str) -> None:
    patched = _vars_of(cls).get(name)
    if not _ours(patched):
        return
    original = _function(patched).__faultlens_original__
    if original is None:
        type.__delattr__(cls, name)
    else:
        type.__setattr__(cls, name, original)


def _ours(attribute: Any) -> bool:
    function = _function(attribute)
    return isinstance(function, FunctionType) and hasattr(function, "__faultlens_original__")


def _function(attribute: Any) -> Any:
    return attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = type.__subclasses__(cls)
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)
