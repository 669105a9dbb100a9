"""``faultlens doctor``: is it on here, and does everything work?

Each check looks at one thing as the recording itself would, with the same code where there is some,
and says in one line what it found and what to do about it.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import logging
import os
import platform
import re
import site
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import faultlens
from faultlens import pipeline, rules, scrub, series, startup
from faultlens import settings as settings_module
from faultlens.commands import endpoint, screen
from faultlens.commands.classes import load_sdks
from faultlens.exposition import sheets
from faultlens.exposition.ledgers import Ledgers
from faultlens.exposition.rows import counted, plural
from faultlens.pipeline import Pipeline
from faultlens.rules import checking
from faultlens.sdks import Sdk
from faultlens.settings import VARIABLES, Settings
from faultlens.sinks import exporters, logs

__all__ = ["Check", "Mark", "examine"]


class Mark(Enum):
    """What a check came to; words, so that no colour is needed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    mark: Mark
    subject: str
    text: str


def examine(*, enabled: bool, record: bool) -> int:
    """Print the report; returns the exit status.

    enabled: whether faultlens was enabled when this process started.
    record: also raise test failures and see them counted.
    """
    python = f"Python {platform.python_version()}, {sys.executable}"
    print(f"faultlens {faultlens.__version__}, {python}")
    failed = False
    for check in _checks(enabled, record):
        failed = failed or check.mark is Mark.FAIL
        mark = _coloured(f"{check.mark.value:4}", check.mark)
        print(f"{mark}  {check.subject:16}  {check.text}", flush=True)
    return 1 if failed else 0


def _checks(enabled: bool, record: bool) -> Iterator[Check]:
    with _warnings():  # each is told by the check of its variable
        settings = settings_module.load()
    yield _switch()
    yield _start_up(enabled)
    yield _detector()
    sdks: list[Sdk] = []
    yield from _sdks(sdks)
    yield from _rules(settings, sdks)
    yield _worker(settings)
    store, check = _store(settings)
    yield check
    yield _metrics(settings, store)
    yield from _spans(settings)
    yield from _log_records(settings)
    yield from _log(settings)
    yield from _counters(settings)
    yield _scrubbing(settings)
    yield from _variables()
    if record:
        yield from _record(sdks)


# Is it on?


def _switch() -> Check:
    on, value = startup.switch(), os.environ.get("FAULTLENS", "")
    if on:
        return Check(Mark.OK, "switch", f"FAULTLENS={value}: on")
    if on is None:
        return Check(Mark.FAIL, "switch", f"FAULTLENS={value!r} is neither on nor off: set it to 1")
    shown = f"FAULTLENS={value}" if value.strip() else "FAULTLENS is not set"
    return Check(Mark.FAIL, "switch", f"{shown}: off. Set FAULTLENS=1 where the program starts")


def _start_up(enabled: bool) -> Check:
    why = startup.obstacle()
    if why is not None:
        return Check(Mark.FAIL, "start-up", why)
    directories = _site_directories()
    hook = _hook_file(directories)
    ran = "ran when this process started" if enabled else "did not run when this process started"
    if hook is not None:
        if enabled or not startup.switch():
            return Check(Mark.OK, "start-up", f"{hook}{', ' + ran if enabled else ''}")
        return Check(Mark.FAIL, "start-up", f"{hook} {ran}: was Python run with -S or -I?")
    if enabled:
        return Check(Mark.OK, "start-up", "enabled by something else than a start-up file")
    stray = _hook_file([Path(entry) for entry in sys.path if entry])
    why = (
        f"{stray} is not in a site directory, so Python does not read it"
        if stray
        else f"no faultlens.pth in {', '.join(map(str, directories))}"
    )
    cure = "pip install faultlens into this environment, or call faultlens.enable()"
    return Check(Mark.FAIL, "start-up", f"{why}: {cure}")


def _site_directories() -> list[Path]:
    """Where Python looks for start-up files."""
    directories = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        directories = [*directories, site.getusersitepackages()]
    return [Path(directory) for directory in directories]


def _hook_file(directories: list[Path]) -> Path | None:
    files = (directory / "faultlens.pth" for directory in directories)
    return next((file for file in files if file.is_file()), None)


# What would it do?


def _detector() -> Check:
    from faultlens.hook.monitoring import Monitoring

    if sys.version_info < (3, 12):
        python = platform.python_version()
        return Check(Mark.OK, "detector", f"sys.settrace: Python {python} has no sys.monitoring")
    mechanism = Monitoring({}, lambda *raised: True, lambda reason: None)
    works = mechanism.start()
    tools = {tool: sys.monitoring.get_tool(tool) for tool in range(6)}
    mechanism.stop()
    if works:
        ours = next(tool for tool, name in tools.items() if name == "faultlens")
        return Check(Mark.OK, "detector", f"sys.monitoring, tool id {ours}")
    owners = ", ".join(f"{tool} by {name}" for tool, name in tools.items() if name)
    return Check(
        Mark.WARN,
        "detector",
        f"sys.settrace, which is slower: no id of sys.monitoring is left ({owners})",
    )


