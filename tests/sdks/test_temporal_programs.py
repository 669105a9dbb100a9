"""Programs on Temporal, with a real server: labels, span events, rules, and replays elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import children
from tests.sdks.temporal import needs_server, one_server

__all__ = ["one_server"]

PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, {root!r})
import faultlens, inside
import temporalio.exceptions  # starts faultlens before `tests` takes the store away
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.sdks import temporal, temporal_flows as flows, temporal_workflows

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
"""


def program(body: str, env: dict[str, str | None]) -> Any:
    source = PROGRAM.format(root=str(Path(__file__).parents[2])) + body
    return children.report(source, env={"FAULTLENS_WORKER": None, **env})


RULES = """
[[rule]]
cause = "ConnectionError"
kind = "system"
reason = "network"
"""

EVENTS = """
from opentelemetry import trace
trace.set_tracer_provider(provider)

async def main():
    temporal_workflows.anew()
    await flows.call(await temporal.connected(), "connect")
    client = await temporal.connected(identity="orders-worker")
    async with temporal.working(client, "hesitating"):
        await (await flows.start(client, "hesitating")).result()
asyncio.run(main())
inside.settle()
events = [dict(e.attributes) for span in spans.get_finished_spans() for e in span.events]
inside.report([inside.failures(), inside.suppressed(), events])
"""


@needs_server
def test_labels_rules_and_events(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    failures, suppressed, events = program(EVENTS, {"FAULTLENS_RULES": str(rules)})
    # By its cause the activity's failure is the system's fault, and so are its carriers.
    assert failures == {
        "temporalio.exceptions.ApplicationError|system|flows": 1,
        "tests.sdks.temporal_workflows.CardDeclined|user|orders-worker": 2,
    }
    assert {series.split("|")[1] for series in suppressed if "Declined" not in series} == {"system"}

    native = "builtins.ConnectionRefusedError"
    (of_activity,) = (event for event in events if event.get("faultlens.carries") == native)
    wanted = {
        "faultlens.code": "ConnectionRefusedError",
        "faultlens.reason": "network",
        "temporal.activity_type": "connect",
        "temporal.attempt": "1",
        "temporal.task_queue": "flows",
        "temporal.workflow_type": "calling",
    }
    assert wanted.items() <= of_activity.items()
    assert of_activity["temporal.namespace"].startswith("tests-")
    assert of_activity["temporal.workflow_id"]
    assert of_activity["temporal.run_id"]
    of_workflow = [e for e in events if e["exception.type"].endswith(".CardDeclined")]
    assert {e["temporal.workflow_type"] for e in of_workflow} == {"hesitating"}
    assert Counter(e["faultlens.role"] for e in of_workflow) == {"origin": 2, "replayed": 6}


RECORD = """
async def main():
    temporal_workflows.anew()
    return [(name, await history_of(name)) for name in ("careful", "hesitating")]

async def history_of(name):
    run = await flows.run(await temporal.connected(), name)
    return (await run.fetch_history()).to_json()
inside.report(asyncio.run(main()))
"""

REPLAY = """
from temporalio.client import WorkflowHistory
async def main():
    for name, history in json.loads(sys.argv[1]):
        replayer = flows.Replayer(workflows=[temporal_workflows.WORKFLOWS[name]])
        await replayer.replay_workflow(WorkflowHistory.from_json("run", history))
asyncio.run(main())
inside.report([inside.failures(), inside.suppressed()])
"""


@needs_server
@pytest.mark.parametrize(("first", "then"), [("1", "0"), ("0", "1")])
def test_a_history_is_the_same_with_and_without(first: str, then: str) -> None:
    """The Replayer raises if a workflow does not do again what its history says."""
    histories = program(RECORD, {"FAULTLENS": first})
    failures, suppressed = program(
        f"sys.argv.append({histories!r})\nsys.argv[1] = json.dumps(sys.argv[1])\n" + REPLAY,
        {"FAULTLENS": then},
    )
    assert failures == {}, "a replay does not count as a failure"
    assert bool(suppressed) == (then == "1")


ENABLING = """
import opentelemetry.sdk.trace
from faultlens import imports
import tests.sdks.temporal_enabling as enabling

taken, callback = [], imports._callback
imports._callback = lambda module: (taken.append(module), callback(module))

async def main():
    client = await temporal.connected()
    temporal_workflows.anew()
    async with temporal.working(client, workflows=[enabling.Enabling]):
        for _ in range(2):
            await (await flows.start(client, "enabling")).result()
asyncio.run(main())
assert all(sys.modules.get(module.__name__) is module for module in taken), taken
inside.report(inside.failures())
"""


@needs_server
@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_copy_in_a_sandbox_does_nothing(switch: str) -> None:
    failures = program(ENABLING, {"FAULTLENS": switch})
    assert failures == {"temporalio.exceptions.ApplicationError|user|flows": 2}


IN_A_PROCESS = """
import concurrent.futures, multiprocessing
from temporalio.worker import SharedStateManager

async def main():
    temporal_workflows.anew()
    client = await temporal.connected()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool, spawn.Manager() as manager:
        shared = SharedStateManager.create_from_multiprocessing(manager)
        options = {
            "activities": [temporal_workflows.break_down, temporal_workflows.decline],
            "activity_executor": pool, "shared_state_manager": shared,
        }
        async with temporal.working(client, "calling", **options):
            for activity in ("break", "decline"):
                handle = await flows.start(client, "calling", activity, {})
                await flows.attempt(handle.result())
asyncio.run(main())
inside.report([inside.failures(), inside.samples("faultlens_attempts_total")])
"""


@needs_server
def test_an_attempt_in_a_process_ends_by_its_failure_that_counted_there(tmp_path: Path) -> None:
    failures, attempts = program(IN_A_PROCESS, {"FAULTLENS_STORE": str(tmp_path)})
    # The pool's process counts its own in memory, since there `tests` comes first.
    assert failures == {"temporalio.exceptions.ApplicationError|user|flows": 1}
    assert attempts == {
        "temporalio|break|user": 1,
        "temporalio|decline|user": 1,
        "temporalio|calling|propagated": 2,
    }
