"""The hooks in Durable Workflow show which worker runs the code, and what ends a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import children
from tests.sdks import durable_flows

ROOT = str(Path(__file__).parents[2])
LET_IT_HAPPEN = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import durable_workflow.errors, durable_workflow.workflow, durable_workflow.worker, inside
    {before}
    import faultlens; faultlens.enable()
    from tests.sdks.durable_flows import FLOWS
    FLOWS[sys.argv[2]].happen()
    inside.report([inside.failures(), inside.suppressed()])
"""


def happen(
    flow: str, before: str = "", worker: str | None = "w"
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """The failures, the suppressed exceptions, and faultlens' log."""
    if flow not in durable_flows.FLOWS:
        pytest.skip("this version cannot have it")
    env = {"FAULTLENS": "0", "FAULTLENS_WORKER": worker, "K8S_NODE_NAME": "node"}
    done = children.run(LET_IT_HAPPEN.format(before=before), ROOT, flow, env=env)
    failures, suppressed = json.loads(done.stdout.splitlines()[-1])
    log = [line for line in done.stderr.splitlines() if line.startswith("faultlens: ")]
    return failures, suppressed, log


def workers(counted: dict[str, float]) -> set[str]:
    return {series.split("|")[2] for series in counted}


@pytest.mark.parametrize(
    "flow",
    [
        "a caught activity failure and three more activities",
        "a caught child failure and three more activities",
        "an sdk exception that workflow code raises and catches",
        "a refused heartbeat",
    ],
)
def test_code_that_a_worker_runs_has_the_task_queue_as_worker_label(flow: str) -> None:
    failures, suppressed, _ = happen(flow, worker=None)
    assert workers(failures) | workers(suppressed) == {durable_flows.QUEUE}


def test_run_until_is_a_worker_too() -> None:
    if not durable_flows.has("run_until"):
        pytest.skip("this version has no run_until")
    failures = children.report(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import inside
        from tests.sdks import durable_flows as flows
        async def act(client):
            worker = flows.Worker(client, task_queue="nightly", workflows=[flows.Hesitating],
                                  activities=[flows.fine])
            await client.start_workflow(
                workflow_type="hesitating", task_queue="nightly", workflow_id="run")
            await worker.run_until(
                workflow_id="run", timeout=flows.TIMEOUT, poll_interval=0.05)
        flows.with_client(act)
        inside.report(inside.failures())
        """,
        ROOT,
        env={"FAULTLENS_WORKER": None},
    )
    assert failures == {"tests.sdks.durable_flows.CardDeclined|user|nightly": 1}


def test_a_query_has_that_label_although_its_thread_starts_with_an_empty_context() -> None:
    failures, suppressed, _ = happen("a query handler raises an sdk exception", worker=None)
    assert workers(failures) == {durable_flows.QUEUE}
    # The worker wraps the handler's exception; the client gets the answer outside of any worker.
    by_reason = {series.split("|")[3]: series.split("|")[2] for series in suppressed}
    assert by_reason == {"wrapped": durable_flows.QUEUE, "propagated": "node"}


def test_a_client_alone_has_no_worker() -> None:
    failures, _, _ = happen("a server that is down after all retries", worker=None)
    assert workers(failures) == {"node"}


CAUGHT = "a caught activity failure and three more activities"
OTHER_REPLAY = """
    replay_state = durable_workflow.workflow._replay_state
    def _replay_state(*args, **kwargs):
        return replay_state(*args, **kwargs)
    durable_workflow.workflow._replay_state = _replay_state
"""


def test_enabled_after_the_sdk_was_imported_it_sees_the_same() -> None:
    failures, suppressed, log = happen(CAUGHT)
    assert failures == {"durable_workflow.errors.ActivityFailed|user|w": 1}
    assert list(suppressed.values()) == [3]
    assert log == []


def test_an_unknown_replay_is_one_warning_and_ids_still_identify_failures() -> None:
    failures, suppressed, log = happen(CAUGHT, OTHER_REPLAY)
    assert failures == {"durable_workflow.errors.ActivityFailed|user|w": 1}
    assert list(suppressed.values()) == [3]
    (warning,) = log
    assert "has no durable_workflow.workflow._replay_state as it is known; without it" in warning


OTHER_RUN = """
    run = durable_workflow.worker.Worker._run_activity_task
    async def _run_activity_task(self, claim):
        return await run(self, claim)
    durable_workflow.worker.Worker._run_activity_task = _run_activity_task
"""


def test_an_unknown_worker_is_one_warning_and_failures_still_count() -> None:
    failures, suppressed, log = happen(CAUGHT, OTHER_RUN)
    assert failures == {"durable_workflow.errors.ActivityFailed|user|w": 1}
    assert list(suppressed.values()) == [3]
    (warning,) = log
    assert "Worker._run_activity_task as it is known; without it the attempts of" in warning


def test_hooked_functions_are_restored() -> None:
    children.run(
        """
        import durable_workflow.client, durable_workflow.worker, durable_workflow.workflow
        owners = (durable_workflow.client.Client, durable_workflow.worker.Worker,
                  durable_workflow.workflow.FailWorkflow)
        before = [dict(vars(owner)) for owner in owners]
        import faultlens
        faultlens.enable()
        assert all(dict(vars(owner)) != was for owner, was in zip(owners, before))
        faultlens.disable()
        assert [dict(vars(owner)) for owner in owners] == before
        """,
        env={"FAULTLENS": "0"},
    )


def test_without_the_replay_a_failure_without_an_id_counts_each_time() -> None:
    failures, suppressed, log = happen("two environments raise and catch", OTHER_REPLAY)
    assert failures == {"tests.sdks.durable_flows.CardDeclined|user|w": 6}
    assert suppressed == {}
    assert len(log) == 1
