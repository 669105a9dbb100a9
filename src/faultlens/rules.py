"""The user's own kinds: a TOML file named by ``FAULTLENS_RULES``.

Each key is a class's full dotted name, each value its kind. A rule holds for the subclasses too::

    flyte.errors.OOMError = "system"

    [myapp.errors]
    QuotaExceeded = "user"
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from faultlens.failure import Kind

__all__ = ["RulesError", "load", "read"]

_log = logging.getLogger("faultlens")
_KINDS = ", ".join(kind.value for kind in Kind)


class RulesError(ValueError):
    """A rules file that cannot be used; the message names the file, the line and what is wrong."""


def load(path: str) -> dict[str, Kind]:
    """The kinds of the file at `path` by class name; empty, after one warning, if it is no good.

    The file counts whole or not at all: half a set of rules would misplace blame silently.
    """
    if not path:
        return {}
    try:
        return read(path)
    except RulesError as error:
        _log.warning("%s The built-in rules stay in force.", error)
        return {}


def read(path: str) -> dict[str, Kind]:
    """As `load`, but raises `RulesError`."""
    toml = _toml_parser()
    if toml is None:
        raise RulesError(
            f"FAULTLENS_RULES={path}: Python 3.10 has no TOML parser; "
            "`pip install 'faultlens[rules]'` brings one."
        )
    try:
        source = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RulesError(f"FAULTLENS_RULES={path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise RulesError(f"FAULTLENS_RULES={path}: expected TOML, which is UTF-8 text.") from error
    try:
        table = toml.loads(source)
    except toml.TOMLDecodeError as error:
        raise RulesError(f"FAULTLENS_RULES={path}: expected TOML: {error}.") from error
    return {name: _kind(path, source, name, value) for name, value in _flatten(table)}


def _toml_parser() -> Any:
    try:
        import tomllib
    except ImportError:
        try:
            import tomli
        except ImportError:
            return None
        parser: ModuleType = tomli
        return parser
    return tomllib


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _kind(path: str, source: str, name: str, value: object) -> Kind:
    if isinstance(value, str) and value in {kind.value for kind in Kind}:
        return Kind(value)
    where = f"{path}, line {_line(source, name)}"
    raise RulesError(
        f"FAULTLENS_RULES={where}: the kind of {name} is {value!r}, expected one of {_KINDS}."
    )


def _line(source: str, name: str) -> int:
    """The line that sets `name`. TOML parsers do not tell, so it is the first whose key ends so."""
    key = re.compile(rf"""^[^=#]*\b{re.escape(name.rpartition(".")[2])}["']?\s*=""")
    for number, line in enumerate(source.splitlines(), 1):
        if key.match(line):
            return number
    return 1
