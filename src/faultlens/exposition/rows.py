"""Counts as rows for people: what `faultlens top` and the page at ``/`` show.

A row has all that a ledger knows of a failure: issue and worker together, which the metrics have
apart.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from faultlens.exposition.layout import Count, Key, total
from faultlens.failure import Kind
from faultlens.series import DROPPED, FAILURES, SUPPRESSED

__all__ = [
    "FAULTS",
    "KINDS",
    "Counted",
    "Issue",
    "Recent",
    "Row",
    "ago",
    "counted",
    "plural",
    "rest",
]

KINDS = tuple(kind.value for kind in Kind)
"""In the order of urgency."""

FAULTS = {
    Kind.SYSTEM.value: "the platform's fault",
    Kind.UNKNOWN.value: "not known whose fault; a rule can decide",
    Kind.USER.value: "the fault of the code or its caller",
}


class Issue(NamedTuple):
    """What tells the rows apart."""

    kind: str
    cls: str
    """Full dotted name of the class."""
    code: str
    task: str
    reason: str
    worker: str
    owner: str

    @property
    def rank(self) -> tuple[int, Issue]:
        """Where it belongs: by urgency, then by name, so that a row keeps its place."""
        return KINDS.index(self.kind) if self.kind in KINDS else len(KINDS), self


class Row(NamedTuple):
    """How often an issue failed on a worker, and when."""

    issue: Issue
    number: int
    first: float | None
    """When it was first counted, in seconds since 1970; None if that is not known."""
    last: float | None


class Counted(NamedTuple):
    """All that was counted."""

    rows: list[Row]
    """In the order of their ranks."""
    suppressed: Counter[str]
    """How many raised exceptions were not counted again, by reason."""
    dropped: Counter[str]
    """What could not be recorded as it should, by reason."""

    @property
    def total(self) -> int:
        return sum(row.number for row in self.rows)

    def of(self, kind: str) -> int:
        """The failures of a kind."""
        return sum(row.number for row in self.rows if row.issue.kind == kind)


def counted(counts: Mapping[Key, Count]) -> Counted:
    """The rows of what ledgers have counted."""
    found: dict[Issue, Count] = {}
    suppressed: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for (name, *values), count in counts.items():
        if name == FAILURES:
            # An older version's key has fewer labels.
            cls, kind, worker, code, task, reason, owner = (*values, "", "", "", "")[:7]
            issue = Issue(kind, cls, code, task, reason, worker, owner)
            found[issue] = total(found.get(issue), count)
        elif name == SUPPRESSED:
            suppressed[values[3]] += count.number
        elif name == DROPPED:
            dropped[values[0]] += count.number
    rows = [Row(issue, count.number, count.born, count.last) for issue, count in found.items()]
    return Counted(sorted(rows, key=lambda row: row.issue.rank), suppressed, dropped)


def rest(found: Counted) -> list[str]:
    """What was counted beside failures, in a line each. Without control characters."""
    kinds = (
        (found.suppressed, f"{plural(sum(found.suppressed.values()), 'raise')} not counted again"),
        (found.dropped, f"{sum(found.dropped.values())} not recorded in full"),
    )
    lines = (
        f"{title}: {', '.join(f'{count} {reason}' for reason, count in reasons.most_common())}"
        for reasons, title in kinds
        if reasons
    )
    return ["".join(char if char.isprintable() else "?" for char in line) for line in lines]


class Recent:
    """How many failures each row had in the last minute, as far as somebody has looked."""

    SECONDS = 60.0
    _LOOKS_APART = 0.9
    """Seconds. What is looked at more often is remembered as often."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[Issue, int]]] = deque()
        """Each with what is new since the one before: all counts would be too much to keep."""
        self._last: dict[Issue, int] = {}
        """The counts at the last of them."""

    def look(self, rows: Iterable[Row], now: float) -> dict[Issue, int] | None:
        """The number for each row that has one; None at the first look within a minute.

        now: by a clock that is not set.
        """
        counts = {row.issue: row.number for row in rows}
        looks = self._looks
        while looks and looks[0][0] < now - self.SECONDS:
            looks.popleft()
        if not looks:
            looks.append((now, {}))
            self._last = counts
            return None
        new = {
            issue: n - before if n > before else n  # a counter that was reset counts from 0
            for issue, n in counts.items()
            if n != (before := self._last.get(issue, 0))
        }
        recent = Counter(new)
        for _, earlier in islice(looks, 1, None):
            recent.update(earlier)
        if now - looks[-1][0] >= self._LOOKS_APART:
            looks.append((now, new))
            self._last = counts
        return {issue: n for issue, n in recent.items() if n and issue in counts}


def ago(moment: float | None, now: float) -> str:
    """How long ago, in two words."""
    if moment is None:
        return ""
    seconds = max(0, int(now - moment))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago" if seconds else "now"


def plural(count: int, what: str) -> str:
    """``1 failure``, ``2 failures``, ``2 classes``."""
    several = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else several}"
