"""Waits for the modules faultlens hooks into, so that nothing happens before one is imported.

A finder at the front of `sys.meta_path` lets the other finders find each of those modules as they
would without us, and runs a callback once the module's own code has run. The module's ``__spec__``
and ``__loader__`` are the real ones by the time that code runs.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = (
    False  # this module is loaded in every process: it imports nothing it can do without
)
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# Importing one of these starts faultlens (`errors` modules), or gives it something to adjust to:
# `faultlens.pipeline.imported` gets each module after its import.
WATCHED = frozenset(
    {
        "flyte.errors",
        "flyte._internal.runtime.convert",
        "flyte._internal.runtime.entrypoints",
        "flyte._internal.runtime.taskrunner",
        "flyte._observe",
        "flyte.remote._logs",
        "durable_workflow.client",
        "durable_workflow.errors",
        "durable_workflow.testing",
        "durable_workflow.worker",
        "durable_workflow.workflow",
        "opentelemetry.sdk.metrics",
        "opentelemetry.sdk.trace",
        "opentelemetry.exporter.prometheus",
    }
)


def install(callback: Callable[[ModuleType], None]) -> None:
    """Call `callback` with each of the modules, those already imported at once.

    callback: must not raise.
    """
    global _callback
    _callback = callback
    if _finder in sys.meta_path:
        return
    sys.meta_path.insert(0, _finder)
    for module in already_imported():
        _imported(module)


def uninstall() -> None:
    """Stop watching."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def already_imported() -> list[ModuleType]:
    """The watched modules that the program has imported.

    Without those that are being imported right now, by another thread or further up this stack:
    they are not whole, and their own import will tell.
    """
    modules = (sys.modules.get(name) for name in sorted(WATCHED))
    return [
        module
        for module in modules
        if module is not None
        and not getattr(getattr(module, "__spec__", None), "_initializing", False)
    ]


def _imported(module: ModuleType) -> None:
    if _callback is not None and _finder in sys.meta_path:  # not disabled meanwhile
        _callback(module)


class _Finder:
    """Finds nothing itself: borrows the spec the other finders give and adds the callback."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in WATCHED:
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
