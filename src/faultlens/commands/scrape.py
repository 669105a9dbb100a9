"""The rows of a ``/metrics`` page, which has issues and workers apart."""

from __future__ import annotations

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from faultlens.exposition.rows import Counted, Issue, Row

__all__ = ["Scrape", "parse"]

_Labels = tuple[str, ...]

_FAILURES = "faultlens_failures_total", ("kind", "class", "worker")
_ISSUES = "faultlens_issues_total", ("kind", "class", "code", "task", "reason", "owner")
_LAST = "faultlens_last_failure_timestamp_seconds", ("kind", "class", "worker")
_SUPPRESSED = "faultlens_suppressed_total", ("reason",)
_DROPPED = "faultlens_dropped_total", ("reason",)


class Scrape(NamedTuple):
    """What a page says."""

    counted: Counted
    info: dict[str, str]
    """The labels of ``faultlens_info``; empty if the page is not of faultlens."""


def parse(page: str) -> Scrape:
    """Read a page in Prometheus's text format. Raises ValueError if it is something else."""
    samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
    info = next((dict(s.labels) for s in samples if s.name == "faultlens_info"), {})

    def numbers(
        metric: tuple[str, tuple[str, ...]],
        together: Callable[[float, float], float] = operator.add,
    ) -> dict[_Labels, float]:
        # There may be other labels: an instance, for one.
        name, labels = metric
        found: dict[_Labels, float] = defaultdict(float)
        for sample in samples:
            if sample.name == name:
                if not 0 <= sample.value < math.inf:
                    raise ValueError(f"expected a count or a time, not {name} {sample.value}")
                key = tuple(sample.labels.get(label, "") for label in labels)
                found[key] = together(found[key], sample.value)
        return {key: value for key, value in found.items() if value}

    def reasons(metric: tuple[str, tuple[str, ...]]) -> Counter[str]:
        return Counter({reason: int(value) for (reason,), value in numbers(metric).items()})

    rows = [*_rows(numbers(_FAILURES), numbers(_ISSUES), numbers(_LAST, max))]
    rows.sort(key=lambda row: row.issue.rank)
    return Scrape(Counted(rows, reasons(_SUPPRESSED), reasons(_DROPPED)), info)


def _rows(
    failures: dict[_Labels, float], issues: dict[_Labels, float], last: dict[_Labels, float]
) -> Iterator[Row]:
    """The issues, with their worker where the page leaves only one."""
    workers: dict[_Labels, dict[str, float]] = defaultdict(dict)
    for (kind, cls, worker), count in failures.items():
        workers[kind, cls][worker] = count
    grouped: dict[_Labels, dict[_Labels, float]] = defaultdict(dict)
    for (kind, cls, *detail), count in issues.items():
        grouped[kind, cls][tuple(detail)] = count
    if not issues:  # of another program's making, perhaps
        for group, of_class in workers.items():
            grouped[group] = {("", "", "", ""): sum(of_class.values())}
    for (kind, cls), details in grouped.items():
        of_class = workers[kind, cls]
        same = sum(details.values()) == sum(of_class.values())
        if same and len(details) == 1:
            ((code, task, reason, owner),) = details
            for worker, count in of_class.items():
                issue = Issue(kind, cls, code, task, reason, worker, owner)
                yield Row(issue, int(count), None, last.get((kind, cls, worker)))
        else:
            worker = next(iter(of_class)) if same and len(of_class) == 1 else ""
            for (code, task, reason, owner), count in details.items():
                issue = Issue(kind, cls, code, task, reason, worker, owner)
                yield Row(issue, int(count), None, None)
