"""Make the real Durable Workflow SDK raise each class of its errors page, and hand it back.

Nothing here constructs an exception that the SDK would construct itself. Each class is provoked as
a user would meet it, in one of five ways:

    client     a call of the real Client, to which the server answers with an error
    worker     code of a workflow or an activity, run by the real Worker, catches it
    replay     the SDK's own test tools replay a workflow, without a server
    local      the SDK refuses something before any request
    by hand    the SDK has no raise site: user code raises it

Runs on durable-workflow 0.2.0 and 0.4 to 2.12.0, against `faultlens.commands.demo.durable_server`.
A class that the installed version does not have is skipped: see `Provocation.available`.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from unittest import mock

import durable_workflow.errors
from durable_workflow import Client, Worker, activity, workflow
from durable_workflow.client import ScheduleAction, ScheduleSpec
from durable_workflow.errors import (
    ChildWorkflowFailed,
    DurableWorkflowError,
    NonRetryableError,
)

from faultlens.commands.demo.durable_server import CLUSTER_INFO, DurableServer
from tests.children import TIMEOUT
from tests.sdks.durable import IMPATIENT, SDK_EXCEPTIONS, answering, result_of, working_on
from tests.sdks.provocation import Provocations, Provoke

QUEUE = "provocations"
working = functools.partial(working_on, QUEUE)

PROVOCATIONS = Provocations()
provokes = PROVOCATIONS.enter


# --- how to catch it ------------------------------------------------------------------------------


def caught(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except SDK_EXCEPTIONS as exc:
        return exc
    raise AssertionError("nothing was raised")


def raised_to_client(
    act: Callable[[Client], Awaitable[object]],
    server: DurableServer | None = None,
    **options: Any,
) -> BaseException:
    """The exception that a client's user catches."""

    async def attempt(url: str) -> None:
        async with Client(url, retry_policy=IMPATIENT, **options) as client:
            await asyncio.wait_for(act(client), TIMEOUT)

    with server or DurableServer() as running:
        return caught(lambda: asyncio.run(attempt(running.url)))


observed: list[BaseException] = []
"""The exception that the code of a workflow or an activity caught while a worker ran it."""

under_way = threading.Event()
"""A worker has begun to run the code that is to be disturbed."""


def raised_in_worker(
    *workflows: type,
    activities: Iterable[Callable[..., Any]] = (),
    meanwhile: Callable[[Client], Awaitable[object]] | None = None,
    server: DurableServer | None = None,
) -> BaseException:
    """Run the first workflow on a real worker, and return what user code caught first."""

    async def attempt(url: str) -> None:
        async with (
            Client(url, retry_policy=IMPATIENT) as client,
            working(client, workflows, activities),
        ):
            await start(client, workflows[0])
            if meanwhile is not None:
                await asyncio.to_thread(under_way.wait, TIMEOUT)
                await meanwhile(client)
            while not observed:
                await asyncio.sleep(0.02)

    observed.clear()
    under_way.clear()
    with server or DurableServer() as running:
        asyncio.run(asyncio.wait_for(attempt(running.url), TIMEOUT))
    return observed[0]


async def start(client: Client, definition: type, **options: Any) -> Any:
    """Start the workflow under the id `run`, and return its handle."""
    name = definition.__workflow_name__  # type: ignore[attr-defined]
    return await client.start_workflow(
        workflow_type=name, task_queue=QUEUE, workflow_id="run", **options
    )


async def run(client: Client, definition: type) -> Any:
    """Run the workflow to its end, and return its result."""
    async with working(client, [definition]):
        handle = await start(client, definition)
        return await result_of(handle)


# --- workflows and activities ---------------------------------------------------------------------


@workflow.defn(name="waiting")
class Waiting:
    def run(self, ctx: Any) -> Any:
        under_way.set()
        yield ctx.start_timer(3600)


@workflow.defn(name="succeeding")
class Succeeding:
    def run(self, ctx: Any) -> Any:
        yield ctx.start_timer(0)
        return "done"


@workflow.defn(name="failing")
class Failing:
    def run(self, ctx: Any) -> Any:
        yield ctx.start_timer(0)
        raise ValueError("the order has no lines")


