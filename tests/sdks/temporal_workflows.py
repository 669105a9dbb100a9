"""The workflows and activities of `tests.sdks.temporal_flows`.

A module of their own, and a small one: the SDK's sandbox imports it anew for each run.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
)

QUICKLY = timedelta(milliseconds=1)
LONG = timedelta(hours=1)
ONCE = RetryPolicy(maximum_attempts=1)
THRICE = RetryPolicy(maximum_attempts=3, initial_interval=QUICKLY, backoff_coefficient=1)


class CardDeclined(ApplicationError):
    """A user's subclass of an SDK class."""


# --- activities -----------------------------------------------------------------------------------


@activity.defn(name="fine")
def fine() -> str:
    return "fine"


@activity.defn(name="break")
def break_down() -> None:
    raise ValueError("no such stock item")


@activity.defn(name="break-async")
async def break_down_async() -> None:
    raise ValueError("no such stock item")


@activity.defn(name="connect")
def connect() -> None:
    raise ConnectionRefusedError("the stock database is down")


@activity.defn(name="flaky")
def flaky() -> str:
    if activity.info().attempt < 3:
        raise ValueError("not yet")
    return "fine"


@activity.defn(name="decline")
def decline() -> None:
    raise ApplicationError("the card is declined", type="Declined", non_retryable=True)


@activity.defn(name="decline-card")
async def decline_card() -> None:
    raise CardDeclined("the card is declined", non_retryable=True)


@activity.defn(name="expect")
def expect() -> None:
    """Fails in a way that its author expects."""
    from temporalio.exceptions import ApplicationErrorCategory

    raise ApplicationError("nothing to do", category=ApplicationErrorCategory.BENIGN)


@activity.defn(name="wrap")
def wrap() -> None:
    try:
        raise ApplicationError("the card is declined", type="Declined")
    except ApplicationError as error:
        raise ValueError("no order") from error


@activity.defn(name="opaque")
def give_something_opaque() -> object:
    return object()


@activity.defn(name="elsewhere")
async def complete_elsewhere() -> None:
    # It ends before the loop runs the test, which completes it.
    waiting.append(activity.info().task_token)
    activity.raise_complete_async()


@activity.defn(name="hang")
async def hang() -> None:
    hanging.set()
    await over.wait()


@activity.defn(name="deaf")
async def ignore_cancellation() -> None:
    """The SDK cancels an activity some seconds after its time-out, and a test may take longer."""
    hanging.set()
    while not over.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await over.wait()


@activity.defn(name="beat")
async def beat() -> None:
    hanging.set()
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.05)


@activity.defn(name="beat-in-a-thread")
def beat_in_a_thread() -> None:
    import time

    loop_of_the_test.call_soon_threadsafe(hanging.set)
    while True:
        activity.heartbeat()
        time.sleep(0.05)


@activity.defn(name="bad-beat")
async def bad_beat() -> None:
    activity.heartbeat(object())
    await asyncio.Event().wait()


ACTIVITIES = [
    fine,
    break_down,
    break_down_async,
    connect,
    flaky,
    decline,
    decline_card,
    expect,
    wrap,
    give_something_opaque,
    complete_elsewhere,
    hang,
    ignore_cancellation,
    beat,
    beat_in_a_thread,
    bad_beat,
]

# What the activities share with the test, outside of the sandbox.
waiting: list[bytes] = []
hanging: asyncio.Event
over: asyncio.Event
loop_of_the_test: asyncio.AbstractEventLoop
stumbles: list[str] = []
mended = False


def anew() -> None:
    """Begin another test."""
    global hanging, over, loop_of_the_test, mended
    mended = False
    waiting.clear()
    stumbles.clear()
    hanging, over = asyncio.Event(), asyncio.Event()
    loop_of_the_test = asyncio.get_running_loop()


# --- workflows ------------------------------------------------------------------------------------


@workflow.defn(name="calling")
class Calling:
    """Calls an activity and lets its failure pass."""

    @workflow.run
    async def run(self, name: str, options: dict[str, Any]) -> Any:
        return await workflow.execute_activity(name, **read(options))


@workflow.defn(name="calling-locally")
class CallingLocally:
    @workflow.run
    async def run(self, name: str, options: dict[str, Any]) -> Any:
        return await workflow.execute_local_activity(name, **read(options))


