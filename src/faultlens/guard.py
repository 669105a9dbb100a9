"""Looks at other people's objects without being hurt: any of their code may raise or lie."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = [
    "attribute",
    "causes",
    "class_name",
    "frames",
    "mro",
    "of_a_signal",
    "short_name",
    "text",
    "traceback_of",
]

mro = type.__dict__["__mro__"].__get__
"""A class's bases, past a metaclass of the user's that overrides ``__mro__``."""

traceback_of = BaseException.__dict__["__traceback__"].__get__
"""An exception's traceback, past a ``__getattribute__`` of the user's."""

short_name = type.__dict__["__name__"].__get__
"""A class's own name, past a metaclass of the user's."""

_cause_of = BaseException.__dict__["__cause__"].__get__
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def attribute(obj: object, name: str) -> Any:
    """The attribute, or None if there is none or reading it raises, whatever it raises."""
    try:
        return getattr(obj, name, None)
    except BaseException as error:  # a property of the user's may raise SystemExit
        _let_signals_pass(error)
        return None


def text(value: object, limit: int) -> str | None:
    """`value` as text of at most `limit` characters, cut with an ellipsis.

    None if `value` has no text: its ``__str__`` raises, or returns something else.
    """
    try:
        # str.__str__ makes a plain str of a subclass, whose methods could do anything.
        result = str.__str__(str(value))
    except BaseException as error:
        _let_signals_pass(error)
        return None
    if len(result) > limit:
        result = result[: limit - 1] + "…"
    # A lone surrogate cannot be encoded: neither the scrape nor the span export would survive it.
    return result.encode("utf-8", "replace").decode("utf-8")


def class_name(cls: type) -> str:
    """The class's full dotted name, past any metaclass that overrides ``__module__``."""
    try:
        return f"{_module_of(cls)}.{_qualname_of(cls)}"
    except AttributeError:  # a class body deleted __module__
        return str(_qualname_of(cls))


def causes(exc: BaseException, limit: int) -> Iterator[BaseException]:
    """What an exception was raised from, and that from, ...: `limit` at most, they may form a ring.

    ``__cause__`` only: ``__context__`` is what was being handled, which need not be the reason.
    """
    cause = _cause_of(exc)
    while cause is not None and limit > 0:
        yield cause
        cause = _cause_of(cause)
        limit -= 1


def frames(exc: BaseException, frame: FrameType | None, limit: int) -> Iterator[FrameType]:
    """The frames of a raise, the raising one first, `limit` at most.

    frame: the raising frame; where that is gone the traceback stands in, which ends where the
        exception was caught.
    """
    if frame is None:
        entry = traceback_of(exc)
        unwound = []
        while entry is not None:
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
    """Whether a signal handler of the host's raised this, in the middle of something else.

    It is the host's then, and meant for it: a time-out, a SIGTERM that exits, Ctrl-C.
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


def _let_signals_pass(error: BaseException) -> None:
    # A KeyboardInterrupt may come from the object's own code here, and that must not get out: a
    # Ctrl-C in these microseconds has to be pressed again.
    if not isinstance(error, KeyboardInterrupt) and of_a_signal(error):
        raise error


def _code_of(handler: Callable[..., object]) -> object:
    """The code of a function, a method or a callable object; None if it is not Python."""
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
