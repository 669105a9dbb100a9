"""Whose fault a Temporal exception is, and what went wrong.

The exceptions carry no kind. The class decides, and for some what the exception says:

    ApplicationError                    user     raised by the application, or a native exception
                                                 that the SDK converted
    TimeoutError, by its type
      SCHEDULE_TO_START                 system   no worker took the task
      START_TO_CLOSE, HEARTBEAT,
        SCHEDULE_TO_CLOSE               unknown  the code was slow, or its worker was lost
    ServerError                         system
    TerminatedError, CancelledError     user     a deliberate act
    ActivityError, ChildWorkflowError,  of the cause, the innermost one
      NexusOperationError,
      WorkflowFailureError,
      WorkflowUpdateFailedError,
      ActivityFailureError,
      NexusOperationFailureError
    RPCError, by its gRPC status
      PERMISSION_DENIED, UNAUTHENTICATED                             user
      INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
        FAILED_PRECONDITION, OUT_OF_RANGE                            user
      UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED,
        INTERNAL, DATA_LOSS, UNIMPLEMENTED                           system
      UNKNOWN, CANCELLED                                             unknown
    RPCTimeoutOrCancelledError          system   the call took too long
    *AlreadyStartedError, WorkflowQuery*, ScheduleAlreadyRunningError,
      InvalidVersioningOverrideError    user     what the caller asked for
    NondeterminismError, ReadOnlyContextError and below
                                        user     the workflow's code
    FailureError, TemporalError         unknown  they say nothing

A class that is not in `RULES` takes the rule of its nearest base.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from faultlens import guard
from faultlens.failure import Kind
from faultlens.sdks import ANY_KIND, CAUSE_LIMIT, SYSTEM, UNKNOWN, USER, Rule

__all__ = ["CARRIERS", "RULES", "code_of", "innermost", "name_of", "reason_of", "rule_for"]

CARRIERS = frozenset(
    {
        "ActivityError",
        "ChildWorkflowError",
        "NexusOperationError",
        "WorkflowFailureError",
        "WorkflowUpdateFailedError",
        "ActivityFailureError",
        "NexusOperationFailureError",
    }
)
"""The classes that say where something failed; their cause says what."""


class _Fault(NamedTuple):
    kind: Kind
    reason: str = ""


def name_of(cls: type) -> str:
    """The short name of the SDK's class that `cls` is or comes from; empty if there is none."""
    for base in guard.mro(cls):
        module, _, name = guard.class_name(base).rpartition(".")
        if module.startswith("temporalio."):
            return name
    return ""


def rule_for(cls: type) -> Rule:
    """The rule of a class, or of its nearest base that has one."""
    for base in guard.mro(cls):
        module, _, name = guard.class_name(base).rpartition(".")
        if module.startswith("temporalio."):
            if name in RULES:
                return RULES[name]
            if name.endswith("AlreadyStartedError"):
                return _CALLER
    return Rule(UNKNOWN, "no rule")


def reason_of(exc: BaseException) -> str:
    """What went wrong, where the exception says it; empty where its class does."""
    decide = rule_for(type(exc)).decide
    return _fault(exc).reason if decide is not None else ""


def code_of(exc: BaseException) -> object:
    """The type of an ApplicationError or a time-out, the status of an RPCError.

    Of a carrier that of the innermost cause.
    """
    inner = innermost(exc)
    name = name_of(type(inner))
    if name == "ApplicationError":
        return guard.attribute(inner, "_type")
    if name == "TimeoutError":
        return _member(inner, "_type")
    return _member(inner, "_status") if name == "RPCError" else None


def innermost(exc: BaseException) -> BaseException:
    """What is behind a carrier: the last of its causes that the SDK has a class for."""
    if name_of(type(exc)) not in CARRIERS:
        return exc
    found = exc
    for cause in guard.causes(exc, CAUSE_LIMIT):
        if not name_of(type(cause)):
            break
        found = cause
    return found


