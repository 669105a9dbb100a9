"""Looks at other people's objects without being hurt: any of their code may raise or lie."""

from __future__ import annotations

from typing import Any

__all__ = ["attribute", "class_name", "text"]

_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def attribute(obj: object, name: str) -> Any:
    """The attribute, or None if there is none or reading it raises, whatever it raises."""
    try:
        return getattr(obj, name, None)
    except BaseException:  # a property of the user's may raise SystemExit
        return None


def text(value: object, limit: int) -> str | None:
    """`value` as text of at most `limit` characters, cut with an ellipsis.

    None if `value` has no text: its ``__str__`` raises, or returns something else.
    """
    try:
        # str.__str__ makes a plain str of a subclass, whose methods could do anything.
        result = str.__str__(str(value))
    except BaseException:
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
