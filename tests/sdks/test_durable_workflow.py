"""The rules for the kind, attribute by attribute; for the newest version's classes by name only."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import durable_workflow.errors
import pytest

from faultlens.failure import Kind
from faultlens.sdks.durable_workflow import DurableWorkflow
from faultlens.sdks.durable_workflow.kinds import RULES

adapter = DurableWorkflow(durable_workflow.errors)


def made(name: str, **attributes: Any) -> Exception:
    """An exception of the class, which the installed version may lack."""
    exc = type(name, (Exception,), {"__module__": "durable_workflow.errors"})()
    vars(exc).update(attributes)
    return exc


def kind(name: str, **attributes: Any) -> str:
    exc = made(name, **attributes)
    return adapter.rule(type(exc)).kind(exc).value


def fault(name: str, **attributes: Any) -> tuple[str, str]:
    """The kind and the reason."""
    exc = made(name, **attributes)
    rule = adapter.rule(type(exc))
    return kind(name, **attributes), adapter.reason(exc, rule) or rule.reason


# fmt: off
REASONS = {
    "oom", "preempted", "image", "scheduling", "timeout", "network", "storage", "database",
    "throttled", "disk", "gpu", "auth", "config", "code", "input", "cancelled", "platform",
}
# fmt: on
"""The words of the design."""

NATIVE = {
    "builtins.ConnectionRefusedError": ("system", "network"),
    "ConnectionError": ("system", "network"),
    "requests.exceptions.ConnectionError": ("system", "network"),
    "builtins.MemoryError": ("system", "oom"),
    "builtins.OSError": ("system", ""),
    "builtins.FileNotFoundError": ("user", "code"),
    "httpx.ConnectError": ("system", "network"),
    "httpx.ReadTimeout": ("system", "timeout"),
    "builtins.TimeoutError": ("unknown", "timeout"),
    "_LocalActivityTimedOut": ("unknown", "timeout"),
    "Illuminate\\Database\\QueryException": ("system", "database"),
    "RuntimeException": ("unknown", ""),
    "durable_workflow.errors.Unauthorized": ("user", "auth"),
    "durable_workflow.errors.ServerError": ("unknown", ""),
    "builtins.ValueError": ("user", "code"),
    "app.errors.Refused": ("user", "code"),
}
"""The kind and the reason of a native class."""


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, {}, "system"),
        (503, None, "system"),
        (408, {}, "system"),
        (429, {}, "system"),
        (412, {}, "system"),
        (200, "not json", "system"),
        (400, {}, "user"),
        (404, {"reason": "no_such_thing"}, "user"),
        (409, {"reason": "lease_expired"}, "system"),
        (409, {"reason": "task_not_leased"}, "system"),
        (409, {"reason": "run_closed"}, "system"),
        (409, {"reason": "attempt_mismatch"}, "system"),
        (409, {"reason": ["lease_"]}, "user"),
        (None, {}, "unknown"),
        ("500", {}, "unknown"),
    ],
)
def test_a_server_error_is_judged_by_status_and_reason(
    status: object, body: object, expected: str
) -> None:
    assert kind("ServerError", status=status, body=body) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "unknown"),
        ("", "unknown"),
        (7, "unknown"),
        ("durable_workflow.errors.NonRetryableError", "user"),
        ("durable_workflow.errors.AvroNotInstalledError", "system"),
        ("durable_workflow.errors.ServerError", "unknown"),
        ("builtins.ConnectionError", "system"),
        ("ConnectionRefusedError", "system"),
        ("OSError", "system"),
        ("builtins.MemoryError", "system"),
        ("httpx.ReadTimeout", "system"),
        ("Illuminate\\Database\\QueryException", "system"),
        ("PDOException", "system"),
        ("builtins.TimeoutError", "unknown"),
        ("app.PaymentTimeout", "unknown"),
        ("builtins.ValueError", "user"),
        ("app.errors.Refused", "user"),
    ],
)
@pytest.mark.parametrize("cls", ["WorkflowFailed", "ChildWorkflowFailed"])
def test_a_failed_workflow_is_judged_by_the_class_that_failed_it(
    cls: str, name: object, expected: str
) -> None:
    assert kind(cls, exception_class=name) == expected


@pytest.mark.parametrize(
    ("category", "name", "expected"),
    [
        ("cancelled", None, "user"),
        ("terminated", None, "user"),
        ("structural_limit", None, "user"),
        ("task_failure", None, "user"),
        ("internal", None, "system"),
        ("timeout", None, "unknown"),
        ("timeout", "builtins.ConnectionError", "unknown"),
        (None, None, "unknown"),
        (["internal"], "builtins.OSError", "system"),
    ],
)
def test_a_failed_activity_is_judged_by_its_category_first(
    category: object, name: object, expected: str
) -> None:
    assert kind("ActivityFailed", failure_category=category, exception_class=name) == expected


@pytest.mark.parametrize("name", [None, *NATIVE])
@pytest.mark.parametrize("category", ["application", "activity", "child_workflow", None])
def test_a_category_that_says_only_where_leaves_the_kind_to_the_native_class(
    category: str | None, name: str | None
) -> None:
    at_the_worker = fault("ActivityFailed", failure_category=category, exception_class=name)
    assert at_the_worker == fault("WorkflowFailed", exception_class=name)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("query_worker_unavailable", "system"),
        ("query_worker_timeout", "system"),
        ("query_worker_execution_timeout", "system"),
        ("query_worker_incompatible", "system"),
        ("query_task_not_claimed", "system"),
        ("query_workflow_state_unavailable", "unknown"),
        ("query_rejected", "user"),
        (None, "user"),
        ({}, "user"),
    ],
)
def test_a_failed_query_is_judged_by_its_reason(reason: object, expected: str) -> None:
    assert kind("QueryFailed", reason=reason) == expected


@pytest.mark.parametrize(
    ("reason", "retryable", "expected"),
    [
        ("update_worker_unavailable", False, "system"),
        ("update_worker_lost", False, "system"),
        ("update_task_not_claimed", False, "system"),
        ("validation_execution_timeout", False, "system"),
        ("rejected", True, "system"),
        ("rejected", False, "user"),
        (None, None, "user"),
    ],
)
def test_a_failed_validation_is_judged_by_reason_and_retryable(
    reason: object, retryable: object, expected: str
) -> None:
    assert kind("UpdateValidationFailed", reason=reason, retryable=retryable) == expected


def test_an_exception_that_holds_another_takes_its_kind() -> None:
    refused = durable_workflow.errors.Unauthorized()
    assert kind("RuntimeDiscoveryUnavailable", cause=None) == "system"
    assert kind("RuntimeDiscoveryUnavailable", cause=refused) == "user"
    assert kind("RuntimeDiscoveryUnavailable", cause=ValueError()) == "system"
    assert kind("SagaCompensationFailed", compensation_failure=refused) == "user"
    assert kind("SagaCompensationFailed", compensation_failure=ValueError()) == "unknown"


def test_two_exceptions_that_hold_each_other_cause_no_endless_loop() -> None:
    names = ("RuntimeDiscoveryUnavailable", "SagaCompensationFailed")
    first, second = (
        type(name, (Exception,), {"__module__": "durable_workflow.errors"})() for name in names
    )
    first.cause, second.compensation_failure = second, first
    assert adapter.rule(type(first)).kind(first) is Kind.SYSTEM
    assert adapter.rule(type(second)).kind(second) is Kind.UNKNOWN


def test_a_user_s_class_takes_the_rule_of_its_nearest_base() -> None:
    class Declined(durable_workflow.errors.NonRetryableError):
        pass

    class Mixed(ValueError, durable_workflow.errors.ServerError):
        # Before 3.14, ValueError has one of its own.
        __init__ = durable_workflow.errors.ServerError.__init__

    assert adapter.rule(Declined).kinds == (Kind.USER,)
    mixed = Mixed(503, {})
    assert adapter.rule(Mixed).kind(mixed) is Kind.SYSTEM


@pytest.mark.parametrize("name", ["ThingNotFound", "JobAlreadyStarted", "QueueAlreadyExists"])
def test_a_future_class_that_follows_the_naming_is_the_caller_s_fault(name: str) -> None:
    assert kind(name) == "user"


def test_a_future_class_that_does_not_follow_the_naming_is_unknown() -> None:
    assert kind("SomethingElse") == "unknown"


@pytest.mark.parametrize(("name", "expected"), NATIVE.items())
def test_a_native_class_has_a_kind_and_a_reason(name: str, expected: tuple[str, str]) -> None:
    assert fault("WorkflowFailed", exception_class=name) == expected


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("ServerError", {"status": 503, "body": {}}, "platform"),
        ("ServerError", {"status": 429, "body": {}}, "throttled"),
        ("ServerError", {"status": 504, "body": {}}, "timeout"),
        ("ServerError", {"status": 403, "body": {}}, "auth"),
        ("ServerError", {"status": 404, "body": {}}, "input"),
        ("ServerError", {"status": 409, "body": {"reason": "lease_expired"}}, "platform"),
        ("ServerError", {"status": None, "body": {}}, ""),
        ("QueryFailed", {"reason": "query_worker_timeout"}, "timeout"),
        ("QueryFailed", {"reason": "query_not_found"}, "input"),
        ("QueryFailed", {"reason": None}, "code"),
        ("UpdateValidationFailed", {"reason": "validation_execution_timeout"}, "timeout"),
        ("UpdateValidationFailed", {"reason": "rejected", "retryable": True}, "platform"),
        ("ActivityFailed", {"failure_category": "internal"}, "platform"),
        ("ActivityFailed", {"failure_category": "structural_limit"}, "input"),
        ("RuntimeDiscoveryUnavailable", {"cause": durable_workflow.errors.Unauthorized()}, "auth"),
        ("RuntimeDiscoveryUnavailable", {"cause": None}, "platform"),
        ("SagaCompensationFailed", {"compensation_failure": ValueError()}, ""),
        ("WorkflowNotFound", {}, "input"),
        ("ActivityCancelled", {}, "cancelled"),
        ("SomethingElse", {}, ""),
    ],
)
def test_what_went_wrong(name: str, attributes: dict[str, Any], expected: str) -> None:
    assert fault(name, **attributes)[1] == expected


def test_every_reason_is_a_known_word() -> None:
    for name, rule in RULES.items():
        assert {rule.reason, adapter.reason(made(name), rule)} <= REASONS | {""}, name


class StockError(ValueError):
    pass


@pytest.mark.parametrize(
    ("cls", "attributes", "code", "names"),
    [
        (
            "ActivityFailed",
            {"exception_class": f"{__name__}.StockError", "exception_type": "StockError"},
            "StockError",
            (f"{__name__}.StockError",),
        ),
        # SDK 0.2.0 reports the type, and the server adds its own class.
        (
            "ActivityFailed",
            {"exception_class": "RuntimeException", "exception_type": "TimeoutError"},
            "TimeoutError",
            ("TimeoutError",),
        ),
        (
            "WorkflowFailed",
            {"exception_class": "App\\Errors\\Refused"},
            "Refused",
            ("App\\Errors\\Refused",),
        ),
        (
            "ChildWorkflowFailed",
            {"exception_class": "no.such.module.Refused"},
            "Refused",
            ("no.such.module.Refused",),
        ),
        ("ActivityFailed", {"code": 7}, 7, ()),
        ("ServerError", {"exception_class": "builtins.ValueError"}, None, ()),
    ],
)
def test_a_carrier_has_the_native_class_as_code_and_its_name_for_rules(
    cls: str, attributes: dict[str, Any], code: object, names: tuple[str, ...]
) -> None:
    whole = DurableWorkflow(_errors_of(cls))
    exc = whole.classes[f"durable_workflow.errors.{cls}"]()
    vars(exc).update(attributes)
    assert whole.code(exc) == code
    assert whole.native_names(exc) == names


def _errors_of(*names: str) -> ModuleType:
    """An errors module with classes that the installed version may lack."""
    module = ModuleType("durable_workflow.errors")
    for name in names:
        setattr(module, name, type(made(name)))
    return module


def test_every_rule_gives_only_the_kinds_it_declares() -> None:
    for rule in RULES.values():
        assert rule.kind(Exception()) in rule.kinds


def test_every_class_of_the_installed_version_has_its_own_rule_or_one_by_name() -> None:
    module: ModuleType = durable_workflow.errors
    named = ("NotFound", "AlreadyStarted", "AlreadyExists")
    without = [
        cls.__name__
        for cls in adapter.classes.values()
        if cls.__name__ not in RULES and not cls.__name__.endswith(named)
    ]
    assert (module.__name__, without) == ("durable_workflow.errors", [])