def _fault(exc: BaseException) -> _Fault:
    inner = innermost(exc)
    name = name_of(type(inner))
    if name == "TimeoutError":
        return _TIMEOUTS.get(_member(inner, "_type"), _Fault(Kind.UNKNOWN, "timeout"))
    if name == "RPCError":
        return _STATUSES.get(_member(inner, "_status"), _Fault(Kind.UNKNOWN))
    if name in CARRIERS:
        return _Fault(Kind.UNKNOWN)  # it names no cause
    rule = rule_for(type(inner))
    return _Fault(rule.kinds[0], rule.reason)


def _kind(exc: Any) -> Kind:
    return _fault(exc).kind


def _member(exc: BaseException, attribute: str) -> str:
    """The name of an enum's member that is an attribute."""
    name = guard.attribute(guard.attribute(exc, attribute), "_name_")
    return name if type(name) is str else ""


_TIMEOUTS = {"SCHEDULE_TO_START": _Fault(Kind.SYSTEM, "scheduling")}

_STATUSES = {
    "PERMISSION_DENIED": _Fault(Kind.USER, "auth"),
    "UNAUTHENTICATED": _Fault(Kind.USER, "auth"),
    "INVALID_ARGUMENT": _Fault(Kind.USER, "input"),
    "NOT_FOUND": _Fault(Kind.USER, "input"),
    "ALREADY_EXISTS": _Fault(Kind.USER, "input"),
    "FAILED_PRECONDITION": _Fault(Kind.USER, "input"),
    "OUT_OF_RANGE": _Fault(Kind.USER, "input"),
    "UNAVAILABLE": _Fault(Kind.SYSTEM, "network"),
    "DEADLINE_EXCEEDED": _Fault(Kind.SYSTEM, "timeout"),
    "RESOURCE_EXHAUSTED": _Fault(Kind.SYSTEM, "throttled"),
    "ABORTED": _Fault(Kind.SYSTEM, "platform"),
    "INTERNAL": _Fault(Kind.SYSTEM, "platform"),
    "DATA_LOSS": _Fault(Kind.SYSTEM, "platform"),
    "UNIMPLEMENTED": _Fault(Kind.SYSTEM, "platform"),
}

_CALLER = Rule(USER, "what the caller asked for", reason="input")
_DELIBERATE = Rule(USER, "a deliberate act", reason="cancelled")
_CODE = Rule(USER, "the workflow's code", reason="code")
_CAUSE = Rule(ANY_KIND, "by its cause", _kind)

RULES = {
    "TemporalError": Rule(UNKNOWN, "the base class says nothing"),
    "FailureError": Rule(UNKNOWN, "the base class says nothing"),
    "ApplicationError": Rule(USER, "raised by the application", reason="code"),
    "CancelledError": _DELIBERATE,
    "TerminatedError": _DELIBERATE,
    "AsyncActivityCancelledError": _DELIBERATE,
    "TimeoutError": Rule((Kind.SYSTEM, Kind.UNKNOWN), "by its type", _kind),
    "ServerError": Rule(SYSTEM, "the server failed", reason="platform"),
    "RPCError": Rule(ANY_KIND, "by its gRPC status", _kind),
    "RPCTimeoutOrCancelledError": Rule(SYSTEM, "the call took too long", reason="timeout"),
    "WorkflowQueryFailedError": Rule(USER, "the query's handler", reason="code"),
    "WorkflowQueryRejectedError": _CALLER,
    "WorkflowContinuedAsNewError": _CALLER,
    "ScheduleAlreadyRunningError": _CALLER,
    "InvalidVersioningOverrideError": _CALLER,
    "NondeterminismError": _CODE,
    "ReadOnlyContextError": _CODE,
    "_NotInWorkflowEventLoopError": _CODE,
    "UnintentionalPassthroughError": _CODE,
    **dict.fromkeys(CARRIERS, _CAUSE),
}
