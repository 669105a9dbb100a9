"""Which SDKs there are, and the adapter of each.

Adapters come from entry points, ours too: see `faultlens.entry_points`. The user's rules file can
declare more SDKs, without code: see `faultlens.sdks.declared`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping

from faultlens import imports
from faultlens.sdks import INTERFACE, Sdk

__all__ = ["AdapterError", "adapter_of", "add", "installed", "load"]

_log = logging.getLogger("faultlens")

_values: dict[str, str | type[Sdk]] | None = None
_loaded: dict[str, type[Sdk] | None] = {}
"""By errors module, those that an adapter has beside the entry point's too."""


class AdapterError(Exception):
    """An adapter that cannot be used; the message says which, why, and what happens now."""


def installed() -> dict[str, str | type[Sdk]]:
    """By errors module: the value of the adapter's entry point, or the class that was added."""
    global _values
    if _values is None:
        _values = dict(imports.adapters())
    return _values


def add(adapters: Mapping[str, type[Sdk]]) -> None:
    """Add adapters that no entry point names, by errors module. They replace others of that name.

    An SDK that is already imported is recorded from now on, if faultlens is enabled.
    """
    installed().update(adapters)
    for name in adapters:
        _loaded.pop(name, None)
    imports.expect(adapters)


def adapter_of(module: str) -> type[Sdk] | None:
    """The adapter of the SDK that a module of this name belongs to as an errors module.

    An adapter that cannot be used is one warning, and its SDK is not recorded.
    """
    if module in _loaded:
        return _loaded[module]
    if module not in installed():
        return None
    try:
        return load(module)
    except AdapterError as error:
        _log.warning("faultlens: %s", error)
        _loaded[module] = None
        imports.watch([module], ())
        return None


def load(module: str) -> type[Sdk]:
    """The adapter whose entry point has this name. Raises AdapterError."""
    value = installed()[module]
    try:
        adapter = _named(value) if isinstance(value, str) else value
        _check(adapter, module)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise AdapterError(
            f"the adapter {value} of {module} cannot be used, and exceptions of that "
            f"SDK are not recorded: {why}"
        ) from error
    _loaded.update(dict.fromkeys(adapter.errors_modules, adapter))
    imports.watch(adapter.errors_modules, adapter.hooked_modules)
    return adapter


def _named(value: str) -> type[Sdk]:
    module, _, name = value.partition(":")
    found: type[Sdk] = getattr(importlib.import_module(module), name)
    return found


def _check(adapter: type[Sdk], module: str) -> None:
    if not (isinstance(adapter, type) and issubclass(adapter, Sdk)):
        raise TypeError("expected a subclass of faultlens.sdks.Sdk")
    if adapter.interface != INTERFACE:
        raise TypeError(
            f"it is written for version {adapter.interface} of the interface, and this is "
            f"{INTERFACE}; install versions of both that fit"
        )
    for name in ("package", "distribution", "errors_modules"):
        if not getattr(adapter, name, None):
            raise TypeError(f"it has no {name}")
    if module not in adapter.errors_modules:
        raise TypeError(f"its errors_modules do not name {module}, as its entry point does")