@workflow.defn(name="with-failing-child")
class WithFailingChild:
    def run(self, ctx: Any) -> Any:
        try:
            yield ctx.start_child_workflow("failing")
        except ChildWorkflowFailed as exc:
            observed.append(exc)


@workflow.defn(name="with-waiting-child")
class WithWaitingChild:
    def run(self, ctx: Any) -> Any:
        try:
            yield ctx.start_child_workflow("waiting")
        except ChildWorkflowFailed as exc:
            observed.append(exc)


@workflow.defn(name="with-activity")
class WithActivity:
    def run(self, ctx: Any) -> Any:
        try:
            yield ctx.schedule_activity("act", [])
        except DurableWorkflowError as exc:  # 0.2.0 has no ActivityFailed
            observed.append(exc)


@activity.defn(name="act")
def charge_declined_card() -> None:
    try:
        raise NonRetryableError("card declined")
    except NonRetryableError as exc:
        observed.append(exc)
        raise


@activity.defn(name="act")
def break_down() -> None:
    raise ValueError("no such stock item")


@activity.defn(name="act")
async def send_heartbeats() -> None:
    under_way.set()
    while True:
        try:
            await activity.context().heartbeat()
        except SDK_EXCEPTIONS as exc:
            observed.append(exc)
            raise
        await asyncio.sleep(0.05)


# --- the 18 documented classes --------------------------------------------------------------------


@provokes("DurableWorkflowError", by_hand=True)
def durable_workflow_error() -> BaseException:
    def action() -> None:
        raise DurableWorkflowError("an application's own failure")

    return caught(action)


@provokes("ServerError")
def server_error() -> BaseException:
    async def act(client: Client) -> None:
        await client.start_workflow(
            workflow_type="order", task_queue="wholesale", workflow_id="order-1"
        )

    return raised_to_client(act)


@provokes("Unauthorized")
def unauthorized() -> BaseException:
    return raised_to_client(lambda client: client.describe_workflow("run"), token="expired")


@provokes("NamespaceNotFound")
def namespace_not_found() -> BaseException:
    return raised_to_client(lambda client: client.describe_workflow("run"), namespace="nowhere")


@provokes("InvalidArgument")
def invalid_argument() -> BaseException:
    return raised_to_client(lambda client: start(client, Waiting, run_timeout_seconds=0))


@provokes("WorkflowNotFound")
def workflow_not_found() -> BaseException:
    return raised_to_client(lambda client: client.describe_workflow("run"))


@provokes("WorkflowAlreadyStarted")
def workflow_already_started() -> BaseException:
    async def act(client: Client) -> None:
        await start(client, Waiting)
        await start(client, Waiting)

    return raised_to_client(act)


@provokes("WorkflowFailed")
def workflow_failed() -> BaseException:
    return raised_to_client(lambda client: run(client, Failing))


@provokes("WorkflowTerminated")
def workflow_terminated() -> BaseException:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting)
        await handle.terminate(reason="stuck")
        await result_of(handle)

    return raised_to_client(act)


@provokes("WorkflowCancelled")
def workflow_cancelled() -> BaseException:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting)
        await handle.cancel(reason="the customer changed his mind")
        await result_of(handle)

    return raised_to_client(act)


@provokes("QueryFailed")
def query_failed() -> BaseException:
    async def act(client: Client) -> None:
        async with working(client, [Succeeding]):
            handle = await start(client, Succeeding)
            await result_of(handle)
            await handle.query("undeclared")

    return raised_to_client(act)


@provokes("UpdateRejected")
def update_rejected() -> BaseException:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting)
        await handle.update("undeclared")

    return raised_to_client(act)


@provokes("ScheduleNotFound")
def schedule_not_found() -> BaseException:
    return raised_to_client(lambda client: client.describe_schedule("nightly"))


@provokes("ScheduleAlreadyExists")
def schedule_already_exists() -> BaseException:
    async def act(client: Client) -> None:
        for _ in range(2):
            await client.create_schedule(
                schedule_id="nightly",
                spec=ScheduleSpec(cron_expressions=["0 3 * * *"]),
                action=ScheduleAction("waiting", task_queue=QUEUE),
            )

    return raised_to_client(act)


@provokes("ChildWorkflowFailed")
def child_workflow_failed() -> BaseException:
    return raised_in_worker(WithFailingChild, Failing)


