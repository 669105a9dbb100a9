"""Reads a file of rules, completely or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from faultlens.failure import Kind
from faultlens.rules.matching import Decision, DeclaredSdk, Entry, RuleFile
from faultlens.rules.patterns import Globs, expression, full_name, is_glob

__all__ = ["REASONS", "RulesError", "near", "profile", "read"]

REASONS = {
    "oom": "the memory was used up",
    "preempted": "the node or the pod was taken away",
    "image": "the container image cannot be built, found or pulled",
    "scheduling": "no place to run was found in time",
    "timeout": "it took longer than it may",
    "network": "a connection could not be made, or was lost",
    "storage": "an object store or another payload storage failed",
    "database": "a database failed",
    "throttled": "a service asked to slow down",
    "disk": "the disk is full or broken",
    "gpu": "the GPU failed, or its memory was used up",
    "auth": "credentials are missing, wrong, expired or not sufficient",
    "config": "the configuration or the installation is wrong",
    "code": "the user's code raised",
    "input": "the arguments or the data are wrong",
    "cancelled": "it was cancelled, aborted or terminated",
    "platform": "the workflow platform itself failed",
}
"""The reasons that rules and SDKs may give, and what each means."""

OWNER_LIMIT = 64
"""The maximum length of an owner, in characters."""

_KINDS = tuple(kind.value for kind in Kind)
_CONDITIONS = ("class", "cause", "code", "message")
_KEYS = (*_CONDITIONS, "kind", "reason", "owner")
_SDK_KEYS = ("modules", "kind")


class RulesError(ValueError):
    """A rules file cannot be used. The message says where, what is wrong and what was expected."""


def read(path: str) -> RuleFile:
    """The rules of the user's file. Raises RulesError if it cannot be used."""
    label = f"FAULTLENS_RULES={path}"
    toml = _toml_parser()
    if toml is None:
        raise RulesError(
            f"{label}: Python 3.10 has no TOML parser; `pip install 'faultlens[rules]'` adds one."
        )
    try:
        source = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RulesError(f"{label}: {error.strerror or error}.") from error
    except ValueError as error:
        raise RulesError(f"{label}: expected TOML, which is UTF-8 text.") from error
    try:
        table = toml.loads(source)
    except (toml.TOMLDecodeError, RecursionError) as error:
        raise RulesError(f"{label}: expected TOML: {error}.") from error
    return _Reader(source, label).read(table, shipped=False)


def profile(name: str) -> RuleFile:
    """The rules of a shipped profile."""
    source = Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")
    label = f"FAULTLENS_PROFILE={name}"
    return _Reader(source, label).read({"rule": _plain_rules(source)}, shipped=True)


def _plain_rules(source: str) -> list[dict[str, Any]]:
    """Reads the part of TOML that a profile uses, since Python 3.10 has no parser for it.

    A profile consists of rules whose values are strings or lists of strings.
    """
    rules: list[dict[str, Any]] = []
    statement = re.compile(r"^(?:\[\[rule\]\]|(\w+) = (\[[^\]]*\]|.*))$", re.MULTILINE)
    for key, value in statement.findall(source):
        if not key:
            rules.append({})
            continue
        texts = [text[1:-1] for text in re.findall(r""" "[^"]*"|'[^']*' """, value, re.VERBOSE)]
        rules[-1][key] = texts if value[0] == "[" else texts[0]
    return rules


