"""OpenTelemetry's exporters, as the environment names them.

For a program that sets up no OpenTelemetry of its own; where it does, its own providers are used.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from faultlens import interpreter, natives
from faultlens.background import log
from faultlens.settings import Settings

__all__ = ["AskedOnce", "Outbox", "Signal", "load", "named", "resource"]

_log = logging.getLogger("faultlens")


Signal = Literal["traces", "metrics", "logs"]


def named(signal: Signal, settings: Settings) -> list[str]:
    """Where a program without a provider of its own sends its spans, counters or log records."""
    names = {
        "traces": settings.traces_exporters,
        "metrics": settings.metrics_exporters,
        "logs": settings.logs_exporters,
    }[signal]
    # prometheus is no exporter but a reader, of the registry that the counters are in.
    return [name for name in names if name not in ("none", "prometheus")]


def load(signal: Signal, settings: Settings) -> list[Callable[[], Any]]:
    """The exporter classes that are `named`; none where OpenTelemetry is disabled.

    None in a sub-interpreter, which has no thread to send. None under eventlet either, whose locks
    our thread must not share.
    Imported now: a raise is no place for it. Logs one warning for each that cannot be used.
    """
    names = named(signal, settings)
    protocol = {
        "traces": settings.traces_protocol,
        "metrics": settings.metrics_protocol,
        "logs": settings.logs_protocol,
    }[signal]
    if not names or settings.otel_disabled or not interpreter.is_main():
        return []
    if natives.locks_are_eventlets():
        _log.warning(
            "faultlens: OTEL_%s_EXPORTER=%s: under eventlet faultlens itself sends nothing to it, "
            "because its thread must not share eventlet's locks. What the program sends itself is "
            "not affected.",
            signal.upper(),
            ",".join(names),
        )
        return []
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=f"opentelemetry_{signal}_exporter")}
    exporters = []
    for name in names:
        flavour = {"grpc": "otlp_proto_grpc"}.get(protocol, "otlp_proto_http")
        entry = found.get(flavour if name == "otlp" else name) or found.get(name)
        try:
            if entry is None:
                raise ImportError(f"no installed package provides the exporter {name!r}")
            exporters.append(entry.load())
        except Exception as error:
            _log.warning(
                "faultlens: OTEL_%s_EXPORTER=%s: %s; faultlens itself sends nothing to it. "
                "For otlp: pip install opentelemetry-exporter-otlp-proto-http.",
                signal.upper(),
                name,
                error,
            )
    if exporters:
        _surroundings()
        # requests imports it when it first sends. A fork just then would leave it half-imported.
        with contextlib.suppress(ImportError):
            import netrc  # noqa: F401
    return exporters


class AskedOnce:
    """Asks a provider for its tracer or logger once, until there is another provider.

    Each time it is asked, OpenTelemetry takes a lock and changes the filters of warnings.
    """

    def __init__(self, ask: Callable[[Any], Any]) -> None:
        self._ask = ask
        self._provider: Any = None
        self._answer: Any = None

    def __call__(self, provider: Any) -> Any:
        if provider is not self._provider:
            self._provider, self._answer = provider, self._ask(provider)
        return self._answer


class Outbox:
    """What a provider of our own has finished, until `export` sends it.

    OpenTelemetry's batch processors would start a thread, which the host would see.

    exporters: the classes that `load` has given.
    what: what is sent, in words, for the log.
    """

    def __init__(self, exporters: list[Callable[[], Any]], what: str) -> None:
        self.finished: deque[Any] = deque()
        self._exporters = [exporter() for exporter in exporters]
        self._what = what

    def export(self) -> None:
        """Send all that is finished."""
        batch = []
        while self.finished:
            batch.append(self.finished.popleft())
        for exporter in self._exporters if batch else ():
            try:
                exporter.export(batch)
            except Exception:
                log(logging.DEBUG, "faultlens could not send its %s", self._what, exc_info=True)

    def shutdown(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


def resource() -> Any:
    """What OpenTelemetry says of this process; for what `load` has loaded."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = Resource(_process(os.getpid()))
    return _surroundings().merge(own).merge(OTELResourceDetector().detect())  # the user's word


@lru_cache(maxsize=1)
def _surroundings() -> Any:
    """Found out once, and early: OpenTelemetry does it in threads, and at exit none can start."""
    from opentelemetry.sdk.resources import Resource

    return Resource.create()


@lru_cache(maxsize=1)
def _process(pid: int) -> dict[str, Any]:
    """What tells this process from every other. Ids need not: those of two containers are alike."""
    import uuid

    return {"service.instance.id": str(uuid.uuid4()), "process.pid": pid}
