"""The counters as OpenTelemetry instruments, for a program whose metrics OpenTelemetry collects.

Through the program's own meter provider; in a program without one, where ``OTEL_METRICS_EXPORTER``
says. Names and labels are those on ``/metrics``. Each process reports what it has counted itself:
whoever receives it adds the processes up.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import ModuleType
from typing import Any

from prometheus_client import REGISTRY, Metric

from faultlens.counts import Counts
from faultlens.exposition.families import families
from faultlens.forks import at_fork
from faultlens.sinks.counters import Counters
from faultlens.sinks.exporters import Flusher

__all__ = ["Instruments"]

_log = logging.getLogger("faultlens")

SCOPE = "faultlens"
"""The name of our meter."""


class Instruments:
    """Reports the counts of this process between `start` and `stop`.

    One for the whole process, as its instruments are: OpenTelemetry cannot take them out again.
    """

    def __init__(self, counters: Counters, version: str) -> None:
        self._counters = counters
        self._version = version
        self._poll: Callable[[], object] | None = None
        self._declared = False
        self._exporters: list[Callable[[], Any]] = []
        self._own: Any = None
        self._id = str(uuid.uuid4())
        _instances.add(self)

    def start(
        self, poll: Callable[[], object], exporters: list[Callable[[], Any]], flusher: Flusher
    ) -> None:
        """Report from now on.

        poll: has raises counted that were not seen when they happened.
        exporters: where to, in a program without a meter provider.
        """
        self._poll = poll
        if exporters and not _program_has_a_provider():
            self._exporters = exporters
            flusher.add(self._send, self._end)

    def stop(self) -> None:
        """Report nothing any more."""
        self._poll = None

    def adjust_to(self, module: ModuleType) -> Callable[[], None] | None:
        """Take in a module that the program has imported; returns what undoes it, if need be."""
        if module.__name__ == "opentelemetry.sdk.metrics" and not self._declared:
            self._declared = True
            # The global provider's, or, until the program sets it, what stands in for that.
            meter = sys.modules["opentelemetry.metrics"].get_meter(SCOPE, self._version)
            self._declare(meter)
        elif module.__name__ == "opentelemetry.exporter.prometheus":
            return _keep_out_of(module.PrometheusMetricReader)
        return None

    def _declare(self, meter: Any) -> None:
        """Have a meter report all counters."""
        observed: list[Counts] = []  # what a parent process had counted before the first time

        def read() -> Iterable[Metric]:
            poll = self._poll
            if poll is None:
                return []
            poll()
            if not observed:
                observed.append(self._counters.inherited)
            return families(self._counters.since(observed[0]), self._counters.info)

        for family in families({}, {}):
            if family.type == "counter":
                name, create = f"{family.name}_total", meter.create_observable_counter
            else:
                name, create = family.name, meter.create_observable_gauge
            create(name, callbacks=[_callback(name, read)], description=family.documentation)

    # In a program without a provider.

    def _provider(self) -> Any:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        # No two processes may report as one. Their ids need not tell them apart: those of two
        # containers are alike.
        process = Resource({"service.instance.id": self._id, "process.pid": os.getpid()})
        provider = MeterProvider(
            # No thread of their own: the flusher has one, and in a forked child another provider.
            [PeriodicExportingMetricReader(make(), math.inf) for make in self._exporters],
            process.merge(Resource.create()),
            shutdown_on_exit=False,
        )
        self._declare(provider.get_meter(SCOPE, self._version))
        return provider

    def _send(self) -> None:
        if _program_has_a_provider():  # by now: it reports them
            return
        if self._own is None and self._exporters:
            try:
                self._own = self._provider()
            except Exception as error:  # a setting that the exporter cannot use, perhaps
                self._exporters = []
                _log.warning("OTEL_METRICS_EXPORTER: %s; faultlens itself sends no metrics.", error)
        if self._own is not None:
            self._own.force_flush()

    def _end(self) -> None:
        if self._own is not None:
            self._own.shutdown()

    def _after_fork(self) -> None:
        self._own = None
        self._id = str(uuid.uuid4())


_instances = at_fork(after_in_child=Instruments._after_fork)


def _callback(name: str, read: Callable[[], Iterable[Metric]]) -> Callable[[Any], list[Any]]:
    """What an instrument asks for its values."""
    observation = sys.modules["opentelemetry.metrics"].Observation

    def callback(options: Any) -> list[Any]:
        return [
            observation(sample.value, sample.labels)
            for family in read()
            for sample in family.samples
            if sample.name == name
        ]

    return callback


def _program_has_a_provider() -> bool:
    """Whether the program, or who starts it, has set the global meter provider."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return False
    return type(metrics.get_meter_provider()).__name__ != "_ProxyMeterProvider"


def _keep_out_of(reader: Any) -> Callable[[], None]:
    """Have OpenTelemetry's Prometheus reader leave ours out where they are already.

    They are in prometheus_client's registry, which that reader is in too, unless it was given
    another: each would be there twice.
    """
    original = reader._receive_metrics

    def _receive_metrics(self: Any, metrics_data: Any, *args: Any, **kwargs: Any) -> Any:
        if metrics_data is not None and getattr(self, "_registry", REGISTRY) is REGISTRY:
            metrics_data = replace(
                metrics_data,
                resource_metrics=[
                    replace(
                        resource,
                        scope_metrics=[m for m in resource.scope_metrics if m.scope.name != SCOPE],
                    )
                    for resource in metrics_data.resource_metrics
                ],
            )
        return original(self, metrics_data, *args, **kwargs)

    reader._receive_metrics = _receive_metrics

    def restore() -> None:
        if reader._receive_metrics is _receive_metrics:
            reader._receive_metrics = original

    return restore
