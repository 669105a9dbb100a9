"""Globs over class names and codes, and regular expressions over messages."""

from __future__ import annotations

import builtins
import fnmatch
import re
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from faultlens import guard

__all__ = ["MESSAGE_LIMIT", "Globs", "expression", "full_name", "is_glob", "loaded_class"]

MESSAGE_LIMIT = 1000
"""How many characters of a message are searched."""
STEP_LIMIT = 20_000_000
"""The most steps that a search may take in the worst case: some hundredths of a second."""
EXPRESSION_LIMIT = 500
"""The longest regular expression, in characters."""


class Globs:
    """One glob or several; `*` stands for any characters, dots too."""

    __slots__ = ("_match", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self._match = re.compile("|".join(map(fnmatch.translate, self.texts))).match

    def match(self, *names: str) -> bool:
        """Whether one of the names matches."""
        return any(map(self._match, names))


def is_glob(text: str) -> bool:
    """Whether it can match more than itself."""
    return any(char in text for char in "*?[")


def full_name(name: str) -> str:
    """A class's name in full: the module of a built-in one may be left out."""
    found = vars(builtins).get(name)
    if isinstance(found, type) and issubclass(found, BaseException):
        return guard.class_name(found)  # IOError is builtins.OSError
    return name


def loaded_class(name: str) -> type[BaseException] | None:
    """The exception class of this full name, if its module is imported. Runs no code."""
    module = name.rpartition(".")[0] or "builtins"
    while module and module not in sys.modules:
        module = module.rpartition(".")[0]  # it may be the class that another is in
    found: Any = sys.modules.get(module)
    for part in name.removeprefix(f"{module}.").split("."):
        found = guard.attribute(found, part)
    if not issubclass(type(found), type):  # not isinstance, which asks a proxy for its class
        return None
    is_exception = any(base is BaseException for base in guard.mro(found))
    return found if is_exception else None


def expression(text: str) -> re.Pattern[str]:
    """A regular expression that cannot search for long. Raises ValueError with what is wrong.

    Python's `re` has no time-out, and this one runs while the program waits in a raise.
    """
    if len(text) > EXPRESSION_LIMIT:
        raise ValueError(f"expected at most {EXPRESSION_LIMIT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read otherwise
            compiled = re.compile(text)
            steps = _steps(_parse(text))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression: {error}") from error
    if steps > STEP_LIMIT:
        raise ValueError(
            f"it could take more than {STEP_LIMIT:,} steps on a message of {MESSAGE_LIMIT:,} "
            "characters; expected fewer repetitions after or within one another, or {m,n} for * "
            "and +"
        )
    return compiled


# How long can a search take? For each part of the expression: how many steps at most, and in how
# many ways it can match at one place, each of which sends the search into what follows.

_ONE_STEP = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT")
_TOO_MANY = STEP_LIMIT + 1


def _parse(text: str) -> Any:
    parser = "sre_parse" if sys.version_info < (3, 11) else "re._parser"
    return import_module(parser).parse(text)


def _steps(parsed: Any) -> int:
    """The most steps that a search of `MESSAGE_LIMIT` characters can take."""
    items = list(parsed)
    anchored = bool(items) and str(items[0][0]) == "AT" and "BEGINNING" in str(items[0][1])
    once = anchored and not parsed.state.flags & re.MULTILINE
    tail = 0
    while items and str(items[-1][0]) in ("MAX_REPEAT", "MIN_REPEAT") and items[-1][1][0] == 0:
        tail += _cost(items[-1:])[0]  # it matches in any case: it is tried once, at the end
        items.pop()
    steps, _ = _cost(items)
    return int(steps * (1 if once else MESSAGE_LIMIT + 1) + tail)


def _cost(items: Iterable[Any]) -> tuple[int, int]:
    """Steps and ways of a sequence; no more than `_TOO_MANY` of either."""
    steps, ways = 1, 1
    for op, argument in items:
        more, choices = _cost_of(str(op), argument)
        steps = min(steps + ways * more, _TOO_MANY)
        ways = min(ways * choices, _TOO_MANY)
    return steps, ways


def _cost_of(op: str, argument: Any) -> tuple[int, int]:
    if op in _ONE_STEP:
        return 1, 1
    if op == "SUBPATTERN":
        return _cost(argument[-1])
    if op == "ATOMIC_GROUP":
        return _cost(argument)
    if op in ("ASSERT", "ASSERT_NOT"):
        return _cost(argument[1])[0], 1
    if op == "BRANCH":
        return _cost_of_branches(argument[1])
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return _cost_of_repeat(*argument)
    return _TOO_MANY, _TOO_MANY  # a reference back, and what a later Python may bring


def _cost_of_branches(branches: list[Any]) -> tuple[int, int]:
    steps, ways = zip(*map(_cost, branches), strict=True)
    starts = [_start(branch) for branch in branches]
    # Where none can begin as another one does, only one of them can match.
    if not any(a.startswith(b) for i, a in enumerate(starts) for b in starts[:i] + starts[i + 1 :]):
        return max(steps) + len(steps), max(ways)
    return sum(steps), sum(ways)


def _start(branch: Any) -> str:
    """The letters that it surely begins with."""
    found = ""
    for op, argument in branch:
        # ASCII only: (?i) takes the Kelvin sign for a k.
        if str(op) != "LITERAL" or argument > 127:
            break
        found += chr(argument).lower()
    return found


def _cost_of_repeat(least: int, most: int, item: Any) -> tuple[int, int]:
    steps, ways = _cost(item)
    # The engine goes through all of `least`, of an item that can be empty too.
    most = max(int(least), min(int(most), MESSAGE_LIMIT // max(item.getwidth()[0], 1)))
    if ways == 1:
        return most * steps + 1, max(most - int(least), 0) + 1
    if most * ways.bit_length() > 64:
        return _TOO_MANY, _TOO_MANY
    every = sum(ways**times for times in range(most + 1))
    return every * steps, every
