"""``faultlens classes``: how the failures of each class are judged."""

from __future__ import annotations

import fnmatch
import importlib
import json
import sys
from collections.abc import Iterator

from faultlens import rules, settings
from faultlens.exposition.rows import plural
from faultlens.rules import Rules
from faultlens.rules.files import near
from faultlens.sdks import Rule, Sdk, declared
from faultlens.sdks.adapters import AdapterError, installed, load

__all__ = ["NotLoaded", "load_sdks", "show"]


class NotLoaded(Exception):
    """An SDK that is not there, or does not work; the message says which and why.

    installed: whether it is there.
    """

    def __init__(self, package: str, why: str, *, installed: bool) -> None:
        super().__init__(f"{package}: {why}")
        self.package = package
        self.why = why
        self.installed = installed


def load_sdks(in_force: Rules) -> Iterator[Sdk | NotLoaded]:
    """Import every SDK that has an adapter, for looking at its classes."""
    declared.add(in_force.sdks)
    seen: set[type[Sdk]] = set()
    for name in installed():
        try:
            sdk = _load(name, in_force)
        except NotLoaded as error:
            yield error
        else:
            if type(sdk) not in seen:  # an entry point for each of its modules
                seen.add(type(sdk))
                yield sdk


def show(name: str = "", sdk: str = "", kind: str = "", *, as_json: bool) -> int:
    """Print the classes; the exit status is 1 if there are none.

    name: only those with this in their name, or that match this glob.
    sdk: only those of this SDK.
    kind: only those that can get this kind.
    """
    chosen_by_user = settings.load()
    in_force = rules.load(chosen_by_user.rules, chosen_by_user.profile)
    known: list[str] = []
    found: list[tuple[Sdk, dict[str, Rule]]] = []
    all_sdks = list(load_sdks(in_force))
    packages = [loaded.package for loaded in all_sdks]
    some = any(isinstance(loaded, Sdk) for loaded in all_sdks)
    for loaded in all_sdks:
        if isinstance(loaded, NotLoaded):
            # To have one of the SDKs is enough, unless the other is asked for.
            if sdk == loaded.package or (not sdk and (loaded.installed or not some)):
                print(f"faultlens: {loaded}", file=sys.stderr)
        elif sdk in ("", loaded.package):
            known.extend(loaded.classes)
            chosen = {
                full: rule
                for full, rule in _rules(loaded).items()
                if _has_name(full, name) and (not kind or kind in rule.kinds)
            }
            found.append((loaded, chosen))
    if sdk and sdk not in packages:
        listed = ", ".join(packages)
        print(f"faultlens: there is no SDK {sdk}; there are {listed}", file=sys.stderr)
        return 1
    if known and not any(chosen for _, chosen in found):
        of_kind = f" of kind {kind}" if kind else ""
        hint = (
            near(name, known) if name and not any(_has_name(full, name) for full in known) else ""
        )
        called = f" called {name}" if name else ""
        print(f"faultlens: there is no class{called}{of_kind}{hint}", file=sys.stderr)
        return 1
    found = [(loaded, chosen) for loaded, chosen in found if chosen]
    if as_json:
        print(_as_json(found))
    elif found:
        print("\n\n".join(_as_text(*each) for each in found))
    return 0 if found else 1


def _has_name(full: str, wanted: str) -> bool:
    return wanted in full or fnmatch.fnmatchcase(full, wanted)


def _load(errors_module: str, in_force: Rules) -> Sdk:
    try:
        adapter = load(errors_module)
    except AdapterError as error:
        raise NotLoaded(errors_module.partition(".")[0], str(error), installed=True) from error
    try:
        sdk = adapter(importlib.import_module(errors_module), in_force)
        for name in adapter.errors_modules:
            try:
                sdk.learn(importlib.import_module(name))
            except ModuleNotFoundError as error:
                if error.name != name:  # it is not that this version lacks the module
                    raise
        return sdk
    except ModuleNotFoundError as error:
        if error.name == adapter.package:
            why = f"not installed (pip install {adapter.distribution})"
            raise NotLoaded(adapter.package, why, installed=False) from error
        raise _broken(adapter, error) from error
    except Exception as error:
        raise _broken(adapter, error) from error


def _broken(adapter: type[Sdk], error: Exception) -> NotLoaded:
    why = f"cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
    return NotLoaded(adapter.package, why, installed=True)


def _rules(sdk: Sdk) -> dict[str, Rule]:
    return {name: sdk.rule(cls) for name, cls in sorted(sdk.classes.items())}


def _as_text(sdk: Sdk, chosen: dict[str, Rule]) -> str:
    rows = [(name, _kinds(rule), rule.reason or "-", rule.why) for name, rule in chosen.items()]
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        f"  {name:{wide[0]}}  {kinds:{wide[1]}}  {reason:{wide[2]}}  {why}"
        for name, kinds, reason, why in rows
    )
    title = f"{sdk.distribution} {sdk.version}: {plural(len(rows), 'class')}"
    return "\n".join((title, *lines))


def _as_json(found: list[tuple[Sdk, dict[str, Rule]]]) -> str:
    return json.dumps(
        [
            {
                "class": name,
                "kinds": [kind.value for kind in rule.kinds],
                "reason": rule.reason,
                "owner": rule.owner,
                "why": rule.why,
                "sdk": sdk.package,
                "version": sdk.version,
            }
            for sdk, chosen in found
            for name, rule in chosen.items()
        ],
        indent=2,
    )


def _kinds(rule: Rule) -> str:
    return "/".join(kind.value for kind in rule.kinds)
