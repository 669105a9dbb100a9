"""The keys that the ledgers count, and the metrics that are made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from faultlens.exposition.layout import OTHER, Count, Key, total
from faultlens.failure import OK, Failure, Role

__all__ = [
    "ATTEMPTS",
    "CLASS_LIMIT",
    "COUNTERS",
    "DROPPED",
    "FAILURES",
    "ISSUES",
    "ISSUE_LIMIT",
    "LAST_FAILURE",
    "OK",
    "OTHER",
    "SUPPRESSED",
    "TASK_LIMIT",
    "WORKER_LIMIT",
    "Labels",
    "Metric",
    "fewer",
    "key_of",
    "totals",
]

FAILURES = "failures"
SUPPRESSED = "suppressed"
ISSUES = "issues"
ATTEMPTS = "attempts"
DROPPED = "dropped"


# Limits on the cardinality of labels, for all ledgers together.
CLASS_LIMIT = 300
"""The maximum number of classes with a raise."""
WORKER_LIMIT = 100
"""The maximum number of workers."""
ISSUE_LIMIT = 500
"""The maximum number of groups of failures in ``faultlens_issues_total``."""
TASK_LIMIT = 300
"""The maximum number of tasks in ``faultlens_attempts_total``."""

_DROP_REASONS = (
    "class_limit",
    "internal_error",
    "issue_limit",
    "log_error",
    "log_limit",
    "reentrant",
    "span_error",
    "store_error",
    "task_limit",
    "worker_limit",
)
"""The reasons in ``faultlens_dropped_total``."""

Labels = tuple[str, ...]
"""The values of a metric's labels."""


class Metric(NamedTuple):
    """A metric: its name without prefix and suffix, its help text, and its label names."""

    name: str
    help: str
    labels: tuple[str, ...]


COUNTERS = (
    Metric(
        FAILURES,
        "Failures, each counted once, by SDK exception class, whose fault it was, and worker. "
        "Page the platform team for kind=system.",
        ("class", "kind", "worker"),
    ),
    Metric(
        SUPPRESSED,
        "Raised SDK exceptions that are not counted as failures, by reason.",
        ("class", "kind", "worker", "reason"),
    ),
    Metric(
        ISSUES,
        "The same failures, grouped as a person would name them: what failed, where and why.",
        ("class", "code", "task", "kind", "reason", "owner"),
    ),
    Metric(
        ATTEMPTS,
        "Attempts of tasks, activities and workflow runs, by how they ended: ok, the kind of the "
        "failure that ended it, propagated, or cancelled.",
        ("sdk", "task", "outcome"),
    ),
    Metric(
        DROPPED,
        "Things that faultlens could not record properly; above 0, look at the reason.",
        ("reason",),
    ),
)
LAST_FAILURE = Metric(
    "last_failure_timestamp_seconds",
    "The time of the last such failure, in seconds since 1970.",
    ("class", "kind", "worker"),
)


def key_of(failure: Failure) -> Key:
    """The key under which a raised SDK exception is counted; it has the labels of all metrics."""
    if failure.role is Role.ORIGIN:
        issue = failure.code or "", failure.task, failure.reason, failure.owner
        return FAILURES, failure.type, failure.kind._value_, failure.worker, *issue
    return SUPPRESSED, failure.type, failure.kind._value_, failure.worker, failure.role._value_


def fewer(key: Key) -> Key:
    """The key with `OTHER` for the labels of high cardinality: class, worker, code, task, owner."""
    if key[0] == FAILURES:
        _, _, kind, _, _, _, reason, _ = key
        return FAILURES, OTHER, kind, OTHER, OTHER, OTHER, reason, OTHER
    if key[0] == SUPPRESSED:
        return SUPPRESSED, OTHER, key[2], OTHER, key[4]
    if key[0] == ATTEMPTS:
        return ATTEMPTS, key[1], OTHER, key[3]
    return key


def totals(
    counts: Mapping[Key, Count], expected: Iterable[tuple[str, str, str]]
) -> dict[str, dict[Labels, Count]]:
    """The counts by metric and labels, with `OTHER` for values beyond a limit.

    The limits admit values in the order of their birth, so a value that was admitted once stays
    admitted.

    expected: class, kind and worker of each series that starts at 0, since `increase()` cannot see
        a counter that is born at 1.
    """
    found: dict[str, dict[Labels, Count]] = {metric.name: {} for metric in COUNTERS}
    classes, workers, issues, tasks = limits = (
        _Admitted("class_limit", CLASS_LIMIT),
        _Admitted("worker_limit", WORKER_LIMIT),
        _Admitted("issue_limit", ISSUE_LIMIT),
        _Admitted("task_limit", TASK_LIMIT),
    )

    def count_in(name: str, labels: Labels, count: Count) -> None:
        found[name][labels] = total(found[name].get(labels), count)

    for (name, *values), count in sorted(counts.items(), key=lambda item: item[1].born):
        if name == DROPPED:
            count_in(name, tuple(values), count)
        elif name == ATTEMPTS:
            sdk, task, outcome = values
            count_in(name, (sdk, *tasks.admit((task,), count), outcome), count)
        elif name in (FAILURES, SUPPRESSED):
            # A key that an older version wrote has fewer labels.
            cls, kind, worker, *detail = (*values, "", "", "", "")[:7]
            (cls,) = classes.admit((cls,), count)
            (worker,) = workers.admit((worker,), count)
            if name == SUPPRESSED:
                count_in(name, (cls, kind, worker, detail[0]), count)
            else:
                count_in(name, (cls, kind, worker), count)
                code, task, reason, owner = detail
                cls, code, task, owner = issues.admit((cls, code, task, owner), count)
                count_in(ISSUES, (cls, code, task, kind, reason, owner), count)
    for limited in limits:
        if limited.refused is not None:
            count_in(DROPPED, (limited.reason,), limited.refused)
    for reason in _DROP_REASONS:
        found[DROPPED].setdefault((reason,), _NEVER)
    for labels in expected:
        found[FAILURES].setdefault(labels, _NEVER)
    return found


_NEVER = Count(0, 0.0, 0.0)


class _Admitted:
    """Admits the first `limit` values of a label."""

    def __init__(self, reason: str, limit: int) -> None:
        self.reason = reason
        self.refused: Count | None = None
        """The count of everything beyond the limit."""
        self._limit = limit
        self._values: set[Labels] = set()

    def admit(self, value: Labels, count: Count) -> Labels:
        other = (OTHER,) * len(value)
        if value in self._values or value == other:
            return value
        if len(self._values) < self._limit:
            self._values.add(value)
            return value
        self.refused = total(self.refused, count)
        return other
