"""Failures as OpenTelemetry log records, if ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` says so.

``logs``: instead of span events. ``logs/dup``: beside them. One record for each failure, by the
program's logger provider from the moment that it is set; what fails before that waits for it. In a
program without one, where ``OTEL_LOGS_EXPORTER`` says. The record has the ids of the span that was
current at the raise.

| what was raised | record |
| --- | --- |
| a failure that ended a task, an activity, a workflow or the program | ``ERROR`` |
| a failure that was handled, or of which nobody can tell | ``WARN`` |
| what is not counted again: a copy, a wrapper, a replay | none; see `faultlens.sinks.log` |

A raise does not tell whether the exception will be handled. So a record waits for a moment, in
which an exception that ends something usually gets there. It is emitted in our own thread: the
program's log processors may wait. An SDK exception that they raise there is counted, but not
logged: it would be logged for ever.
"""

from __future__ import annotations

import atexit
import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from faultlens import interpreter, natives
from faultlens.background import Patience, log, no_fork
from faultlens.scrub import Scrub
from faultlens.settings import Settings
from faultlens.sinks.exporters import AskedOnce, Outbox, load, resource
from faultlens.sinks.record import Endings, Record, attributes, headline

__all__ = ["EVENT", "LogRecords", "has_event_names"]

EVENT = "exception"
"""The name of the event."""
WAITING_LIMIT = 1000
"""The most failures that wait to be emitted."""

API = "opentelemetry._logs"
Provider = Any  # opentelemetry._logs.LoggerProvider, which must not be imported here


