"""Temporal (`temporalio.exceptions`, `.client`, `.service`, `.workflow`), 1.8.0 to 1.35.0.

kinds.py    whose fault and what went wrong: one rule for each class
roles.py    origin or carrier
hooks.py    what runs, how it ends, and the exceptions that the SDK converts
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.sdks import PrivateHook, Recorder, Rule, Sdk, Verdict
from faultlens.sdks.temporal import hooks, kinds
from faultlens.sdks.temporal.roles import Roles, is_rebuilt

__all__ = ["Temporal"]

_ROOT = "temporalio.exceptions.TemporalError"


class Temporal(Sdk):
    """See `faultlens.sdks.Sdk`."""

    interface = 1
    package = "temporalio"
    distribution = "temporalio"
    errors_modules = (
        "temporalio.exceptions",
        "temporalio.service",
        "temporalio.client",
        "temporalio.client._exceptions",
        "temporalio.client._nexus",
        "temporalio.workflow",
        "temporalio.workflow._exceptions",
    )
    """The underscored ones are where the classes are since these two are packages."""
    hooked_modules = hooks.MODULES
    private_hooks = hooks.PRIVATE_HOOKS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._roles = Roles(hooks.running_run)
        self._hooks = hooks.Hooks(self)

    def learn(self, errors: ModuleType) -> None:
        super().learn(errors)
        # Without warnings, and without ContinueAsNewError: that is how a workflow goes on.
        self.classes = {
            name: cls
            for name, cls in self.classes.items()
            if _ROOT in map(guard.class_name, guard.mro(cls))
        }

    def trial(self) -> BaseException:
        return self.classes["temporalio.exceptions.ApplicationError"]("a test failure")

    def was_raised(self, exc: BaseException) -> bool:
        return not self._hooks.is_made_by_the_converter(exc)

    def own_rule(self, cls: type) -> Rule:
        return kinds.rule_for(cls)

    def reason(self, exc: BaseException, rule: Rule) -> str:
        return kinds.reason_of(exc)

    def code(self, exc: BaseException) -> object:
        return kinds.code_of(exc)

    def native_names(self, exc: BaseException) -> tuple[str, ...]:
        """The type of the failure behind a carrier: the native class's short name."""
        inner = kinds.innermost(exc)
        if inner is exc and not is_rebuilt(exc):
            return ()
        name = guard.text(guard.attribute(inner, "_type"), 64)
        return (name,) if name and kinds.name_of(type(inner)) == "ApplicationError" else ()

    def identity(self) -> object:
        return hooks.running_worker()

    def task(self, exc: BaseException) -> object:
        # What timed out says more than the workflow that waits for it.
        subject = guard.attribute(exc, "_activity_type") or guard.attribute(exc, "_workflow_type")
        return subject if type(subject) is str else hooks.running_task()

    def context(self, exc: BaseException) -> Mapping[str, object]:
        return hooks.context()

    def verdict(
        self, exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
    ) -> Verdict | None:
        return self._roles.verdict(exc, frame)

    def hook_into(self, module: ModuleType, recorder: Recorder) -> Callable[[], None] | None:
        return self._hooks.hook_into(module, recorder)

    def lacking(self) -> Iterator[PrivateHook]:
        for hook in super().lacking():
            before = hooks.BEFORE.get(hook)
            if before is None or before.find(importlib.import_module(before.module)) is None:
                yield hook
