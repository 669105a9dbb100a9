"""Temporal's exceptions one by one: whose fault, what went wrong, origin or carrier."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from functools import partial
from types import FunctionType
from typing import Any
from unittest.mock import Mock

import pytest
import temporalio.client
import temporalio.exceptions as errors
import temporalio.worker
from temporalio.api.enums.v1 import RetryState
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import RemoveFromCache
from temporalio.converter import DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError, TimeoutType
from temporalio.service import RPCError, RPCStatusCode

from faultlens.failure import Role
from faultlens.sdks.temporal import Temporal, hooks
from tests import children

adapter = Temporal(errors)
for name in adapter.errors_modules[1:]:
    with contextlib.suppress(ImportError):  # of other versions
        adapter.learn(importlib.import_module(name))


def fault(exc: BaseException) -> tuple[str, str]:
    """The kind and the reason."""
    rule = adapter.rule(type(exc))
    return rule.kind(exc).value, adapter.reason(exc, rule) or rule.reason


def rebuilt(failure: Failure) -> Any:
    """What the SDK makes of a failure that comes back."""
    return DefaultFailureConverter().from_failure(failure, PayloadConverter.default)


def of_an_activity(cause: Failure) -> Any:
    failure = Failure(message="Activity task failed", cause=cause)
    failure.activity_failure_info.activity_type.name = "clean"
    failure.activity_failure_info.retry_state = RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    return rebuilt(failure)


def application(type: str, cause: Failure | None = None, source: str = "") -> Failure:
    failure = Failure(message="no", source=source, cause=cause)
    failure.application_failure_info.type = type
    return failure


def timeout(type: TimeoutType, cause: Failure | None = None) -> Failure:
    failure = Failure(message="late", cause=cause)
    failure.timeout_failure_info.timeout_type = type.value  # type: ignore[assignment]
    return failure


def client_failure(cause: BaseException) -> BaseException:
    return temporalio.client.WorkflowFailureError(cause=cause)


STATUSES = {
    "INVALID_ARGUMENT": ("user", "input"),
    "NOT_FOUND": ("user", "input"),
    "PERMISSION_DENIED": ("user", "auth"),
    "UNAUTHENTICATED": ("user", "auth"),
    "UNAVAILABLE": ("system", "network"),
    "DEADLINE_EXCEEDED": ("system", "timeout"),
    "RESOURCE_EXHAUSTED": ("system", "throttled"),
    "INTERNAL": ("system", "platform"),
    "UNKNOWN": ("unknown", ""),
}


@pytest.mark.parametrize("status", STATUSES)
def test_the_status_of_a_call_decides(status: str) -> None:
    exc = RPCError("no", RPCStatusCode[status], b"")
    assert (fault(exc), adapter.code(exc)) == (STATUSES[status], status)


TIMEOUTS = {
    "SCHEDULE_TO_START": ("system", "scheduling"),
    "START_TO_CLOSE": ("unknown", "timeout"),
    "SCHEDULE_TO_CLOSE": ("unknown", "timeout"),
    "HEARTBEAT": ("unknown", "timeout"),
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_the_type_of_a_timeout_decides_for_its_carriers_too(name: str) -> None:
    exc = of_an_activity(timeout(TimeoutType[name]))
    for carrier in (exc, client_failure(exc)):
        assert (fault(carrier), adapter.code(carrier)) == (TIMEOUTS[name], name)


def role(exc: BaseException) -> Role | None:
    verdict = adapter.verdict(exc, None, ())
    return None if verdict is None else verdict.role


def test_what_only_the_server_can_have_made_is_a_failure_at_its_first_carrier() -> None:
    late = of_an_activity(timeout(TimeoutType.HEARTBEAT))
    assert role(late) is Role.ORIGIN
    assert role(client_failure(late)) is Role.PROPAGATED
    assert role(client_failure(errors.TerminatedError("enough"))) is Role.ORIGIN
    broken = Failure(message="no")
    broken.server_failure_info.non_retryable = True
    assert (role(client_failure(rebuilt(broken))), fault(rebuilt(broken))) == (
        Role.ORIGIN,
        ("system", "platform"),
    )


def test_the_last_attempts_failure_has_counted_when_the_time_for_all_is_up() -> None:
    late = timeout(TimeoutType.SCHEDULE_TO_CLOSE, application("ValueError"))
    assert role(of_an_activity(late)) is Role.PROPAGATED
    late = timeout(TimeoutType.SCHEDULE_TO_CLOSE, timeout(TimeoutType.HEARTBEAT))
    assert role(of_an_activity(late)) is Role.ORIGIN


def test_a_failure_of_another_sdk_counts_where_it_is_first_raised_here() -> None:
    exc = of_an_activity(application("java.lang.IllegalStateException", source="JavaSDK"))
    assert (role(exc), role(client_failure(exc))) == (Role.ORIGIN, Role.PROPAGATED)


def test_a_failure_that_came_back_is_known_by_the_name_of_its_native_class() -> None:
    exc = of_an_activity(application("ConnectionRefusedError"))
    assert adapter.native_names(exc) == adapter.native_names(exc.cause)
    assert adapter.native_names(client_failure(exc)) == ("ConnectionRefusedError",)
    assert adapter.native_names(ApplicationError("no", type="Declined")) == ()
    assert role(exc.cause) is Role.PROPAGATED


def test_a_cancellation_never_counts() -> None:
    cancelled = Failure(message="Cancelled")
    cancelled.canceled_failure_info.SetInParent()
    exc = of_an_activity(cancelled)
    for cancellation in (
        exc,
        client_failure(exc),
        errors.CancelledError(),
        temporalio.client.AsyncActivityCancelledError(),
        temporalio.client.WorkflowContinuedAsNewError("run"),
        RPCError("no", RPCStatusCode.CANCELLED, b""),
    ):
        assert role(cancellation) is Role.CONTROL_FLOW


def test_every_class_has_a_rule() -> None:
    assert len(adapter.classes) > 15
    for cls in adapter.classes.values():
        assert adapter.rule(cls).why != "no rule", cls


def test_an_eviction_says_why_by_this_number() -> None:
    assert hooks.NONDETERMINISM == RemoveFromCache.EvictionReason.NONDETERMINISM


def test_the_installed_version_lacks_nothing() -> None:
    assert list(adapter.lacking()) == []


HOOKED = """
import temporalio.bridge.worker as bridge, temporalio.client, temporalio.converter
import temporalio.worker, temporalio.worker._activity as activity
import temporalio.worker._workflow as workflow
OWNERS = (
    bridge.Worker, temporalio.client.AsyncActivityHandle, temporalio.worker.Worker,
    temporalio.converter.DefaultFailureConverter, activity._ActivityWorker,
    workflow._WorkflowWorker, temporalio.exceptions.TemporalError,
)
"""


def test_what_is_hooked_is_restored() -> None:
    children.run(
        HOOKED
        + """
