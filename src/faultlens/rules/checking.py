"""Finds rules that can never match: a misspelt class, or a rule after one that matches first.

It imports none of the modules that the rules name. So a class may exist in a module that the
program has not imported yet.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from faultlens import guard, imports
from faultlens.rules.files import near
from faultlens.rules.matching import Entry, RuleFile, Rules
from faultlens.rules.patterns import Globs, full_name, is_glob, loaded_class

__all__ = ["Named", "in_the_rules", "of_an_sdk", "unreachable", "why_unknown"]


class Named(NamedTuple):
    """A class or a glob that the user wrote."""

    name: str
    what: str
    """How to refer to it in a warning."""
    as_cause: bool = False


def in_the_rules(rules: Rules, suppress: Sequence[str]) -> Iterator[Named]:
    """Each class or glob that the user wrote, in the rules or in FAULTLENS_SUPPRESS."""
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
    if is_glob(package) or "\\" in name:  # the class of a PHP program
        return None
    if not _installed(package):
        from pkgutil import iter_modules  # slow to import

        hint = near(package, {module.name for module in iter_modules()}, 0.8)
        # Another process, where the package is installed, may report the class as a cause.
        possible = named.as_cause and not hint
        return None if possible else f"the package {package} is not installed{hint}"
    if is_glob(name) or imports.of_an_sdk(module) or not _is_whole(module):
        return None  # `of_an_sdk` checks an SDK's; other classes are unknown before the import
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
    """Why no class of an SDK has this name; None if one may have it, or it is not that SDK's.

    classes: the full names of the SDK's exceptions.
    """
    if name.rpartition(".")[0] not in errors_modules or Globs([name]).match(*classes):
        return None
    return f"the installed {distribution} has no such class{near(name, classes)}"


def unreachable(rules: Rules) -> Iterator[str]:
    """A warning for each of the user's rules after one that matches everything that it matches."""
    for file in rules.files:
        if not file.shipped:
            yield from _unreachable(file)


def _unreachable(file: RuleFile) -> Iterator[str]:
    for number, rule in enumerate(file.rules):
        for earlier in file.rules[:number]:
            if _covers(earlier, rule):
                line = earlier.where.rpartition(" ")[2]
                first = f"the rule on line {line} matches first"
                yield f"{rule.where}: the rule changes nothing: {first}."
                break


def _covers(earlier: Entry, rule: Entry) -> bool:
    """Whether the earlier rule certainly matches everything that the later one matches."""
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
    return all(wide.match(text) for text in narrow.texts)  # a narrow glob is matched like a name


def _texts(globs: Globs | None) -> tuple[str, ...]:
    return globs.texts if globs is not None else ()


def _installed(package: str) -> bool:
    from importlib.util import find_spec  # slow to import

    try:
        return package in sys.modules or find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _is_whole(module: str) -> bool:
    """Whether a module is imported completely. ``__main__`` never counts as that."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and module != "__main__" and not getattr(spec, "_initializing", False)
