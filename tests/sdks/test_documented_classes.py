"""Every class of the SDKs' documented error pages, raised through the real SDK and counted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import children

ROOT = Path(__file__).parents[2]

# Kind and worker by class. The provocations set the worker if the SDK has a place for one. If there
# is none, or the SDK says "user", "" or the end of a sentence, the worker is "host".
FLYTE = {
    "ActionNotFoundError": ("unknown", "host"),
    "BaseRuntimeError": ("unknown", "cpu-node-1"),
    "CustomError": ("user", "host"),
    "DeploymentError": ("user", "host"),
    "ImageBuildError": ("user", "host"),
    "ImagePullBackOffError": ("user", "gpu-node-7"),
    "InitializationError": ("user", "host"),
    "InlineIOMaxBytesBreached": ("user", "host"),
    "InvalidImageNameError": ("user", "gpu-node-7"),
    "LogsNotYetAvailableError": ("system", "host"),
    "ModuleLoadError": ("user", "host"),
    "NotInTaskContextError": ("user", "host"),
    "OOMError": ("user", "gpu-node-7"),
    "OnlyAsyncIOSupportedError": ("user", "host"),
    "PrimaryContainerNotFoundError": ("user", "gpu-node-7"),
    "ReferenceTaskError": ("user", "host"),
    "RetriesExhaustedError": ("user", "gpu-node-7"),
    "RunAbortedError": ("user", "host"),
    "RuntimeDataValidationError": ("user", "host"),
    "RuntimeSystemError": ("system", "gpu-node-7"),
    "RuntimeUnknownError": ("unknown", "gpu-node-7"),
    "RuntimeUserError": ("user", "host"),
    "SlowDownError": ("user", "host"),
    "TaskInterruptedError": ("user", "gpu-node-7"),
    "TaskTimeoutError": ("user", "host"),
    "UnionRpcError": ("system", "cpu-node-1"),
    # Later versions have these in place of ReferenceTaskError and RunAbortedError.
    "RemoteTaskUsageError": ("user", "host"),
    "ActionAbortedError": ("user", "host"),
}
DURABLE = {
    "DurableWorkflowError": ("unknown", "host"),
    "ServerError": ("system", "host"),
    "WorkflowFailed": ("unknown|user", "host"),  # a worker of 0.2.0 reports no class
    "WorkflowNotFound": ("user", "host"),
    "WorkflowAlreadyStarted": ("user", "host"),
    "NamespaceNotFound": ("user", "host"),
    "InvalidArgument": ("user", "host"),
    "Unauthorized": ("user", "host"),
    "ScheduleNotFound": ("user", "host"),
    "ScheduleAlreadyExists": ("user", "host"),
    "QueryFailed": ("user", "host"),
    "UpdateRejected": ("user", "host"),
    "ChildWorkflowFailed": ("unknown|user", "provocations"),  # 0.2.0 drops the child's class
    "WorkflowTerminated": ("user", "host"),
    "WorkflowCancelled": ("user", "host"),
    "ActivityCancelled": ("user", "provocations"),
    "NonRetryableError": ("user", "provocations"),
    "AvroNotInstalledError": ("system", "host"),
}


@cache
def provoked(package: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sdks.provoked", f"provoke_{package}"],
        cwd=ROOT,
        env=children.environment({"FAULTLENS_WORKER": None, "K8S_NODE_NAME": "host"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (package, name)
        for package, names in (("flyte", FLYTE), ("durable_workflow", DURABLE))
        for name in names
        if hasattr(importlib.import_module(f"{package}.errors"), name)
    ],
)
def test_a_documented_class_is_counted_once_with_its_kind_and_worker(
    package: str, name: str
) -> None:
    found = provoked(package)[name]
    kinds, worker = (FLYTE if package == "flyte" else DURABLE)[name]
    counted = {
        series: count
        for series, count in found["counted"].items()
        if series.startswith(f"{package}.errors.{name}|")
    }
    assert list(counted.values()) == [1]
    (series,) = counted
    assert series.split("|")[1] in kinds.split("|")
    assert series.split("|")[2] == worker
    if package == "flyte" and not found["by_hand"]:
        assert found["counted"] == counted, "one failure, one SDK exception"


def test_a_class_of_a_later_version_is_found_by_walking_the_module() -> None:
    found = children.report("""
        import flyte.errors, durable_workflow.errors, inside
        from faultlens import pipeline
        known = {name for sdk in pipeline.running().sdks.values() for name in sdk.classes}
        declared = {
            f"{module.__name__}.{name}"
            for module in (flyte.errors, durable_workflow.errors)
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, BaseException)
        }
        inside.report([sorted(declared - known), sorted(known - declared), len(known) >= 44])
    """)
    assert found == [[], [], True]
