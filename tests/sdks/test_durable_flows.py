"""Each failure counts once: the cases of `durable_flows`, each in a process of its own."""

from __future__ import annotations

import pytest

from tests.sdks import durable_flows


@pytest.mark.parametrize("name", durable_flows.CASES)
def test_as_many_failures_are_counted_as_things_went_wrong(name: str) -> None:
    case = durable_flows.CASES[name]
    measured = durable_flows.measure(name)
    assert durable_flows.failures_of(measured) == case.failures
    assert durable_flows.suppressed_of(measured) == case.suppressed