def _sdks(loaded: list[Sdk]) -> Iterator[Check]:
    missing = []
    for sdk in load_sdks(rules.Rules()):
        if isinstance(sdk, Sdk):
            loaded.append(sdk)
            text = f"{sdk.version}, {len(sdk.classes)} exception classes"
            yield Check(Mark.OK, sdk.package, text)
            for hook in sdk.lacking():
                text = f"has no {hook.module}.{hook.name} as it is known; without it {hook.without}"
                yield Check(Mark.WARN, sdk.package, text)
        elif sdk.installed:
            yield Check(Mark.FAIL, sdk.package, sdk.why)
        else:
            missing.append(sdk)
    for absent in missing:  # to have one of them is enough
        yield Check(Mark.OK if loaded else Mark.FAIL, absent.package, absent.why)


def _rules(settings: Settings, sdks: list[Sdk]) -> Iterator[Check]:
    files = []
    if settings.rules:
        try:
            files.append(rules.read(settings.rules))
        except rules.RulesError as error:
            yield Check(Mark.FAIL, "rules", f"{error} The built-in rules stay in force.")
        else:
            text = f"FAULTLENS_RULES={settings.rules}: {plural(len(list(files[0])), 'rule')}"
            yield Check(Mark.OK, "rules", text)
    if settings.profile:
        files.append(rules.profile(settings.profile))
        text = f"FAULTLENS_PROFILE={settings.profile}: {plural(len(list(files[-1])), 'rule')}"
        yield Check(Mark.OK, "rules", text)
    if not (settings.rules or settings.profile):
        text = "the built-in ones: neither FAULTLENS_RULES nor FAULTLENS_PROFILE is set"
        yield Check(Mark.OK, "rules", text)
    in_force = rules.Rules(files)
    for named in checking.in_the_rules(in_force, settings.suppress):
        why = checking.why_unknown(named) or next(
            filter(None, _not_of_sdks(named.name, sdks)), None
        )
        if why is not None:
            yield Check(Mark.WARN, "rules", f"{named.what} changes nothing: {why}")
    for problem in checking.unreachable(in_force):
        yield Check(Mark.WARN, "rules", problem)


def _not_of_sdks(name: str, sdks: list[Sdk]) -> Iterator[str | None]:
    for sdk in sdks:
        yield checking.of_an_sdk(name, sdk.errors_modules, sdk.distribution, sdk.classes)


def _worker(settings: Settings) -> Check:
    if settings.worker:
        return Check(Mark.OK, "worker", f"{settings.worker}, by FAULTLENS_WORKER")
    source = _source_of_fallback(settings.fallback_worker)
    text = f"{settings.fallback_worker} ({source}), where the SDK has no name of its own"
    pods = settings.fallback_worker == socket.gethostname()  # by whatever variable
    if pods and "KUBERNETES_SERVICE_HOST" in os.environ:
        cure = "each pod makes new series. Set K8S_NODE_NAME by the downward API"
        return Check(Mark.WARN, "worker", f"{text}. That is the pod's: {cure}")
    return Check(Mark.OK, "worker", text)


def _source_of_fallback(worker: str) -> str:
    """The variable that alone gives this name; the table has them in their order."""
    for variable in VARIABLES:
        value = os.environ.get(variable.name, "")
        if variable.name in ("OTEL_RESOURCE_ATTRIBUTES", "K8S_NODE_NAME", "NODE_NAME") and value:
            with _warnings():
                alone = settings_module.load({variable.name: value})
            if alone.fallback_worker == worker:
                return variable.name
    return "the host name"


# Where does it go?


def _store(settings: Settings) -> tuple[Ledgers | None, Check]:
    """The store, if it can be used, and what is to be said of it."""
    if settings.store is None:
        text = "off: counts live in their process's memory and end with it"
        return None, Check(Mark.OK, "store", text)
    problems: list[str] = []
    try:
        with sheets.opened(settings.store, make=True):
            pass
        store = Ledgers(settings.store, None, problems.append)
        failures = counted(store.read().counts).total
    except OSError as error:
        text = f"{error}: counts would live in their process's memory"
        return None, Check(Mark.FAIL, "store", text)
    if problems:
        return store, Check(Mark.WARN, "store", "; ".join(problems))
    text = f"{settings.store.directory}: {plural(failures, 'failure')} counted"
    if failures and endpoint.store_served(_url(settings)) != store.identity:
        text += ", and nothing serves the counts now; see them with: faultlens top"
    return store, Check(Mark.OK, "store", text)


