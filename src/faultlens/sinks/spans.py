"""Failures as events on OpenTelemetry spans.

The current span if it records; else a span of our own, so that a failure outside of any trace is
found too. OpenTelemetry is imported only where the program imported it, or where the environment
says where spans go: without either there is neither a current span nor anyone to send one to.

An event is put on the current span in the middle of the raise, since the span may end next. A span
of our own is made later, in our own thread: span processors and exporters may wait.

We never touch the host span's status (a handled exception is no failed span), never set the global
provider, and never call ``Span.record_exception``: it lets a broken ``__str__`` replace the host's
exception.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from faultlens import guard, natives
from faultlens.background import Patience, no_fork
from faultlens.failure import Failure
from faultlens.identity import IdentityMap
from faultlens.scrub import Scrub
from faultlens.settings import Settings
from faultlens.sinks.exporters import AskedOnce, Outbox, load, resource
from faultlens.sinks.record import MESSAGE_LIMIT, Record, attributes, ours

__all__ = ["Spans"]

DEPTH_LIMIT = 64
"""How many frames are looked at for code of OpenTelemetry's."""
WAITING_LIMIT = 1000
"""The most failures that wait for a span of their own."""

Span = Any  # opentelemetry.trace.Span, which must not be imported here


class _Waiting(NamedTuple):
    """What a span of our own is made of."""

    parent: Span | None
    """The current span, which does not record: its trace may not be sampled."""
    record: Record


