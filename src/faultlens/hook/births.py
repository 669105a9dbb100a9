"""Notices the construction of SDK exceptions: a ``__new__`` on each root class of an SDK.

Constructed is not raised, so this only fills `Pending`. Every class keeps the signature, the
pickling and the attributes it had; `uncover` takes all of it out again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any, NamedTuple

from faultlens import guard


class Watch(NamedTuple):
    """What is called for the watched classes."""

    born: Callable[[BaseException], None]
    """With each new instance."""
    finalizer: Callable[[BaseException], None] | None
    """With each instance that is about to be freed, if given."""
    defined: Callable[[type[BaseException]], None]
    """With each subclass, existing and to come."""


_vars_of = type.__dict__["__dict__"].__get__  # past a metaclass of the user's


class Birth(weakref.ref[BaseException]):
    """A weak reference to an SDK exception that was constructed and not yet raised.

    Its attributes are set by the mechanism that makes it: an ``__init__`` would double the cost.
    """

    __slots__ = ("key", "number", "thread")

    key: int
    """The exception's id."""
    number: int
    """The later it was constructed, the larger; if the mechanism needs to know."""
    thread: int
    """Where it was constructed, if the mechanism needs to know."""


Raised = Callable[[BaseException, "FrameType | None"], "BaseException | bool"]
"""What a mechanism calls with an exception that was raised, and the raising frame (None if gone).

Returns True if it is recorded; False if it has to be tried again in the next frame that it unwinds;
or an exception to raise in its place: recorded, and then interrupted by a signal handler.
"""

Pending = dict[int, Birth]
"""The constructed, not yet raised SDK exceptions of all threads, by `id`.

They may be unhashable, or equal to one another. An id is sound only beside a reference that tells
whether the object behind it is still the same; a weak one, since we must keep no exception alive.

Changed only by single, atomic operations: births, raises and deaths come from any thread, and from
the garbage collector and signal handlers in the middle of another.
"""


def cover(root: type[BaseException], watch: Watch) -> None:
    """Watch `root` and its subclasses, existing and to come."""
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
    """Cover what a class of the user's keeps from reaching its root.

    ``class E(ValueError, RuntimeUserError)`` finds ValueError's ``__new__`` first, and methods of
    the user's need not call those they override. An exception that is announced twice is one.
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
            # super(), not BaseException: an ImportError or OSError below refuses any other.
            exc = super(cls, subclass).__new__(subclass, *args, **kwargs)  # type: ignore[arg-type]
            born(exc)
            return exc
    else:
        construct = original.__get__(None, cls)
        traceback_of = guard.traceback_of  # reachable when module globals are gone, at exit

        def __new__(subclass: Any, /, *args: Any, **kwargs: Any) -> Any:
            exc = construct(subclass, *args, **kwargs)
            # It may give out anything, even an exception that was raised before.
            if issubclass(type(exc), BaseException) and traceback_of(exc) is None:
                born(exc)
            return exc

    signature = type.__getattribute__(cls, "__init__") if original is None else _function(original)
    if isinstance(signature, FunctionType):  # inspect.signature(cls) as before
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
            pass  # a class that cannot be covered is still the host's class

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
    """Set a class attribute so that `_unpatch` can restore what was there."""
    original = _vars_of(cls).get(name)
    if _ours(original):
        return
    _function(replacement).__faultlens_original__ = original
    type.__setattr__(cls, name, replacement)  # not through a metaclass of the user's


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
