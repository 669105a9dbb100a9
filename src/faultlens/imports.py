"""Waits for the SDKs, so that nothing happens before one is imported.

A finder at the front of `sys.meta_path` lets the other finders find each watched module as they
would without us, and runs a callback once the module's own code has run. The module's ``__spec__``
and ``__loader__`` are the real ones by the time that code runs.

Watched are the modules that adapters ask for. Which these are is known when the adapter is loaded,
at the end of its errors module. The import of another module may be under way by that time. So all
modules of a package are watched until its adapter is loaded, and then only those that it names.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = (
    False  # this module is loaded in every process: it imports nothing it can do without
)
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_modules = sys.modules  # the program's, whatever a sandbox puts there for a time
_watched = {
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter.prometheus",
}
_entry_points: dict[str, str] | None = None
"""The installed adapters; None while nobody has looked for them."""
_errors_modules: set[str] = set()
"""Those of all SDKs that have an adapter."""
_waiting: set[str] = set()
"""Those whose adapter is not loaded."""
_unknown: tuple[str, ...] = ()
"""What the names of the modules beside them begin with."""


def install(callback: Callable[[ModuleType], None]) -> None:
    """Call `callback` with each watched module after its import.

    Of those already imported it is called with the errors modules: see `already_imported`.

    callback: must not raise.
    """
    global _callback
    _callback = callback
    if _finder in sys.meta_path:
        return
    sys.meta_path.insert(0, _finder)
    if any(map(_is_third_party, list(sys.modules))):
        _hand_on(_known())


def uninstall() -> None:
    """Stop watching."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def installed() -> bool:
    """Whether the modules are watched."""
    return _finder in sys.meta_path


def elsewhere() -> bool:
    """Whether another copy of this package watches already.

    A sandbox imports the program's modules anew, and so us: that of Temporal's workflows does.
    """
    return any(
        type(finder).__module__ == __name__ and finder is not _finder for finder in sys.meta_path
    )


def expect(errors_modules: Iterable[str]) -> None:
    """Watch for SDKs of which no entry point tells."""
    names = set(errors_modules)
    _known().update(names)
    _wait_for(_waiting | names)
    _hand_on(names)


def watch(errors_modules: Iterable[str], modules: Iterable[str]) -> None:
    """Of the SDK with these errors modules, watch `modules` beside them, and no others."""
    _known().update(errors_modules)
    _watched.update(errors_modules, modules)
    _wait_for(_waiting.difference(errors_modules))


def of_an_sdk(module: str) -> bool:
    """Whether this is an errors module of an SDK that has an adapter."""
    return module in _known()


def already_imported() -> list[ModuleType]:
    """The watched modules that the program has imported.

    Without those that are being imported right now, by another thread or further up this stack:
    they are not whole, and their own import will tell.
    """
    _known()
    return [
        module
        for name, module in list(sys.modules.items())
        if _is_watched(name)
        and module is not None
        and not getattr(getattr(module, "__spec__", None), "_initializing", False)
    ]


def _hand_on(errors_modules: set[str]) -> None:
    for module in already_imported():
        if module.__name__ in errors_modules:
            _imported(module)


def _is_watched(name: str) -> bool:
    return name in _watched or name.startswith(_unknown)


def adapters() -> dict[str, str]:
    """The entry points of the installed adapters. They are read once in a process."""
    global _entry_points
    if _entry_points is None:
        from faultlens import entry_points

        _entry_points = entry_points.installed()
        _errors_modules.update(_entry_points)
        _wait_for(_errors_modules)
    return _entry_points


def _known() -> set[str]:
    adapters()
    return _errors_modules


def _wait_for(errors_modules: set[str]) -> None:
    global _waiting, _unknown
    _waiting = set(errors_modules)
    _unknown = tuple(set(map(_package_of, _waiting)))


def _package_of(module: str) -> str:
    """What the names of the modules beside this one begin with."""
    package, dot, _ = module.rpartition(".")
    return package + dot or module


def _is_third_party(module: str) -> bool:
    """Whether it can be of an SDK, or come before one. Every start imports most of the others."""
    top = module.partition(".")[0]
    return not (
        top in sys.stdlib_module_names
        or top.startswith("_")
        or top in ("faultlens", "sitecustomize", "usercustomize")
    )


def _imported(module: ModuleType) -> None:
    if _modules.get(module.__name__) is not module:
        return  # a sandbox imports its own, as that of Temporal's workflows does
    if _callback is not None and _finder in sys.meta_path:  # not disabled meanwhile
        _callback(module)


class _Finder:
    """Finds nothing itself: borrows the spec the other finders give and adds the callback."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _entry_points is None and _is_third_party(name):
            adapters()
        if not _is_watched(name):
            return None
        for finder in sys.meta_path:
            # Another finder of this kind would have us ask it and it ask us, without end.
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Runs the callback after the real loader, and is gone from the module before that."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _imported(module)


_finder = _Finder()
_callback: Callable[[ModuleType], None] | None = None
