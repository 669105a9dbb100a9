"""Finds what the user names and no exception can have: a typing error, or a rule too late.

It imports nothing: a class of a module that the program has not imported yet may exist.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from pkgutil import iter_modules
from typing import NamedTuple

from faultlens import guard, imports
from faultlens.rules.files import near
from faultlens.rules.matching import Entry, RuleFile, Rules
from faultlens.rules.patterns import Globs, full_name, is_glob, loaded_class

__all__ = ["Named", "in_the_rules", "of_an_sdk", "unreachable", "why_unknown"]


class Named(NamedTuple):
    """A class or a glob that the user has written."""

    name: str
    what: str
    """What to call it in a warning."""
    as_cause: bool = False


def in_the_rules(rules: Rules, suppress: Sequence[str]) -> Iterator[Named]:
    """Each class or glob that the user has written."""
    for file in rules.files:
        for rule in () if file.shipped else file:
            for name in (rule.name,) if rule.name else _texts(rule.classes):
                yield Named(name, f"{rule.where}: the rule for {name}")
            for name in _texts(rule.causes):
                yield Named(name, f"{rule.where}: the rule for {name}", as_cause=True)
    for name in suppress:
        yield Named(full_name(name), f"FAULTLENS_SUPPRESS: {name}")


def why_unknown(named: Named) -> str | None:
    """Why no class has this name; None if one may have it."""
    name = named.name
    module, _, _ = name.rpartition(".")
    package = name.partition(".")[0]
    if is_glob(package) or "\\" in name:  # PHP's classes have that
        return None
    if not _installed(package):
        hint = near(package, {module.name for module in iter_modules()}, 0.8)
        # Another process, which has the package, may report it as the cause of its failure.
        possible = named.as_cause and not hint
        return None if possible else f"the package {package} is not installed{hint}"
    if is_glob(name) or imports.of_an_sdk(module) or not _is_whole(module):
        return None  # see `of_an_sdk`, and for what is not imported yet nobody knows
    cls = loaded_class(name)
    if cls is not None:
        full = guard.class_name(cls)
        return None if full == name else f"the class's full name is {full}"
    found = {
        guard.class_name(value)
        for value in list(vars(sys.modules[module]).values())
        if issubclass(type(value), type) and BaseException in guard.mro(value)
    }
    return f"{module} has no such class{near(name, found)}"


def of_an_sdk(
    name: str, errors_modules: Collection[str], distribution: str, classes: Collection[str]
) -> str | None:
    """Why no class of an SDK has this name; None if one may have it, or it is not of that SDK.

    classes: the full names of the SDK's exceptions.
    """
    if name.rpartition(".")[0] not in errors_modules or Globs([name]).match(*classes):
        return None
    return f"the installed {distribution} has no such class{near(name, classes)}"


def unreachable(rules: Rules) -> Iterator[str]:
    """Each of the user's rules that comes after one which matches all that it does."""
    for file in rules.files:
        if not file.shipped:
            yield from _unreachable(file)


def _unreachable(file: RuleFile) -> Iterator[str]:
    for number, rule in enumerate(file.rules):
        for earlier in file.rules[:number]:
            if _covers(earlier, rule):
                line = earlier.where.rpartition(" ")[2]
                yield f"{rule.where}: the rule changes nothing: that of line {line} matches first."
                break


def _covers(earlier: Entry, rule: Entry) -> bool:
    """Whether the earlier rule surely matches whatever the other one does."""
    if earlier.message is not None and earlier.message != rule.message:
        return False
    pairs = (
        (earlier.classes, rule.classes),
        (earlier.causes, rule.causes),
        (earlier.code, rule.code),
    )
    return all(
        wide is None or (narrow is not None and _includes(wide, narrow)) for wide, narrow in pairs
    )


def _includes(wide: Globs, narrow: Globs) -> bool:
    if any("?" in text or "[" in text for text in wide.texts):
        return wide.texts == narrow.texts
    return all(wide.match(text) for text in narrow.texts)  # its own * stands for any characters


def _texts(globs: Globs | None) -> tuple[str, ...]:
    return globs.texts if globs is not None else ()


def _installed(package: str) -> bool:
    from importlib.util import find_spec  # it is slow to import

    try:
        return package in sys.modules or find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _is_whole(module: str) -> bool:
    """Whether a module is imported, and not only begun, as the program's main one is for long."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and module != "__main__" and not getattr(spec, "_initializing", False)
