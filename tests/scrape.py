"""What a ``/metrics`` page says about failures, read as Prometheus would read it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["KINDS", "Row", "Scrape", "parse"]

KINDS = ("system", "unknown", "user")
"""In the order of urgency."""


@dataclass(frozen=True, slots=True)
class Row:
    """One series of ``faultlens_failures_total`` that has counted something."""

    kind: str
    type: str
    """The class's full dotted name."""
    worker: str
    count: int
    last: float
    """When the last one was, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """All there is to show."""

    rows: tuple[Row, ...] = ()
    """By kind, in the order of `KINDS`, then the most frequent first."""
    suppressed: tuple[tuple[str, int], ...] = ()
    """How many raised exceptions were no new failure, by reason."""
    info: tuple[tuple[str, str], ...] = ()
    """The labels of ``faultlens_info``."""

    @property
    def total(self) -> int:
        return sum(row.count for row in self.rows)

    def count(self, kind: str) -> int:
        return sum(row.count for row in self.of(kind))

    def of(self, kind: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == kind)


def parse(page: str) -> Scrape:
    """Read a page in Prometheus's text format."""
    samples = [s for family in text_string_to_metric_families(page) for s in family.samples]

    def labels(name: str) -> list[tuple[dict[str, str], float]]:
        return [(sample.labels, sample.value) for sample in samples if sample.name == name]

    last = {
        _key(series): moment
        for series, moment in labels("faultlens_last_failure_timestamp_seconds")
    }
    rows = [
        Row(*_key(series), count=int(count), last=last.get(_key(series), 0.0))
        for series, count in labels("faultlens_failures_total")
        if count
    ]
    suppressed: Counter[str] = Counter()
    for series, count in labels("faultlens_suppressed_total"):
        suppressed[series["reason"]] += int(count)
    return Scrape(
        rows=tuple(sorted(rows, key=lambda row: (KINDS.index(row.kind), -row.count, row.type))),
        suppressed=tuple(suppressed.most_common()),
        info=tuple(next(iter(labels("faultlens_info")), ({}, 1.0))[0].items()),
    )


def _key(labels: dict[str, str]) -> tuple[str, str, str]:
    return labels["kind"], labels["class"], labels["worker"]