def read(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an activity, from JSON."""
    found = {
        name: timedelta(seconds=value) if name.endswith("timeout") else value
        for name, value in options.items()
    }
    policy = found.pop("retries", 1)
    if not any(name.startswith(("start_to", "schedule_to_close")) for name in found):
        found["start_to_close_timeout"] = LONG
    found["retry_policy"] = RetryPolicy(
        maximum_attempts=policy, initial_interval=QUICKLY, backoff_coefficient=1
    )
    return found


async def go_on(times: int = 3) -> None:
    for _ in range(times):
        await workflow.execute_activity("fine", start_to_close_timeout=LONG)


@workflow.defn(name="careful")
class Careful:
    """Catches an activity's failure and goes on with three more activities: four more tasks."""

    def __init__(self) -> None:
        self.caught = 0

    @workflow.run
    async def run(self) -> int:
        try:
            await workflow.execute_activity("break", start_to_close_timeout=LONG, retry_policy=ONCE)
        except ActivityError:
            self.caught += 1
        await go_on()
        return self.caught

    @workflow.query(name="how-many")
    def how_many(self) -> int:
        return self.caught

    @workflow.query(name="break")
    def break_down(self) -> None:
        raise ValueError("no such stock item")

    @workflow.query(name="decline")
    def decline(self) -> None:
        raise ApplicationError("the card is declined", type="Declined")


@workflow.defn(name="hesitating")
class Hesitating:
    """Raises and catches by itself, and goes on."""

    @workflow.run
    async def run(self) -> None:
        for _ in range(2):
            try:
                raise CardDeclined("the card is declined", type="Declined")
            except CardDeclined:
                pass
        await go_on()


@workflow.defn(name="compensating")
class Compensating:
    """Undoes what it did before it lets a failure pass."""

    @workflow.run
    async def run(self, activity: str) -> None:
        try:
            if activity:
                await workflow.execute_activity(
                    activity, start_to_close_timeout=LONG, retry_policy=ONCE
                )
            raise CardDeclined("the card is declined", type="Declined")
        except FailureError:
            await go_on(1)
            raise


@workflow.defn(name="declining")
class Declining:
    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(0.001)
        raise ApplicationError("the card is declined", type="Declined", non_retryable=True)


@workflow.defn(name="parent")
class Parent:
    """Starts a child and lets its failure pass."""

    @workflow.run
    async def run(self, child: str, args: list[Any]) -> None:
        await workflow.execute_child_workflow(
            child, args=args, id=f"{workflow.info().workflow_id}-child", retry_policy=ONCE
        )


@workflow.defn(name="careful-parent")
class CarefulParent:
    @workflow.run
    async def run(self, child: str) -> None:
        try:
            await workflow.execute_child_workflow(child, id=f"{workflow.info().workflow_id}-child")
        except ChildWorkflowError:
            pass
        await go_on()


@workflow.defn(name="starting-twice")
class StartingTwice:
    @workflow.run
    async def run(self) -> None:
        name = f"{workflow.info().workflow_id}-child"
        await workflow.start_child_workflow("waiting", id=name)
        try:
            await workflow.start_child_workflow("waiting", id=name)
        except FailureError:
            pass


@workflow.defn(name="waiting")
class Waiting:
    """Waits for a signal, and has handlers that fail."""

    def __init__(self) -> None:
        self.done = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.done)

    @workflow.signal(name="end")
    def end(self) -> None:
        self.done = True

    @workflow.signal(name="decline")
    def decline(self) -> None:
        raise ApplicationError("the card is declined", type="Declined")

    @workflow.update(name="decline-update")
    def decline_update(self) -> None:
        raise ApplicationError("the card is declined", type="Declined")

    @workflow.update(name="check")
    def check(self, amount: int) -> int:
        return amount

    @check.validator
    def validate(self, amount: int) -> None:
        if amount < 0:
            raise ValueError("a negative amount")


@workflow.defn(name="signalling")
class Signalling:
    """Sends a signal to a workflow that is not there."""

    @workflow.run
    async def run(self) -> None:
        await workflow.get_external_workflow_handle("nobody").signal("end")


@workflow.defn(name="again")
class Again:
    @workflow.run
    async def run(self, times: int) -> None:
        if times:
            workflow.continue_as_new(times - 1)


@workflow.defn(name="strict", failure_exception_types=[ValueError])
class Strict:
    """Fails by a native exception."""

    @workflow.run
    async def run(self) -> None:
        raise ValueError("the order has no lines")


@workflow.defn(name="stumbling", sandboxed=False)
class Stumbling:
    """Fails its task by a native exception until it is mended."""

    @workflow.run
    async def run(self) -> None:
        try:
            raise CardDeclined("the card is declined", type="Declined")
        except CardDeclined:
            pass
        stumbles.append("")
        if not mended:
            raise ValueError("the order has no lines")


@workflow.defn(name="changing", sandboxed=False)
class Changing:
    """Is another code until it is mended."""

    def __init__(self) -> None:
        self.done = False

    @workflow.run
    async def run(self) -> None:
        if not mended:
            await asyncio.sleep(0.001)
        await go_on(1)
        await workflow.wait_condition(lambda: self.done)

    @workflow.signal(name="end")
    def end(self) -> None:
        self.done = True


@workflow.defn(name="recovering")
class Recovering:
    """Raises in a clean-up, which an eviction runs too."""

    @workflow.run
    async def run(self) -> None:
        try:
            await go_on(1)
            await asyncio.sleep(3600)
        finally:
            try:
                raise ApplicationError("nothing to undo", type="Undo")
            except ApplicationError:
                pass


@workflow.defn(name="forbidden")
class Forbidden:
    """Does what the sandbox forbids, and catches it."""

    @workflow.run
    async def run(self) -> str:
        import random

        try:
            random.random()
        except Exception as error:
            return type(error).__name__
        return ""


WORKFLOWS: dict[str, type] = {
    "calling": Calling,
    "calling-locally": CallingLocally,
    "careful": Careful,
    "hesitating": Hesitating,
    "compensating": Compensating,
    "declining": Declining,
    "parent": Parent,
    "careful-parent": CarefulParent,
    "starting-twice": StartingTwice,
    "waiting": Waiting,
    "signalling": Signalling,
    "again": Again,
    "strict": Strict,
    "stumbling": Stumbling,
    "changing": Changing,
    "recovering": Recovering,
    "forbidden": Forbidden,
}
