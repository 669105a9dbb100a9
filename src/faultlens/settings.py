"""Every environment variable that faultlens reads: one table, parsed once, frozen.

A value that cannot be used is answered with one warning that names the variable, what was expected
and what happens now; the default takes its place.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from faultlens.switch import on_or_off

__all__ = [
    "PROFILES",
    "VARIABLES",
    "LogPlace",
    "Settings",
    "StorePath",
    "Variable",
    "load",
    "store_path",
]

_log = logging.getLogger("faultlens")

PROFILES = ("operator",)
"""What `FAULTLENS_PROFILE` can name: a file of `faultlens.rules`."""

WORKER_LIMIT = 128
"""The longest worker name, in characters."""


class StorePath(NamedTuple):
    """Where counts are kept that survive their process."""

    directory: Path
    private: bool
    """Whether it must be safe from everybody else, since nobody chose it."""


class LogPlace(NamedTuple):
    """Where the log goes."""

    form: str
    """``text`` or ``json``."""
    path: str
    """Of a file; empty for stderr."""


class Settings(NamedTuple):
    """What the environment says; see `VARIABLES` for each field's variable."""

    host: str
    port: int
    metrics_exporters: tuple[str, ...]
    traces_exporters: tuple[str, ...]
    logs_exporters: tuple[str, ...]
    otlp_endpoint: str
    traces_protocol: str
    metrics_protocol: str
    logs_protocol: str
    metrics_seconds: float
    """How often counts are sent to `metrics_exporters`."""
    flush_seconds: float
    """How long a collector that does not answer may hold up the end of the program."""
    otel_disabled: bool
    span_events: bool
    log_records: bool
    """Whether exceptions become span events, log records, or both."""
    messages: bool
    stacktraces: bool
    store: StorePath | None
    """None: in memory only."""
    serve: bool
    rules: str
    profile: str
    suppress: tuple[str, ...]
    scrub: str
    """Expressions, one a line, or a switch: see `faultlens.scrub`."""
    log: LogPlace | None
    """None: no log."""
    quiet: bool
    worker: str
    """Empty if the user named none."""
    fallback_worker: str
    """The name for an exception whose SDK has no worker for it either."""

    @property
    def otel_serves(self) -> bool:
        """Whether OpenTelemetry's Prometheus reader serves the counters."""
        return "prometheus" in self.metrics_exporters and not self.otel_disabled


def _text(value: str) -> str:
    return value.strip()


def _flag(value: str) -> bool:
    on = on_or_off(value)
    if on is None:
        raise ValueError("expected 1 or 0")
    return on


def _port(value: str) -> int:
    port = int(value) if value.strip().isdecimal() else -1
    if not 0 <= port <= 65535:
        raise ValueError("expected a number from 0 (any free port) to 65535")
    return port


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # which no NaN is
            raise ValueError(f"expected a number from {least:g} to {most:g}")
        return number

    return parse


def store_path(value: str) -> StorePath | None:
    """Where `FAULTLENS_STORE` says; None for off. Raises ValueError with what was expected."""
    named = value.strip()
    switch = on_or_off(named)
    if named and switch is False:
        return None
    if named and switch is None:
        directory = Path(named)
        if not directory.is_absolute():
            raise ValueError("expected an absolute path, or off")
        return StorePath(directory, private=False)
    # Not tempfile.gettempdir, which tries each place out by writing, the current directory too.
    temporary = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), "/tmp")
    user = f"-{os.geteuid()}" if hasattr(os, "geteuid") else ""
    return StorePath(Path(temporary, f"faultlens{user}").absolute(), private=True)


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _profile(value: str) -> str:
    name = value.strip()
    if name not in ("", *PROFILES):
        raise ValueError(f"expected {' or '.join(PROFILES)}")
    return name