@provokes("ActivityCancelled")
def activity_cancelled() -> BaseException:
    def cancel(client: Client) -> Awaitable[object]:
        return client.cancel_workflow("run")

    return raised_in_worker(WithActivity, activities=[send_heartbeats], meanwhile=cancel)


@provokes("NonRetryableError", by_hand=True)
def non_retryable_error() -> BaseException:
    return raised_in_worker(WithActivity, activities=[charge_declined_card])


@provokes("AvroNotInstalledError")
def avro_not_installed_error() -> BaseException:
    hidden = {"avro.io": None, "fastavro": None}  # 0.2.0 needs the first, later versions the second
    with mock.patch.dict(sys.modules, hidden):
        return raised_to_client(lambda client: start(client, Waiting))


# --- classes added after 0.2.0 --------------------------------------------------------------------


@provokes("ActivityFailed")
def activity_failed() -> BaseException:
    return raised_in_worker(WithActivity, activities=[break_down])


@provokes("NonDeterministicReplayError")
def non_deterministic_replay_error() -> BaseException:
    from durable_workflow.testing import replay_history

    recorded = {"sequence": 1, "activity_type": "reserve_stock"}
    history = [{"event_type": "ActivityCompleted", "payload": recorded}]
    return caught(lambda: replay_history(Waiting, history))  # it yields a timer


@provokes("WorkflowEntryArgumentsMismatchError")
def workflow_entry_arguments_mismatch_error() -> BaseException:
    from durable_workflow.testing import replay_history

    return caught(lambda: replay_history(Waiting, [], ["an argument too many"]))


@provokes("WorkflowPayloadDecodeError")
def workflow_payload_decode_error() -> BaseException:
    from durable_workflow.testing import replay_history

    garbled = {"signal_name": "hurry", "value": "not Avro", "payload_codec": "avro"}
    history = [{"event_type": "SignalReceived", "payload": garbled}]
    return caught(lambda: replay_history(Waiting, history))


@provokes("SagaCompensationFailed")
def saga_compensation_failed() -> BaseException:
    class Compensating:
        def run(self, ctx: Any) -> Any:
            def forward(saga: Any) -> Any:
                saga.add_compensation("act")
                yield ctx.schedule_activity("act", [])

            try:
                yield from ctx.saga().run(forward)
            except DurableWorkflowError as exc:
                observed.append(exc)

    definition = workflow.defn(name="compensating")(Compensating)
    return raised_in_worker(definition, activities=[break_down])


@provokes("NexusOperationFailed")  # SDKs before 2.8 record it differently: not provoked there
def nexus_operation_failed() -> BaseException:
    from durable_workflow.testing import replay_history

    class Calling:
        def run(self, ctx: Any) -> Any:
            try:
                yield ctx.call_nexus_service("shop", "payments", "charge", [])
            except DurableWorkflowError as exc:
                observed.append(exc)

    names = {"endpoint_name": "shop", "service_name": "payments", "operation_name": "charge"}
    call = {**names, "status": "failed", "message": "no such account"}
    history = [{"event_type": "ServiceCallFailed", "payload": {**names, "service_call": call}}]
    observed.clear()
    replay_history(workflow.defn(name="calling")(Calling), history)
    return observed[0]


@provokes("ChildWorkflowCancelled")
def child_workflow_cancelled() -> BaseException:
    def cancel(client: Client) -> Awaitable[object]:
        return client.cancel_workflow("run-child-1")

    return raised_in_worker(WithWaitingChild, Waiting, meanwhile=cancel)


@provokes("ChildWorkflowTerminated")
def child_workflow_terminated() -> BaseException:
    def terminate(client: Client) -> Awaitable[object]:
        return client.terminate_workflow("run-child-1")

    return raised_in_worker(WithWaitingChild, Waiting, meanwhile=terminate)


@provokes("WorkflowTimedOut")
def workflow_timed_out() -> BaseException:
    async def act(client: Client) -> None:
        handle = await start(client, Waiting, run_timeout_seconds=1)
        await result_of(handle)

    return raised_to_client(act)


