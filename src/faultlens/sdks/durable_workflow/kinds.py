"""Whose fault a Durable Workflow exception is.

The exceptions carry no kind. The class decides, and where one class stands for several causes, its
attributes:

    ServerError                       by status and reason
    QueryFailed                       by reason
    UpdateValidationFailed            by reason and retryable
    WorkflowFailed, ChildWorkflowFailed   by exception_class, the class that failed the workflow
    ActivityFailed                    by failure_category, then exception_class
    RuntimeDiscoveryUnavailable       system, or the kind of its cause
    SagaCompensationFailed            the kind of the compensation's failure
    the caller's input, credentials, state, code or deliberate act   user
    storage, leases, a broken installation                           system
    nothing given that would tell                                    unknown

A class that is not in `RULES` takes the rule of its nearest base.
"""

from __future__ import annotations

import builtins
from typing import Any

from faultlens import guard
from faultlens.failure import Kind
from faultlens.sdks import ANY_KIND, SYSTEM, UNKNOWN, USER, Rule

__all__ = ["RULES", "rule_for"]


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


def _kind_of_status(exc: Any) -> Kind:
    status, body = guard.attribute(exc, "status"), guard.attribute(exc, "body")
    reason = body.get("reason") if type(body) is dict else None
    if type(reason) is str and (reason.startswith("lease_") or reason in _LEASE_REASONS):
        return Kind.SYSTEM
    if type(status) is not int:
        return Kind.UNKNOWN
    if 400 <= status < 500 and status not in (408, 412, 429):
        return Kind.USER
    return Kind.SYSTEM  # 5xx, asked to wait, and a success whose body is invalid


_LEASE_REASONS = ("task_not_leased", "run_closed", "attempt_mismatch")


def _kind_of_query(exc: Any) -> Kind:
    reason = guard.attribute(exc, "reason")
    if type(reason) is str and reason in _QUERY_NOT_SERVED:
        return Kind.SYSTEM
    if type(reason) is str and reason == "query_workflow_state_unavailable":
        return Kind.UNKNOWN
    return Kind.USER


_QUERY_NOT_SERVED = frozenset(
    {
        "query_worker_unavailable",
        "query_worker_timeout",
        "query_worker_execution_timeout",
        "query_worker_incompatible",
        "query_task_not_claimed",
    }
)


def _kind_of_update_validation(exc: Any) -> Kind:
    reason = guard.attribute(exc, "reason")
    not_served = type(reason) is str and reason.endswith(
        (
            "_worker_unavailable",
            "_worker_incompatible",
            "_worker_lost",
            "not_claimed",
            "execution_timeout",
        )
    )
    return Kind.SYSTEM if not_served or guard.attribute(exc, "retryable") is True else Kind.USER


def _kind_of_class_name(name: object) -> Kind:
    """The kind of a failure of which only its class's name is left, in Python's or PHP's form."""
    if type(name) is not str or not name:
        return Kind.UNKNOWN
    module, _, short = name.replace("\\", ".").rpartition(".")
    if module in ("", "durable_workflow.errors") and short in RULES:
        rule = RULES[short]
        return rule.kinds[0] if len(rule.kinds) == 1 else Kind.UNKNOWN
    if name == "RuntimeException":
        return (
            Kind.UNKNOWN
        )  # what the server, a PHP one, puts where a worker of 0.2.0 tells no class
    builtin = getattr(builtins, short, None) if module in ("", "builtins") else None
    if isinstance(builtin, type) and issubclass(builtin, (ConnectionError, MemoryError)):
        return Kind.SYSTEM
    if (
        short in ("ConnectionError", "OSError", "MemoryError")
        or module.split(".")[0] == "httpx"
        or short.endswith(("QueryException", "PDOException"))
    ):
        return Kind.SYSTEM
    return Kind.UNKNOWN if "timeout" in short.lower() else Kind.USER


def _kind_of_workflow_failure(exc: Any) -> Kind:
    return _kind_of_class_name(guard.attribute(exc, "exception_class"))


def _kind_of_activity_failure(exc: Any) -> Kind:
    category = guard.attribute(exc, "failure_category")
    if type(category) is str and category in _CATEGORIES:
        return _CATEGORIES[category]
    return _kind_of_class_name(
        guard.attribute(exc, "exception_class") or guard.attribute(exc, "exception_type")
    )


_CATEGORIES = {
    "application": Kind.USER,
    "cancelled": Kind.USER,
    "terminated": Kind.USER,
    "structural_limit": Kind.USER,
    "task_failure": Kind.USER,
    "internal": Kind.SYSTEM,
    "timeout": Kind.UNKNOWN,
}


