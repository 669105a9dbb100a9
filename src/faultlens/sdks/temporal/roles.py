"""Origin or carrier: what a Temporal exception is to the failure behind it.

    raised                                                  counts as
    a native exception that ends an attempt of an activity,
      fails a workflow's run or task, a query or an update:
      raises no SDK exception, and is reported where the
      SDK converts it                                       failure
    in a workflow's code, not for the first time in its run replayed
    from a failure that came back: it has `.failure`
      a carrier whose cause only the server can have made:
        a time-out, a termination, its own failure          failure: no process saw it
      a carrier whose cause an SDK of another language made failure: it counts nowhere else
      a signal to, or a cancellation of, another workflow   failure: the server's answer
      any other                                             propagated: counted where it was raised
    WorkflowQueryFailedError                                propagated: its worker counted it
    a cancellation, a continue-as-new, an eviction, a BENIGN
      ApplicationError, an RPCError that the client handles control_flow
    from an SDK exception that was recorded                 wrapped (`faultlens.sdks`)
    anywhere else                                           failure

A workflow's code is deterministic: the n-th exception of a class in a run is the same in every
replay, and has counted if this process has seen it or the workflow is replaying.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from types import FrameType

from faultlens import guard
from faultlens.failure import Role
from faultlens.sdks import Verdict
from faultlens.sdks.memory import Claims, Ordinals
from faultlens.sdks.temporal.kinds import CARRIERS, code_of, innermost, name_of

__all__ = [
    "Roles",
    "ending_workflow",
    "is_benign",
    "is_cancellation",
    "is_rebuilt",
    "running_workflow",
    "update_in",
]

_running_loop = asyncio._get_running_loop  # of C, and not to be looked up in a workflow's sandbox

ending_workflow: contextvars.ContextVar[object] = contextvars.ContextVar(
    "faultlens_temporal_ending", default=None
)
"""The run whose end by an exception is reported: its loop no longer runs then."""

_BENIGN = 1
_CANCELLATIONS = frozenset({"CancelledError", "AsyncActivityCancelledError"})
_BY_THE_SERVER = frozenset({"TimeoutError", "TerminatedError", "ServerError"})
_OTHER_SDKS = frozenset({"GoSDK", "JavaSDK", "TypeScriptSDK"})
"""What other SDKs call themselves in the failures that they make."""

_FRAMES = 24
"""How far up a function of the SDK is looked for."""
_TO_ANOTHER = ("_signal_external_workflow", "_cancel_external_workflow")
_HANDLED = (
    # function of the client          status                what the answer says
    ("query_workflow", "INVALID_ARGUMENT", b""),
    ("start_workflow", "ALREADY_EXISTS", b"AlreadyStarted"),
    ("start_activity", "ALREADY_EXISTS", b"AlreadyStarted"),
    ("start_nexus_operation", "ALREADY_EXISTS", b"AlreadyStarted"),
    ("create_schedule", "ALREADY_EXISTS", b"AlreadyStarted"),
)
"""The RPCErrors that the client makes something else of."""


def running_workflow() -> object:
    """The run of a workflow whose code this thread executes, or ends; None outside of one.

    It is the event loop of that code.
    """
    loop = ending_workflow.get() or _running_loop()
    return loop if guard.short_name(type(loop)) == "_WorkflowInstanceImpl" else None


def is_benign(exc: BaseException) -> bool:
    """Whether it is an ApplicationError that its author does not want to see as a failure."""
    category = guard.attribute(exc, "_category")
    return guard.attribute(category, "_value_") == _BENIGN and _is(exc, "ApplicationError")


def is_cancellation(exc: BaseException) -> bool:
    """Whether it says that something was cancelled, as a carrier too."""
    inner = innermost(exc)
    return issubclass(type(inner), asyncio.CancelledError) or name_of(type(inner)) in _CANCELLATIONS


def is_rebuilt(exc: BaseException) -> bool:
    """Whether the SDK made it from a failure that came back."""
    return guard.attribute(exc, "_failure") is not None


def update_in(frames: Iterable[FrameType]) -> str:
    """The id of the update that the frames handle; empty if they handle none."""
    for at in frames:
        if at.f_code.co_name == "run_update" and _is_of_sdk(at):
            return str(getattr(at.f_locals.get("job"), "id", ""))  # protobuf, of C
    return ""


class Roles:
    """What was seen of the runs in this process, and what follows from it.

    running_run: gives the run whose task a worker handles, outside of the workflow's code.
    """

    def __init__(self, running_run: Callable[[], str]) -> None:
        self._running_run = running_run
        self._claims = Claims()
        self._ordinals = Ordinals()

    def verdict(self, exc: BaseException, frame: FrameType | None) -> Verdict | None:
        name = name_of(type(exc))
        verdict = _of_control_flow(exc, name)
        if verdict is not None:
            return verdict
        verdict = (
            _of_carrier(exc, name) or _of_rebuilt(exc, frame) or _of_the_client(exc, name, frame)
        )
        replayed = self._replayed(exc, frame)
        if replayed is None:
            return verdict
        if verdict is None and guard.cause_of(exc) is None:  # it counted
            return replayed._replace(carries=guard.class_name(type(exc)))
        return replayed._replace(carries=verdict.carries if verdict is not None else None)

    def _replayed(self, exc: BaseException, frame: FrameType | None) -> Verdict | None:
        workflow, name = running_workflow(), guard.class_name(type(exc))
        if workflow is None:
            run_id = self._running_run()
            if run_id and self._claims.claim(("task", run_id, name), exc, name) is not None:
                return Verdict(Role.REPLAYED, "the task has failed by it before")
            return None
        run_id = guard.attribute(guard.attribute(workflow, "_info"), "run_id")
        if type(run_id) is not str:
            return None
        if guard.attribute(workflow, "_deleting") is True:
            return Verdict(Role.CONTROL_FLOW, "raised while the workflow is evicted")
        if guard.attribute(workflow, "_read_only") is True:
            # A query is not replayed. An update that is not valid may be sent to the worker again.
            update = update_in(guard.frames(exc, frame, _FRAMES))
            key: tuple[object, ...] = ("update", run_id, update, name)
            if update and self._claims.claim(key, exc, name) is not None:
                return Verdict(Role.REPLAYED, "the update has failed by it before")
            return None
        key = run_id, name, self._ordinals.number(workflow, name, exc)
        if self._claims.claim(key, exc, name) is not None:
            return Verdict(Role.REPLAYED, "raised in this run before")
        if guard.attribute(workflow, "_is_replaying") is True:
            return Verdict(Role.REPLAYED, "raised in a replay, and in another process before")
        return None


def _is(exc: BaseException, name: str) -> bool:
    return name_of(type(exc)) == name


def _of_control_flow(exc: BaseException, name: str) -> Verdict | None:
    if name == "WorkflowContinuedAsNewError":
        return Verdict(Role.CONTROL_FLOW, "the workflow goes on in another run")
    if is_cancellation(exc):
        return Verdict(Role.CONTROL_FLOW, "a cancellation")
    if name == "RPCError" and code_of(exc) == "CANCELLED":
        return Verdict(Role.CONTROL_FLOW, "the call was cancelled")
    if name == "WorkflowUpdateRPCTimeoutOrCancelledError" and issubclass(
        type(guard.cause_of(exc)), asyncio.CancelledError
    ):
        return Verdict(Role.CONTROL_FLOW, "the call was cancelled")
    if is_benign(exc):
        return Verdict(Role.CONTROL_FLOW, "its category is BENIGN")
    return None


def _of_carrier(exc: BaseException, name: str) -> Verdict | None:
    cause = guard.cause_of(exc)
    if name not in CARRIERS or cause is None:
        return None
    inner = innermost(exc)
    carried = guard.class_name(type(inner))
    while _is(cause, "TimeoutError") and (last := guard.cause_of(cause)) is not None:
        cause = last  # the last attempt's failure, when the time for all of them was up
    if name_of(type(cause)) in _BY_THE_SERVER:
        return Verdict(Role.ORIGIN, f"{carried}, which no process saw", carries=carried)
    source = getattr(guard.attribute(cause, "_failure"), "source", None)  # protobuf, of C
    if type(source) is str and source in _OTHER_SDKS and name_of(type(cause)) not in CARRIERS:
        return Verdict(Role.ORIGIN, f"made by the {source}", carries=carried)
    return Verdict(Role.PROPAGATED, "rebuilt from a failure", carries=carried)


def _of_rebuilt(exc: BaseException, frame: FrameType | None) -> Verdict | None:
    if not is_rebuilt(exc):
        return None
    for at in guard.frames(exc, frame, _FRAMES):
        if at.f_code.co_name in _TO_ANOTHER and _is_of_sdk(at):
            return Verdict(Role.ORIGIN, "the server's answer about another workflow")
    return Verdict(Role.PROPAGATED, "rebuilt from a failure", carries=guard.class_name(type(exc)))


def _of_the_client(exc: BaseException, name: str, frame: FrameType | None) -> Verdict | None:
    if name == "WorkflowQueryFailedError":
        return Verdict(Role.PROPAGATED, "a worker has answered with it")
    if name != "RPCError":
        return None
    status, answer = code_of(exc), guard.attribute(exc, "_raw_grpc_status")
    rows = [row for row in _HANDLED if row[1] == status]
    if not rows or type(answer) is not bytes:
        return None
    for at in guard.frames(exc, frame, _FRAMES):
        for function, _, says in rows:
            if at.f_code.co_name == function and _is_of_sdk(at) and says in answer:
                return Verdict(Role.CONTROL_FLOW, f"{status}, handled by {function}")
    return None


def _is_of_sdk(frame: FrameType) -> bool:
    module = dict.get(frame.f_globals, "__name__")
    return type(module) is str and module.startswith("temporalio.")
