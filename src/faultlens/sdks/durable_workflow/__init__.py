"""Durable Workflow (`durable_workflow.errors`), 0.2.0 to 2.12.0.

kinds.py      whose fault and what went wrong: one rule for each class
natives.py    the class behind a carrier, of which a name is left
roles.py      origin or carrier: likewise, by the raise and by what was seen before
raises.py     where in the SDK a raise happened, and in which replay of which run
histories.py  what a run's history tells of its failure
hooks.py      who runs the code, and what ends a run
attempts.py   what is run, and how the attempts end
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.sdks import Recorder, Rule, Sdk, Verdict
from faultlens.sdks.durable_workflow import attempts, hooks, kinds, natives
from faultlens.sdks.durable_workflow.raises import plain
from faultlens.sdks.durable_workflow.roles import Roles, current_activity

__all__ = ["DurableWorkflow"]


class DurableWorkflow(Sdk):
    """See `faultlens.sdks.Sdk`."""

    interface = 1
    package = "durable_workflow"
    distribution = "durable-workflow"
    errors_modules = ("durable_workflow.errors",)
    hooked_modules = hooks.MODULES
    private_hooks = hooks.PRIVATE_HOOKS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._roles = Roles(self.classes)

    def trial(self) -> BaseException:
        return self.classes["durable_workflow.errors.NonRetryableError"]("a test failure")

    def own_rule(self, cls: type) -> Rule:
        return kinds.rule_for(cls)

    def reason(self, exc: BaseException, rule: Rule) -> str:
        return kinds.reason_of(exc, rule)

    def native_names(self, exc: BaseException) -> tuple[str, ...]:
        name = natives.name_of(exc) if self._is_carrier(exc) else None
        return (name,) if name is not None else ()

    def code(self, exc: BaseException) -> object:
        """Of a carrier the short name of the native class, as Flyte has it.

        It is a label that people read, SDK 0.2.0 sends no more than it, and it is the same in a
        module that is run as a program, in a spawned process and in PHP.
        """
        name = natives.name_of(exc) if self._is_carrier(exc) else None
        return super().code(exc) if name is None else natives.short_name(name)

    def _is_carrier(self, exc: BaseException) -> bool:
        return any(name in natives.CARRIERS for name in self._look_up(type(exc)).names)

    def task(self, exc: BaseException) -> object:
        return (
            plain(guard.attribute(exc, "activity_type"))
            or plain(guard.attribute(exc, "child_workflow_type"))
            or self._roles.subjects.get(exc)
            or plain(guard.attribute(current_activity(), "activity_type"))
            or attempts.running_task()
        )

    def verdict(
        self, exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
    ) -> Verdict | None:
        return self._roles.verdict(exc, frame, names)

    def hook_into(self, module: ModuleType, recorder: Recorder) -> Callable[[], None] | None:
        return hooks.hook_into(module, self, self._roles, recorder)

    def identity(self) -> object:
        return hooks.name_of(hooks.running_worker())

    def context(self, exc: BaseException) -> Mapping[str, object]:
        worker = hooks.running_worker()
        client = guard.attribute(worker, "client")
        found = {
            "durable_workflow.namespace": guard.attribute(client, "namespace"),
            "durable_workflow.task_queue": guard.attribute(worker, "task_queue"),
            "durable_workflow.worker_id": guard.attribute(worker, "worker_id"),
            "durable_workflow.build_id": guard.attribute(worker, "build_id"),
        }
        # The exception knows best what it is about, then the activity, then the workflow.
        activity, workflow = current_activity(), _current_workflow()
        for name in ("workflow_id", "run_id", "activity_type", "task_id", "failure_id"):
            values = (
                guard.attribute(exc, name),
                guard.attribute(activity, name),
                guard.attribute(workflow, f"_{name}"),
            )
            found[f"durable_workflow.{name}"] = next(
                (value for value in values if type(value) is str and value), None
            )
        return found


def _current_workflow() -> object:
    # Private, and there from 2.4 on; without it the run is simply not named.
    workflow = sys.modules.get("durable_workflow.workflow")
    try:
        return workflow._ACTIVE_WORKFLOW_REPLAY.get()  # type: ignore[union-attr]
    except Exception:
        return None
