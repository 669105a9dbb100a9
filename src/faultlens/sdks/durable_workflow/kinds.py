"""Whose fault a Durable Workflow exception is, and what went wrong.

The exceptions carry no kind. The class decides, and where one class stands for several causes, its
attributes:

    ServerError                       by status and reason
    QueryFailed                       by reason
    UpdateValidationFailed            by reason and retryable
    WorkflowFailed, ChildWorkflowFailed   by the native class, the one that failed the workflow
    ActivityFailed                    by failure_category, then the native class:
        internal                        system: the server, its database, a worker that was lost
        timeout                         unknown: the code was slow, or the worker
        cancelled, terminated           user: a deliberate act
        structural_limit, task_failure  user: too large a payload, code that does not replay
        application, activity,          the native class. They tell where it was raised, in an
          child_workflow, none            activity or a child, and not why; and a workflow that
                                          fails by it comes to its client with the class alone
    RuntimeDiscoveryUnavailable       system, or the kind of its cause
    SagaCompensationFailed            the kind of the compensation's failure
    the caller's input, credentials, state, code or deliberate act   user
    storage, leases, a broken installation                           system
    nothing given that would tell                                    unknown

A native class is judged by its name alone: its bases are known only where its module is imported,
and a failure must have the same kind at its worker and at its client:

    ConnectionError, MemoryError and below, OSError, httpx.*   system
    *QueryException, *PDOException: the server's database      system
    *Timeout*, *TimedOut*; none, or RuntimeException, which a
      PHP server puts where SDK 0.2.0 sends no class           unknown
    an SDK's class                                             as above, if the class decides
    any other: the application's                               user

A class that is not in `RULES` takes the rule of its nearest base.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faultlens import guard
from faultlens.failure import Kind
from faultlens.sdks import ANY_KIND, SYSTEM, UNKNOWN, USER, Rule
from faultlens.sdks.durable_workflow.natives import name_of

__all__ = ["RULES", "reason_of", "rule_for"]

Fault = tuple[Kind, str]
"""A kind and a reason."""


def rule_for(cls: type) -> Rule:
    """The rule of a class, or of its nearest base that has one."""
    for base in guard.mro(cls):
        module, _, name = guard.class_name(base).rpartition(".")
        if module == "durable_workflow.errors":
            if name in RULES:
                return RULES[name]
            if name.endswith(("NotFound", "AlreadyStarted", "AlreadyExists")):
                return _CALLER
    return Rule(UNKNOWN, "no rule")


def reason_of(exc: BaseException, rule: Rule) -> str:
    """What went wrong, where the attributes decide it; else empty: `rule`, its own, has it."""
    decide = rule.decide
    return decide.fault(exc)[1] if isinstance(decide, _By) else ""


@dataclass(frozen=True)
class _By:
    """Decides by the attributes."""

    fault: Callable[[Any], Fault]

    def __call__(self, exc: Any) -> Kind:
        return self.fault(exc)[0]


def _of_status(exc: Any) -> Fault:
    status, body = guard.attribute(exc, "status"), guard.attribute(exc, "body")
    reason = body.get("reason") if type(body) is dict else None
    if type(reason) is str and (reason.startswith("lease_") or reason in _LEASE_REASONS):
        return Kind.SYSTEM, "platform"
    if type(status) is not int:
        return Kind.UNKNOWN, ""
    if status in _STATUSES:
        return _STATUSES[status]
    if 400 <= status < 500:
        return Kind.USER, "input"
    return Kind.SYSTEM, "platform"  # 5xx, and a success whose body is invalid


_LEASE_REASONS = ("task_not_leased", "run_closed", "attempt_mismatch")
_STATUSES: dict[int, Fault] = {
    401: (Kind.USER, "auth"),
    403: (Kind.USER, "auth"),
    408: (Kind.SYSTEM, "timeout"),
    412: (Kind.SYSTEM, "platform"),
    429: (Kind.SYSTEM, "throttled"),
    504: (Kind.SYSTEM, "timeout"),
}


def _of_query(exc: Any) -> Fault:
    reason = guard.attribute(exc, "reason")
    return _QUERY_REASONS.get(reason if type(reason) is str else "", (Kind.USER, "code"))


_QUERY_REASONS: dict[str, Fault] = {
    "query_worker_unavailable": (Kind.SYSTEM, "platform"),
    "query_worker_timeout": (Kind.SYSTEM, "timeout"),
    "query_worker_execution_timeout": (Kind.SYSTEM, "timeout"),
    "query_worker_incompatible": (Kind.SYSTEM, "platform"),
    "query_task_not_claimed": (Kind.SYSTEM, "platform"),
    "query_workflow_state_unavailable": (Kind.UNKNOWN, ""),
    "query_not_found": (Kind.USER, "input"),
}


def _of_update_validation(exc: Any) -> Fault:
    reason = guard.attribute(exc, "reason")
    if type(reason) is str:
        if reason.endswith("execution_timeout"):
            return Kind.SYSTEM, "timeout"
        if reason.endswith(_NOT_SERVED):
            return Kind.SYSTEM, "platform"
    if guard.attribute(exc, "retryable") is True:
        return Kind.SYSTEM, "platform"
    return Kind.USER, "code"


_NOT_SERVED = ("_worker_unavailable", "_worker_incompatible", "_worker_lost", "not_claimed")


def _of_native_class(exc: Any) -> Fault:
    name = name_of(exc)
    if name is None:
        return Kind.UNKNOWN, ""
    module, _, short = name.replace("\\", ".").rpartition(".")
    if module in ("", "durable_workflow.errors") and short in RULES:
        rule = RULES[short]
        return (rule.kinds[0] if len(rule.kinds) == 1 else Kind.UNKNOWN), rule.reason
    if name == "RuntimeException":
        return Kind.UNKNOWN, ""
    builtin = getattr(builtins, short, None) if module in ("", "builtins") else None
    bases = guard.mro(builtin) if isinstance(builtin, type) else ()
    if ConnectionError in bases or short == "ConnectionError":
        return Kind.SYSTEM, "network"
    if MemoryError in bases or short == "MemoryError":
        return Kind.SYSTEM, "oom"
    if short == "OSError":
        return Kind.SYSTEM, ""
    if short.endswith(("QueryException", "PDOException")):
        return Kind.SYSTEM, "database"
    late = any(word in short.lower() for word in ("timeout", "timedout"))
    if module.split(".")[0] == "httpx":
        return Kind.SYSTEM, "timeout" if late else "network"
    return (Kind.UNKNOWN, "timeout") if late else (Kind.USER, "code")


def _of_activity(exc: Any) -> Fault:
    category = guard.attribute(exc, "failure_category")
    if type(category) is str and category in _CATEGORIES:
        return _CATEGORIES[category]
    return _of_native_class(exc)


_CATEGORIES: dict[str, Fault] = {
    "cancelled": (Kind.USER, "cancelled"),
    "terminated": (Kind.USER, "cancelled"),
    "structural_limit": (Kind.USER, "input"),
    "task_failure": (Kind.USER, "code"),
    "internal": (Kind.SYSTEM, "platform"),
    "timeout": (Kind.UNKNOWN, "timeout"),
}


def _of_discovery(exc: Any) -> Fault:
    return _of_held(guard.attribute(exc, "cause")) or (Kind.SYSTEM, "platform")


def _of_compensation(exc: Any) -> Fault:
    return _of_held(guard.attribute(exc, "compensation_failure")) or (Kind.UNKNOWN, "")


def _of_held(exc: object) -> Fault | None:
    """The fault of an exception that another one holds, by the first rule for its class."""
    for base in guard.mro(type(exc)):
        module, _, name = guard.class_name(base).rpartition(".")
        # Not the two classes that hold another one: a cycle would never end.
        if module == "durable_workflow.errors" and name in RULES and name not in _HOLDERS:
            decide = RULES[name].decide
            if isinstance(decide, _By):
                return decide.fault(exc)
            return RULES[name].kinds[0], RULES[name].reason
    return None


_HOLDERS = ("RuntimeDiscoveryUnavailable", "SagaCompensationFailed")

_CALLER = Rule(USER, "the caller's input, credentials or state", reason="input")
_DELIBERATE = Rule(USER, "a deliberate act", reason="cancelled")
_DEPLOYED = Rule(USER, "the deployed workflow code does not fit", reason="code")
_REFERENCE = Rule(USER, "the payload's size, reference or credential", reason="input")
_STORAGE = Rule(SYSTEM, "payload storage", reason="storage")
_LEASE = Rule(SYSTEM, "the lease was lost", reason="platform")
_NO_CAUSE = Rule(UNKNOWN, "the cause is not given")
_VERSIONS = Rule(UNKNOWN, "versions that may not fit", reason="storage")

RULES = {
    "DurableWorkflowError": Rule(UNKNOWN, "the base class says nothing"),
    "ServerError": Rule(ANY_KIND, "by status and reason", _By(_of_status)),
    "Unauthorized": _CALLER._replace(reason="auth"),
    "InvalidArgument": _CALLER,
    "ScheduleListError": _CALLER,
    "UpdateRejected": Rule(USER, "the user's validator", reason="input"),
    "UpdateFailed": Rule(USER, "the user's handler", reason="code"),
    "SignalFailed": _CALLER,
    "QueryFailed": Rule(ANY_KIND, "by reason", _By(_of_query)),
    "UpdateValidationFailed": Rule(
        (Kind.SYSTEM, Kind.USER), "by reason and retryable", _By(_of_update_validation)
    ),
    "WorkflowFailed": Rule(ANY_KIND, "by the native class", _By(_of_native_class)),
    "ChildWorkflowFailed": Rule(ANY_KIND, "by the native class", _By(_of_native_class)),
    "ActivityFailed": Rule(
        ANY_KIND, "by failure_category, then the native class", _By(_of_activity)
    ),
    "ChildWorkflowCancelled": _DELIBERATE,
    "ChildWorkflowTerminated": _DELIBERATE,
    "WorkflowTerminated": _DELIBERATE,
    "WorkflowCancelled": _DELIBERATE,
    "ActivityCancelled": _DELIBERATE,
    "DurableOperationCancelled": _DELIBERATE,
    "WorkflowTimedOut": _NO_CAUSE._replace(reason="timeout"),
    "WorkflowPayloadDecodeError": _NO_CAUSE,
    "NexusOperationFailed": _NO_CAUSE,
    "NonRetryableError": Rule(USER, "raised by the application", reason="code"),
    "AvroNotInstalledError": Rule(SYSTEM, "a broken installation", reason="config"),
    "NonDeterministicReplayError": _DEPLOYED,
    "WorkflowEntryArgumentsMismatchError": _DEPLOYED,
    "InvalidWorkflowDefinition": _DEPLOYED,
    "DuplicateRegistrationError": _DEPLOYED,
    "FailureReportTooLarge": _DEPLOYED,
    "RuntimeCapabilityUnsupported": _DEPLOYED._replace(reason="config"),
    "ExternalPayloadUnavailable": _STORAGE,
    "ExternalPayloadIntegrityMismatch": _STORAGE,
    "ExternalPayloadOversized": _REFERENCE,
    "ExternalPayloadExpired": _REFERENCE,
    "ExternalPayloadNotFound": _REFERENCE,
    "ExternalPayloadUnauthorized": _REFERENCE._replace(reason="auth"),
    "ExternalPayloadError": _VERSIONS,
    "ExternalPayloadUnsupported": _VERSIONS,
    "ActivityLeaseAuthorityLost": _LEASE,
    "QueryTaskAuthorityLost": _LEASE,
    "RuntimeDiscoveryUnavailable": Rule(
        ANY_KIND, "system, or the kind of its cause", _By(_of_discovery)
    ),
    "SagaCompensationFailed": Rule(
        ANY_KIND, "the kind of the compensation's failure", _By(_of_compensation)
    ),
}
