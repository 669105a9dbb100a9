"""What is counted of all that can happen in Temporal, on the installed version."""

from __future__ import annotations

from tests.sdks.flows import outcomes
from tests.sdks.temporal import needs_server


@needs_server
def test_the_number_of_failures_is_the_number_of_things_that_went_wrong() -> None:
    # On a server of its own: other programs may leave workflows behind that still run.
    found = outcomes("temporal_flows")
    assert len(found) > 40
    assert all(outcome.attempts is not None for outcome in found.values())
    assert {name: outcome for name, outcome in found.items() if not outcome.right} == {}
