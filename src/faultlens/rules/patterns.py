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

from faultlens import guard, natives

__all__ = ["MESSAGE_LIMIT", "Globs", "expression", "full_name", "is_glob", "loaded_class"]

MESSAGE_LIMIT = 1000
"""How many characters of a message are searched."""
STEP_LIMIT = 20_000_000
"""The most steps that a search may take in the worst case: a few hundredths of a second."""
EXPRESSION_LIMIT = 500
"""The maximum length of a regular expression, in characters."""


class Globs:
    """One or more globs; `*` matches any characters, including dots."""

    __slots__ = ("_match", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self._match = re.compile("|".join(map(fnmatch.translate, self.texts))).match

    def match(self, *names: str) -> bool:
        """Whether one of the names matches one of the globs."""
        return any(map(self._match, names))


def is_glob(text: str) -> bool:
    """Whether the text contains a wildcard."""
    return any(char in text for char in "*?[")


def full_name(name: str) -> str:
    """A class's full name; the module of a built-in exception may be omitted."""
    found = vars(builtins).get(name)
    if isinstance(found, type) and issubclass(found, BaseException):
        return guard.class_name(found)  # IOError is builtins.OSError
    return name


def loaded_class(name: str) -> type[BaseException] | None:
    """The exception class with this full name, if its module is imported. Runs no user code."""
    module = name.rpartition(".")[0] or "builtins"
    while module and module not in natives.modules:
        module = module.rpartition(".")[0]  # a class may be nested in another one
    found: Any = natives.modules.get(module)
    for part in name.removeprefix(f"{module}.").split("."):
        found = guard.attribute(found, part)
    if not issubclass(type(found), type):  # not isinstance, which reads a proxy's __class__
        return None
    is_exception = any(base is BaseException for base in guard.mro(found))
    return found if is_exception else None


def expression(text: str) -> re.Pattern[str]:
    """Compile a regular expression. Raises ValueError if it is invalid or could search for long.

    Python's `re` has no time-out, and the search runs while the program waits in a raise.
    """
    if len(text) > EXPRESSION_LIMIT:
        raise ValueError(f"expected at most {EXPRESSION_LIMIT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about syntax whose meaning may change
            compiled = re.compile(text)
            steps = _steps(_parse(text))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression: {error}") from error
    if steps > STEP_LIMIT:
        raise ValueError(
            f"it could take more than {STEP_LIMIT:,} steps on a message of {MESSAGE_LIMIT:,} "
            "characters; expected fewer repetitions in sequence or nested, or {m,n} instead of * "
            "and +"
        )
    return compiled


# How long can a search take? For each part of the expression, two numbers are computed: the most
# steps that it takes, and the most ways in which it can match at one place. After each of those,
# the search tries everything that follows.

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
        tail += _cost(items[-1:])[0]  # always matches, so the search tries it only once
        items.pop()
    steps, _ = _cost(items)
    return int(steps * (1 if once else MESSAGE_LIMIT + 1) + tail)


def _cost(items: Iterable[Any]) -> tuple[int, int]:
    """The steps and ways of a sequence, each at most `_TOO_MANY`."""
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
    return _TOO_MANY, _TOO_MANY  # a back-reference, or syntax of a later Python


def _cost_of_branches(branches: list[Any]) -> tuple[int, int]:
    steps, ways = zip(*map(_cost, branches), strict=True)
    starts = [_start(branch) for branch in branches]
    # If no branch can begin like another, only one of them can match.
    if not any(a.startswith(b) for i, a in enumerate(starts) for b in starts[:i] + starts[i + 1 :]):
        return max(steps) + len(steps), max(ways)
    return sum(steps), sum(ways)


def _start(branch: Any) -> str:
    """The letters with which every match of the branch begins."""
    found = ""
    for op, argument in branch:
        # Only ASCII: with (?i), the Kelvin sign matches a k.
        if str(op) != "LITERAL" or argument > 127:
            break
        found += chr(argument).lower()
    return found


def _cost_of_repeat(least: int, most: int, item: Any) -> tuple[int, int]:
    steps, ways = _cost(item)
    # The engine repeats the item `least` times even if it can be empty.
    most = max(int(least), min(int(most), MESSAGE_LIMIT // max(item.getwidth()[0], 1)))
    if ways == 1:
        return most * steps + 1, max(most - int(least), 0) + 1
    if most * ways.bit_length() > 64:
        return _TOO_MANY, _TOO_MANY
    every = sum(ways**times for times in range(most + 1))
    return every * steps, every