def _url(settings: Settings) -> str:
    return endpoint.metrics_url(settings.host, settings.port)


def _metrics(settings: Settings, store: Ledgers | None) -> Check:
    if settings.otel_serves:
        return _opentelemetry_reader()
    if not settings.serve:
        text = "FAULTLENS_SERVE=0: served by faultlens serve, or by the program"
        return Check(Mark.OK, "/metrics", text)
    where = endpoint.address(settings.host, settings.port)
    error = endpoint.bind_error(settings.host, settings.port)
    if error is None:
        port = "any free port" if settings.port == 0 else f"{where}, which is free"
        return Check(Mark.OK, "/metrics", f"would be served on {port}")
    if error.errno != errno.EADDRINUSE:
        why = error.strerror or error
        return Check(Mark.FAIL, "/metrics", f"cannot be served on {where}: {why}")
    served = endpoint.store_served(_url(settings))
    if store is not None and served == store.identity:
        return Check(Mark.OK, "/metrics", f"served on {where} by another process, for all")
    cure = "Another process needs an OTEL_EXPORTER_PROMETHEUS_PORT of its own"
    if served is None:
        text = f"{where} is taken by something that does not serve faultlens's metrics. {cure}"
        return Check(Mark.FAIL, "/metrics", text)
    if store is None and not served:
        text = f"a process serves faultlens's metrics on {where}. {cure}"
        return Check(Mark.OK, "/metrics", text)
    text = f"a process serves faultlens's metrics on {where}, but not those of this store. {cure}"
    return Check(Mark.WARN, "/metrics", text)


def _opentelemetry_reader() -> Check:
    text = "OTEL_METRICS_EXPORTER=prometheus: served by OpenTelemetry's reader, not by faultlens"
    try:
        metadata.version("opentelemetry-exporter-prometheus")
    except metadata.PackageNotFoundError:
        missing = "pip install opentelemetry-exporter-prometheus"
        return Check(Mark.FAIL, "/metrics", f"{text}; but that is not installed: {missing}")
    return Check(Mark.OK, "/metrics", text)


def _spans(settings: Settings) -> Iterator[Check]:
    if not settings.span_events:
        text = "no events: OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=logs makes log records of them"
        yield Check(Mark.OK, "spans", text)
        return
    yield Check(Mark.OK, "spans", f"on the current span; where there is none, {_own(settings)}")
    for problem in _problems_with_exporters("traces", settings):
        yield Check(Mark.FAIL, "spans", problem)


def _own(settings: Settings) -> str:
    """Where the spans go that faultlens makes itself."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    provider = trace.get_tracer_provider() if trace is not None else None
    if provider is not None and not isinstance(provider, trace.ProxyTracerProvider):
        return f"on one of its own, by this process's {type(provider).__name__}"
    if settings.otel_disabled:
        return "nowhere: OTEL_SDK_DISABLED=true"
    names = exporters.named("traces", settings)
    if not names:
        return "by the program's tracer provider, if it has one"
    to = f" to {_without_password(settings.otlp_endpoint)}" if settings.otlp_endpoint else ""
    return f"on one of its own, sent by {', '.join(names)}{to}"


def _log_records(settings: Settings) -> Iterator[Check]:
    """Failures by OpenTelemetry's log records, where they were asked for."""
    if not settings.log_records:
        return
    if settings.otel_disabled:
        yield Check(Mark.OK, "log-records", "none: OTEL_SDK_DISABLED=true")
        return
    version = _version_of("opentelemetry-api")
    try:
        named = logs.has_event_names()
    except ImportError:
        text = f"OpenTelemetry {version} has none: pip install -U opentelemetry-sdk"
        yield Check(Mark.FAIL, "log-records", text)
        return
    names = exporters.named("logs", settings)
    otherwise = f", else sent by {', '.join(names)}" if names else ", if it sets one up"
    yield Check(Mark.OK, "log-records", f"by the program's logger provider{otherwise}")
    if not named:
        text = f"OpenTelemetry {version}'s have no event name: it is the attribute event.name"
        yield Check(Mark.WARN, "log-records", f"{text}. Version 1.35 brings it")
    for problem in _problems_with_exporters("logs", settings):
        yield Check(Mark.FAIL, "log-records", problem)


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _log(settings: Settings) -> Iterator[Check]:
    """The lines of FAULTLENS_LOG."""
    if settings.log is None:
        return
    form, path = settings.log
    if not path:
        yield Check(Mark.OK, "lines", f"{form} lines on stderr")
    elif os.access(path if Path(path).exists() else Path(path).parent, os.W_OK):
        yield Check(Mark.OK, "lines", f"{form} lines in {path}")
    else:
        yield Check(Mark.FAIL, "lines", f"{path} cannot be written: no line will be")


