"""The counts are true for everything that can happen in the installed Durable Workflow."""

from __future__ import annotations

import pytest

from tests.sdks.durable_flows import FLOWS
from tests.sdks.flows import outcomes


@pytest.mark.parametrize("name", FLOWS)
def test_the_number_of_failures_is_the_number_of_things_that_went_wrong(name: str) -> None:
    outcome = outcomes("durable_flows", name)[name]
    assert outcome.right, outcome


def test_there_are_many() -> None:
    assert len(FLOWS) > 20
