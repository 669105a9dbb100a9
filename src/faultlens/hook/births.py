"""Notices the construction of SDK exceptions: a ``__new__`` on each root class of an SDK.

Constructed is not raised, so this only fills `Pending`. Every class keeps the signature, the
pickling and the attributes it had; `uncover` takes all of it out again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

Born = Callable[[object], None]


class Birth(weakref.ref[BaseException]):
    """A weak reference to an SDK exception that was constructed and not yet raised.

    Exceptions are told apart by `id`: they may be unhashable, or equal to one another. An id is
    sound only beside a reference that tells whether the object behind it is still the same; a
    weak one, since we must keep no exception alive.
    """

    __slots__ = ("key",)

    def __init__(self, exc: BaseException, callback: Callable[[Any], None] | None = None) -> None:
        super().__init__(exc, callback)  # type: ignore[call-arg]
        self.key = id(exc)


class Pending:
    """The constructed, not yet raised SDK exceptions of all threads.

    Each method changes `births` by one atomic dictionary operation: births, raises and deaths come
    from any thread, and from the garbage collector and signal handlers in the middle of another.
    """

    def __init__(self) -> None:
        self.births: dict[int, Birth] = {}

    def __contains__(self, exc: BaseException) -> bool:
        birth = self.births.get(id(exc))
        return birth is not None and birth() is exc

    def add(self, birth: Birth) -> Birth:
        self.births[birth.key] = birth
        return birth

    def claim(self, exc: BaseException) -> Birth | None:
        """Take `exc` out; not None for the one caller that gets it."""
        birth = self.births.get(id(exc))
        if birth is None:
            return None
        alive = birth()
        # A dead reference under the id of a living object is that object's own: the garbage
        # collector clears weak references before it runs finalizers.
        if alive is not None and alive is not exc:
            return None
        return birth if self.births.pop(id(exc), None) is birth else None


def cover(
    root: type[BaseException], born: Born, finalizer: Callable[[BaseException], None] | None
) -> None:
    """Call `born` with each new instance of `root` and of its subclasses, existing and to come.

    finalizer: set as the classes' ``__del__``, if given.
    """
    _patch(root, "__new__", _new(root, born))
    _patch(root, "__init_subclass__", _init_subclass(root, born))
    if finalizer is not None:
        _patch(root, "__del__", _del(root, finalizer))
    for cls in _subclasses(root):
        _cover_subclass(cls, born)


def uncover(root: type[BaseException]) -> None:
    """Undo `cover` on `root` and on all its subclasses."""
    for cls in (root, *_subclasses(root)):
        for name in ("__new__", "__init_subclass__", "__del__"):
            _unpatch(cls, name)


def _cover_subclass(cls: type, born: Born) -> None:
    """Cover a class whose constructor would pass by its root's ``__new__``.

    ``class E(ValueError, RuntimeUserError)`` finds ValueError's first, and a ``__new__`` of the
    user's may call ``Exception.__new__`` by name. An exception that is announced twice is one.
    """
    constructor = next(base.__dict__["__new__"] for base in cls.__mro__ if "__new__" in base.__dict__)
    if not _ours(constructor):
        _patch(cls, "__new__", _new(cls, born))


def _new(cls: type, born: Born) -> staticmethod[..., Any]:
    original = cls.__dict__.get("__new__")
    if original is None:

        def __new__(subclass: Any, /, *args: Any, **kwargs: Any) -> Any:
            # super(), not BaseException: an ImportError or OSError below refuses any other.
            exc = super(cls, subclass).__new__(subclass, *args, **kwargs)  # type: ignore[misc]
            born(exc)
            return exc
    else:
        construct = original.__get__(None, cls)

        def __new__(subclass: Any, /, *args: Any, **kwargs: Any) -> Any:
            exc = construct(subclass, *args, **kwargs)
            born(exc)
            return exc

    init = cls.__init__  # type: ignore[misc]
    if isinstance(init, FunctionType):
        __new__.__wrapped__ = init  # type: ignore[attr-defined]  # inspect.signature(cls) as before
    return staticmethod(__new__)


def _init_subclass(cls: type, born: Born) -> classmethod[Any, ..., None]:
    original = cls.__dict__.get("__init_subclass__")

    def __init_subclass__(subclass: Any, /, **kwargs: Any) -> None:
        if original is None:
            super(cls, subclass).__init_subclass__(**kwargs)  # type: ignore[misc]
        else:
            original.__get__(None, subclass)(**kwargs)
        try:
            _cover_subclass(subclass, born)
        except Exception:
            pass  # a class that cannot be covered is still the host's class

    return classmethod(__init_subclass__)


def _del(cls: type, finalizer: Callable[[BaseException], None]) -> FunctionType:
    original = cls.__dict__.get("__del__")

    def __del__(self: Any) -> None:
        finalizer(self)
        if original is not None:
            original(self)

    assert isinstance(__del__, FunctionType)
    return __del__


def _patch(cls: type, name: str, replacement: Any) -> None:
    """Set a class attribute so that `_unpatch` can restore what was there."""
    if _ours(cls.__dict__.get(name)):
        return
    _function(replacement).__faultlens_original__ = cls.__dict__.get(name)
    type.__setattr__(cls, name, replacement)  # not through a metaclass of the user's


def _unpatch(cls: type, name: str) -> None:
    patched = cls.__dict__.get(name)
    if not _ours(patched):
        return
    original = _function(patched).__faultlens_original__
    if original is None:
        type.__delattr__(cls, name)
    else:
        type.__setattr__(cls, name, original)


def _ours(attribute: Any) -> bool:
    return hasattr(_function(attribute), "__faultlens_original__")


def _function(attribute: Any) -> Any:
    return attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute


def _subclasses(cls: type) -> Iterator[type]:
    for subclass in type.__subclasses__(cls):
        yield subclass
        yield from _subclasses(subclass)
