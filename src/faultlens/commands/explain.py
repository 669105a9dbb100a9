"""``faultlens explain``: which rule decides on one failure."""

from __future__ import annotations

import builtins
import importlib
import json
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from faultlens import guard, rules, settings
from faultlens.commands.classes import load_sdks
from faultlens.rules import checking
from faultlens.rules.files import near
from faultlens.rules.patterns import MESSAGE_LIMIT, full_name, loaded_class
from faultlens.sdks import Sdk

__all__ = ["explain"]


class _Row(NamedTuple):
    what: str
    value: str
    by: str
    """What decides it."""


def explain(name: str, cause: str, code: str, message: str, *, as_json: bool) -> int:
    """Print kind, reason and owner of such a failure; the exit status is 1 if there is none."""
    chosen = settings.load()
    in_force = rules.load(chosen.rules, chosen.profile)
    sdks = [sdk for sdk in load_sdks(in_force) if isinstance(sdk, Sdk)]
    known = {full: (sdk, cls) for sdk in sdks for full, cls in sdk.classes.items()}
    found = _find(name, known, sdks)
    if found is None:
        hint = near(name, known) if known else ": no SDK is installed"
        print(f"faultlens: no SDK has the class {name}{hint}", file=sys.stderr)
        return 1
    if cause and _import(cause) is None:
        # That of another process may have it.
        note = f"{cause} cannot be imported here, so its bases are not known{_hint(cause)}"
        print(f"faultlens: {note}", file=sys.stderr)
    rows = list(_rows(*found, in_force, cause, code, message))
    rows += _suppressed(found[1], chosen.suppress, in_force, cause)
    if as_json:
        print(json.dumps({row.what: {"value": row.value, "by": row.by} for row in rows}, indent=2))
    else:
        wide = max(len(row.value or "-") for row in rows)
        print(
            "\n".join(f"{row.what:6}  {row.value or '-':{wide}}  {row.by}".rstrip() for row in rows)
        )
    return 0


def _find(
    name: str, known: dict[str, tuple[Sdk, type[BaseException]]], sdks: list[Sdk]
) -> tuple[Sdk, type[BaseException]] | None:
    """A class by its full name, an SDK's also by the last part of it."""
    by_end = {full.rpartition(".")[2]: full for full in known}
    found = known.get(by_end.get(name, name))
    if found is None and (cls := _import(name)) is not None:  # perhaps a user's subclass
        for sdk in sdks:
            if not set(sdk.roots).isdisjoint(guard.mro(cls)):
                return sdk, cls
    return found


def _import(name: str) -> type[BaseException] | None:
    """The exception class of this name, if it can be had."""
    module = name.rpartition(".")[0]
    while module and module not in sys.modules:
        with suppress(Exception):
            importlib.import_module(module)
        module = module.rpartition(".")[0]
    return loaded_class(name)


def _hint(cause: str) -> str:
    if "." not in cause:
        return near(cause, [name for name in vars(builtins) if full_name(name) != name])
    _, _, hint = (checking.why_unknown(checking.Named(cause, "")) or "").partition(": ")
    return f": {hint}" if hint else ""


def _rows(
    sdk: Sdk, cls: type[BaseException], in_force: rules.Rules, cause: str, code: str, message: str
) -> Iterator[_Row]:
    names = tuple(map(guard.class_name, guard.mro(cls)))
    links = (in_force.named(cause),) if cause else ()
    candidates = in_force.for_class(names)
    matching: list[rules.Entry] = []
    if candidates is not None:
        texts = (message[:MESSAGE_LIMIT],) if message else ()
        matching.extend(candidates.matching(links, code or None, lambda: texts))
    own = sdk.own_rule(cls)
    of_sdk = f"{sdk.distribution} {sdk.version}"
    for what, of_the_sdk, by in (
        ("kind", "/".join(kind.value for kind in own.kinds), f"{of_sdk}: {own.why}"),
        ("reason", own.reason, of_sdk if own.reason else "nothing gives one"),
        ("owner", own.owner, "nothing gives one"),
    ):
        given = ((str(getattr(rule.gives, what) or ""), rule) for rule in matching)
        rule = next((rule for value, rule in given if value), None)
        if rule is None:
            yield _Row(what, of_the_sdk, by)
        else:
            value = getattr(rule.gives, what)
            yield _Row(what, getattr(value, "value", value), f"{rule.where}: {rule}")


def _suppressed(
    cls: type[BaseException], suppress: Collection[str], in_force: rules.Rules, cause: str
) -> Iterator[_Row]:
    names = [*map(guard.class_name, guard.mro(cls))]
    if cause:
        names += in_force.named(cause).names
    for name in suppress:
        if full_name(name) in names:
            yield _Row("counts", "no", f"FAULTLENS_SUPPRESS has {name}")
            return