def _kind_of_discovery(exc: Any) -> Kind:
    return _kind_of_sdk_exception(guard.attribute(exc, "cause"), otherwise=Kind.SYSTEM)


def _kind_of_compensation(exc: Any) -> Kind:
    failure = guard.attribute(exc, "compensation_failure")
    return _kind_of_sdk_exception(failure, otherwise=Kind.UNKNOWN)


def _kind_of_sdk_exception(exc: object, otherwise: Kind) -> Kind:
    """The kind of an exception that another one holds, by the first rule for its class."""
    for base in guard.mro(type(exc)):
        module, _, name = guard.class_name(base).rpartition(".")
        # Not the two classes that hold another one: a cycle would never end.
        if module == "durable_workflow.errors" and name in RULES and name not in _HOLDERS:
            return RULES[name].kind(exc)  # type: ignore[arg-type]
    return otherwise


_HOLDERS = ("RuntimeDiscoveryUnavailable", "SagaCompensationFailed")

_CALLER = Rule(USER, "the caller's input, credentials or state")
_HANDLER = Rule(USER, "the user's validator or handler")
_DELIBERATE = Rule(USER, "a deliberate act")
_DEPLOYED = Rule(USER, "the deployed workflow code does not fit")
_REFERENCE = Rule(USER, "the payload's size, reference or credential")
_STORAGE = Rule(SYSTEM, "payload storage")
_LEASE = Rule(SYSTEM, "the lease was lost")
_NO_CAUSE = Rule(UNKNOWN, "the cause is not given")
_VERSIONS = Rule(UNKNOWN, "versions that may not fit")

RULES = {
    "DurableWorkflowError": Rule(UNKNOWN, "the base class says nothing"),
    "ServerError": Rule(ANY_KIND, "by status and reason", _kind_of_status),
    "Unauthorized": _CALLER,
    "InvalidArgument": _CALLER,
    "ScheduleListError": _CALLER,
    "UpdateRejected": _HANDLER,
    "UpdateFailed": _HANDLER,
    "SignalFailed": _HANDLER,
    "QueryFailed": Rule(ANY_KIND, "by reason", _kind_of_query),
    "UpdateValidationFailed": Rule(
        (Kind.USER, Kind.SYSTEM), "by reason and retryable", _kind_of_update_validation
    ),
    "WorkflowFailed": Rule(ANY_KIND, "by exception_class", _kind_of_workflow_failure),
    "ChildWorkflowFailed": Rule(ANY_KIND, "by exception_class", _kind_of_workflow_failure),
    "ActivityFailed": Rule(
        ANY_KIND, "by failure_category, then exception_class", _kind_of_activity_failure
    ),
    "ChildWorkflowCancelled": _DELIBERATE,
    "ChildWorkflowTerminated": _DELIBERATE,
    "WorkflowTerminated": _DELIBERATE,
    "WorkflowCancelled": _DELIBERATE,
    "ActivityCancelled": _DELIBERATE,
    "DurableOperationCancelled": _DELIBERATE,
    "WorkflowTimedOut": _NO_CAUSE,
    "WorkflowPayloadDecodeError": _NO_CAUSE,
    "NexusOperationFailed": _NO_CAUSE,
    "NonRetryableError": Rule(USER, "raised by the application"),
    "AvroNotInstalledError": Rule(SYSTEM, "a broken installation"),
    "NonDeterministicReplayError": _DEPLOYED,
    "WorkflowEntryArgumentsMismatchError": _DEPLOYED,
    "InvalidWorkflowDefinition": _DEPLOYED,
    "DuplicateRegistrationError": _DEPLOYED,
    "FailureReportTooLarge": _DEPLOYED,
    "RuntimeCapabilityUnsupported": _DEPLOYED,
    "ExternalPayloadUnavailable": _STORAGE,
    "ExternalPayloadIntegrityMismatch": _STORAGE,
    "ExternalPayloadOversized": _REFERENCE,
    "ExternalPayloadExpired": _REFERENCE,
    "ExternalPayloadNotFound": _REFERENCE,
    "ExternalPayloadUnauthorized": _REFERENCE,
    "ExternalPayloadError": _VERSIONS,
    "ExternalPayloadUnsupported": _VERSIONS,
    "ActivityLeaseAuthorityLost": _LEASE,
    "QueryTaskAuthorityLost": _LEASE,
    "RuntimeDiscoveryUnavailable": Rule(
        ANY_KIND, "system, or the kind of its cause", _kind_of_discovery
    ),
    "SagaCompensationFailed": Rule(
        ANY_KIND, "the kind of the compensation's failure", _kind_of_compensation
    ),
}
