"""Reads objects of the host without running the host's code, which may wait, raise or lie."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, GetSetDescriptorType, MemberDescriptorType, WrapperDescriptorType
from typing import Any

__all__ = [
    "attribute",
    "cause_of",
    "causes",
    "class_name",
    "frames",
    "message",
    "mro",
    "of_a_signal",
    "short_name",
    "text",
    "traceback_of",
    "was_raised",
]

mro = type.__dict__["__mro__"].__get__
"""A class and its bases; ignores a user's metaclass that overrides ``__mro__``."""

traceback_of = BaseException.__dict__["__traceback__"].__get__
"""An exception's traceback; ignores a user's ``__getattribute__``."""

cause_of = BaseException.__dict__["__cause__"].__get__
"""An exception's ``__cause__``; ignores a user's ``__getattribute__``."""

short_name = type.__dict__["__name__"].__get__
"""A class's ``__name__``; ignores a user's metaclass."""

_vars_of = type.__dict__["__dict__"].__get__
_dict_of_exception = BaseException.__dict__["__dict__"].__get__
_args_of = BaseException.__dict__["args"].__get__
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__

_MISSING = object()
_get = dict.get  # ignores the overridden method of a user's subclass
_SCALARS = frozenset({int, float, bool, type(None), bytes, complex})
_PLAIN = _SCALARS | {str, tuple}
_STORED = frozenset({MemberDescriptorType, GetSetDescriptorType})
_DEPTH = 3
"""How many levels of nested collections are shown."""
_ITEMS = 8
"""How many items of a collection are shown."""


def attribute(obj: object, name: str) -> Any:
    """The stored attribute of an object; None if there is none. Runs none of the host's code.

    Reads the object's dictionary, its slots, and plain data on its class. Never calls a property or
    ``__getattr__``: it could wait, raise, or change something.
    """
    kind = type(obj)
    try:
        is_exception = issubclass(kind, BaseException)
        namespace = _dict_of_exception(obj) if is_exception else _namespace(obj)
        found = _get(namespace, name, _MISSING)
        if found is not _MISSING:
            return found
        for base in mro(kind):
            found = _vars_of(base).get(name, _MISSING)
            if found is not _MISSING:
                if type(found) in _PLAIN:
                    return found
                return found.__get__(obj) if type(found) in _STORED else None
    except Exception as error:  # a slot that is not set; at interpreter exit anything may be gone
        if of_a_signal(error):
            raise
    return None


def text(value: object, limit: int) -> str | None:
    """`value` as text of at most `limit` characters, cut with an ellipsis.

    Runs none of the host's code, so the result is None unless `value` is a string, a number, an
    enum member, an exception, or a list or tuple.
    """
    result = _plain_text(value, limit, _DEPTH)
    return None if result is None else _cut(result, limit)


def message(exc: BaseException, limit: int) -> str:
    """The text of ``str(exc)``, of at most `limit` characters. Runs none of the host's code.

    If a class has its own ``__str__``, the message is made from ``args``, as BaseException does. An
    argument that cannot be shown without the host's code is replaced by the name of its class.
    """
    kind, args = type(exc), _args_of(exc)
    if issubclass(kind, OSError) and len(args) > 1:
        number, words, file = (attribute(exc, name) for name in ("errno", "strerror", "filename"))
        where = "" if file is None else f": {_shown(file, limit, quoted=True)}"
        return _cut(f"[Errno {_shown(number, limit)}] {_shown(words, limit)}{where}", limit)
    if issubclass(kind, UnicodeError) and {*map(type, args)} <= _SCALARS | {str}:
        own = next(_vars_of(base)["__str__"] for base in mro(kind) if "__str__" in _vars_of(base))
        if type(own) is WrapperDescriptorType:
            return _cut(own(exc), limit)
    if len(args) == 1:
        return _cut(_shown(args[0], limit, quoted=issubclass(kind, KeyError)), limit)
    return _cut(_shown(args, limit) if args else "", limit)


def _shown(value: object, limit: int, quoted: bool = False) -> str:
    """`value` as text, or the name of its class."""
    result = _plain_text(value, limit, _DEPTH, quoted)
    return f"<{class_name(type(value))}>" if result is None else result


