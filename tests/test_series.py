"""What is counted, and the metrics that are made of it."""

from __future__ import annotations

from collections import Counter as Tally
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from faultlens import series
from faultlens.exposition import families
from faultlens.exposition.layout import Count
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.ledgers import Ledgers
from faultlens.failure import Failure, Kind, Role
from faultlens.series import (
    CLASS_LIMIT,
    DROPPED,
    FAILURES,
    ISSUE_LIMIT,
    ISSUES,
    OTHER,
    SUPPRESSED,
    TASK_LIMIT,
    WORKER_LIMIT,
    Labels,
)


def failure(
    type: str = "sdk.Error",
    kind: Kind = Kind.USER,
    worker: str = "w",
    role: Role = Role.ORIGIN,
    code: str | None = None,
    task: str = "",
    reason: str = "",
    owner: str = "",
) -> Failure:
    return Failure(
        "sdk", type, kind, worker, role, code=code, task=task, reason=reason, owner=owner
    )


def issue(failure: Failure) -> Labels:
    f = failure
    return f.type, f.code or "", f.task, f.kind.value, f.reason, f.owner


def counted(*raised: Failure) -> Ledger:
    """A ledger in memory in which these were counted, a second apart."""
    ledger = Ledger(None, other=series.fewer)
    for second, one in enumerate(raised):
        ledger.add(series.key_of(one), 1000.0 + second)
    return ledger


def numbers(ledger: Ledger) -> dict[str, dict[Labels, int]]:
    """What the counters say, without those that are 0."""
    totals = series.totals(ledger.own(), ledger.expected())
    return {
        name: {labels: count.number for labels, count in found.items() if count.number}
        for name, found in totals.items()
    }


def page(ledger: Ledger, accept: str = "") -> str:
    reader = Ledgers(None, ledger, pytest.fail)
    collector = families.Collector(reader.read, lambda: {"version": "1"})
    return families.page(collector, accept)[1].decode()


failures = st.builds(
    failure,
    type=st.sampled_from(["a.A", "a.B", "a.C", 'q"\n\\']),
    kind=st.sampled_from(Kind),
    worker=st.text('wé"\\', max_size=2),
    role=st.sampled_from(Role),
    code=st.none() | st.text('cé"\n', min_size=1, max_size=2),
    task=st.sampled_from(["", "report.clean"]),
    reason=st.sampled_from(["", "storage"]),
    owner=st.sampled_from(["", "data-platform"]),
)


@given(st.lists(failures, max_size=40))
def test_each_raise_is_in_exactly_one_counter_exactly_once(raised: list[Failure]) -> None:
    found = numbers(counted(*raised))
    origins = [f for f in raised if f.role is Role.ORIGIN]
    assert found[FAILURES] == Tally((f.type, f.kind.value, f.worker) for f in origins)
    assert found[SUPPRESSED] == Tally(
        (f.type, f.kind.value, f.worker, f.role.value) for f in raised if f.role is not Role.ORIGIN
    )
    assert found[ISSUES] == Tally(map(issue, origins))


@given(st.lists(failures, max_size=40), st.data())
def test_beyond_the_limits_no_series_goes_down_and_no_failure_is_lost(
    raised: list[Failure], data: st.DataObject
) -> None:
    limits = {name: data.draw(st.integers(0, 3)) for name in ("CLASS_LIMIT", "WORKER_LIMIT")}
    limits["ISSUE_LIMIT"] = data.draw(st.integers(0, 3))
    before: dict[str, dict[Labels, int]] = {}
    with mock.patch.dict(vars(series), limits):
        for number in range(len(raised) + 1):
            now = numbers(counted(*raised[:number]))
            for name, found in before.items():
                assert all(now[name].get(labels, 0) >= n for labels, n in found.items())
            before = now
    counters = before or {FAILURES: {}, SUPPRESSED: {}, ISSUES: {}}
    together = [*counters[FAILURES], *counters[SUPPRESSED]]
    assert sum(counters[FAILURES].values()) + sum(counters[SUPPRESSED].values()) == len(raised)
    assert len({labels[0] for labels in together} - {OTHER}) <= limits["CLASS_LIMIT"]
    assert len({labels[2] for labels in together} - {OTHER}) <= limits["WORKER_LIMIT"]
    assert sum(counters[ISSUES].values()) == sum(counters[FAILURES].values())
    issues = {(cls, code, task, owner) for cls, code, task, _, _, owner in counters[ISSUES]}
    assert len(issues - {(OTHER,) * 4}) <= limits["ISSUE_LIMIT"]


@pytest.mark.parametrize(
    ("metric", "limit", "many"),
    [
        (FAILURES, CLASS_LIMIT, [failure(type=f"c{n}") for n in range(CLASS_LIMIT + 3)]),
        (FAILURES, WORKER_LIMIT, [failure(worker=f"w{n}") for n in range(WORKER_LIMIT + 3)]),
        (ISSUES, ISSUE_LIMIT, [failure(code=f"k{n}") for n in range(ISSUE_LIMIT + 3)]),
    ],
    ids=["class", "worker", "issue"],
)
def test_what_is_beyond_a_limit_is_other_and_dropped_says_so(
    metric: str, limit: int, many: list[Failure], request: pytest.FixtureRequest
) -> None:
    found = numbers(counted(*many))
    other = {labels: n for labels, n in found[metric].items() if OTHER in labels}
    assert list(other.values()) == [3]
    assert len(found[metric]) == limit + 1
    assert found[DROPPED] == {(f"{request.node.callspec.id}_limit",): 3}


