"""Counts as Prometheus metric families: the names, the labels and the help texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily

from faultlens.counts import CODES, DROPPED, FAILURES, SUPPRESSED, Counts

__all__ = ["Collector", "families"]

_SERIES = ("class", "kind", "worker")

# For each counter what it counts, and where in a `Series` each of its labels comes from.
_COUNTERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    FAILURES: (
        "Failures, each once, by SDK exception class, whose fault it was and who ran it. "
        "Page the platform team for kind=system.",
        {"class": "type", "kind": "kind", "worker": "worker"},
    ),
    SUPPRESSED: (
        "Raised SDK exceptions that are no new failure, and the reason why.",
        {"class": "type", "kind": "kind", "worker": "worker", "reason": "detail"},
    ),
    CODES: (
        "Failures by the code their exception carries.",
        {"class": "type", "code": "detail"},
    ),
    DROPPED: (
        "What faultlens could not record as it should; above 0, look at the reason.",
        {"reason": "detail"},
    ),
}


class Collector:
    """Gives counts to a `prometheus_client.CollectorRegistry`.

    read: the counts as they are now.
    info: labels of ``faultlens_info``.
    """

    def __init__(self, read: Callable[[], Counts], info: Callable[[], Mapping[str, str]]) -> None:
        self._read = read
        self._info = info

    def describe(self) -> list[Metric]:
        """The metrics without samples: what a registry checks for names that are taken."""
        return list(families({}, {}))

    def collect(self) -> Iterator[Metric]:
        """The metrics with the counts as they are now."""
        return families(self._read(), self._info())


def families(counts: Counts, info: Mapping[str, str]) -> Iterator[Metric]:
    """The metrics; without `counts` their names alone, which a registry checks for being taken.

    info: labels of ``faultlens_info``.
    """
    counters = {
        name: CounterMetricFamily(f"faultlens_{name}", text, labels=tuple(labels))
        for name, (text, labels) in _COUNTERS.items()
    }
    last = GaugeMetricFamily(
        "faultlens_last_failure_timestamp_seconds",
        "When the last such failure was, in seconds since 1970.",
        labels=_SERIES,
    )
    for series, count in sorted(counts.items(), key=lambda item: item[0]):
        labels = {
            label: getattr(series, field) for label, field in _COUNTERS[series.metric][1].items()
        }
        exemplar = None
        if series.metric == FAILURES:
            if count.trace is not None:
                trace_id, span_id, moment = count.trace
                exemplar = Exemplar({"trace_id": trace_id, "span_id": span_id}, 1.0, moment)
            if count.last is not None:
                last.add_metric(tuple(labels.values()), count.last)
        _add(counters[series.metric], labels, count.number, count.born, exemplar)
    yield from counters.values()
    yield last
    about = GaugeMetricFamily("faultlens_info", "What runs here; always 1.", labels=tuple(info))
    if info:
        about.add_metric(tuple(info.values()), 1)
    yield about


def _add(
    family: CounterMetricFamily,
    labels: Mapping[str, str],
    number: int,
    created: float | None,
    exemplar: Exemplar | None,
) -> None:
    # Not family.add_metric, which took an exemplar in late versions of prometheus_client only.
    family.add_sample(f"{family.name}_total", dict(labels), number, exemplar=exemplar)
    if created is not None:
        family.add_sample(f"{family.name}_created", dict(labels), created)
