"""The counts are true for everything that can happen in the installed Flyte."""

from __future__ import annotations

from tests.sdks.flows import outcomes


def test_the_number_of_failures_is_the_number_of_things_that_went_wrong() -> None:
    found = outcomes("flyte_flows")
    assert len(found) > 50
    assert all(None not in (outcome.causes, outcome.attempts) for outcome in found.values())
    assert {name: outcome for name, outcome in found.items() if not outcome.right} == {}
