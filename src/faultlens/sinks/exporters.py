"""OpenTelemetry's exporters, as the environment names them, and how what they are given is sent.

For a program that sets up no OpenTelemetry of its own; where it does, its own providers are used.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Literal

from faultlens.forks import at_fork
from faultlens.settings import Settings

__all__ = ["Flusher", "Signal", "load", "named"]

_log = logging.getLogger("faultlens")


Signal = Literal["traces", "metrics"]


def named(signal: Signal, settings: Settings) -> list[str]:
    """Where a program without a provider of its own sends its spans or counters."""
    names = settings.traces_exporters if signal == "traces" else settings.metrics_exporters
    # prometheus is no exporter but a reader, of the registry that the counters are in.
    return [name for name in names if name not in ("none", "prometheus")]


def load(signal: Signal, settings: Settings) -> list[Callable[[], Any]]:
    """The exporter classes that are `named`; none where OpenTelemetry is disabled.

    Imported now: a raise is no place for it. Logs one warning for each that cannot be had.
    """
    names = named(signal, settings)
    protocol = settings.traces_protocol if signal == "traces" else settings.metrics_protocol
    if not names or settings.otel_disabled:
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
                "OTEL_%s_EXPORTER=%s: %s; faultlens itself sends nothing to it. "
                "For otlp: pip install opentelemetry-exporter-otlp-proto-http.",
                signal.upper(),
                name,
                error,
            )
    return exporters


class Flusher:
    """Has what our own providers hold sent at each failure: the process may die of it.

    seconds: how long a collector that does not answer may hold the program up, failures and exit
        together. For so long, too, failures wait in all for one that does: a program that goes on
        failing is not dying, and is sent from time to time.
    interval: after how many seconds it sends without a failure.
    """

    def __init__(self, seconds: float, interval: float) -> None:
        self._seconds = seconds
        self._interval = interval
        self._senders: list[Callable[[], object]] = []
        self._ends: list[Callable[[], object]] = []
        self._thread: threading.Thread | None = None
        self._requests: SimpleQueue[threading.Event | None] = SimpleQueue()  # put() is re-entrant
        self._waited = 0.0
        self._in_vain = 0.0
        _flushers.add(self)

    def add(self, send: Callable[[], object], end: Callable[[], object]) -> None:
        """Have `send` called when it is time to send, and `end` after the last time."""
        self._senders.append(send)
        self._ends.append(end)
        # Started now: an interpreter that is shutting down starts no thread any more.
        self._start()

    def flush(self) -> None:
        """Send, and wait for it while there is patience left."""
        patience = self._seconds - self._waited
        if not self._senders or patience <= 0 or threading.current_thread() is self._thread:
            return
        self._start()
        sent = threading.Event()
        self._requests.put(sent)
        start = time.monotonic()
        try:
            sent.wait(patience)
        finally:
            waited = time.monotonic() - start
            self._waited += waited
            if not sent.is_set():
                self._in_vain += waited

    def shut_down(self) -> None:
        """Send what is left, and end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._requests.put(None)
            thread.join(max(0.0, self._seconds - self._in_vain))
        self._senders, self._ends = [], []

    def _after_fork(self) -> None:
        self._thread = None  # it is not there; the next failure starts another
        self._requests = SimpleQueue()
        self._waited = self._in_vain = 0.0

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="faultlens-flush", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        requests, senders, ends = self._requests, self._senders, self._ends
        while True:
            waiting: list[threading.Event | None] = []
            try:
                waiting.append(requests.get(timeout=self._interval))
                while True:
                    waiting.append(requests.get_nowait())
            except Empty:
                pass
            _call_each(senders)
            for sent in filter(None, waiting):
                sent.set()
            if None in waiting:
                _call_each(ends)
                return


_flushers = at_fork(after_in_child=Flusher._after_fork)


def _call_each(functions: Sequence[Callable[[], object]]) -> None:
    for function in functions:
        try:
            function()
        except Exception:
            _log.debug("faultlens could not send what it recorded", exc_info=True)
