"""Everything that goes wrong in Durable Workflow, caused through the real SDK, with true numbers.

See `tests.sdks.flows`. Each case runs in its own process. Beside its function are the real
failures, by class, and for each other raised SDK exception the reason why it is not a failure. On
versions that lack a class, a case is left out or has the numbers of `on_0_2`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import durable_workflow
import durable_workflow.client
import durable_workflow.errors as errors
import durable_workflow.worker
from durable_workflow import Client, Worker, activity, workflow
from durable_workflow.errors import (
    DurableWorkflowError,
    NonRetryableError,
    WorkflowCancelled,
)

from faultlens.commands.demo.durable_server import DurableServer
from tests import inside
from tests.children import TIMEOUT
from tests.sdks.durable import IMPATIENT, SDK_EXCEPTIONS, answering, result_of, working_on
from tests.sdks.flows import Counted, Flows

QUEUE = "flows"
ROOT = Path(__file__).parents[2]

Counts = Mapping[str, int]

FLOWS = Flows(*SDK_EXCEPTIONS, alone=True, issues=True)
working = functools.partial(working_on, QUEUE)


def has(*names: str) -> bool:
    """Whether the installed version has all these classes, or methods of `Worker` or `Client`."""
    return all(
        any(hasattr(owner, name) for owner in (errors, Worker, Client, workflow)) for name in names
    )


IS_0_2 = not has("ActivityFailed")
ASKS_FOR_QUERIES = has("_poll_query_tasks") and not hasattr(
    durable_workflow.worker, "_workflow_command_contract"
)
"""A worker that cannot declare its queries."""


def case(
    *,
    failures: Counts,
    suppressed: Counts | None = None,
    attempts: Counts | None = None,
    on_0_2: tuple[Counts, Counts, Counts] | None = None,
    needs: Iterable[str] = (),
    when: bool = True,
) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Add a case, named after the function, if the installed version supports it."""

    def enter(run: Callable[[], object]) -> Callable[[], object]:
        if when and has(*needs):
            true, rest, ends = (
                on_0_2 if on_0_2 and IS_0_2 else (failures, suppressed or {}, attempts or {})
            )
            FLOWS.enter(run.__name__.replace("_", " "), true, rest, attempts=ends)(run)
        return run

    return enter


# --- running --------------------------------------------------------------------------------------


def with_client(
    act: Callable[[Client], Awaitable[object]],
    server: DurableServer | None = None,
    **options: Any,
) -> None:
    """Let `act` use a real client of a server."""

    async def attempt(url: str) -> None:
        async with Client(url, retry_policy=IMPATIENT, **options) as client:
            await asyncio.wait_for(act(client), TIMEOUT)

    with server or DurableServer() as running:
        asyncio.run(attempt(running.url))


def with_worker(
    act: Callable[[Client], Awaitable[object]],
    workflows: Iterable[type],
    activities: Iterable[Callable[..., Any]] = (),
    server: DurableServer | None = None,
    **options: Any,
) -> None:
    """The same, with a real worker in the same process."""
    serving = server or DurableServer()

    async def attempt(client: Client) -> None:
        async with working(client, workflows, activities, **options):
            await until(lambda: bool(serving._orchestrator.workers))
            if ASKS_FOR_QUERIES:  # before it does, the server knows of none
                await until(lambda: bool(serving._orchestrator._asked_for_queries))
            await act(client)

    with_client(attempt, serving)


async def start(client: Client, definition: type | str, workflow_id: str = "run") -> Any:
    name = definition if isinstance(definition, str) else definition.__workflow_name__  # type: ignore[attr-defined]
    return await client.start_workflow(
        workflow_type=name, task_queue=QUEUE, workflow_id=workflow_id
    )


async def run(client: Client, definition: type | str, workflow_id: str = "run") -> Any:
    """Start a workflow and await its result; an SDK exception is caught, as by a user."""
    handle = await start(client, definition, workflow_id)
    return await attempt(result_of(handle))


async def attempt(call: Awaitable[object]) -> object:
    """Await a call that may raise an SDK exception."""
    with contextlib.suppress(*SDK_EXCEPTIONS):
        return await call
    return None


async def start_waiting(client: Client, definition: type) -> Any:
    """Start a workflow, and wait until a worker has brought it to its timer."""
    handle = await start(client, definition)
    while "TimerScheduled" not in str(await client.get_history("run", handle.run_id)):
        await asyncio.sleep(0.05)
    return handle


# --- workflows and activities ---------------------------------------------------------------------


class CardDeclined(NonRetryableError):
    """A user's subclass of an SDK class."""


@activity.defn(name="break")
def break_down() -> None:
    raise ValueError("no such stock item")


@activity.defn(name="decline")
def decline() -> None:
    raise NonRetryableError("the card is declined")


@activity.defn(name="decline-card")
def decline_card() -> None:
    raise CardDeclined("the card is declined")


@activity.defn(name="fine")
def fine() -> str:
    return "fine"


@activity.defn(name="beat")
async def send_heartbeats() -> None:
    for _ in range(100):
        await activity.context().heartbeat()
        await asyncio.sleep(0.02)