@provokes("UpdateFailed")
def update_failed() -> BaseException:
    class Updatable:
        def run(self, ctx: Any) -> Any:
            under_way.set()
            yield ctx.start_timer(3600)

        @workflow.update("change_address")
        def change_address(self) -> None:
            raise ValueError("no such street")

    definition = workflow.defn(name="updatable")(Updatable)
    under_way.clear()

    async def act(client: Client) -> None:
        async with working(client, [definition]):
            handle = await start(client, definition)
            await asyncio.to_thread(under_way.wait, TIMEOUT)
            await handle.update("change_address", wait_for="completed")

    return raised_to_client(act)


@provokes("UpdateValidationFailed")
def update_validation_failed() -> BaseException:
    reason = "update_validator_worker_unavailable"
    server = answering("POST", "/workflows/*/update/*", 409, reason=reason)
    return raised_to_client(lambda client: client.update_workflow("run", "change"), server)


@provokes("SignalFailed")
def signal_failed() -> BaseException:
    server = answering("POST", "/workflows/*/signal/*", 404, reason="unknown_signal")
    return raised_to_client(lambda client: client.signal_workflow("run", "undeclared"), server)


@provokes("ScheduleListError")
def schedule_list_error() -> BaseException:
    server = answering("GET", "/schedules", 403, reason="forbidden")
    return raised_to_client(lambda client: client.list_schedules(), server)


@provokes("RuntimeDiscoveryUnavailable")
def runtime_discovery_unavailable() -> BaseException:
    server = answering("GET", "/cluster/info", 503, reason="maintenance")
    return raised_to_client(lambda client: client.query_workflow("run", "status"), server)


@provokes("RuntimeCapabilityUnsupported")
def runtime_capability_unsupported() -> BaseException:
    capabilities = {**CLUSTER_INFO["worker_protocol"]["server_capabilities"], "query_tasks": False}
    protocol = {**CLUSTER_INFO["worker_protocol"], "server_capabilities": capabilities}
    info = {**CLUSTER_INFO, "worker_protocol": protocol}
    server = answering("GET", "/cluster/info", 200, **info)
    return raised_to_client(lambda client: client.query_workflow("run", "status"), server)


@provokes("ActivityLeaseAuthorityLost")
def activity_lease_authority_lost() -> BaseException:
    refusal: dict[str, Any] = {
        "cancel_requested": False,
        "can_continue": False,
        "reason": "lease_expired",
    }
    server = answering("POST", "/worker/activity-tasks/*/heartbeat", 200, **refusal)
    return raised_in_worker(WithActivity, activities=[send_heartbeats], server=server)


@provokes("QueryTaskAuthorityLost")
def query_task_authority_lost() -> BaseException:
    someone_elses = {"query_task_id": "1", "query_task_attempt": 1, "lease_owner": "another worker"}
    server = answering("POST", "/worker/query-tasks/poll", 200, task=someone_elses)
    return raised_to_client(
        lambda client: client.poll_query_task(worker_id="w", task_queue=QUEUE), server
    )


@provokes("InvalidWorkflowDefinition")
def invalid_workflow_definition() -> BaseException:
    class Asynchronous:
        async def run(self, ctx: Any) -> None: ...

    definition = workflow.defn(name="asynchronous")
    return raised_to_client(lambda client: run(client, definition(Asynchronous)))


@provokes("DuplicateRegistrationError")
def duplicate_registration_error() -> BaseException:
    async def act(client: Client) -> None:
        Worker(client, task_queue=QUEUE, activities=[break_down, charge_declined_card])

    return raised_to_client(act)


@provokes("FailureReportTooLarge")
def failure_report_too_large() -> BaseException:
    async def act(client: Client) -> None:
        await client.fail_activity_task(
            task_id="1", activity_attempt_id="1", lease_owner="w", message="no such stock item"
        )

    return raised_to_client(act, failure_report_limit_bytes=1)


def external_payload(name: str) -> Provoke:
    def provoke() -> BaseException:
        reason = getattr(durable_workflow.errors, name).reason
        server = answering("GET", "/workflows/*", 422, reason=reason)
        return raised_to_client(lambda client: client.describe_workflow("run"), server)

    return provoke


for _problem in (
    "NotFound",
    "Expired",
    "Unauthorized",
    "Unavailable",
    "Oversized",
    "Unsupported",
    "IntegrityMismatch",
):
    provokes(f"ExternalPayload{_problem}")(external_payload(f"ExternalPayload{_problem}"))
