"""SDKs that the user's rules file declares: an errors module and a kind, without code::

    [sdk.acme]
    modules = ["acme.errors"]
    kind = "user"

Every exception class of the modules is counted where it is raised first. What is raised from one of
them carries the same failure. There is no worker, task, code or attempt but what an exception has
as attributes of that name: for more, an SDK needs an adapter.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from faultlens import rules
from faultlens.sdks import INTERFACE, Rule, Sdk, adapters

__all__ = ["add", "add_from"]

_log = logging.getLogger("faultlens")


def add_from(path: str) -> None:
    """Add the SDKs of the rules file at `path`; a bad file is the one warning of `rules.load`."""
    add(rules.load(path).sdks)


def add(sdks: Iterable[rules.DeclaredSdk]) -> None:
    """Add these SDKs, except for modules that have an adapter: each of those is one warning."""
    for sdk in sdks:
        taken = [name for name in sdk.modules if _is_of_another(name)]
        if taken:
            _log.warning(
                "faultlens: %s: [sdk.%s] changes nothing: %s has an adapter.",
                sdk.where,
                sdk.name,
                taken[0],
            )
        else:
            adapters.add(dict.fromkeys(sdk.modules, _adapter(sdk)))


def _is_of_another(module: str) -> bool:
    value = adapters.installed().get(module)
    return value is not None and not (isinstance(value, type) and issubclass(value, _Declared))


class _Declared(Sdk):
    interface = INTERFACE
    declared: rules.DeclaredSdk

    def own_rule(self, cls: type) -> Rule:
        return Rule((self.declared.kind,), f"{self.declared.where}: [sdk.{self.package}]")


def _adapter(sdk: rules.DeclaredSdk) -> type[Sdk]:
    return type(
        f"Sdk_{sdk.name}",
        (_Declared,),
        {
            "declared": sdk,
            "package": sdk.name,
            "distribution": sdk.modules[0].partition(".")[0],
            "errors_modules": sdk.modules,
        },
    )