@activity.defn(name="connect")
def connect() -> None:
    raise ConnectionRefusedError("the stock database is down")


@activity.defn(name="opaque")
def give_something_opaque() -> object:
    return object()


ACTIVITIES = (break_down, decline, decline_card, fine, connect)


def calling(activity_type: str, name: str | None = None, **options: Any) -> type:
    """A workflow that calls an activity and does not catch its failure."""

    class Calling:
        def run(self, ctx: Any) -> Any:
            yield ctx.schedule_activity(activity_type, [], **options)

    return workflow.defn(name=name or f"calling-{activity_type}")(Calling)


@workflow.defn(name="careful")
class Careful:
    """Catches an activity's failure and then runs three more activities: four more tasks."""

    def __init__(self) -> None:
        self.caught = 0

    def run(self, ctx: Any) -> Any:
        try:
            yield ctx.schedule_activity("break", [])
        except DurableWorkflowError:
            self.caught += 1
        for _ in range(3):
            yield ctx.schedule_activity("fine", [])
        return self.caught


if hasattr(workflow, "query"):

    def how_many(self: Careful) -> int:
        return self.caught

    Careful.how_many = workflow.query("how-many")(how_many)  # type: ignore[attr-defined]
    Careful = workflow.defn(name="careful")(Careful)  # type: ignore[misc]


@workflow.defn(name="careful-parent")
class CarefulParent:
    """The same with the failure of a child workflow."""

    def run(self, ctx: Any) -> Any:
        try:
            yield ctx.start_child_workflow("raising")
        except DurableWorkflowError:
            pass
        for _ in range(3):
            yield ctx.schedule_activity("fine", [])


@workflow.defn(name="raising")
class Raising:
    def run(self, ctx: Any) -> Any:
        yield ctx.start_timer(0)
        raise ValueError("the order has no lines")


@workflow.defn(name="declining")
class Declining:
    def run(self, ctx: Any) -> Any:
        yield ctx.start_timer(0)
        raise CardDeclined("the card is declined")


@workflow.defn(name="hesitating")
class Hesitating:
    def run(self, ctx: Any) -> Any:
        try:
            raise CardDeclined("the card is declined")
        except CardDeclined:
            pass
        yield ctx.schedule_activity("fine", [])
        yield ctx.schedule_activity("fine", [])


def compensating(activity_type: str) -> type:
    """A workflow that compensates its work before it re-raises an activity's failure."""

    class Compensating:
        def run(self, ctx: Any) -> Any:
            try:
                yield ctx.schedule_activity(activity_type, [])
            except DurableWorkflowError:
                yield ctx.schedule_activity("fine", [])
                raise

    return workflow.defn(name="compensating")(Compensating)


@workflow.defn(name="stopping")
class Stopping:
    def run(self, ctx: Any) -> Any:
        yield ctx.start_timer(0)
        raise WorkflowCancelled("the customer changed his mind")


@workflow.defn(name="waiting")
class Waiting:
    def run(self, ctx: Any) -> Any:
        yield ctx.start_timer(3600)


def parent_of(child: str) -> type:
    """A workflow that starts a child and does not catch its failure."""

    class Parent:
        def run(self, ctx: Any) -> Any:
            yield ctx.start_child_workflow(child)

    return workflow.defn(name=f"parent-of-{child}")(Parent)


# --- replay ---------------------------------------------------------------------------------------


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"replayed": 3},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    needs=["ActivityFailed"],
)
def a_caught_activity_failure_and_three_more_activities() -> None:
    with_worker(lambda client: run(client, Careful), [Careful], ACTIVITIES)


@case(
    failures={"ChildWorkflowFailed ValueError raising user code": 1},
    suppressed={"replayed": 3},
    attempts={"careful-parent ok": 1, "fine ok": 3, "raising user": 1},
)
def a_caught_child_failure_and_three_more_activities() -> None:
    with_worker(lambda client: run(client, CarefulParent), [CarefulParent, Raising], ACTIVITIES)


async def run_and_ask(client: Client) -> None:
    handle = await start(client, Careful)
    await attempt(result_of(handle))
    for _ in range(3):
        answer = await handle.query("how-many")
        assert answer in (1, {"result": 1}) or answer["result"] == 1, answer


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"replayed": 6},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    needs=["ActivityFailed", "_poll_query_tasks"],
)
def the_same_and_three_queries() -> None:
    with_worker(run_and_ask, [Careful], ACTIVITIES)


async def run_many(client: Client, definition: type) -> None:
    await asyncio.gather(*(run(client, definition, f"run-{n}") for n in range(5)))


