"""What is counted: a table of series, the same in memory, in the store and on ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "CODES",
    "DROPPED",
    "FAILURES",
    "SUPPRESSED",
    "Count",
    "Counts",
    "Series",
    "Trace",
    "Unreadable",
    "add",
    "less",
    "raise_to",
    "total",
]

FAILURES = "failures"
SUPPRESSED = "suppressed"
CODES = "failure_codes"
DROPPED = "dropped"


class Series(NamedTuple):
    """Which counter, and its labels; those that it does not have are empty."""

    metric: str
    """One of the names above."""
    type: str = ""
    """The exception class's full dotted name: the label ``class``."""
    kind: str = ""
    worker: str = ""
    detail: str = ""
    """The reason or the code."""


class Trace(NamedTuple):
    """Where a failure is found among the traces."""

    trace_id: str
    span_id: str
    moment: float
    """In seconds since 1970."""


class Count(NamedTuple):
    """How often, and when."""

    number: int
    born: float | None = None
    """When it was first counted, in seconds since 1970; None for a series that started at 0."""
    last: float | None = None
    """When it was last counted."""
    trace: Trace | None = None
    """The last time that was within a sampled span."""


Counts = dict[Series, Count]


class Unreadable(Exception):
    """Counts cannot be read at this moment, and nothing that is known can stand in for them."""


def add(counts: Counts, more: Mapping[Series, Count]) -> None:
    """Count `more` on top: all of it, or none if it raises (RecursionError, say)."""
    counts.update({series: total(counts.get(series), count) for series, count in more.items()})


def less(counts: Mapping[Series, Count], before: Mapping[Series, Count]) -> Counts:
    """What of `counts` came after `before`; all series stay."""
    return {series: _less(count, before.get(series)) for series, count in counts.items()}


def raise_to(counts: Counts, least: Mapping[Series, Count]) -> Counts:
    """Have `counts` be nowhere below `least`; returns what had to be raised."""
    raised = {
        series: count
        for series, count in least.items()
        if series not in counts or counts[series].number < count.number
    }
    counts.update(raised)
    return raised


def total(count: Count | None, more: Count) -> Count:
    """The two together, the later one second."""
    if count is None:
        return more
    number, trace = count.number + more.number, more.trace or count.trace
    return Count(number, count.born, more.last or count.last, trace)


def _less(count: Count, before: Count | None) -> Count:
    number = count.number - (before.number if before is not None else 0)
    return count._replace(number=number) if number else Count(0)