class Spans:
    """Writes each failure as one event, once per span.

    failed: is told why a span of our own could not be made.
    """

    def __init__(
        self,
        settings: Settings,
        version: str,
        scrub: Scrub,
        patience: Patience,
        failed: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._settings = settings
        self._tracer_of = AskedOnce(lambda provider: provider.get_tracer("faultlens", version))
        self._scrub = scrub
        self._patience = patience
        self._failed = failed
        # The exceptions that have an event, and the ids of the spans that have it.
        self._recorded: IdentityMap[tuple[Failure, list[int]]] = IdentityMap()
        self._exporters = load("traces", settings) if settings.span_events else []
        self._own: Any = None
        self._waiting: deque[_Waiting] = deque()
        self._sending = False
        self._waits_for: Any = None
        """The provider before whose end `_wait` is called."""
        self._restore: Callable[[], None] | None = None

    @property
    def sends(self) -> bool:
        """Whether spans of our own go where the environment says."""
        return bool(self._exporters)

    def current(self) -> Span | None:
        """The current span; None where the program has no tracing at all."""
        trace = natives.modules.get("opentelemetry.trace")
        get_current_span = getattr(trace, "get_current_span", None)  # None: half-imported
        return get_current_span() if get_current_span is not None else None

    def wants(self, span: Span | None) -> bool:
        """Whether `record` would write anything."""
        if not self._settings.span_events:
            return False
        return (span is not None and span.is_recording()) or self._provider() is not None

    def record(
        self,
        record: Record,
        exc: BaseException,
        frame: FrameType | None,
        span: Span | None,
        keep: bool = False,
    ) -> None:
        """Put the event on `span` if that records; else `send` will, on a span of our own.

        Secrets are taken out in the raise only where the current span records: it may end next.

        keep: keep `exc` alive until `forget`; it may be of a class that takes no weak reference.
        """
        failure = record.failure
        remember = self._recorded.keep if keep else self._recorded.set
        if span is not None and span.is_recording():
            if _is_locked(span) and _within_opentelemetry(frame):
                raise RuntimeError("raised within OpenTelemetry, whose locks are not re-entrant")
            # Before the event, so that an event which fails is not written a second way.
            remember(exc, (failure, [span.get_span_context().span_id]))
            span.add_event("exception", attributes(record, self._scrub))
        elif len(self._waiting) < WAITING_LIMIT:
            remember(exc, (failure, []))
            self._waiting.append(_Waiting(span, record))
            provider = self._provider()
            if provider is not self._waits_for:
                self._waits_for = provider
                # After the provider's own, so before it: handlers run in reverse order.
                atexit.register(self._wait)
        else:
            raise RuntimeError(f"{WAITING_LIMIT} failures wait for a span of their own")

    def know(self, failure: Failure, exc: BaseException, keep: bool = False) -> None:
        """Write no event, but take the secrets out of those that OpenTelemetry writes of `exc`."""
        remember = self._recorded.keep if keep else self._recorded.set
        remember(exc, (failure, []))

    def send(self) -> None:
        """Make the spans of our own, and send them. May wait: not for a raise."""
        self._sending = True
        try:
            while self._waiting:
                waiting = self._waiting.popleft()
                try:
                    tracer = self._tracer()
                    if tracer is not None:
                        _make(tracer, waiting, self._scrub)
                except BaseException as error:  # by a span processor of the program's
                    self._failed(error)
        finally:
            self._sending = False
        if self._own is not None:
            self._own.export()

    def end(self) -> None:
        """Send what waits, for the last time."""
        self.send()
        own, self._own = self._own, None
        if own is not None:
            own.shutdown()

    def _wait(self) -> None:
        """At exit, until the program's provider, which ends next, has what waits."""
        self._patience.wait_for(lambda: not (self._sending or self._waiting))

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's, and so is the connection."""
        self._waiting.clear()
        self._sending = False
        self._own = None

    def forget(self, exc: BaseException) -> None:
        """Let go of an exception: it will not come to a span's exit any more."""
        self._recorded.discard(exc)

    def _provider(self) -> Any:
        """What makes spans of our own: the program's provider, or the environment's exporters.

        None if there is neither, and under eventlet: our own thread must not share its locks.
        """
        if natives.locks_are_eventlets():
            return None
        trace = natives.modules.get("opentelemetry.trace")
        if trace is not None:
            provider = trace.get_tracer_provider()
            if not isinstance(provider, trace.ProxyTracerProvider):
                return provider
        return self._exporters or None

    def _tracer(self) -> Any:
        provider = self._provider()
        if provider is not None and provider is self._exporters:
            if self._own is None:
                with no_fork:
                    self._own = _Own(self._exporters)
            provider = self._own.provider
        return provider and self._tracer_of(provider)

    # One event per exception per span.

    def hook_into(self, module: ModuleType) -> None:
        """Wrap ``opentelemetry.sdk.trace.Span.record_exception``, which runs at a span's exit.

        For an exception that is already on the span it does nothing; on an outer span it writes
        its event with our attributes, and without secrets.
        """
        # OpenTelemetry 1.20 loads its context at the first use, which would be in a raise.
        context: Any = natives.modules.get("opentelemetry.context")
        if context is not None:
            context.get_current()
        span_class = module.Span
        original = span_class.record_exception
        if hasattr(original, "__faultlens_original__"):
            return
        recorded, scrub = self._recorded, self._scrub

        def record_exception(
            self: Span,
            exception: BaseException,
            attributes: Mapping[str, Any] | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            event = recorded.get(exception)
            if event is not None:
                failure, spans = event
                span_id = self.get_span_context().span_id
                if span_id in spans:
                    return
                spans.append(span_id)
                own = {**ours(failure), **(_texts(exception, scrub) if scrub.on else {})}
                attributes = {**own, **(attributes or {})}
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
        """Undo `hook_into`, and wait no more."""
        atexit.unregister(self._wait)
        if self._restore is not None:
            self._restore()
            self._restore = None


def _texts(exc: BaseException, scrub: Scrub) -> dict[str, str]:
    """What OpenTelemetry would write about an exception, without secrets. Not for a raise."""
    from traceback import format_exception

    stack = "".join(format_exception(type(exc), exc, guard.traceback_of(exc)))
    return {
        "exception.message": scrub.text(guard.message(exc, MESSAGE_LIMIT)),
        "exception.stacktrace": scrub.text(stack),
    }


def _is_locked(span: Span) -> bool:
    """Whether somebody is changing the span at this moment; it may be this thread."""
    locked = getattr(getattr(span, "_lock", None), "locked", None)
    return locked is not None and bool(locked())


def _within_opentelemetry(frame: FrameType | None) -> bool:
    """Whether the code of `frame` interrupts OpenTelemetry's tracing: as a finalizer, say.

    This thread may hold a span's lock then, and would wait for itself.
    """
    for _ in range(DEPTH_LIMIT):
        if frame is None:
            return False
        if str(frame.f_globals.get("__name__")).startswith("opentelemetry.sdk.trace"):
            return True
        frame = frame.f_back
    return False


def _make(tracer: Any, waiting: _Waiting, scrub: Scrub) -> None:
    trace = natives.modules["opentelemetry.trace"]
    moment = int(waiting.record.moment * 1e9)
    parent = trace.set_span_in_context(waiting.parent or trace.INVALID_SPAN)
    span = tracer.start_span("exception", context=parent, start_time=moment)
    try:
        if span.is_recording():
            span.add_event("exception", attributes(waiting.record, scrub), timestamp=moment)
    finally:
        span.end(end_time=moment)


class _Own(Outbox):
    """A tracer provider of our own, whose spans `export` sends."""

    def __init__(self, exporters: list[Callable[[], Any]]) -> None:
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        super().__init__(exporters, "spans")
        ended = self.finished

        class Processor(SpanProcessor):
            def on_end(self, span: Any) -> None:
                ended.append(span)

        # shutdown_on_exit: its own has no time limit.
        self.provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
        self.provider.add_span_processor(Processor())