class StickyServer(DurableServer):
    """Tells workers that keep histories to use them."""

    def _respond(self, request: Any) -> Any:
        status, answer = super()._respond(request)
        if request.path == "/cluster/info":
            protocol = answer["worker_protocol"]
            capabilities = {
                **protocol["server_capabilities"],
                "sticky_execution": {"supported": True},
            }
            answer = {
                **answer,
                "worker_protocol": {**protocol, "server_capabilities": capabilities},
            }
        task = answer.get("task") if request.path == "/worker/workflow-tasks/poll" else None
        if task is not None and "history_events" in task:
            history = [
                {**event, "sequence": number}
                for number, event in enumerate(task["history_events"], 1)
            ]
            sticky = {
                "sticky_replay_mode": "sticky_hit_expected",
                "last_history_sequence": len(history),
            }
            answer = {"task": {**task, "history_events": history, **sticky}}
        return status, answer


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"replayed": 6},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    when=hasattr(durable_workflow.worker, "StickyWorkflowCache"),
)
def the_same_with_a_sticky_worker() -> None:
    async def act(client: Client) -> None:
        async with working(client, [Careful], ACTIVITIES, sticky_cache_capacity=10) as worker:
            await run_and_ask(client)
            assert worker._sticky_cache.metrics()["hit"] >= 3

    with_client(act, StickyServer())


@case(
    failures={"ActivityFailed ValueError break user code": 5},
    suppressed={"replayed": 15},
    attempts={"break user": 5, "careful ok": 5, "fine ok": 15},
    needs=["ActivityFailed"],
)
def five_runs_interleaved() -> None:
    with_worker(lambda client: run_many(client, Careful), [Careful], ACTIVITIES)


@case(
    failures={"ChildWorkflowFailed ValueError raising user code": 5},
    suppressed={"replayed": 15},
    attempts={"careful-parent ok": 5, "fine ok": 15, "raising user": 5},
)
def five_runs_with_a_child_interleaved() -> None:
    with_worker(
        lambda client: run_many(client, CarefulParent), [CarefulParent, Raising], ACTIVITIES
    )


def gathering(*activity_types: str) -> type:
    class Gathering:
        def run(self, ctx: Any) -> Any:
            try:
                yield [ctx.schedule_activity(name, []) for name in activity_types]
            except DurableWorkflowError:
                pass
            yield ctx.schedule_activity("fine", [])

    return workflow.defn(name="gathering")(Gathering)


@case(
    failures={
        "CardDeclined - decline-card user code": 1,
        "NonRetryableError - decline user code": 1,
    },
    suppressed={"propagated": 1, "replayed": 1},
    attempts={"decline-card user": 1, "decline user": 1, "fine ok": 1, "gathering ok": 1},
    needs=["ActivityFailed"],
)
def two_parallel_failures_of_sdk_classes() -> None:
    definition = gathering("decline", "decline-card")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"NonRetryableError - decline user code": 2},
    suppressed={"propagated": 1, "replayed": 1},
    attempts={"decline user": 2, "fine ok": 1, "gathering ok": 1},
    needs=["ActivityFailed"],
)
def two_parallel_failures_of_one_class() -> None:
    definition = gathering("decline", "decline")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"ActivityFailed ValueError break user code": 2},
    suppressed={"replayed": 3},
    attempts={"break user": 2, "fine ok": 1, "trying ok": 1},
    needs=["ActivityFailed"],
)
def two_failures_of_one_class_in_one_run() -> None:
    class Trying:
        def run(self, ctx: Any) -> Any:
            for _ in range(2):
                try:
                    yield ctx.schedule_activity("break", [])
                except DurableWorkflowError:
                    pass
            yield ctx.schedule_activity("fine", [])

    definition = workflow.defn(name="trying")(Trying)
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"CardDeclined - hesitating user code": 1},
    suppressed={"replayed": 2},
    attempts={"fine ok": 2, "hesitating ok": 1},
)
def an_sdk_exception_that_workflow_code_raises_and_catches() -> None:
    with_worker(lambda client: run(client, Hesitating), [Hesitating], ACTIVITIES)


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"replayed": 1, "propagated": 1},
    attempts={"break user": 1, "fine ok": 1, "compensating user": 1},
    needs=["ActivityFailed"],
)
def a_failure_that_is_compensated_and_raised_again() -> None:
    definition = compensating("break")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"NonRetryableError - decline user code": 1},
    suppressed={"replayed": 1, "propagated": 2},
    attempts={"decline user": 1, "fine ok": 1, "compensating propagated": 1},
    needs=["ActivityFailed"],
)
def the_same_of_an_sdk_class() -> None:
    definition = compensating("decline")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


# --- attempts -------------------------------------------------------------------------------------


def flaky() -> Callable[[], None]:
    attempts = iter(range(3))

    @activity.defn(name="flaky")
    def fail_twice() -> None:
        if next(attempts) < 2:
            raise ValueError("no such stock item")

    return fail_twice


def retried(activity_type: str) -> type:
    """A workflow that has an activity tried three times."""
    policy = {"max_attempts": 3, "backoff_seconds": [0, 0]}
    return calling(activity_type, "retrying", retry_policy=policy)


@case(
    failures={},
    attempts={"flaky user": 2, "flaky ok": 1, "retrying ok": 1},
    needs=["ActivityFailed"],
)
def an_activity_that_ends_well_at_its_third_attempt() -> None:
    definition = retried("flaky")
    with_worker(lambda client: run(client, definition), [definition], [flaky()])


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 1},
    attempts={"break user": 3, "retrying user": 1},
    needs=["ActivityFailed"],
)
def an_activity_that_fails_at_each_of_three_attempts() -> None:
    definition = retried("break")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"ActivityFailed ConnectionRefusedError connect system network": 1},
    suppressed={"propagated": 1},
    attempts={"connect system": 1, "calling-connect system": 1},
    on_0_2=(
        {"WorkflowFailed ConnectionRefusedError calling-connect system network": 1},
        {},
        {"connect system": 1},
    ),
)
def an_activity_loses_its_connection() -> None:
    definition = calling("connect")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={
        "ServerError - busybody user input": 1,
        "ActivityFailed ConnectionRefusedError busybody system network": 1,
    },
    suppressed={"propagated": 1},
    attempts={"busybody system": 1, "calling-busybody system": 1},
    on_0_2=(
        {
            "ServerError - busybody user input": 1,
            "WorkflowFailed ConnectionRefusedError calling-busybody system network": 1,
        },
        {},
        {"busybody system": 1},
    ),
)
def an_activity_that_reports_another_task_and_fails() -> None:
    definition = calling("busybody")

    async def act(client: Client) -> None:
        @activity.defn(name="busybody")
        async def report_another() -> None:
            other = {"task_id": "another", "activity_attempt_id": "1", "lease_owner": "w"}
            await attempt(client.complete_activity_task(**other, result=None))
            raise ConnectionRefusedError("the stock database is down")

        async with working(client, [definition], [report_another]):
            await run(client, definition)

    with_client(act)


@case(
    failures={"ActivityFailed - missing unknown -": 1},
    suppressed={"propagated": 1},
    attempts={"missing unknown": 1, "calling-missing unknown": 1},
    on_0_2=({"WorkflowFailed - calling-missing unknown -": 1}, {}, {"missing unknown": 1}),
)
def an_activity_that_nobody_registered() -> None:
    definition = calling("missing")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


class LocalServer(DurableServer):
    """Lets workers run activities within a workflow's task.

    renewals: how often a worker may renew its lease; None for ever.
    """

    def __init__(self, renewals: int | None = None) -> None:
        super().__init__()
        self._renewed = iter(range(renewals) if renewals is not None else itertools.count())
        self._orchestrator._commands["record_local_activity"] = lambda task, command: None

    def _respond(self, request: Any) -> Any:
        if request.path.startswith("/worker/workflow-tasks/") and (
            request.path.endswith("/heartbeat")
        ):
            renewed = next(self._renewed, None) is not None
            return 200, {"task_id": request.path.split("/")[3], **request.body, "renewed": renewed}
        return super()._respond(request)


def calling_locally(activity_type: str) -> type:
    class Calling:
        def run(self, ctx: Any) -> Any:
            policy = {"max_attempts": 3, "backoff_seconds": [0, 0]}
            yield ctx.local_activity(activity_type, [], retry_policy=policy)

    return workflow.defn(name="local")(Calling)


HAS_LOCAL_ACTIVITIES = hasattr(workflow.WorkflowContext, "local_activity")


@case(
    failures={},
    attempts={"flaky user": 2, "flaky ok": 1, "local ok": 1},
    when=HAS_LOCAL_ACTIVITIES,
)
def a_local_activity_that_ends_well_at_its_third_attempt() -> None:
    definition = calling_locally("flaky")
    with_worker(lambda client: run(client, definition), [definition], [flaky()], LocalServer())


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 1},
    attempts={"break user": 3, "local user": 1},
    when=HAS_LOCAL_ACTIVITIES,
)
def a_local_activity_that_fails_at_each_of_three_attempts() -> None:
    definition = calling_locally("break")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES, LocalServer())


@case(failures={}, attempts={"beat system": 1}, when=HAS_LOCAL_ACTIVITIES)
def a_local_activity_that_loses_the_lease() -> None:
    async def act(client: Client) -> None:
        await start(client, "local")
        await until(lambda: bool(inside.samples("faultlens_attempts_total")))

    definition = calling_locally("beat")
    with_worker(act, [definition], [send_heartbeats], LocalServer(renewals=1))


@case(failures={}, attempts={"opaque user": 1})
def a_result_that_cannot_be_encoded() -> None:
    async def act(client: Client) -> None:
        await start(client, calling("opaque"))
        await until(lambda: bool(inside.samples("faultlens_attempts_total")))

    with_worker(act, [calling("opaque")], [give_something_opaque])


@case(
    failures={"ActivityCancelled - beat user cancelled": 1},
    suppressed={"propagated": 2},
    attempts={"beat cancelled": 1, "calling-beat propagated": 1},
    on_0_2=(
        {"ActivityCancelled - beat user cancelled": 1},
        {"propagated": 1},
        {"beat cancelled": 1},
    ),
)
def an_activity_that_is_cancelled() -> None:
    answer: dict[str, Any] = {"cancel_requested": True, "can_continue": True}
    server = answering("POST", "/worker/activity-tasks/*/heartbeat", 200, **answer)
    definition = calling("beat")
    with_worker(lambda client: run(client, definition), [definition], [send_heartbeats], server)


@case(
    failures={"WorkflowFailed WorkflowCancelled stopping user cancelled": 1},
    suppressed={"control_flow": 1},
    attempts={"stopping cancelled": 1},
    # Between, it ends the task and not the run.
    when=IS_0_2 or hasattr(workflow.WorkflowContext, "throw_if_cancellation_requested"),
)
def a_workflow_that_ends_by_a_cancellation() -> None:
    with_worker(lambda client: run(client, Stopping), [Stopping])


# --- up to the client -----------------------------------------------------------------------------


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 1},
    attempts={"break user": 1, "calling-break user": 1},
    on_0_2=({"WorkflowFailed ValueError calling-break user code": 1}, {}, {"break user": 1}),
)
def an_activity_s_failure_up_to_the_client() -> None:
    definition = calling("break")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 1},
    attempts={"break user": 1, "calling-break user": 1},
    on_0_2=({"WorkflowFailed ValueError calling-break user code": 1}, {}, {"break user": 1}),
)
def the_same_with_worker_and_client_in_two_processes() -> Counted:
    return with_worker_elsewhere("calling-break")


@case(
    failures={"NonRetryableError - decline user code": 1},
    suppressed={"propagated": 2},
    attempts={"calling-decline propagated": 1, "decline user": 1},
    on_0_2=({"NonRetryableError - decline user code": 1}, {"propagated": 1}, {"decline user": 1}),
)
def an_sdk_exception_in_an_activity_up_to_the_client() -> None:
    definition = calling("decline")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"CardDeclined - decline-card user code": 1},
    suppressed={"propagated": 2},
    attempts={"calling-decline-card propagated": 1, "decline-card user": 1},
    on_0_2=(
        {"CardDeclined - decline-card user code": 1},
        {"propagated": 1},
        {"decline-card user": 1},
    ),
)
def a_user_s_subclass_in_an_activity_up_to_the_client() -> None:
    definition = calling("decline-card")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"NonRetryableError - decline user code": 1},
    suppressed={"propagated": 2},
    attempts={"calling-decline propagated": 1, "decline user": 1},
    on_0_2=({"NonRetryableError - decline user code": 1}, {"propagated": 1}, {"decline user": 1}),
)
def an_sdk_exception_in_an_activity_in_two_processes() -> Counted:
    return with_worker_elsewhere("calling-decline")


@case(failures={"WorkflowFailed ValueError raising user code": 1}, attempts={"raising user": 1})
def workflow_code_raises_a_plain_exception() -> None:
    with_worker(lambda client: run(client, Raising), [Raising])


@case(failures={"WorkflowFailed ValueError raising user code": 1}, attempts={"raising user": 1})
def the_same_in_two_processes() -> Counted:
    return with_worker_elsewhere("raising")


@case(
    failures={"CardDeclined - declining user code": 1},
    suppressed={"propagated": 1},
    attempts={"declining user": 1},
)
def workflow_code_raises_an_sdk_exception() -> None:
    with_worker(lambda client: run(client, Declining), [Declining])


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 1},
    attempts={"break user": 1, "translating propagated": 1},
    needs=["ActivityFailed"],
)
def workflow_code_raises_its_own_from_an_activity_s_failure() -> None:
    class Translating:
        def run(self, ctx: Any) -> Any:
            try:
                yield ctx.schedule_activity("break", [])
            except DurableWorkflowError as exc:
                raise RuntimeError("the order cannot be shipped") from exc

    definition = workflow.defn(name="translating")(Translating)
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES)


@case(
    failures={"ChildWorkflowFailed ValueError raising user code": 1},
    suppressed={"propagated": 1},
    attempts={"parent-of-raising user": 1, "raising user": 1},
)
def a_child_s_plain_exception_up_to_the_client() -> None:
    parent = parent_of("raising")
    with_worker(lambda client: run(client, parent), [parent, Raising])


@case(
    failures={"CardDeclined - declining user code": 1},
    suppressed={"propagated": 2},
    attempts={"declining user": 1, "parent-of-declining propagated": 1},
)
def a_child_s_sdk_exception_up_to_the_client() -> None:
    parent = parent_of("declining")
    with_worker(lambda client: run(client, parent), [parent, Declining])


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 2},
    attempts={"break user": 1, "calling-break user": 1, "parent-of-calling-break propagated": 1},
    on_0_2=(
        {"ChildWorkflowFailed ValueError calling-break user code": 1},
        {"propagated": 1},
        {"break user": 1, "parent-of-calling-break user": 1},
    ),
)
def an_activity_s_failure_through_a_child_up_to_the_client() -> None:
    child = calling("break")
    parent = parent_of("calling-break")
    with_worker(lambda client: run(client, parent), [parent, child], ACTIVITIES)


@case(
    failures={"WorkflowFailed ValueError raising user code": 1},
    suppressed={"replayed": 2},
    attempts={"raising user": 1},
)
def a_result_asked_three_times() -> None:
    async def act(client: Client) -> None:
        handle = await start(client, Raising)
        for _ in range(3):
            await attempt(result_of(handle))

    with_worker(act, [Raising])


@case(
    failures={"WorkflowTimedOut - waiting unknown timeout": 1},
    on_0_2=({"WorkflowFailed - waiting unknown -": 1}, {}, {}),
    when=IS_0_2 or has("WorkflowTimedOut"),  # between, the client takes it for success
)
def the_server_times_a_run_out() -> None:
    async def act(client: Client) -> None:
        handle = await client.start_workflow(
            workflow_type="waiting", task_queue=QUEUE, workflow_id="run", run_timeout_seconds=1
        )
        await attempt(result_of(handle))

    with_worker(act, [Waiting])


@case(failures={"WorkflowTerminated - waiting user cancelled": 1})
def a_run_is_terminated() -> None:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting)
        await handle.terminate(reason="stuck")
        await attempt(result_of(handle))

    with_worker(act, [Waiting])


@case(failures={"WorkflowCancelled - waiting user cancelled": 1})
def a_run_is_cancelled() -> None:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting)
        await handle.cancel(reason="the customer changed his mind")
        await attempt(result_of(handle))

    with_worker(act, [Waiting])


@case(
    failures={},
    suppressed={"control_flow": 1},
    when=hasattr(workflow.WorkflowContext, "throw_if_cancellation_requested"),
)
def a_cancellation_thrown_into_a_workflow() -> None:
    class Tidying:
        def run(self, ctx: Any) -> Any:
            try:
                ctx.throw_if_cancellation_requested()
            except WorkflowCancelled:
                pass
            yield ctx.schedule_activity("fine", [])

    definition = workflow.defn(name="tidying")(Tidying)
    workflow.replay(definition, [], [], run_id="1", cancel_requested=True)


@case(
    failures={"WorkflowFailed ValueError raising user code": 1},
    attempts={"raising user": 1},
    needs=["run_until"],
)
def a_worker_runs_until_a_workflow_has_failed() -> None:
    async def act(client: Client) -> None:
        worker = Worker(client, task_queue=QUEUE, workflows=[Raising], shutdown_timeout=TIMEOUT)
        handle = await start(client, Raising)
        await attempt(worker.run_until(workflow_id="run", timeout=TIMEOUT, poll_interval=0.05))
        await attempt(result_of(handle))

    with_client(act)


# --- the client's calls ---------------------------------------------------------------------------


@case(
    failures={"Unauthorized - - user auth": 1},
    suppressed={"wrapped": 1} if has("RuntimeDiscoveryUnavailable") else {},
)
def a_fresh_client_with_an_expired_token() -> None:
    with_client(lambda client: attempt(discover_or_start(client)), token="expired")


async def discover_or_start(client: Client) -> None:
    """A query needs the discovery, in the versions that have it."""
    if has("RuntimeDiscoveryUnavailable"):
        await client.query_workflow("run", "status")
    await start(client, "waiting")


@case(failures={"ServerError - - system platform": 1})
def a_server_that_is_down_after_all_retries() -> None:
    async def act(client: Client) -> None:
        await client.start_workflow(
            workflow_type="order", task_queue="wholesale", workflow_id="order-1"
        )

    with_client(lambda client: attempt(act(client)))


@case(failures={"SignalFailed - - user input": 1}, suppressed={}, needs=["SignalFailed"])
def a_signal_that_nobody_declared() -> None:
    server = answering("POST", "/workflows/*/signal/*", 404, reason="unknown_signal")
    with_client(lambda client: attempt(client.signal_workflow("run", "hurry")), server)


# Such a refusal reaches the client as a ServerError, from which the SDK raises the typed one.
@case(
    failures={"ServerError - - user input": 1},
    suppressed={"wrapped": 1},
    needs=["REQUEST_ID_CONFLICT"],
)
def a_signal_s_key_that_is_taken() -> None:
    server = answering("POST", "/workflows/*/signal/*", 409, reason="request_id_conflict")
    with_client(lambda client: attempt(client.signal_workflow("run", "hurry")), server)


@case(
    failures={"ServerError - - user input": 1},
    suppressed={"wrapped": 1},
    needs=["REQUEST_ID_CONFLICT"],
)
def an_update_s_key_that_is_taken() -> None:
    server = answering("POST", "/workflows/*/update/*", 409, reason="request_id_conflict")
    with_client(lambda client: attempt(client.update_workflow("run", "change")), server)


def updatable(raising: Callable[[], BaseException] | None, refusing: bool = False) -> type:
    class Updatable:
        def run(self, ctx: Any) -> Any:
            yield ctx.start_timer(3600)

        @workflow.update("change")
        def change(self) -> None:
            if raising is not None:
                raise raising()

    if refusing:

        def refuse(self: Any) -> None:
            raise ValueError("no such street")

        Updatable.refuse = Updatable.change.validator(refuse)  # type: ignore[attr-defined]
    return workflow.defn(name="updatable")(Updatable)


def update(definition: type) -> None:
    async def act(client: Client) -> None:
        handle = await start_waiting(client, definition)
        await attempt(handle.update("change", wait_for="completed"))

    with_worker(act, [definition])


@case(failures={"UpdateFailed - - user code": 1}, needs=["UpdateFailed"])
def an_update_handler_raises_a_plain_exception() -> None:
    update(updatable(lambda: ValueError("no such street")))


@case(
    failures={"CardDeclined - updatable user code": 1},
    suppressed={"propagated": 1},
    needs=["UpdateFailed"],
)
def an_update_handler_raises_an_sdk_exception() -> None:
    update(updatable(lambda: CardDeclined("the card is declined")))


@case(
    failures={"UpdateRejected - updatable user input": 1},
    suppressed={"propagated": 1},
    needs=["UpdateValidationFailed", "_run_update_validation_task"],
)
def an_update_that_its_validator_refuses() -> None:
    update(updatable(None, refusing=True))


@case(failures={"UpdateRejected - - user input": 1})
def an_update_that_nobody_declared() -> None:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting)
        await attempt(handle.update("undeclared"))

    with_client(act)


def queried(raising: Callable[[], BaseException]) -> type:
    class Queried:
        def run(self, ctx: Any) -> Any:
            yield ctx.start_timer(0)

        def status(self) -> None:
            raise raising()

    Queried.status = workflow.query("status")(Queried.status)  # type: ignore[method-assign]
    return workflow.defn(name="queried")(Queried)


def query(definition: type, times: int) -> None:
    async def act(client: Client) -> None:
        handle = await start(client, definition)
        await attempt(result_of(handle))
        for _ in range(times):
            await attempt(handle.query("status"))

    with_worker(act, [definition])


@case(
    failures={"QueryFailed - queried user code": 2},
    suppressed={"propagated": 2},
    attempts={"queried ok": 1},
    needs=["_poll_query_tasks"],
)
def a_query_handler_raises_a_plain_exception_twice() -> None:
    query(queried(lambda: ValueError("no such column")), 2)


@case(
    failures={"CardDeclined - queried user code": 1},
    suppressed={"wrapped": 1, "propagated": 1},
    attempts={"queried ok": 1},
    needs=["_poll_query_tasks"],
)
def a_query_handler_raises_an_sdk_exception() -> None:
    query(queried(lambda: CardDeclined("the card is declined")), 1)


@case(
    # A worker that is asked refuses it first.
    failures={
        "QueryFailed - waiting user code" if ASKS_FOR_QUERIES else "QueryFailed - - user input": 1
    },
    suppressed={"propagated": 1} if ASKS_FOR_QUERIES else {},
    on_0_2=({"QueryFailed - - user code": 1}, {}, {}),  # it has no reason
)
def a_query_that_nobody_declared() -> None:
    async def act(client: Client) -> None:
        handle = await start_waiting(client, Waiting)
        await attempt(handle.query("undeclared"))

    with_worker(act, [Waiting])


# --- the worker's own -----------------------------------------------------------------------------


