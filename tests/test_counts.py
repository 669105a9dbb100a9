from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from faultlens import counts
from faultlens.counts import Count, Counts, Series, Trace

tables = st.dictionaries(
    st.sampled_from("abc").map(lambda name: Series("failures", name)),
    st.builds(Count, st.integers(0, 5)),
)


def numbers(table: Counts) -> dict[str, int]:
    return {series.type: count.number for series, count in table.items()}


@given(tables, tables)
def test_adding_sums_series_by_series(first: Counts, second: Counts) -> None:
    before, more = numbers(first), numbers(second)
    counts.add(first, second)
    assert numbers(first) == {
        name: before.get(name, 0) + more.get(name, 0) for name in before.keys() | more.keys()
    }


@given(tables, tables)
def test_raising_takes_the_larger_and_tells_what_it_raised(first: Counts, second: Counts) -> None:
    before, least = numbers(first), numbers(second)
    raised = numbers(counts.raise_to(first, second))
    assert numbers(first) == {
        name: max(before.get(name, 0), least.get(name, 0)) for name in before.keys() | least.keys()
    }
    assert raised == {name: n for name, n in least.items() if before.get(name, -1) < n}


def test_the_first_birth_the_last_moment_and_the_last_trace_stay() -> None:
    series, trace = Series("failures", "A"), Trace("t", "s", 1.0)
    table = {series: Count(1, 1.0, 1.0, trace)}
    counts.add(table, {series: Count(2, 5.0, 5.0, None)})
    assert table == {series: Count(3, 1.0, 5.0, trace)}