def _plain_text(value: Any, limit: int, depth: int, quoted: bool = False) -> str | None:
    kind = type(value)
    if issubclass(kind, str):
        plain = str.__str__(value)[: limit + 1]
        return repr(plain) if quoted else plain
    if kind in _SCALARS:
        return repr(value[: limit + 1] if kind is bytes else value)
    if not depth:
        return None
    if issubclass(kind, BaseException):
        return f"{short_name(kind)}({_listed(_args_of(value), limit, depth)})"
    if kind is tuple:
        return f"({_listed(value, limit, depth)}{',' if len(value) == 1 else ''})"
    if kind is list:
        return f"[{_listed(value, limit, depth)}]"
    member = attribute(value, "_value_")  # of an enum
    return _plain_text(member, limit, 0, quoted) if type(member) in (str, int) else None


def _listed(items: Sequence[object], limit: int, depth: int) -> str:
    shown = (
        _plain_text(item, limit, depth - 1, True) or f"<{class_name(type(item))}>"
        for item in items[:_ITEMS]
    )
    return ", ".join(shown) + (", …" if len(items) > _ITEMS else "")


def _cut(result: str, limit: int) -> str:
    if len(result) > limit:
        result = result[: limit - 1] + "…"
    return _encodable(result)


def _encodable(result: str) -> str:
    # Lone surrogates cannot be encoded: they would break the scrape and the span export.
    return result if result.isascii() else result.encode("utf-8", "replace").decode("utf-8")


def _namespace(obj: object) -> dict[str, Any]:
    """The ``__dict__`` of an object other than an exception; ignores a property of that name."""
    kind = type(obj)
    for base in mro(kind):
        found = _vars_of(base).get("__dict__")
        if found is not None:
            if type(found) not in _STORED:
                return {}
            namespace = found.__get__(obj)
            return dict(namespace) if issubclass(kind, type) else namespace
    return {}


def class_name(cls: type) -> str:
    """The class's full dotted name; ignores a metaclass that overrides ``__module__``."""
    name = str.__str__(_qualname_of(cls))
    try:
        module = _module_of(cls)
    except AttributeError:  # a class body deleted __module__
        return _encodable(name)
    # A class body may set __module__ to anything.
    return _encodable(f"{str.__str__(module)}.{name}" if issubclass(type(module), str) else name)


def causes(exc: BaseException, limit: int) -> Iterator[BaseException]:
    """The chain of ``__cause__`` of an exception; at most `limit`, since it may be a cycle.

    ``__context__`` is ignored: the exception that was being handled need not be the reason.
    """
    cause = cause_of(exc)
    while cause is not None and limit > 0:
        yield cause
        cause = cause_of(cause)
        limit -= 1


def was_raised(exc: BaseException) -> bool:
    """Whether an exception has a traceback from a raise in this process."""
    entry = traceback_of(exc)
    return entry is not None and not _is_copied(entry.tb_frame)


def _is_copied(frame: FrameType) -> bool:
    """Whether tblib, which dask uses, made this frame from a frame of another process.

    tblib puts a traceback of such frames on an exception that it unpickles. If the exception is
    raised here too, its traceback begins with a frame of this process.
    """
    return frame.f_code.co_names == ("__traceback_maker",)


def frames(exc: BaseException, frame: FrameType | None, limit: int) -> Iterator[FrameType]:
    """The frames of a raise, the raising one first, at most `limit`.

    frame: the raising frame. If it is None, the frames come from the traceback, which goes up only
        to the frame that caught the exception.
    """
    if frame is None:
        entry = traceback_of(exc)
        unwound = []
        while entry is not None and not _is_copied(entry.tb_frame):
            unwound.append(entry.tb_frame)
            entry = entry.tb_next
        yield from unwound[: -limit - 1 : -1]
        return
    callers: FrameType | None = frame
    while callers is not None and limit > 0:
        yield callers
        callers = callers.f_back
        limit -= 1


def of_a_signal(error: BaseException) -> bool:
    """Whether one of the host's signal handlers raised this while our code was running.

    The host must get such an exception: a time-out, a SIGTERM that exits, Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    try:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        codes = {_code_of(handler) for handler in handlers if callable(handler)} - {None}
    except Exception:
        return False  # at interpreter exit anything may be gone
    entry = error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code in codes:
            return True
        entry = entry.tb_next
    return False


def _code_of(handler: Callable[..., object]) -> object:
    """The code object of a function, method or callable object; None if it is not Python code."""
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