def near(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """``: did you mean …?``, or an empty string. Compares the parts after the last dot."""
    import difflib  # slow to import

    by_end = {full.rpartition(".")[2]: full for full in known}
    found = difflib.get_close_matches(name.rpartition(".")[2], by_end, 1, likeness)
    return f": did you mean {by_end[found[0]]}?" if found else ""


def _toml_parser() -> Any:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli
        except ImportError:
            return None
        parser: ModuleType = tomli
        return parser
    return tomllib


class _Reader:
    """Makes rules from parsed TOML, and finds their lines, which the parser does not give."""

    def __init__(self, source: str, label: str) -> None:
        self.lines = source.splitlines()
        self.label = label
        header = re.compile(r"""\s*\[\[\s*["']?rule["']?\s*\]\]""")
        self.starts = [n for n, line in enumerate(self.lines, 1) if header.match(line)]

    def read(self, table: dict[str, Any], *, shipped: bool) -> RuleFile:
        listed = table.pop("rule", []) if isinstance(table.get("rule"), list) else []
        rules = [self._rule(number, found) for number, found in enumerate(listed)]
        tables = table.pop("sdk", {}) if isinstance(table.get("sdk"), dict) else {}
        sdks = [self._sdk(name, found) for name, found in tables.items()]
        short = (self._short(name, value) for name, value in _flatten(table))
        return RuleFile(rules, {rule.name: rule for rule in short}, shipped, sdks)

    def _rule(self, number: int, found: object) -> Entry:
        start = self.starts[number] if number < len(self.starts) else 1
        if not isinstance(found, dict):
            raise self._error(start, f"the rule is {found!r}, expected a table, [[rule]]")
        for key, value in found.items():
            if isinstance(value, dict):
                name = next(_flatten({key: value}), (key, None))[0]
                raise self._error(
                    self._line(name, start),
                    f"{name} is in the [[rule]] above it; expected it before the first [[rule]]",
                )
            if key not in _KEYS:
                keys = ", ".join(_KEYS)
                raise self._error(
                    self._line(key, start),
                    f"unknown key {key}; expected {keys}{near(key, _KEYS)}",
                )

        def use(key: str, make: Callable[[object], Any]) -> Any:
            try:
                return make(found[key]) if key in found else None
            except ValueError as error:
                line = self._line(key, start)
                raise self._error(line, f"the {key} is {found[key]!r}: {error}") from error

        rule = Entry(
            f"{self.label}, line {start}",
            Decision(use("kind", _kind), use("reason", _reason) or "", use("owner", _owner) or ""),
            classes=use("class", _class_globs),
            causes=use("cause", _class_globs),
            code=use("code", _globs),
            message=use("message", _expression),
        )
        if not found.keys() & {*_CONDITIONS}:
            raise self._error(start, "the rule has no class, cause, code or message; expected one")
        if rule.gives == Decision():
            raise self._error(start, "the rule has no kind, reason or owner; expected one")
        return rule

    def _sdk(self, name: str, found: object) -> DeclaredSdk:
        header = re.compile(rf"""\s*\[\s*["']?sdk["']?\s*\.\s*["']?{re.escape(name)}\b""")
        start = next((n for n, line in enumerate(self.lines, 1) if header.match(line)), 1)
        if not name.isidentifier():  # it becomes the name of a label
            raise self._error(start, f"the SDK's name is {name!r}, expected letters, digits and _")
        if not isinstance(found, dict):
            raise self._error(start, f"sdk.{name} is {found!r}, expected a table, [sdk.{name}]")
        for key in found:
            if key not in _SDK_KEYS:
                keys = ", ".join(_SDK_KEYS)
                hint = near(key, _SDK_KEYS)
                raise self._error(
                    self._line(key, start),
                    f"unknown key {key}; expected {keys}{hint}",
                )
        modules = found.get("modules")
        if not (
            isinstance(modules, list)
            and modules
            and all(isinstance(module, str) and module for module in modules)
        ):
            line = self._line("modules", start)
            raise self._error(line, f"the modules are {modules!r}, expected a list of names")
        try:
            kind = _kind(found.get("kind", Kind.UNKNOWN.value))
        except ValueError as error:
            line = self._line("kind", start)
            raise self._error(line, f"the kind is {found['kind']!r}, {error}") from error
        return DeclaredSdk(f"{self.label}, line {start}", name, tuple(modules), kind)

    def _short(self, name: str, value: object) -> Entry:
        line = self._line(name)
        try:
            kind = _kind(value)
        except ValueError as error:
            raise self._error(line, f"the kind of {name} is {value!r}, {error}") from error
        if is_glob(name):
            raise self._error(line, f"{name} is a glob; expected a class, or a [[rule]] for it")
        return Entry(f"{self.label}, line {line}", Decision(kind), name=full_name(name))

    def _line(self, name: str, start: int = 1) -> int:
        """The first line from `start` on whose key ends with the last part of `name`."""
        key = re.compile(rf"""^[^=#]*(?<!\w){re.escape(name.rpartition(".")[2])}["']?\s*=""")
        numbered = enumerate(self.lines[start - 1 :], start)
        return next((number for number, line in numbered if key.match(line)), start)

    def _error(self, line: int, text: str) -> RulesError:
        return RulesError(f"{self.label}, line {line}: {text}{'' if text[-1] == '?' else '.'}")


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _kind(value: object) -> Kind:
    if not isinstance(value, str) or value not in _KINDS:
        raise ValueError(f"expected one of {', '.join(_KINDS)}")
    return Kind(value)


def _reason(value: object) -> str:
    if not isinstance(value, str) or value not in REASONS:
        hint = near(value, REASONS) if isinstance(value, str) else ""
        raise ValueError(f"expected one of {', '.join(REASONS)}{hint}")
    return value


def _owner(value: object) -> str:
    # It becomes the value of a label.
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("expected a name")
    if len(value) > OWNER_LIMIT:
        raise ValueError(f"expected at most {OWNER_LIMIT} characters")
    return value


def _globs(value: object) -> Globs:
    listed = value if isinstance(value, list) else [value]
    texts = [text for text in listed if isinstance(text, str) and text]
    if not texts or len(texts) < len(listed):
        raise ValueError("expected a glob, or a list of globs")
    return Globs(texts)


def _class_globs(value: object) -> Globs:
    return Globs(map(full_name, _globs(value).texts))


def _expression(value: object) -> re.Pattern[str]:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a regular expression")
    return expression(value)
