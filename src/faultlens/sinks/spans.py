"""Failures as events on OpenTelemetry spans.

The current span if it records; else a span of our own, so that a failure outside of any trace is
found too. OpenTelemetry is imported only where the program imported it, or where the environment
says where spans go: without either there is neither a current span nor anyone to send one to.

We never touch the host span's status (a handled exception is no failed span), never set the global
provider, and never call ``Span.record_exception``: it lets a broken ``__str__`` replace the host's
exception.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import islice
from types import FrameType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.failure import Failure
from faultlens.identity import IdentityMap
from faultlens.settings import Settings
from faultlens.sinks.exporters import Flusher, load

__all__ = ["Spans"]

MESSAGE_LIMIT = 4096
"""The longest exception.message, in characters."""
FRAME_LIMIT = 64
"""The most frames of an exception.stacktrace: the innermost."""

Span = Any  # opentelemetry.trace.Span, which must not be imported here


class Spans:
    """Writes each failure as one event, once per span.

    flusher: sends what is on spans of our own, in a program without a tracer provider.
    """

    def __init__(self, settings: Settings, version: str, flusher: Flusher) -> None:
        self._settings = settings
        self._version = version
        # The exceptions that have an event: our attributes, and the ids of the spans that have it.
        self._recorded: IdentityMap[tuple[dict[str, str], set[int]]] = IdentityMap()
        self._exporters = load("traces", settings)
        self._own: Any = None
        self._flusher = flusher
        self._restore: Callable[[], None] | None = None

    def current(self) -> Span | None:
        """The current span; None where the program has no tracing at all."""
        trace = sys.modules.get("opentelemetry.trace")
        get_current_span = getattr(trace, "get_current_span", None)  # None: half-imported
        return get_current_span() if get_current_span is not None else None

    def sampled(self, span: Span | None) -> tuple[str, str] | None:
        """Trace and span id in hex if the span is sampled, so that a link to it leads somewhere."""
        if span is None:
            return None
        context = span.get_span_context()
        if not (context.is_valid and context.trace_flags.sampled):
            return None
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"

    def record(
        self,
        failure: Failure,
        exc: BaseException,
        frame: FrameType | None,
        span: Span | None,
        keep: bool = False,
    ) -> None:
        """Put the event on `span` if that records, else on a span of our own.

        keep: keep `exc` alive until `forget`; it may be of a class that takes no weak reference.
        """
        if _within_opentelemetry(frame):
            raise RuntimeError("raised within OpenTelemetry, whose locks are not re-entrant")
        if span is not None and span.is_recording():
            self._add_event(span, failure, exc, frame, keep)
            return
        tracer = self._tracer()
        if tracer is not None:
            own = tracer.start_span("exception")
            try:
                if own.is_recording():
                    self._add_event(own, failure, exc, frame, keep)
            finally:
                own.end()

    def forget(self, exc: BaseException) -> None:
        """Let go of an exception: it will not come to a span's exit any more."""
        self._recorded.discard(exc)

    def _add_event(
        self,
        span: Span,
        failure: Failure,
        exc: BaseException,
        frame: FrameType | None,
        keep: bool,
    ) -> None:
        ours = {
            "faultlens.kind": failure.kind.value,
            "faultlens.worker": failure.worker,
            "faultlens.sdk": failure.sdk,
            "faultlens.role": failure.role.value,
            **({"faultlens.code": failure.code} if failure.code else {}),
            **({"faultlens.carries": failure.carries} if failure.carries else {}),
            **failure.context,
        }
        # Before the event, so that an event which fails is not written a second way.
        remember = self._recorded.keep if keep else self._recorded.set
        remember(exc, (ours, {span.get_span_context().span_id}))
        span.add_event("exception", {**self._semantic(failure, exc, frame), **ours})

    def _semantic(
        self, failure: Failure, exc: BaseException, frame: FrameType | None
    ) -> dict[str, str]:
        """The attributes of the semantic conventions for exceptions."""
        attributes = {"exception.type": failure.type}
        message = guard.text(exc, MESSAGE_LIMIT) if self._settings.messages else None
        if message is not None:
            attributes["exception.message"] = message
        if self._settings.stacktraces:
            last = failure.type if message is None else f"{failure.type}: {message}"
            attributes["exception.stacktrace"] = _stack(exc, frame) + last + "\n"
        return attributes

    def _tracer(self) -> Any:
        """The app's if it has a provider by now; else our own, if the environment names one."""
        trace = sys.modules.get("opentelemetry.trace")
        if trace is not None:
            provider = trace.get_tracer_provider()
            if not isinstance(provider, trace.ProxyTracerProvider):
                return provider.get_tracer("faultlens", self._version)
        if self._own is None and self._exporters:
            self._own = _provider(self._exporters)
            self._flusher.add(self._own.force_flush, self._own.shutdown)
        return self._own and self._own.get_tracer("faultlens", self._version)

    # One event per exception per span.

    def hook_into(self, module: ModuleType) -> None:
        """Wrap ``opentelemetry.sdk.trace.Span.record_exception``, which runs at a span's exit.

        For an exception that is already on the span it does nothing; on an outer span it writes
        its event with our attributes.
        """
        span_class = module.Span
        original = span_class.record_exception
        if hasattr(original, "__faultlens_original__"):
            return
        recorded = self._recorded

        def record_exception(
            self: Span,
            exception: BaseException,
            attributes: Mapping[str, Any] | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            event = recorded.get(exception)
            if event is not None:
                ours, spans = event
                span_id = self.get_span_context().span_id
                if span_id in spans:
                    return
                spans.add(span_id)
                attributes = {**ours, **(attributes or {})}
            original(self, exception, attributes, *args, **kwargs)

        record_exception.__wrapped__ = original  # type: ignore[attr-defined]
        record_exception.__doc__ = original.__doc__
        record_exception.__faultlens_original__ = original  # type: ignore[attr-defined]
        span_class.record_exception = record_exception

        def restore() -> None:
            if span_class.record_exception is record_exception:
                span_class.record_exception = original

        self._restore = restore

    def stop(self) -> None:
        """Undo `hook_into`."""
        if self._restore is not None:
            self._restore()
            self._restore = None


def _within_opentelemetry(frame: FrameType | None) -> bool:
    """Whether the code of `frame` interrupts OpenTelemetry's tracing: as a finalizer, say.

    This thread may hold a span's lock then, and would wait for itself.
    """
    for _ in range(FRAME_LIMIT):
        if frame is None:
            return False
        if str(frame.f_globals.get("__name__")).startswith("opentelemetry.sdk.trace"):
            return True
        frame = frame.f_back
    return False


def _stack(exc: BaseException, frame: FrameType | None) -> str:
    """The call stack as a traceback without source lines: reading files in a `raise` is too much.

    At a raise the exception's own traceback has one entry, so it is the raising frame's callers
    that tell; where that frame is gone, the traceback is whole.
    """
    places: list[tuple[str, int | None, str]] = []
    if frame is not None:
        callers: FrameType | None = frame
        while callers is not None and len(places) < FRAME_LIMIT:
            code = callers.f_code
            places.append((code.co_filename, callers.f_lineno, code.co_name))
            callers = callers.f_back
        places.reverse()
    else:
        entry = guard.traceback_of(exc)
        while entry is not None:
            code = entry.tb_frame.f_code
            places.append((code.co_filename, entry.tb_lineno, code.co_name))
            entry = entry.tb_next
        places = list(islice(places, max(0, len(places) - FRAME_LIMIT), None))
    lines = (f'  File "{file}", line {line}, in {name}\n' for file, line, name in places)
    return "Traceback (most recent call last):\n" + "".join(lines)


def _provider(exporters: list[Callable[[], Any]]) -> Any:
    """A tracer provider of our own."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(shutdown_on_exit=False)  # its own has no time limit
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider
