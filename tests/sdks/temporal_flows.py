"""What goes wrong in Temporal, made to happen through the real SDK and a real server.

See `tests.sdks.flows`. All cases are run in one process, with one server. Beside each function
stand the failures that there are in the world, and why each other raised SDK exception is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import FrameType
from typing import Any

import temporalio.exceptions
from temporalio.api.testservice.v1 import UnlockTimeSkippingRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError, TemporalError
from temporalio.worker import Replayer

from tests import inside
from tests.children import TIMEOUT
from tests.sdks import temporal_workflows
from tests.sdks.flows import Flows, Truth
from tests.sdks.temporal import QUEUE, connected, is_missing, start_server, until, working

Counts = Mapping[str, int]


def by_the_converter() -> bool:
    """Whether the SDK makes an exception only to read it, to which it gives a foreign traceback."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "to_failure":
            return True
        frame = frame.f_back
    return False


FLOWS = Flows(TemporalError, issues=True, unless=by_the_converter)
_ids = itertools.count(1)


def case(
    *,
    failures: Counts | None = None,
    suppressed: Truth | None = None,
    attempts: Counts | None = None,
    conversions: int | None = 0,
    when: bool = True,
) -> Callable[[Callable[[Client], Awaitable[object]]], Callable[[Client], Awaitable[object]]]:
    """Enter a case that the installed version can have; its name is the function's.

    conversions: how many of the failures raise no SDK exception; None for all.
    """

    def enter(
        act: Callable[[Client], Awaitable[object]],
    ) -> Callable[[Client], Awaitable[object]]:
        async def happen() -> None:
            temporal_workflows.anew()
            await asyncio.wait_for(act(await connected()), TIMEOUT)

        if when:
            name = act.__name__.replace("_", " ")
            FLOWS.enter(
                name, failures or {}, suppressed or {}, conversions, attempts=attempts or {}
            )(lambda: asyncio.run(happen()))
        return act

    return enter


def called(outcome: str, *, of: str = "calling") -> dict[str, int]:
    return {f"{of} {outcome}": 1}


async def start(client: Client, name: str, *args: Any, **options: Any) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        name,
        args=args,
        id=options.pop("id", f"run-{next(_ids)}"),
        task_queue=QUEUE,
        # By default the server gives a task that takes 10 s to another worker, which replays it.
        task_timeout=options.pop("task_timeout", timedelta(minutes=2)),
        **options,
    )


async def attempt(call: Awaitable[Any]) -> Any:
    """Await a call that an SDK exception may end; the exception is caught, as by a user."""
    with contextlib.suppress(TemporalError):
        return await call
    return None


async def run(client: Client, name: str, *args: Any, **options: Any) -> WorkflowHandle[Any, Any]:
    """Run a workflow on a worker."""
    async with working(client, name, *options.pop("children", ())):
        handle = await start(client, name, *args, **options)
        await attempt(handle.result())
    return handle


async def call(client: Client, activity: str, **options: Any) -> None:
    """Run a workflow that calls this activity."""
    await run(client, "calling", activity, options)


# --- activities -----------------------------------------------------------------------------------


@case(attempts={"calling ok": 1, "fine ok": 1})
async def nothing_goes_wrong(client: Client) -> None:
    await call(client, "fine")


@case(
    failures={"ApplicationError ValueError break user code": 1},
    suppressed={"propagated": 2},
    attempts={"break user": 1, "calling propagated": 1},
    conversions=None,
)
async def an_activity_fails(client: Client) -> None:
    await call(client, "break")


@case(
    failures={"ApplicationError ValueError break-async user code": 3},
    suppressed={"propagated": 2},
    attempts={"break-async user": 3, "calling propagated": 1},
    conversions=None,
)
async def an_activity_fails_three_times(client: Client) -> None:
    await call(client, "break-async", retries=3)


@case(
    failures={"ApplicationError ValueError flaky user code": 2},
    attempts={"flaky user": 2, "flaky ok": 1, "calling ok": 1},
    conversions=None,
)
async def an_activity_fails_twice_and_then_not(client: Client) -> None:
    await call(client, "flaky", retries=3)


@case(
    failures={"ApplicationError ValueError break user code": 2},
    suppressed={"propagated": 2},
    attempts={"break user": 2, "calling-locally propagated": 1},
    conversions=None,
)
async def a_local_activity_fails_twice(client: Client) -> None:
    await run(client, "calling-locally", "break", {"retries": 2})


@case(
    failures={"ApplicationError Declined decline user code": 1},
    suppressed={"propagated": 2},
    attempts={"decline user": 1, "calling propagated": 1},
)
async def an_activity_raises_an_sdk_exception(client: Client) -> None:
    await call(client, "decline", retries=3)


@case(
    failures={"CardDeclined - decline-card user code": 1},
    suppressed={"propagated": 2},
    attempts={"decline-card user": 1, "calling propagated": 1},
)
async def an_activity_raises_a_subclass_of_the_users(client: Client) -> None:
    await call(client, "decline-card", retries=3)


@case(
    suppressed={"control_flow": 1, "propagated": 2},
    attempts={"expect ok": 1, "calling propagated": 1},
    when=hasattr(temporalio.exceptions, "ApplicationErrorCategory"),
)
async def an_activity_fails_as_expected(client: Client) -> None:
    await call(client, "expect")


@case(
    failures={"ApplicationError Declined wrap user code": 1},
    suppressed={"propagated": 2},
    attempts={"wrap user": 1, "calling propagated": 1},
)
async def an_activity_raises_from_an_sdk_exception(client: Client) -> None:
    await call(client, "wrap")


@case(
    failures={"ApplicationError TypeError opaque user code": 1},
    suppressed={"propagated": 2},
    attempts={"opaque user": 1, "calling propagated": 1},
    conversions=None,
)
async def a_result_cannot_be_converted(client: Client) -> None:
    await call(client, "opaque")


@case(
    failures={"ApplicationError NotFoundError nobody user code": 1},
    suppressed={"propagated": 2},
    attempts={"nobody user": 1, "calling propagated": 1},
)
async def an_activity_is_not_registered(client: Client) -> None:
    await call(client, "nobody")


@case(
    failures={"ApplicationError TypeError bad-beat user code": 1},
    suppressed={"propagated": 2},
    attempts={"bad-beat user": 1, "calling propagated": 1},
    conversions=None,
)
async def a_heartbeat_cannot_be_converted(client: Client) -> None:
    await call(client, "bad-beat")


# --- activities that are completed from elsewhere -------------------------------------------------


async def complete_elsewhere(client: Client, complete: Callable[[Any], Awaitable[object]]) -> None:
    async with working(client, "calling"):
        handle = await start(client, "calling", "elsewhere", {})
        await until(lambda: temporal_workflows.waiting)
        activity = client.get_async_activity_handle(task_token=temporal_workflows.waiting[0])
        await complete(activity)
        await attempt(handle.result())


@case(attempts={"elsewhere ok": 1, "calling ok": 1})
async def an_activity_is_completed_elsewhere(client: Client) -> None:
    await complete_elsewhere(client, lambda activity: activity.complete("fine"))


@case(
    failures={"ApplicationError ValueError elsewhere user code": 1},
    suppressed={"propagated": 2},
    attempts={"elsewhere user": 1, "calling propagated": 1},
    conversions=None,
)
async def an_activity_is_failed_elsewhere(client: Client) -> None:
    await complete_elsewhere(client, lambda activity: activity.fail(ValueError("no such item")))


@case(
    failures={"ApplicationError Declined elsewhere user code": 1},
    suppressed={"propagated": 2},
    attempts={"elsewhere user": 1, "calling propagated": 1},
    conversions=None,
)
async def an_activity_is_failed_elsewhere_by_an_sdk_exception(client: Client) -> None:
    error = ApplicationError("the card is declined", type="Declined")
    await complete_elsewhere(client, lambda activity: activity.fail(error))
    assert error.__traceback__ is None


# --- what only the server sees --------------------------------------------------------------------


@case(
    failures={"ActivityError SCHEDULE_TO_START fine system scheduling": 1},
    suppressed={"propagated": 1},
    attempts={"calling system": 1},
)
async def no_worker_takes_an_activity(client: Client) -> None:
    await call(client, "fine", task_queue="nobody", schedule_to_start_timeout=0.1)


async def time_out(client: Client, **options: Any) -> None:
    async with working(client, "calling"):
        handle = await start(client, "calling", "deaf", options)
        await attempt(handle.result())
        await temporal_workflows.hanging.wait()
        temporal_workflows.over.set()


@case(
    failures={"ActivityError START_TO_CLOSE deaf unknown timeout": 1},
    suppressed={"propagated": 1},
    attempts={"deaf ok": 1, "calling unknown": 1},
)
async def an_activity_takes_too_long(client: Client) -> None:
    await time_out(client, start_to_close_timeout=2)


@case(
    failures={"ActivityError HEARTBEAT deaf unknown timeout": 1},
    suppressed={"propagated": 1},
    attempts={"deaf ok": 1, "calling unknown": 1},
)
async def an_activity_sends_no_heartbeat(client: Client) -> None:
    await time_out(client, heartbeat_timeout=2)


@case(
    failures={"WorkflowFailureError START_TO_CLOSE - unknown timeout": 1},
    attempts={},
)
async def a_workflow_takes_too_long(_: Client) -> None:
    # A server skips time only while nothing runs there. After other cases it may believe otherwise.
    client = await connected(start_server())
    async with working(client, "waiting"):
        handle = await start(client, "waiting", execution_timeout=timedelta(days=1))
        await until_event(handle, "workflow_task_completed")
        await client.test_service.unlock_time_skipping(UnlockTimeSkippingRequest())
        await attempt(handle.result())


@case(failures={"WorkflowFailureError - - user cancelled": 1})
async def a_workflow_is_terminated(client: Client) -> None:
    async with working(client, "waiting"):
        handle = await start(client, "waiting")
        await handle.terminate("enough")
        await attempt(handle.result())


# --- cancellation ---------------------------------------------------------------------------------


@case(suppressed={"control_flow": 1}, attempts={"waiting cancelled": 1})
async def a_workflow_is_cancelled(client: Client) -> None:
    async with working(client, "waiting"):
        handle = await start(client, "waiting")
        await handle.cancel()
        await attempt(handle.result())


async def cancel(client: Client, activity: str) -> None:
    async with working(
        client, "calling", max_heartbeat_throttle_interval=timedelta(milliseconds=1)
    ):
        options = {"heartbeat_timeout": 60, "cancellation_type": 1}  # wait for it
        handle = await start(client, "calling", activity, options)
        await temporal_workflows.hanging.wait()
        await handle.cancel()
        await attempt(handle.result())


@case(suppressed={"control_flow": 2}, attempts={"beat cancelled": 1, "calling cancelled": 1})
async def an_activity_is_cancelled(client: Client) -> None:
    await cancel(client, "beat")


@case(
    suppressed={"control_flow": 3},
    attempts={"beat-in-a-thread cancelled": 1, "calling cancelled": 1},
)
async def an_activity_in_a_thread_is_cancelled(client: Client) -> None:
    await cancel(client, "beat-in-a-thread")


@case(attempts={"hang cancelled": 1})
async def a_worker_shuts_down(client: Client) -> None:
    async with working(client, "calling"):
        # A last attempt would be followed by a workflow task, which this worker might still get.
        handle = await start(client, "calling", "hang", {"retries": 2})
        await temporal_workflows.hanging.wait()
    await handle.terminate()


@case(attempts={"again ok": 3})
async def a_workflow_goes_on_as_new(client: Client) -> None:
    await run(client, "again", 2)


# --- workflows ------------------------------------------------------------------------------------


@case(
    failures={"ApplicationError Declined declining user code": 1},
    suppressed={"propagated": 1},
    attempts={"declining user": 1},
)
async def a_workflow_raises_an_sdk_exception(client: Client) -> None:
    await run(client, "declining")


@case(
    failures={"ApplicationError ValueError strict user code": 1},
    suppressed={"propagated": 1},
    attempts={"strict user": 1},
    conversions=None,
)
async def a_workflow_fails_by_a_native_exception(client: Client) -> None:
    await run(client, "strict")


@case(
    failures={
        "ApplicationError ValueError stumbling user code": 1,
        "CardDeclined Declined stumbling user code": 1,
    },
    suppressed=lambda: {"replayed": len(temporal_workflows.stumbles) - 1},
    attempts={"stumbling ok": 1},
    conversions=1,
)
async def a_task_fails_until_it_is_mended(client: Client) -> None:
    async with working(client, "stumbling"):
        handle = await start(client, "stumbling", task_timeout=timedelta(seconds=1))
        await until(lambda: len(temporal_workflows.stumbles) > 1)
        temporal_workflows.mended = True
        await handle.result()


@case(
    failures={"NondeterminismError - changing user code": 1},
    attempts={"changing ok": 1, "fine ok": 1},
    conversions=None,
)
async def a_workflow_is_not_deterministic_until_it_is_mended(client: Client) -> None:
    temporal_workflows.mended = True
    # Without a cache, for which the server would wait for this worker to come back.
    async with working(client, "changing"):
        handle = await start(client, "changing", task_timeout=timedelta(seconds=1))
        await until_event(handle, "activity_task_completed")
    temporal_workflows.mended = False
    counted = inside.failures()
    # Without a cache, the SDK's core would only report that the cache is full.
    async with working(client, "changing", max_cached_workflows=10):
        await handle.signal("end")
        # The history may not show the failure: the server records it only for a task's first
        # attempt, and the first worker may have lost that.
        await until(lambda: inside.failures() != counted)
        temporal_workflows.mended = True
        await handle.result()


@case(
    failures={"ApplicationError NotFoundError nobody user code": 1},
    suppressed=lambda: {"replayed": len(FAILED_TASKS) - 1},
)
async def a_workflow_is_not_registered(client: Client) -> None:
    FAILED_TASKS.clear()
    async with working(client, "waiting"):
        handle = await start(client, "nobody")
        await until(lambda: len(FAILED_TASKS) > 1)
        await handle.terminate()


@case(
    failures={"ApplicationError Declined declining user code": 1},
    suppressed={"propagated": 2},
    attempts={"declining user": 1, "parent propagated": 1},
)
async def a_child_fails(client: Client) -> None:
    await run(client, "parent", "declining", [], children=["declining"])


@case(
    failures={"ActivityError SCHEDULE_TO_START fine system scheduling": 1},
    suppressed={"propagated": 2},
    attempts={"calling system": 1, "parent propagated": 1},
)
async def no_worker_takes_an_activity_of_a_child(client: Client) -> None:
    options = {"task_queue": "nobody", "schedule_to_start_timeout": 0.1}
    await run(client, "parent", "calling", ["fine", options], children=["calling"])


@case(
    failures={"WorkflowAlreadyStartedError - starting-twice user input": 1},
    attempts={"starting-twice ok": 1},
)
async def a_child_is_there_already(client: Client) -> None:
    await run(client, "starting-twice", children=["waiting"])


@case(
    failures={"ApplicationError ExternalWorkflowExecutionNotFound signalling user code": 1},
    suppressed={"propagated": 1},
    attempts={"signalling user": 1},
)
async def a_workflow_signals_nobody(client: Client) -> None:
    await run(client, "signalling")