def test_what_comes_first_is_admitted_wherever_it_was_counted() -> None:
    """Not what a reader happens to read first."""
    late = {series.key_of(failure(type=f"late{n}")): Count(1, 9.0, 9.0) for n in range(CLASS_LIMIT)}
    early = {series.key_of(failure(type="early")): Count(1, 1.0, 1.0)}
    found = series.totals({**late, **early}, ())
    assert found[FAILURES]["early", "user", "w"].number == 1
    assert found[FAILURES][OTHER, "user", "w"].number == 1


def test_a_thousand_classes_that_only_could_fail_shut_nobody_out() -> None:
    ledger = Ledger(None, other=series.fewer)
    ledger.expect_worker("w")
    for number in range(1000):
        ledger.expect_class(f"expected{number}", ["user"])
    ledger.add(series.key_of(failure(type="raised")), 1.0)
    totals = series.totals(ledger.own(), ledger.expected())
    assert totals[FAILURES]["raised", "user", "w"].number == 1
    assert totals[FAILURES]["expected999", "user", "w"].number == 0
    assert totals[DROPPED]["class_limit",].number == 0


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.sets(st.sampled_from(Kind), min_size=1))),
    st.lists(st.sampled_from("xyz")),
)
def test_each_kind_that_a_class_can_have_starts_at_0_for_each_worker(
    classes: list[tuple[str, set[Kind]]], workers: list[str]
) -> None:
    ledger = Ledger(None, other=series.fewer)
    for name in workers:
        ledger.expect_worker(name)
    for name, kinds in classes:
        ledger.expect_class(name, [kind.value for kind in kinds])
    totals = series.totals(ledger.own(), ledger.expected())
    assert {labels: count.number for labels, count in totals[FAILURES].items()} == {
        (name, kind.value, worker): 0
        for name, kinds in classes
        for kind in kinds
        for worker in workers
    }


def test_to_be_expected_changes_no_count() -> None:
    ledger = counted(failure())
    ledger.expect_worker("w")
    ledger.expect_class("sdk.Error", ["user"])
    assert numbers(ledger)[FAILURES] == {("sdk.Error", "user", "w"): 1}


def test_drop_reasons_start_at_0() -> None:
    totals = series.totals({}, ())
    assert totals[DROPPED]["internal_error",].number == 0


@given(st.lists(failures, max_size=20))
def test_fewer_labels_are_a_few(raised: list[Failure]) -> None:
    """What is counted when a process has no room for more: never more keys than these."""
    keys = {series.fewer(series.key_of(one)) for one in raised}
    assert len(keys) <= len(Kind) * len(Role)
    assert {series.fewer(key) for key in keys} == keys


# As a scraper sees them.


@given(st.lists(failures, max_size=10))
def test_the_page_can_be_parsed_and_says_what_was_counted(raised: list[Failure]) -> None:
    ledger = counted(*raised)
    for parse, accept in (
        (parse_text, ""),
        (parse_openmetrics, "application/openmetrics-text; version=1.0.0"),
    ):
        samples = [s for metric in parse(page(ledger, accept)) for s in metric.samples]
        total = sum(s.value for s in samples if s.name == "faultlens_failures_total")
        assert total == sum(one.role is Role.ORIGIN for one in raised)


def test_a_series_has_its_birth_its_last_moment_and_its_last_sampled_trace() -> None:
    ledger = Ledger(None, other=series.fewer)
    key = series.key_of(failure())
    ledger.add(key, 1000.0)
    ledger.add(key, 2000.0, (0xA, 0xB))
    ledger.add(key, 3000.0)
    text = page(ledger, "application/openmetrics-text; version=1.0.0")
    found = {s.name: s for metric in parse_openmetrics(text) for s in metric.samples}
    assert found["faultlens_failures_created"].value == 1000.0
    assert found["faultlens_last_failure_timestamp_seconds"].value == 3000.0
    exemplar = found["faultlens_failures_total"].exemplar
    assert exemplar is not None
    assert exemplar.labels == {"trace_id": f"{0xA:032x}", "span_id": f"{0xB:016x}"}
    assert exemplar.timestamp is not None
    assert float(exemplar.timestamp) == 2000.0


def test_tasks_are_limited_too_and_no_attempt_is_lost() -> None:
    ledger = Ledger(None, other=series.fewer)
    for number in range(TASK_LIMIT + 3):
        ledger.add((series.ATTEMPTS, "sdk", f"task{number}", series.OK), 1000.0 + number)
    found = numbers(ledger)
    assert len(found[series.ATTEMPTS]) == TASK_LIMIT + 1
    assert found[series.ATTEMPTS]["sdk", OTHER, series.OK] == 3
    assert found[DROPPED] == {("task_limit",): 3}


def test_a_key_of_an_older_version_has_fewer_labels() -> None:
    key = (FAILURES, "sdk.Error", "user", "w", "c")
    found = series.totals({key: Count(2, 1.0, 1.0)}, ())
    assert found[FAILURES]["sdk.Error", "user", "w"].number == 2
    assert found[ISSUES]["sdk.Error", "c", "", "user", "", ""].number == 2