@case(
    failures={"ActivityLeaseAuthorityLost - beat system platform": 1},
    suppressed={"propagated": 1},
    attempts={"beat system": 1},
    needs=["ActivityLeaseAuthorityLost"],
)
def a_refused_heartbeat() -> None:
    refusal: dict[str, Any] = {
        "cancel_requested": False,
        "can_continue": False,
        "reason": "lease_expired",
    }
    server = answering("POST", "/worker/activity-tasks/*/heartbeat", 200, **refusal)
    definition = calling("beat")

    async def act(client: Client) -> None:
        await start(client, definition)
        await until(lambda: inside.total() >= 2)

    with_worker(act, [definition], [send_heartbeats], server)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is there; the caller bounds it."""
    while not condition():
        await asyncio.sleep(0.05)


@case(
    failures={},
    suppressed={"control_flow": 1},
    attempts={"calling-fine ok": 1, "fine ok": 1},
    when=hasattr(errors.ServerError, "poll_capacity_backpressure_delay"),
)
def a_poll_that_is_asked_to_come_back_later() -> None:
    reason = "long_poll_capacity_exhausted"
    server = answering(
        "POST",
        "/worker/workflow-tasks/poll",
        429,
        times=1,
        reason=reason,
        poll_status=reason,
        task=None,
        task_kind="workflow_task",
        task_queue=QUEUE,
        retryable=True,
        retry_after_seconds=1,
    )
    definition = calling("fine")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES, server)


@case(
    failures={},
    suppressed={"control_flow": 1},
    attempts={"calling-fine ok": 1, "fine ok": 1},
    needs=["UpdateValidationFailed"],
)
def a_worker_that_is_gone_when_it_leaves() -> None:
    server = answering("DELETE", "/worker/registrations/*", 404, reason="worker_not_found")
    definition = calling("fine")
    with_worker(lambda client: run(client, definition), [definition], ACTIVITIES, server)


def lift_start_limit() -> None:
    """Let an activity's own process take longer than the SDK's 5 s to start and to end."""
    from durable_workflow._activity_process import SupervisedCallback

    for method in (SupervisedCallback.start, SupervisedCallback.close):
        code = method.__code__
        constants = tuple(TIMEOUT if value == 5.0 else value for value in code.co_consts)
        assert constants != code.co_consts
        method.__code__ = code.replace(co_consts=constants)


@activity.defn(name="decline-elsewhere")
def decline_elsewhere(report: str) -> None:
    """Runs in a process that is spawned for it, and writes the counts of that process to a file."""
    raised: list[CardDeclined] = []

    def declined() -> None:
        try:
            raise CardDeclined("the card is declined")
        except CardDeclined as exc:
            raised.append(exc)

    Path(report).write_text(json.dumps(asdict(FLOWS.count(declined))))
    raise raised[0]


class CooperativeServer(DurableServer):
    """Lets workers run activities in separate processes."""

    def _respond(self, request: Any) -> Any:
        status, answer = super()._respond(request)
        if request.path == "/cluster/info":
            protocol = answer["worker_protocol"]
            capabilities = {**protocol["server_capabilities"], "cooperative_cancellation": True}
            answer = {
                **answer,
                "worker_protocol": {**protocol, "server_capabilities": capabilities},
            }
        if request.path.endswith("/status"):
            names = ("activity_attempt_id", "lease_owner")
            return 200, {
                "task_id": request.path.split("/")[3],
                **{name: request.body[name] for name in names},
                "can_continue": True,
                "cancel_requested": False,
                "heartbeat_recorded": False,
                "reason": None,
                "lease_expires_at": "2999-01-01T00:00:00Z",
            }
        return status, answer


@case(
    failures={"CardDeclined - decline-elsewhere user code": 1},
    suppressed={"propagated": 2},
    attempts={"calling propagated": 1, "decline-elsewhere user": 1},
    when=hasattr(Worker, "_execute_cooperative_remote_callable")
    and durable_workflow.client.PROTOCOL_VERSION >= "1.20",
)
def an_sdk_exception_in_an_activity_s_own_process() -> Counted:
    lift_start_limit()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "counts")

        class Calling:
            def run(self, ctx: Any) -> Any:
                yield ctx.schedule_activity("decline-elsewhere", [str(report)])

        definition = workflow.defn(name="calling")(Calling)
        with_worker(
            lambda client: run(client, definition),
            [definition],
            [decline_elsewhere],
            CooperativeServer(),
            capabilities=["cooperative_cancellation"],
        )
        return Counted(**json.loads(report.read_text()))


# --- WorkflowEnvironment --------------------------------------------------------------------------

try:
    from durable_workflow import testing
except ImportError:  # 0.2.0
    testing = None  # type: ignore[assignment]

HAS_ENVIRONMENT = testing is not None
TURNS_MOCKS_INTO_FAILURES = hasattr(testing, "_mock_failure")  # before, a mock's exception escapes


def in_environment(*definitions: type) -> None:
    """Run each in its own environment; they all have the same run id."""
    for definition in definitions:
        environment = testing.WorkflowEnvironment()
        for registered in ACTIVITIES:
            environment.register_activity(registered.__activity_name__, registered)  # type: ignore[attr-defined]
        with contextlib.suppress(*SDK_EXCEPTIONS):
            environment.execute_workflow(definition)


@case(
    failures={"CardDeclined - hesitating user code": 2},
    suppressed={"replayed": 4},
    when=HAS_ENVIRONMENT,
)
def two_environments_raise_and_catch() -> None:
    in_environment(Hesitating, Hesitating)


@case(
    failures={"CardDeclined - declining user code": 2},
    suppressed={"propagated": 2},
    when=HAS_ENVIRONMENT,
)
def two_environments_raise_an_sdk_exception() -> None:
    in_environment(Declining, Declining)


@case(failures={"WorkflowFailed ValueError raising user code": 2}, when=HAS_ENVIRONMENT)
def two_environments_raise_a_plain_exception() -> None:
    in_environment(Raising, Raising)


@case(
    failures={"ActivityFailed ValueError break user code": 2},
    suppressed={"replayed": 6},
    when=TURNS_MOCKS_INTO_FAILURES,
)
def two_environments_catch_an_activity_s_failure() -> None:
    in_environment(Careful, Careful)


@case(
    failures={"ActivityFailed ValueError break user code": 1},
    suppressed={"propagated": 1},
    when=TURNS_MOCKS_INTO_FAILURES,
)
def an_environment_lets_an_activity_s_failure_pass() -> None:
    in_environment(calling("break"))


@case(
    failures={"CardDeclined - calling-decline-card user code": 2},
    suppressed={"propagated": 4},
    when=TURNS_MOCKS_INTO_FAILURES,
)
def two_environments_let_a_user_s_subclass_pass() -> None:
    in_environment(calling("decline-card"), calling("decline-card"))


# --- in another process ---------------------------------------------------------------------------


def with_worker_elsewhere(workflow_type: str) -> Counted:
    """Run a workflow whose worker is another process; returns the counts of that process."""
    with DurableServer() as server:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.sdks.durable_flows", "--worker", server.url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        async def act() -> None:
            async with Client(server.url, retry_policy=IMPATIENT) as client:
                await asyncio.wait_for(run(client, workflow_type), TIMEOUT)

        try:
            asyncio.run(act())
            output, _ = worker.communicate("", timeout=TIMEOUT)
        finally:
            worker.kill()
    return Counted(**json.loads(output.splitlines()[-1]))


def work(url: str) -> None:
    """The worker in the other process; it runs until its standard input ends."""

    async def main() -> None:
        workflows = [calling("break"), calling("decline"), Raising]
        async with (
            Client(url, retry_policy=IMPATIENT) as client,
            working(client, workflows, ACTIVITIES),
        ):
            await asyncio.to_thread(sys.stdin.read)

    inside.report(asdict(FLOWS.count(lambda: asyncio.run(main()))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        FLOWS.main()
