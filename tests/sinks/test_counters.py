from __future__ import annotations

import threading
from collections import Counter as Tally

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from faultlens.failure import Failure, Kind, Role
from faultlens.sinks.counters import CLASS_LIMIT, CODE_LIMIT, OTHER, WORKER_LIMIT, Counters


def failure(
    type: str = "sdk.Error",
    kind: Kind = Kind.USER,
    worker: str = "w",
    role: Role = Role.ORIGIN,
    code: str | None = None,
) -> Failure:
    return Failure(sdk="sdk", type=type, kind=kind, worker=worker, role=role, code=code)


def value(counters: Counters, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(counters)
    return registry.get_sample_value(name, labels)


def total(counters: Counters, name: str) -> float:
    return sum(s.value for m in counters.collect() for s in m.samples if s.name == name)


failures = st.builds(
    failure,
    type=st.sampled_from(["a.A", "a.B", 'q"\n\\']),
    kind=st.sampled_from(Kind),
    worker=st.text(max_size=3).filter(str.isprintable),
    role=st.sampled_from(Role),
    code=st.none() | st.text(min_size=1, max_size=5).filter(str.isprintable),
)


@given(st.lists(failures, max_size=40))
def test_each_raise_is_in_exactly_one_counter_exactly_once(raised: list[Failure]) -> None:
    counters = Counters()
    for one in raised:
        counters.count(one)
    expected = Tally((f.type, f.kind.value, f.worker) for f in raised if f.role is Role.ORIGIN)
    for (type, kind, worker), count in expected.items():
        labels = {"class": type, "kind": kind, "worker": worker}
        assert value(counters, "faultlens_failures_total", **labels) == count
    assert total(counters, "faultlens_failures_total") == sum(expected.values())
    assert total(counters, "faultlens_suppressed_total") == len(raised) - sum(expected.values())


@given(st.lists(failures, max_size=10))
def test_what_is_exposed_can_be_parsed(raised: list[Failure]) -> None:
    counters = Counters({"version": "1"})
    for one in raised:
        counters.count(one, ("0" * 31 + "1", "0" * 15 + "2"))
    registry = CollectorRegistry()
    registry.register(counters)
    generate_latest(registry)
    parsed = list(text_string_to_metric_families(openmetrics(registry).decode()))
    assert {family.name for family in parsed} == {
        "faultlens_failures",
        "faultlens_suppressed",
        "faultlens_failure_codes",
        "faultlens_dropped",
        "faultlens_last_failure_timestamp_seconds",
        "faultlens_info",
    }


def test_an_expected_class_starts_at_0_and_is_not_reset_by_being_expected_again() -> None:
    counters = Counters()
    labels = {"class": "sdk.Error", "kind": "user", "worker": "w"}
    counters.expect("sdk.Error", [Kind.USER], "w")
    assert value(counters, "faultlens_failures_total", **labels) == 0
    counters.count(failure())
    counters.expect("sdk.Error", [Kind.USER], "w")
    assert value(counters, "faultlens_failures_total", **labels) == 1


def test_a_suppressed_raise_has_its_reason_and_no_code() -> None:
    counters = Counters()
    counters.count(failure(role=Role.WRAPPED, code="C"))
    labels = {"class": "sdk.Error", "kind": "user", "worker": "w", "reason": "wrapped"}
    assert value(counters, "faultlens_suppressed_total", **labels) == 1
    assert total(counters, "faultlens_failure_codes_total") == 0
    assert total(counters, "faultlens_last_failure_timestamp_seconds") == 0


def test_classes_workers_and_codes_beyond_the_limit_are_other_and_dropped_says_so() -> None:
    counters = Counters()
    for number in range(CLASS_LIMIT + 3):
        counters.count(failure(type=f"c{number}"))
    for number in range(WORKER_LIMIT + 4):
        counters.count(failure(worker=f"w{number}"))
    for number in range(CODE_LIMIT + 5):
        counters.count(failure(type="c0", code=f"k{number}"))
    raised = CLASS_LIMIT + WORKER_LIMIT + CODE_LIMIT + 12
    assert total(counters, "faultlens_failures_total") == raised
    labels = {"class": OTHER, "kind": "user", "worker": "w"}
    # sdk.Error, the class of the second loop, came too late as well, once with the known worker w.
    assert value(counters, "faultlens_failures_total", **labels) == 3
    assert value(counters, "faultlens_failure_codes_total", **{"class": OTHER, "code": OTHER}) == 5
    assert value(counters, "faultlens_dropped_total", reason="code_limit") == 5
    assert value(counters, "faultlens_dropped_total", reason="worker_limit") == 5
    assert value(counters, "faultlens_dropped_total", reason="class_limit") == 3 + WORKER_LIMIT + 4


def test_an_exemplar_is_the_last_sampled_trace() -> None:
    counters = Counters()
    counters.count(failure(), ("a" * 32, "b" * 16))
    counters.count(failure())
    (sample,) = (
        s for m in counters.collect() for s in m.samples if s.name == "faultlens_failures_total"
    )
    assert sample.exemplar is not None
    assert sample.exemplar.labels == {"trace_id": "a" * 32, "span_id": "b" * 16}


def test_no_count_is_lost_between_threads() -> None:
    counters = Counters()

    def work() -> None:
        for _ in range(2_000):
            counters.count(failure(code="C"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total(counters, "faultlens_failures_total") == 16_000
    assert total(counters, "faultlens_failure_codes_total") == 16_000


def test_drop_reasons_start_at_0() -> None:
    assert value(Counters(), "faultlens_dropped_total", reason="internal_error") == 0