# --- replay ---------------------------------------------------------------------------------------


@case(
    failures={"ApplicationError ValueError break user code": 1},
    suppressed={"propagated": 1, "replayed": 3},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    conversions=1,
)
async def a_caught_activity_failure_and_three_more_activities(client: Client) -> None:
    await run(client, "careful")


@case(
    failures={"ApplicationError Declined declining user code": 1},
    suppressed={"propagated": 1, "replayed": 3},
    attempts={"declining user": 1, "careful-parent ok": 1, "fine ok": 3},
)
async def a_caught_child_failure_and_three_more_activities(client: Client) -> None:
    await run(client, "careful-parent", "declining", children=["declining"])


@case(
    failures={"CardDeclined Declined hesitating user code": 2},
    suppressed={"replayed": 6},
    attempts={"hesitating ok": 1, "fine ok": 3},
)
async def a_workflow_raises_and_catches_and_goes_on(client: Client) -> None:
    await run(client, "hesitating")


@case(
    failures={"CardDeclined Declined compensating user code": 1},
    suppressed={"replayed": 1, "propagated": 1},
    attempts={"compensating user": 1, "fine ok": 1},
)
async def a_workflow_fails_after_a_compensation(client: Client) -> None:
    await run(client, "compensating", "")


@case(
    failures={"ApplicationError Declined decline user code": 1},
    suppressed={"replayed": 1, "propagated": 2},
    attempts={"compensating propagated": 1, "decline user": 1, "fine ok": 1},
)
async def an_activity_fails_and_its_workflow_after_a_compensation(client: Client) -> None:
    await run(client, "compensating", "decline")


@case(
    failures={"CardDeclined Declined hesitating user code": 2},
    attempts={"hesitating ok": 1, "fine ok": 3},
)
async def the_same_with_a_cache(client: Client) -> None:
    async with working(client, "hesitating", max_cached_workflows=10):
        await attempt((await start(client, "hesitating")).result())


@case(
    failures={"CardDeclined Declined hesitating user code": 2},
    suppressed={"replayed": 8},
    attempts={"hesitating ok": 1, "fine ok": 3},
)
async def the_same_and_a_replayer(client: Client) -> None:
    await replay("hesitating", await run(client, "hesitating"))


async def replay(name: str, handle: WorkflowHandle[Any, Any]) -> None:
    replayer = Replayer(workflows=[temporal_workflows.WORKFLOWS[name]])
    await replayer.replay_workflow(await handle.fetch_history())


@case(
    failures={
        "ApplicationError Declined waiting user code": 1,
    },
    suppressed={"propagated": 1, "replayed": 1},
    attempts={"waiting user": 1},
)
async def a_failed_run_and_a_replayer(client: Client) -> None:
    async with working(client, "waiting"):
        handle = await start(client, "waiting")
        await handle.signal("decline")
        await attempt(handle.result())
    await replay("waiting", handle)


@case(
    attempts={"recovering cancelled": 1, "fine ok": 1},
    suppressed={"control_flow": 3},
    failures={"ApplicationError Undo recovering user code": 1},
)
async def a_workflow_is_evicted(client: Client) -> None:
    async with working(client, "recovering"):
        handle = await start(client, "recovering")
        await until_event(handle, "timer_started")
        await handle.cancel()
        await attempt(handle.result())


async def until_event(handle: WorkflowHandle[Any, Any], name: str) -> None:
    """Wait until the history of a run has an event."""
    while not any(
        event.HasField(f"{name}_event_attributes")  # type: ignore[arg-type]
        for event in (await handle.fetch_history()).events
    ):
        await asyncio.sleep(0.01)


@case(
    failures={"RestrictedWorkflowAccessError - forbidden user code": 1},
    attempts={"forbidden ok": 1},
)
async def the_sandbox_forbids_something(client: Client) -> None:
    handle = await run(client, "forbidden")
    assert await handle.result() == "RestrictedWorkflowAccessError"


