"""``faultlens classes``: how the failures of each class are judged."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping

from faultlens import rules
from faultlens.failure import Kind
from faultlens.sdks import Rule, Sdk
from faultlens.sdks.adapters import ERRORS_MODULES, adapter_for

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


def load_sdks(overrides: Mapping[str, Kind]) -> Iterator[Sdk | NotLoaded]:
    """Import every supported SDK, for looking at its classes."""
    for name in ERRORS_MODULES:
        try:
            yield _load(name, overrides)
        except NotLoaded as error:
            yield error


def show(*, as_json: bool) -> int:
    """Print the classes; the exit status is 1 if there is no SDK at all."""
    overrides = rules.load(os.environ.get("FAULTLENS_RULES", "").strip())
    sdks = []
    for sdk in load_sdks(overrides):
        if isinstance(sdk, NotLoaded):
            print(f"faultlens classes: {sdk}", file=sys.stderr)
        else:
            sdks.append(sdk)
    print(_as_json(sdks) if as_json else "\n\n".join(map(_as_text, sdks)))
    return 0 if sdks else 1


def _load(errors_module: str, overrides: Mapping[str, Kind]) -> Sdk:
    adapter = adapter_for(errors_module)
    try:
        return adapter(importlib.import_module(errors_module), overrides)
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


def _as_text(sdk: Sdk) -> str:
    rows = [(name, _kinds(rule), rule.why) for name, rule in _rules(sdk).items()]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = (f"  {name:{wide[0]}}  {kinds:{wide[1]}}  {why}" for name, kinds, why in rows)
    return "\n".join((f"{sdk.distribution} {sdk.version}: {len(rows)} classes", *lines))


def _as_json(sdks: list[Sdk]) -> str:
    return json.dumps(
        [
            {
                "class": name,
                "kinds": [kind.value for kind in rule.kinds],
                "why": rule.why,
                "sdk": sdk.package,
                "version": sdk.version,
            }
            for sdk in sdks
            for name, rule in _rules(sdk).items()
        ],
        indent=2,
    )


def _kinds(rule: Rule) -> str:
    return "/".join(kind.value for kind in rule.kinds)
