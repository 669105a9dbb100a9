"""An exception that is raised from a failure is the same failure."""

from __future__ import annotations

import pytest

from tests import children

pytest.importorskip("flyte")
pytest.importorskip("durable_workflow")

RAISE = """
    import flyte.errors, durable_workflow.errors, inside
    System, User = flyte.errors.RuntimeSystemError, flyte.errors.RuntimeUserError
    Durable = durable_workflow.errors.DurableWorkflowError
    def raised(exc, cause=None):
        try:
            raise exc from cause
        except BaseException:
            return exc
    kept = {raises}
    by_reason = {{}}
    for series, count in inside.suppressed().items():
        reason = series.split("|")[3]
        by_reason[reason] = by_reason.get(reason, 0) + count
    inside.report([sum(inside.failures().values()), by_reason])
"""


@pytest.mark.parametrize(
    ("raises", "failures", "suppressed"),
    [
        ('raised(System("S", "m"), raised(User("U", "m")))', 1, {"wrapped": 1}),
        # From exceptions of the other SDK, and with native exceptions in between.
        ('raised(System("S", "m"), raised(Durable("m")))', 1, {"wrapped": 1}),
        ('raised(System("S", "m"), raised(KeyError(), raised(Durable("m"))))', 1, {"wrapped": 1}),
        ('raised(Durable("m"), raised(System("S", "m"), raised(Durable("m"))))', 1, {"wrapped": 2}),
        # Not raised: nobody has counted it.
        ('raised(System("S", "m"), User("U", "m"))', 1, {}),
        ('raised(System("S", "m"), raised(KeyError()))', 1, {}),
    ],
)
def test_an_exception_raised_from_a_failure_is_the_same_failure(
    raises: str, failures: int, suppressed: dict[str, int]
) -> None:
    assert children.report(RAISE.format(raises=raises)) == [failures, suppressed]


def test_an_exception_made_long_before_its_raise_counts_once() -> None:
    """Python 3.10 and 3.11 see such a raise only when the exception is freed."""
    stored = """(lambda cause: (
        [None for _ in range(5000)], raised(System("S", "m"), raised(cause))
    ))(User("U", "m"))"""
    assert children.report(RAISE.format(raises=stored)) == [1, {"wrapped": 1}]


def test_a_cycle_of_causes_terminates() -> None:
    ring = """[(a := KeyError()), (b := ValueError()), setattr(a, "__cause__", b),
        setattr(b, "__cause__", a), raised(System("S", "m"), a)]"""
    assert children.report(RAISE.format(raises=ring)) == [1, {}]