def _counters(settings: Settings) -> Iterator[Check]:
    """Where they go by OpenTelemetry, if anywhere."""
    names = exporters.named("metrics", settings)
    if not names:
        return
    if settings.otel_disabled:
        yield Check(Mark.OK, "counters", "on /metrics only: OTEL_SDK_DISABLED=true")
        return
    text = f"sent by {', '.join(names)} where the program has no meter provider"
    yield Check(Mark.OK, "counters", text)
    for problem in _problems_with_exporters("metrics", settings):
        yield Check(Mark.FAIL, "counters", problem)


def _problems_with_exporters(signal: exporters.Signal, settings: Settings) -> list[str]:
    with _warnings() as problems:
        for make in exporters.load(signal, settings):
            try:
                make()
            except Exception as error:  # of a variable that faultlens does not read
                problems.append(f"its exporter cannot be made: {error}")
    return problems


def _scrubbing(settings: Settings) -> Check:
    found, problems = scrub.read(settings.scrub)
    if problems:
        return Check(Mark.FAIL, "scrubbing", "; ".join(problems))
    if not found.on:
        return Check(Mark.WARN, "scrubbing", "off: credentials stay in messages, stacks and codes")
    return Check(Mark.OK, "scrubbing", "credentials are taken out of messages, stacks and codes")


# What is set?


def _variables() -> Iterator[Check]:
    for variable in VARIABLES:
        value = os.environ.get(variable.name, "")
        if not value.strip() or variable.name == "FAULTLENS":
            continue
        shown = f"{variable.name}={_without_password(value)}".replace("\n", "\\n")
        try:
            variable.parse(value)
        except ValueError as error:
            default = variable.default or "nothing"
            yield Check(Mark.FAIL, "variable", f"{shown}: {error}; {default} is used")
        else:
            yield Check(Mark.OK, "variable", shown)
    known = [variable.name for variable in VARIABLES]
    for name in sorted(os.environ):
        if name.startswith("FAULTLENS") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            yield Check(Mark.WARN, "variable", f"faultlens does not know {name}{hint}")


def _without_password(value: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", value)


# Does it count?


def _record(sdks: list[Sdk]) -> Iterator[Check]:
    os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = "0"  # the real one may be in use
    os.environ["FAULTLENS_STORE"] = "off"  # a test failure is none
    with _warnings() as warnings:
        faultlens.enable()
    running = pipeline.running()
    if running is None:
        yield Check(Mark.FAIL, "record", "; ".join(warnings) or "there is no SDK to record")
        return
    for sdk in sdks:
        try:
            exc = sdk.trial()
        except Exception as error:  # a third party's
            why = f"{type(error).__name__}: {error}"
            text = f"{sdk.package} was not tried: its adapter can make no exception ({why})"
            yield Check(Mark.WARN, "record", text)
            continue
        before = _counted(running)
        with _warnings() as warnings:
            _raise_and_catch(exc)
        after = _counted(running)
        new = {series: count - before.get(series, 0) for series, count in after.items()}
        yield _recorded(sdk, {series: count for series, count in new.items() if count}, warnings)
    faultlens.disable()


def _raise_and_catch(exc: BaseException) -> None:
    with contextlib.suppress(type(exc)):
        raise exc


def _counted(running: Pipeline) -> dict[tuple[str, ...], int]:
    """All exceptions counted so far, by metric and labels."""
    counts, expected = running.read()
    found = series.totals(counts, expected)
    return {
        (metric, *labels): count.number
        for metric in (series.FAILURES, series.SUPPRESSED)
        for labels, count in found[metric].items()
    }


def _recorded(sdk: Sdk, new: dict[tuple[str, ...], int], warnings: list[str]) -> Check:
    if list(new.values()) == [1]:
        _, name, kind, worker, *reason = next(iter(new))
        text = f"{name}: counted once, kind {kind}, worker {worker}"
        return Check(Mark.FAIL if reason else Mark.OK, "record", " as ".join((text, *reason)))
    times = int(sum(new.values()))
    text = f"a test failure of {sdk.package} was counted {plural(times, 'time')}, expected once"
    return Check(Mark.FAIL, "record", "; ".join((text, *warnings)))


# The tools of the checks.


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What faultlens logs meanwhile, kept off the screen."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    log, keep = logging.getLogger("faultlens"), Keep(logging.WARNING)
    propagated, log.propagate = log.propagate, False
    log.addHandler(keep)
    try:
        yield messages
    finally:
        log.removeHandler(keep)
        log.propagate = propagated


def _coloured(text: str, mark: Mark) -> str:
    if not screen.colours(sys.stdout):
        return text
    colour = {Mark.OK: 32, Mark.WARN: 33, Mark.FAIL: 31}[mark]
    return f"\x1b[{colour}m{text}\x1b[0m"