# --- signals, updates, queries, the client --------------------------------------------------------


@case(
    failures={"ApplicationError Declined waiting user code": 1},
    suppressed={"propagated": 1},
    attempts={"waiting user": 1},
)
async def a_signal_fails(client: Client) -> None:
    async with working(client, "waiting"):
        handle = await start(client, "waiting")
        await handle.signal("decline")
        await attempt(handle.result())


async def update(client: Client, name: str, *args: Any) -> None:
    async with working(client, "waiting", max_cached_workflows=10):
        handle = await start(client, "waiting")
        await attempt(handle.execute_update(name, args=args))
        await handle.signal("end")
        await handle.result()


@case(
    failures={"ApplicationError Declined waiting user code": 1},
    suppressed={"propagated": 1},
    attempts={"waiting ok": 1},
)
async def an_update_fails(client: Client) -> None:
    await update(client, "decline-update")


@case(
    failures={"ApplicationError ValueError waiting user code": 1},
    suppressed={"propagated": 1},
    attempts={"waiting ok": 1},
    conversions=None,
)
async def an_update_is_not_valid(client: Client) -> None:
    await update(client, "check", -1)


async def ask(client: Client, query: str, times: int = 1) -> None:
    async with working(client, "careful"):
        handle = await start(client, "careful")
        await handle.result()
        for _ in range(times):
            await attempt(handle.query(query))


@case(
    failures={"ApplicationError ValueError break user code": 1},
    suppressed={"propagated": 1, "replayed": 5},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    conversions=1,
)
async def queries_replay_a_run(client: Client) -> None:
    await ask(client, "how-many", 2)


@case(
    failures={
        "ApplicationError ValueError break user code": 1,
        "ApplicationError ValueError careful user code": 2,
    },
    suppressed={"propagated": 3, "replayed": 5, "control_flow": 2},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    conversions=3,
)
async def queries_fail(client: Client) -> None:
    await ask(client, "break", 2)


@case(
    failures={
        "ApplicationError ValueError break user code": 1,
        "ApplicationError Declined careful user code": 1,
    },
    suppressed={"propagated": 2, "replayed": 4, "control_flow": 1},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    conversions=1,
)
async def a_query_raises_an_sdk_exception(client: Client) -> None:
    await ask(client, "decline")


@case(
    failures={
        "ApplicationError ValueError break user code": 1,
        "ApplicationError RuntimeError careful user code": 1,
    },
    suppressed={"propagated": 2, "replayed": 4, "control_flow": 1},
    attempts={"break user": 1, "careful ok": 1, "fine ok": 3},
    conversions=2,
)
async def nobody_knows_a_query(client: Client) -> None:
    await ask(client, "nobody")


@case(
    failures={"WorkflowAlreadyStartedError - - user input": 1},
    suppressed={"control_flow": 1},
)
async def a_workflow_is_there_already(client: Client) -> None:
    handle = await start(client, "waiting")
    await attempt(start(client, "waiting", id=handle.id))
    await handle.terminate()


@case(failures={"RPCError NOT_FOUND - user input": 2})
async def a_workflow_is_not_there(client: Client) -> None:
    await attempt(client.get_workflow_handle("nobody").signal("end"))
    await attempt(client.get_workflow_handle("nobody").describe())


class _Counting(logging.Handler):
    """Notes the tasks that a worker fails."""

    def emit(self, record: logging.LogRecord) -> None:
        if "Failed handling activation" in record.getMessage():
            FAILED_TASKS.append(record.getMessage())


FAILED_TASKS: list[str] = []
logging.getLogger("temporalio").addHandler(_Counting())
logging.getLogger("temporalio").propagate = False

if __name__ == "__main__":
    if is_missing():
        print("The flows of Temporal are left out: there is no JDK, or no test server.")
    else:
        FLOWS.main()
