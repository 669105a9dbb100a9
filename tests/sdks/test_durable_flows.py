"""What is counted of all that can happen in Durable Workflow, on the installed version."""

from __future__ import annotations

from tests.sdks.flows import outcomes


def test_the_number_of_failures_is_the_number_of_things_that_went_wrong() -> None:
    found = outcomes("durable_flows")
    assert len(found) > 20
    assert {name: outcome for name, outcome in found.items() if not outcome.right} == {}
