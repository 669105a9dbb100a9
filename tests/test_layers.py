"""Each module knows only those below it; the folders are those of the design."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import faultlens

ROOT = Path(faultlens.__file__).parent

# From the bottom up. A module may import from its own line and from those above it here.
LAYERS = (
    ("switch", "natives", "interpreter", "failure", "entry_points"),
    ("imports",),
    ("guard", "settings", "sockets", "identity"),
    ("exposition.layout", "exposition.owners", "exposition.mapping"),
    ("exposition.answers", "exposition.sheets", "hook", "background"),
    ("exposition.ledger", "rules"),
    ("exposition.claims", "exposition.ledgers", "exposition.serving", "scrub", "sdks", "series"),
    ("exposition.families", "exposition.front", "exposition.rows", "sinks", "farewell"),
    ("pipeline",),
    ("startup",),
    ("commands", "instrumentor", "testing", "__main__"),
)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.parent != ROOT or path.name != "__init__.py"
}


def layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    raise AssertionError(f"no layer has {module}")


def imported(path: Path) -> Iterator[str]:
    """Our modules that a module imports, wherever in it, but for type checking."""
    tree = ast.parse(path.read_text())
    unwanted = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unwanted:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                name if name.removeprefix("faultlens.") in MODULES else node.module
                for name in inside
            ]
        else:
            continue
        yield from (
            name.removeprefix("faultlens.") for name in names if name.startswith("faultlens.")
        )


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_above(module: str) -> None:
    above = [name for name in imported(MODULES[module]) if layer(name) > layer(module)]
    assert above == []


def test_there_is_no_import_cycle() -> None:
    graph = {module: set(imported(path)) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in graph.get(module, ()):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_sinks_and_exposition_know_no_sdk_and_no_adapter_knows_a_sink() -> None:
    for module, path in MODULES.items():
        names = set(imported(path))
        if module.startswith(("sinks", "exposition")):
            assert not any(name.startswith("sdks") for name in names), module
        if module.startswith("sdks"):
            assert not any(name.startswith(("sinks", "exposition")) for name in names), module