def _log_place(value: str) -> LogPlace | None:
    form, has_path, path = value.strip().partition(":")
    if on_or_off(form) is False and not has_path:
        return None
    if form not in ("text", "json") or (has_path and not Path(path).is_absolute()):
        raise ValueError("expected text or json, perhaps with a file: json:/var/log/faultlens.json")
    return LogPlace(form, path)


def _signal(value: str) -> str:
    signal = value.strip().lower()
    if signal not in ("", "logs", "logs/dup"):
        raise ValueError("expected logs or logs/dup")
    return signal


def _worker(value: str) -> str:
    name = " ".join(_encodable(value).split())
    if len(name) > WORKER_LIMIT:
        raise ValueError(f"expected at most {WORKER_LIMIT} characters")
    return name


def _attributes(value: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in value.split(",") if pair.strip())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    if "%" in value:
        from urllib.parse import unquote  # it is slow to import

        found = {key: unquote(value) for key, value in found.items()}
    return found


class Variable(NamedTuple):
    """One environment variable: what it is for, its default, and how its value is read."""

    name: str
    default: str
    help: str
    parse: Callable[[str], Any] = _text


VARIABLES = (
    Variable("FAULTLENS", "0", "1, true, yes, on: record. 0, false, no, off, empty: do nothing."),
    Variable("FAULTLENS_WORKER", "", "The worker label of every failure of the process.", _worker),
    Variable(
        "FAULTLENS_STORE",
        "",
        "Where counts survive their process: a directory of this host's, or off for memory only.",
        store_path,
    ),
    Variable("FAULTLENS_SERVE", "1", "0: open no port; something else serves the counts.", _flag),
    Variable("FAULTLENS_RULES", "", "Path of a TOML file with rules for kind, reason and owner."),
    Variable("FAULTLENS_PROFILE", "", "operator: also the rules of an operator's view.", _profile),
    Variable(
        "FAULTLENS_SUPPRESS",
        "",
        "Classes, with their subclasses, whose exceptions are not counted as failures.",
        _names,
    ),
    Variable(
        "FAULTLENS_SCRUB",
        "on",
        "Regular expressions, one a line, of more that is a secret; off: take no secrets out.",
    ),
    Variable(
        "FAULTLENS_LOG",
        "",
        "text or json: a line on stderr for each raised SDK exception; json:/path: in a file.",
        _log_place,
    ),
    Variable(
        "FAULTLENS_QUIET", "0", "1: no line at exit that says where to see the counts.", _flag
    ),
    Variable("FAULTLENS_MESSAGES", "1", "0: no exception messages in events and logs.", _flag),
    Variable("FAULTLENS_STACKTRACES", "1", "0: no stack traces in events and logs.", _flag),
    Variable(
        "FAULTLENS_FLUSH_SECONDS",
        "2",
        "How long a collector that does not answer may hold up the end of the program.",
        _number(0, 60),
    ),
    Variable("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost", "Where /metrics is served."),
    Variable("OTEL_EXPORTER_PROMETHEUS_PORT", "9464", "Its port; 0 for any free one.", _port),
    Variable(
        "OTEL_METRICS_EXPORTER",
        "",
        "Where counters go by OpenTelemetry in a program without a meter provider. If it names "
        "prometheus, OpenTelemetry serves them and faultlens opens no port.",
        _names,
    ),
    Variable(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "60000",
        "How often they are sent there, in milliseconds, and at exit.",
        _number(1, 86_400_000),
    ),
    Variable(
        "OTEL_TRACES_EXPORTER",
        "",
        "Where spans go that faultlens makes itself, in a program that sets up no tracing.",
        _names,
    ),
    Variable(
        "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN",
        "",
        "logs: failures as log records instead of span events; logs/dup: as both.",
        _signal,
    ),
    Variable(
        "OTEL_LOGS_EXPORTER",
        "",
        "Where those log records go in a program without a logger provider.",
        _names,
    ),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "", "The same as otlp for spans and log records."),
    Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "The same, for spans only."),
    Variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "", "The same, for log records only."),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "The OTLP flavour of all that."),
    Variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "", "The same, for spans only."),
    Variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "", "The same, for counters only."),
    Variable("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "", "The same, for log records only."),
    Variable(
        "OTEL_RESOURCE_ATTRIBUTES",
        "",
        "service.instance.id, else k8s.node.name, is the worker where the SDK names none.",
        _attributes,
    ),
    Variable("K8S_NODE_NAME", "", "The worker after those, from the downward API."),
    Variable("NODE_NAME", "", "The same."),
    Variable(
        "OTEL_SDK_DISABLED",
        "false",
        "true: no span events and nothing by OpenTelemetry; /metrics stays.",
        lambda value: value.strip().lower() == "true",  # all else is false, as specified
    ),
)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the table. Logs one warning for each value that cannot be used; never raises."""
    value = {variable.name: _read(variable, environ) for variable in VARIABLES}
    otlp = value["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] or value["OTEL_EXPORTER_OTLP_ENDPOINT"]
    logs_otlp = value["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"] or value["OTEL_EXPORTER_OTLP_ENDPOINT"]
    protocol = value["OTEL_EXPORTER_OTLP_PROTOCOL"]
    signal = value["OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"]
    resource = value["OTEL_RESOURCE_ATTRIBUTES"]
    return Settings(
        host=value["OTEL_EXPORTER_PROMETHEUS_HOST"] or "localhost",
        port=value["OTEL_EXPORTER_PROMETHEUS_PORT"],
        metrics_exporters=value["OTEL_METRICS_EXPORTER"],
        traces_exporters=value["OTEL_TRACES_EXPORTER"] or (("otlp",) if otlp else ()),
        logs_exporters=value["OTEL_LOGS_EXPORTER"] or (("otlp",) if logs_otlp else ()),
        otlp_endpoint=otlp,
        traces_protocol=value["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] or protocol,
        metrics_protocol=value["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"] or protocol,
        logs_protocol=value["OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"] or protocol,
        metrics_seconds=value["OTEL_METRIC_EXPORT_INTERVAL"] / 1000,
        flush_seconds=value["FAULTLENS_FLUSH_SECONDS"],
        otel_disabled=value["OTEL_SDK_DISABLED"],
        span_events=signal != "logs",
        log_records=signal != "",
        messages=value["FAULTLENS_MESSAGES"],
        stacktraces=value["FAULTLENS_STACKTRACES"],
        store=value["FAULTLENS_STORE"],
        serve=value["FAULTLENS_SERVE"],
        rules=value["FAULTLENS_RULES"],
        profile=value["FAULTLENS_PROFILE"],
        suppress=value["FAULTLENS_SUPPRESS"],
        scrub=value["FAULTLENS_SCRUB"],
        log=value["FAULTLENS_LOG"],
        quiet=value["FAULTLENS_QUIET"],
        worker=value["FAULTLENS_WORKER"],
        fallback_worker=_encodable(
            resource.get("service.instance.id")
            or resource.get("k8s.node.name")
            or value["K8S_NODE_NAME"]
            or value["NODE_NAME"]
            or _host_name()
        )[:WORKER_LIMIT],
    )


def _read(variable: Variable, environ: Mapping[str, str]) -> Any:
    value = environ.get(variable.name, "")
    if not value.strip():
        return variable.parse(variable.default)
    try:
        return variable.parse(value)
    except ValueError as error:
        shown = value if len(value) <= 40 else value[:40] + "…"
        instead = f"{variable.default} is used" if variable.default else "it is ignored"
        _log.warning("faultlens: %s=%r: %s; %s.", variable.name, shown, error, instead)
        return variable.parse(variable.default)


def _host_name() -> str:
    return socket.gethostname() or "unknown"


def _encodable(text: str) -> str:
    """Bytes that are not UTF-8 arrive as lone surrogates, with which no page could be written."""
    return text.encode("utf-8", "replace").decode()