import faultlens
before = [dict(vars(owner)) for owner in OWNERS]
faultlens.enable()
assert all(dict(vars(owner)) != was for owner, was in zip(OWNERS, before))
faultlens.disable()
assert [dict(vars(owner)) for owner in OWNERS] == before
""",
        env={"FAULTLENS": "0"},
    )


def test_a_function_that_is_not_known_is_one_warning_and_what_is_raised_counts() -> None:
    failures, log = children.report(
        HOOKED
        + """
import faultlens, inside, logging
log = []
class Keeping(logging.Handler):
    def emit(self, record):
        log.append(record.getMessage())
logging.getLogger("faultlens").addHandler(Keeping())
async def _handle_activation(self, activation):
    pass
workflow._WorkflowWorker._handle_activation = _handle_activation
faultlens.enable()
try:
    raise temporalio.exceptions.ApplicationError("no")
except temporalio.exceptions.ApplicationError:
    pass
inside.report([inside.failures(), log])
""",
        env={"FAULTLENS": "0"},
    )
    assert failures == {"temporalio.exceptions.ApplicationError|user|w": 1}
    (warning,) = log
    assert "_WorkflowWorker._handle_activation as it is known; without it the runs" in warning


def test_what_another_version_of_the_sdk_lacks_does_not_reach_the_worker() -> None:
    class Other(Temporal):
        def __init__(self) -> None:
            self.classes = {}

    hooked, recorder, nothing = hooks.Hooks(Other()), Mock(), object()
    recorder.attempted.side_effect = recorder.outcome.side_effect = KeyError

    async def run(self: object, *args: object) -> str:
        return "ran"

    def encode_failure() -> object:
        exception = ValueError("no")
        return convert(nothing, exception)

    convert = hooked._converting(lambda self, exc: "converted", recorder)
    encode = FunctionType(
        encode_failure.__code__,
        {"__name__": "temporalio.activity"},
        closure=(encode_failure.__closure__),
    )
    assert encode() == "converted"
    for wrapped in (
        hooked._attempting(run),
        hooked._activating(run, recorder),
        hooked._completing(run, "ok", recorder),
        hooks._within_worker(run, recorder),
        hooks._reporting(run, partial(hooked._attempt_ended, recorder)),
    ):
        assert asyncio.run(wrapped(nothing, nothing, nothing)) == "ran"
