"""``FAULTLENS_SUPPRESS``: classes that the user does not count."""

from __future__ import annotations

import json

import pytest

from tests import children

pytest.importorskip("flyte")

INVALID_ARGUMENT = "durable_workflow.errors.InvalidArgument"
RAISES = """
    import flyte.errors, durable_workflow.errors, inside
    class Mine(flyte.errors.OOMError): pass
    def attempt(exc, cause=None):
        try:
            raise exc from cause
        except Exception:
            return exc
    oom = attempt(flyte.errors.OOMError("CODE", "m"))
    attempt(Mine("CODE", "m"))
    attempt(flyte.errors.RuntimeUserError("CODE", "m"))
    attempt(durable_workflow.errors.InvalidArgument("m"))
    attempt(flyte.errors.RuntimeSystemError("CODE", "m"), oom)
    inside.report([inside.failures(), inside.suppressed()])
"""


def test_a_class_and_its_subclasses_are_suppressed() -> None:
    failures, suppressed = children.report(
        RAISES,
        env={
            "FAULTLENS_SUPPRESS": "flyte.errors.OOMError, durable_workflow.errors.InvalidArgument"
        },
    )
    assert failures == {"flyte.errors.RuntimeUserError|user|w": 1}
    assert suppressed == {
        "flyte.errors.OOMError|user|w|configured": 1,
        "__main__.Mine|user|w|configured": 1,
        f"{INVALID_ARGUMENT}|user|w|configured": 1,
        # An exception that it causes is the same failure, which is not counted.
        "flyte.errors.RuntimeSystemError|system|w|wrapped": 1,
    }


def test_without_the_variable_they_are_failures() -> None:
    failures, suppressed = children.report(RAISES)
    assert sum(failures.values()) == 4
    assert suppressed == {"flyte.errors.RuntimeSystemError|system|w|wrapped": 1}


def test_a_name_without_a_class_is_one_warning() -> None:
    done = children.run(RAISES, env={"FAULTLENS_SUPPRESS": "flyte.errors.OOMErorr"})
    assert done.stderr.count("FAULTLENS_SUPPRESS") == 1
    assert (
        "faultlens: FAULTLENS_SUPPRESS: flyte.errors.OOMErorr changes nothing: the installed flyte "
        in done.stderr
    )


def test_an_attempt_that_a_suppressed_failure_ended_is_ok() -> None:
    pytest.importorskip("durable_workflow")
    done = children.run(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import inside
        from tests.sdks.durable_flows import FLOWS
        FLOWS["an activity loses its connection"].happen()
        inside.report(inside.samples("faultlens_attempts_total"))
        """,
        str(children.TESTS.parent),
        env={"FAULTLENS_SUPPRESS": "ConnectionError"},
    )
    attempts = json.loads(done.stdout.splitlines()[-1])
    assert attempts["durable_workflow|connect|ok"] == 1
    assert {series.rpartition("|")[2] for series in attempts} == {"ok"}
