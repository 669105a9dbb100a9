"""Turns counts into Prometheus metric families, and those into the page that a scraper gets.

This is the only module that needs prometheus_client. It is imported when metrics are first read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from faultlens import series
from faultlens.exposition.layout import Count
from faultlens.exposition.ledgers import Reading
from faultlens.series import FAILURES, LAST_FAILURE, Labels

__all__ = ["Collector", "page"]


class Collector:
    """Gives counts to a `prometheus_client.CollectorRegistry`.

    read: returns the current counts; None if there are none.
    info: returns the labels of ``faultlens_info``.
    """

    def __init__(
        self, read: Callable[[], Reading | None], info: Callable[[], Mapping[str, str]]
    ) -> None:
        self._read = read
        self._info = info

    def describe(self) -> list[Metric]:
        """The metrics without samples; a registry uses them to check for duplicate names."""
        return list(_families({}, {}))

    def collect(self) -> Iterator[Metric]:
        """The metrics with the current counts."""
        reading = self._read()
        if reading is None:
            return _families({}, {})
        return _families(series.totals(reading.counts, reading.expected), self._info())


def page(collector: Collector, accept: str) -> tuple[str, bytes]:
    """Content type and body of ``/metrics``.

    accept: the scraper's ``Accept`` header.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    generate, content_type = choose_encoder(accept)
    return content_type, generate(registry)


def _families(
    totals: Mapping[str, Mapping[Labels, Count]], info: Mapping[str, str]
) -> Iterator[Metric]:
    for name, text, labels in series.COUNTERS:
        family = CounterMetricFamily(f"faultlens_{name}", text, labels=labels)
        for values, count in sorted(totals.get(name, {}).items()):
            _add(family, dict(zip(labels, values, strict=True)), count, name == FAILURES)
        yield family
    name, text, labels = LAST_FAILURE
    last = GaugeMetricFamily(f"faultlens_{name}", text, labels=labels)
    for values, count in sorted(totals.get(FAILURES, {}).items()):
        if count.last:
            last.add_metric(values, count.last)
    yield last
    about = GaugeMetricFamily("faultlens_info", "What runs here; always 1.", labels=tuple(info))
    if info:
        about.add_metric(tuple(info.values()), 1)
    yield about


def _add(
    family: CounterMetricFamily, labels: Mapping[str, str], count: Count, with_exemplar: bool
) -> None:
    # Not family.add_metric: it takes an exemplar only in recent versions of prometheus_client.
    exemplar = None
    if with_exemplar and count.trace is not None:
        trace_id, span_id, moment = count.trace
        exemplar = Exemplar({"trace_id": trace_id, "span_id": span_id}, 1.0, moment)
    family.add_sample(f"{family.name}_total", dict(labels), count.number, exemplar=exemplar)
    if count.born:
        family.add_sample(f"{family.name}_created", dict(labels), count.born)