class LogRecords:
    """Emits each failure once.

    failed: is told why a record could not be emitted.
    """

    def __init__(
        self,
        settings: Settings,
        version: str,
        scrub: Scrub,
        endings: Endings,
        patience: Patience,
        failed: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        # A sub-interpreter has no thread to emit.
        self.on = settings.log_records and not settings.otel_disabled and interpreter.is_main()
        self._logger_of = AskedOnce(lambda provider: provider.get_logger("faultlens", version))
        self._scrub = scrub
        self._endings = endings
        self._patience = patience
        self._failed = failed
        self._exporters = load("logs", settings) if self.on else []
        self._own: Any = None
        self._waiting: deque[Record] = deque(maxlen=WAITING_LIMIT)
        self._sending = False
        self._in_a_hurry = False
        self._waits_for: Any = None
        """The provider before whose end `_wait` is called."""

    def note(self, record: Record) -> bool:
        """Take a failure, in the raise; returns False if there is no room for it."""
        if natives.locks_are_eventlets():  # our own thread must not share them
            return True
        provider = self._programs()
        if len(self._waiting) == WAITING_LIMIT and (provider is not None or self._exporters):
            return False
        self._waiting.append(record)  # so far nobody listens: then the oldest makes room
        if provider is not None and provider is not self._waits_for:
            self._waits_for = provider
            # After the provider's own, so before it: handlers run in reverse order.
            atexit.register(self._wait)
        return True

    def send(self) -> None:
        """Emit what has waited long enough. May wait: not for a raise."""
        if not self._waiting:
            return
        self._sending = True
        try:
            while self._waiting and (self._in_a_hurry or self._waiting[0].has_settled()):
                provider = self._provider()
                if provider is None:
                    break
                record = self._waiting.popleft()
                try:
                    _emit(self._logger_of(provider), record, self._scrub)
                except BaseException as error:  # by a log processor of the program's
                    self._failed(error)
        finally:
            self._sending = False
        if self._own is not None:
            self._own.export()

    def end(self) -> None:
        """Emit what waits, for the last time."""
        self._hurry()
        self.send()
        own, self._own = self._own, None
        if own is not None:
            own.shutdown()

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's, and so is the connection."""
        self._waiting.clear()
        self._sending = False
        self._own = None

    def stop(self) -> None:
        """Wait no more."""
        atexit.unregister(self._wait)

    def _hurry(self) -> None:
        self._endings.look()
        self._in_a_hurry = True

    def _wait(self) -> None:
        """At exit, until the program's provider, which ends next, has what waits."""
        self._hurry()
        self._patience.wait_for(lambda: not (self._sending or self._waiting))

    def _programs(self) -> Provider:
        """The provider that the program has set, if any. Runs no code: this is for a raise.

        If it is asked in public, OpenTelemetry 1.20 sets one, and a later version may load one.
        """
        internal = natives.modules.get(f"{API}._internal")
        provider = getattr(internal, "_LOGGER_PROVIDER", None)
        return None if type(provider).__name__ == "NoOpLoggerProvider" else provider

    def _provider(self) -> Provider:
        """The program's, or that of the environment's exporters; None so far."""
        provider = self._programs()
        if provider is None and self._exporters:
            if self._own is None:
                with no_fork:
                    try:
                        self._own = _Own(self._exporters)
                    except Exception as error:  # a setting that the exporter cannot use, perhaps
                        self._exporters = []
                        log(
                            logging.WARNING,
                            "faultlens: OTEL_LOGS_EXPORTER: %s; "
                            "faultlens itself sends no log records.",
                            error,
                        )
                        return None
            provider = self._own.provider
        return provider


@lru_cache(maxsize=1)
def has_event_names() -> bool:
    """Whether the installed OpenTelemetry's log records have a name. Imports it.

    Raises ImportError where it has no log records at all.
    """
    from opentelemetry._logs import LogRecord

    return "event_name" in inspect.signature(LogRecord).parameters


def _emit(logger: Any, record: Record, scrub: Scrub) -> None:
    from opentelemetry import trace
    from opentelemetry._logs import SeverityNumber

    span = trace.NonRecordingSpan(record.context or trace.INVALID_SPAN_CONTEXT)
    found = attributes(record, scrub)
    moment = int(record.moment * 1e9)
    fields: dict[str, Any] = {
        "timestamp": moment,
        "observed_timestamp": moment,
        "severity_number": SeverityNumber(record.severity.number),
        "severity_text": record.severity.text,
        # Not asked for by the conventions, but it is what people see of a record.
        "body": headline(record, scrub),
        "attributes": found,
    }
    if not has_event_names():
        found["event.name"] = EVENT  # the name's place before it had one
        ids = span.get_span_context()
        fields.update(trace_id=ids.trace_id, span_id=ids.span_id, trace_flags=ids.trace_flags)
    else:
        fields.update(event_name=EVENT, context=trace.set_span_in_context(span))
    kind: Any = type(logger)
    if _takes_fields(kind):
        logger.emit(**fields)
        return
    sdk: Any = natives.modules.get("opentelemetry.sdk._logs")
    if hasattr(sdk, "LogRecord"):  # its exporters want the resource in it
        logger.emit(sdk.LogRecord(**fields, resource=getattr(logger, "resource", None)))
    else:
        from opentelemetry._logs import LogRecord

        logger.emit(LogRecord(**fields))


@lru_cache(maxsize=8)
def _takes_fields(logger: type) -> bool:
    """Whether a class of loggers emits the fields of a record; before 1.37 it takes the record."""
    return "event_name" in inspect.signature(logger.emit).parameters  # type: ignore[attr-defined]


class _Own(Outbox):
    """A logger provider of our own, whose records `export` sends."""

    def __init__(self, exporters: list[Callable[[], Any]]) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

        super().__init__(exporters, "log records")
        emitted = self.finished

        class Collector:
            """An exporter, since each version of OpenTelemetry has a record of its own for them."""

            def export(self, batch: Sequence[Any]) -> None:
                emitted.extend(batch)

        # shutdown_on_exit: its own has no time limit.
        self.provider = LoggerProvider(resource=resource(), shutdown_on_exit=False)
        collector: Any = Collector()
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(collector))
