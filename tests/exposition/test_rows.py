"""The rows that people are shown: that they add up to the metrics, and keep their places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens import series
from faultlens.exposition.layout import Count, Key
from faultlens.exposition.rows import KINDS, Issue, Recent, Row, ago, counted, plural, rest
from faultlens.failure import Failure, Kind, Role

words = st.sampled_from(["", "a", "b"])
failures = st.builds(
    Failure,
    sdk=st.just("sdk"),
    type=st.sampled_from(["sdk.A", "sdk.B"]),
    kind=st.sampled_from(Kind),
    worker=words,
    role=st.sampled_from(Role),
    code=words,
    task=words,
    reason=words,
    owner=words,
)


def counts_of(seen: list[Failure]) -> dict[Key, Count]:
    counts: dict[Key, Count] = {("dropped", "class_limit"): Count(1, 0.0, 0.0)}
    for moment, failure in enumerate(seen):
        key = series.key_of(failure)
        before = counts.get(key, Count(0, moment, moment))
        counts[key] = Count(before.number + 1, before.born, moment)
    return counts


@given(st.lists(failures))
def test_rows_have_all_that_the_metrics_have(seen: list[Failure]) -> None:
    counts = counts_of(seen)
    found, totals = counted(counts), series.totals(counts, ())

    for kind in KINDS:
        expected = sum(c.number for labels, c in totals["failures"].items() if labels[1] == kind)
        assert found.of(kind) == expected
    assert found.total == sum(found.of(kind) for kind in KINDS)
    assert found.suppressed.total() == sum(c.number for c in totals["suppressed"].values())
    assert found.dropped == {"class_limit": 1}
    for (cls, code, task, kind, reason, owner), count in totals["issues"].items():
        of_issue = [
            row
            for row in found.rows
            if row.issue._replace(worker="") == Issue(kind, cls, code, task, reason, "", owner)
        ]
        assert sum(row.number for row in of_issue) == count.number
        assert max(row.last or 0 for row in of_issue) == count.last
        assert min(row.first or 0 for row in of_issue) == count.born


@given(st.lists(failures), st.lists(failures))
def test_a_row_keeps_its_place(earlier: list[Failure], later: list[Failure]) -> None:
    before = [row.issue for row in counted(counts_of(earlier)).rows]
    after = [row.issue for row in counted(counts_of([*later, *earlier])).rows]

    assert [issue for issue in after if issue in before] == before
    kinds = [KINDS.index(issue.kind) for issue in after]
    assert kinds == sorted(kinds)


def test_kinds_are_in_the_order_of_urgency() -> None:
    assert KINDS == ("system", "unknown", "user")


def test_a_kind_of_a_newer_version_comes_last() -> None:
    counts: dict[Key, Count] = {
        ("failures", "a.A", kind, "w", "", "", "", ""): Count(1, 0.0, 0.0)
        for kind in ("blame", "user")
    }
    assert [row.issue.kind for row in counted(counts).rows] == ["user", "blame"]


def test_what_is_beside_failures_is_told_if_there_is_any() -> None:
    assert rest(counted({})) == []
    counts: dict[Key, Count] = {
        ("suppressed", "a.A", "user", "w", "propagated"): Count(1, 0.0, 0.0),
        ("dropped", "class_limit"): Count(2, 0.0, 0.0),
    }
    assert rest(counted(counts)) == [
        "1 raise not counted again: 1 propagated",
        "2 not recorded in full: 2 class_limit",
    ]


class TestRecent:
    issue = Issue("user", "a.A", "", "", "", "w", "")

    def look(self, recent: Recent, number: int, now: float) -> dict[Issue, int] | None:
        return recent.look([Row(self.issue, number, None, None)], now)

    def test_counts_what_came_within_the_last_minute(self) -> None:
        recent = Recent()
        assert self.look(recent, 5, 100) is None
        assert self.look(recent, 5, 101) == {}
        assert self.look(recent, 7, 130) == {self.issue: 2}
        assert self.look(recent, 8, 160) == {self.issue: 3}
        assert self.look(recent, 8, 189) == {self.issue: 1}  # since 130
        assert self.look(recent, 8, 250) is None  # nobody has looked within the minute

    def test_a_row_that_is_new_counts_from_0(self) -> None:
        recent = Recent()
        assert recent.look([], 100) is None
        assert self.look(recent, 3, 101) == {self.issue: 3}

    def test_a_reset_counts_from_0(self) -> None:
        recent = Recent()
        self.look(recent, 9, 100)
        assert self.look(recent, 2, 101) == {self.issue: 2}
        assert self.look(recent, 5, 102) == {self.issue: 5}

    def test_looks_that_are_not_remembered_are_not_counted_twice(self) -> None:
        recent = Recent()
        self.look(recent, 1, 100)
        assert self.look(recent, 3, 100.1) == {self.issue: 2}
        assert self.look(recent, 4, 100.2) == {self.issue: 3}
        assert self.look(recent, 6, 101) == {self.issue: 5}
        assert self.look(recent, 6, 101.1) == {self.issue: 5}

    def test_what_does_not_change_is_not_remembered(self) -> None:
        recent = Recent()
        for number in range(100):
            self.look(recent, 9, 100 + number)
        assert sum(len(new) for _, new in recent._looks) == 0

    def test_many_viewers_do_not_fill_the_memory(self) -> None:
        recent = Recent()
        for number in range(10_000):
            self.look(recent, number, 100 + number / 100)
        assert len(recent._looks) < 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "now"),
        (0.9, "now"),
        (1, "1 s ago"),
        (59, "59 s ago"),
        (61, "1 min ago"),
        (7200, "2 h ago"),
        (9 * 86400, "9 d ago"),
    ],
)
def test_says_how_long_ago(seconds: float, text: str) -> None:
    assert ago(1000.0 - seconds, 1000.0) == text
    assert ago(None, 1000.0) == ""


def test_one_is_not_several() -> None:
    assert plural(1, "failure") == "1 failure"
    assert plural(0, "failure") == "0 failures"
    assert plural(2, "class") == "2 classes"
