"""Durable Workflow (`durable_workflow.errors`), 0.2.0 to 2.12.0.

kinds.py      whose fault: one rule for each class
roles.py      origin or carrier: likewise, by the raise and by what was seen before
raises.py     where in the SDK a raise happened, and in which replay of which run
histories.py  what a run's history tells of its failure
memory.py     what was seen before, in bounded memory
hooks.py      who runs the code, and what ends a run
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.sdks import Recorder, Rule, Sdk, Verdict
from faultlens.sdks.durable_workflow import hooks, kinds
from faultlens.sdks.durable_workflow.roles import Roles

__all__ = ["DurableWorkflow"]


class DurableWorkflow(Sdk):
    """See `faultlens.sdks.Sdk`."""

    package = "durable_workflow"
    distribution = "durable-workflow"
    private_hooks = hooks.PRIVATE_HOOKS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._roles = Roles(self.classes)

    def own_rule(self, cls: type) -> Rule:
        return kinds.rule_for(cls)

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
        activity, workflow = _current_activity(), _current_workflow()
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


def _current_activity() -> object:
    activity = sys.modules.get("durable_workflow.activity")
    try:
        return activity.context().info  # type: ignore[union-attr]
    except Exception:  # RuntimeError outside of an activity
        return None


def _current_workflow() -> object:
    # Private, and there from 2.4 on; without it the run is simply not named.
    workflow = sys.modules.get("durable_workflow.workflow")
    try:
        return workflow._ACTIVE_WORKFLOW_REPLAY.get()  # type: ignore[union-attr]
    except Exception:
        return None
