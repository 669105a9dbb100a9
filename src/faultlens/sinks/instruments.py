"""The counters as OpenTelemetry instruments, for a program whose metrics OpenTelemetry collects.

Through the program's own meter provider; in a program without one, where ``OTEL_METRICS_EXPORTER``
says. Names and labels are those on ``/metrics``. Each process reports what it has counted itself:
the receiver adds the processes up.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from faultlens import natives, series
from faultlens.background import log, no_fork
from faultlens.exposition.layout import Count
from faultlens.series import FAILURES, LAST_FAILURE, Labels
from faultlens.sinks.exporters import resource

__all__ = ["Instruments", "Own"]

SCOPE = "faultlens"
"""The name of our meter."""


class Own(NamedTuple):
    """What one process has counted."""

    totals: Mapping[str, Mapping[Labels, Count]]
    info: Mapping[str, str]
    """Labels of ``faultlens_info``."""


class Instruments:
    """Reports the counts of this process between `start` and `stop`.

    One for the whole process, as its instruments are: OpenTelemetry cannot take them out again.

    version: faultlens's own.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._read: Callable[[], Own] | None = None
        self._declared = False
        self._exporters: list[Callable[[], Any]] = []
        self._own: Any = None

    def start(self, read: Callable[[], Own], exporters: list[Callable[[], Any]]) -> None:
        """Report from now on.

        read: what this process has counted, as it is now.
        exporters: where to, in a program without a meter provider.
        """
        self._read = read
        self._exporters = [] if _program_has_a_provider() else exporters

    def stop(self) -> None:
        """Report nothing any more."""
        self._read = None

    @property
    def sends(self) -> bool:
        """Whether the counters go where the environment says.

        Not under eventlet: our own thread must not share its locks.
        """
        return bool(self._exporters) and not natives.locks_are_eventlets()

    def adjust_to(self, module: ModuleType) -> None:
        """Take in a module that the program has imported."""
        if module.__name__ == "opentelemetry.sdk.metrics" and not self._declared:
            self._declared = True
            # The global provider's, or, until the program sets it, what stands in for that.
            meter = sys.modules["opentelemetry.metrics"].get_meter(SCOPE, self._version)
            self._declare(meter)

    def send(self) -> None:
        """Send the counters, in a program without a meter provider. May wait: not for a raise."""
        if not self.sends or _program_has_a_provider():  # by now: it reports them
            return
        if self._own is None:
            try:
                with no_fork:
                    self._own = self._provider()
            except Exception as error:  # a setting that the exporter cannot use, perhaps
                self._exporters = []
                log(
                    logging.WARNING,
                    "faultlens: OTEL_METRICS_EXPORTER: %s; faultlens itself sends no metrics.",
                    error,
                )
                return
        if not _program_has_a_provider():  # set meanwhile: to make ours takes a while
            self._own.force_flush()

    def end(self) -> None:
        """Send for the last time."""
        self.send()
        own, self._own = self._own, None
        if own is not None and not _program_has_a_provider():  # its shutdown sends once more
            own.shutdown()

    def after_fork(self) -> None:
        """In a forked child: the provider is the parent's."""
        self._own = None

    def _declare(self, meter: Any) -> None:
        """Have a meter report all metrics."""
        for name, text, labels in series.COUNTERS:
            meter.create_observable_counter(
                f"faultlens_{name}_total", [self._callback(name, labels, _number)], description=text
            )
        name, text, labels = LAST_FAILURE
        meter.create_observable_gauge(
            f"faultlens_{name}", [self._callback(FAILURES, labels, _last)], description=text
        )
        meter.create_observable_gauge(
            "faultlens_info", [self._about], description="What runs here; always 1."
        )

    def _callback(
        self, name: str, labels: tuple[str, ...], value: Callable[[Count], float]
    ) -> Callable[[Any], list[Any]]:
        """What an instrument asks for its values."""
        observation = sys.modules["opentelemetry.metrics"].Observation

        def callback(options: Any) -> list[Any]:
            found = self._read().totals[name] if self._read is not None else {}
            return [
                observation(value(count), dict(zip(labels, values, strict=True)))
                for values, count in found.items()
                if value is _number or value(count)
            ]

        return callback

    def _about(self, options: Any) -> list[Any]:
        observation = sys.modules["opentelemetry.metrics"].Observation
        return [observation(1, dict(self._read().info))] if self._read is not None else []

    def _provider(self) -> Any:
        """A meter provider of our own."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        provider = MeterProvider(
            # No thread of their own: ours sends, and in a forked child to another provider.
            [PeriodicExportingMetricReader(make(), math.inf) for make in self._exporters],
            resource(),
            shutdown_on_exit=False,
        )
        self._declare(provider.get_meter(SCOPE, self._version))
        return provider


def _number(count: Count) -> int:
    return count.number


def _last(count: Count) -> float:
    return count.last


def _program_has_a_provider() -> bool:
    """Whether the program, or who starts it, has set the global meter provider."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return False
    return type(metrics.get_meter_provider()).__name__ != "_ProxyMeterProvider"
