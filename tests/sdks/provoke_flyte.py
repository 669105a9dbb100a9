"""Make the real Flyte SDK raise each exception class of its errors page, and hand it back.

Nothing here constructs an exception that the SDK would construct itself. Each class is provoked as
a user would meet it, in one of four ways:

    local run       a task that runs in this process misbehaves
    remote parent   a task submits a child to a control plane in this process; the control plane
                    reports how the child ended, and the SDK's controller raises that in the parent
    client call     a call of the SDK's client-side API that cannot succeed
    by hand         the SDK has no raise site, so a task's own code raises it

Runs on flyte 2.0.0b33 and 2.12.1. It uses no network and leaves no files. The only thread, which
remote parents need, is a daemon. A provocation raises one SDK exception; by hand it raises two, of
which the second is the SDK's copy for the caller of the run.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import flyte
import flyte.errors
import flyte.remote
import flyte.storage
from flyte._initialize import _InitConfig
from flyte._internal.controllers import TraceInfo
from flyte._internal.controllers._local_controller import LocalController
from flyte._internal.controllers.remote import _core as remote_core
from flyte._internal.controllers.remote._controller import RemoteController
from flyte._internal.imagebuild.remote_builder import _get_layers_proto
from flyte._utils.module_loader import _load_module_from_file
from flyte.extras import ContainerTask
from flyte.models import ActionID, NativeInterface
from flyteidl2.core import execution_pb2
from flyteidl2.task import task_definition_pb2
from flyteidl2.workflow import run_definition_pb2, state_service_pb2

from tests.children import TIMEOUT
from tests.sdks.provocation import Provocations

USER = execution_pb2.ExecutionError.USER
SYSTEM = execution_pb2.ExecutionError.SYSTEM
UNKNOWN = execution_pb2.ExecutionError.UNKNOWN

PROVOCATIONS = Provocations()
provokes = PROVOCATIONS.enter


def caught(action: Callable[[], object]) -> BaseException:
    """The exception that `action` raises."""
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


async def caught_awaiting(awaitable: Awaitable[object]) -> BaseException:
    """The exception that `awaitable` raises."""
    try:
        await asyncio.wait_for(awaitable, TIMEOUT)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


# --- local run: a task in this process -----------------------------------------------------------

env = flyte.TaskEnvironment("provoke")


def run_locally(task: Any) -> None:
    """Run a task as `flyte.run` does without a cluster, with all files in a temporary directory."""
    with tempfile.TemporaryDirectory() as scratch:
        runner = flyte.with_runcontext(mode="local", raw_data_path=f"{scratch}/raw")
        runner._metadata_path = f"{scratch}/metadata"  # no public argument; default: /tmp/flyte
        runner.run(task)


def caught_by_parent(body: Callable[[], Awaitable[object]]) -> BaseException:
    """Run `body` in a real task that catches its exception, so the run itself succeeds."""
    seen: list[BaseException] = []

    @env.task
    async def parent() -> None:
        seen.append(await caught_awaiting(body()))

    run_locally(parent)
    return seen[0]


@env.task
async def fails_on_bad_data() -> None:
    float("not a number")


@env.task
async def returns_the_wrong_type() -> int:
    return "not a number"  # type: ignore[return-value]  # the point of this task


@env.task
def a_sync_task() -> int:
    return 1


@env.task
async def an_async_task() -> int:
    return 1


@provokes("RuntimeUserError")
def value_error_in_a_task() -> BaseException:
    return caught(lambda: run_locally(fails_on_bad_data))


@provokes("RuntimeDataValidationError")
def wrong_output_type() -> BaseException:
    return caught(lambda: run_locally(returns_the_wrong_type))


@provokes("NotInTaskContextError")
def trace_outside_a_task() -> BaseException:
    """A trace is recorded where no task runs."""
    info = TraceInfo(
        name="step",
        action=ActionID(name="step"),
        interface=NativeInterface({}, {}),
        inputs_path="",
    )
    return caught(lambda: asyncio.run(LocalController().record_trace(info)))


@provokes("TraceDoesNotAllowNestedTasksError")
def task_called_in_a_trace() -> BaseException:
    @flyte.trace
    async def step() -> int:
        return await an_async_task()

    return caught_by_parent(step)


@provokes("SyncTaskCallInAsyncContextError")
def blocking_call_in_an_async_task() -> BaseException:
    async def body() -> int:
        return a_sync_task()

    return caught_by_parent(body)


# --- remote parent: a control plane in this process ----------------------------------------------


def phase(name: str) -> int:
    """An action's phase in the protocol; the enum moved and got a prefix after 2.0.0b33."""
    try:
        from flyteidl2.common import phase_pb2
    except ImportError:
        return int(run_definition_pb2.Phase.Value(f"PHASE_{name}"))
    return int(phase_pb2.ActionPhase.Value(f"ACTION_PHASE_{name}"))


def rpc_error(code: str, message: str) -> Exception:
    """The exception of the SDK's RPC library for a status: gRPC in 2.0.0b33, Connect in 2.12.1."""
    if hasattr(remote_core, "ConnectError"):
        from connectrpc.code import Code
        from connectrpc.errors import ConnectError

        return ConnectError(Code[code], message)
    import grpc.aio

    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode[code], empty, empty, message)


@dataclass
class Ending:
    """How the control plane answers the one child that a run submits."""

    phase: str
    error: execution_pb2.ExecutionError | None = None
    refuse_with: Exception | None = None
    refusals: int = 1
    submitted: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)


class ControlPlane:
    """Flyte's server, without a network: the three calls that a parent task's controller makes.

    It accepts every submitted child, and at once reports the ending that was set for the parent's
    run. The calls have different names in gRPC and in Connect.
    """

    actions_service = None  # 2.12.1's newer protocol, which is off by default

    def __init__(self) -> None:
        self.endings: dict[str, Ending] = {}
        self.queue_service = self.state_service = self

    async def enqueue_action(self, request: Any, **_: object) -> None:
        ending = self.endings[request.action_id.run.name]
        if ending.refuse_with is not None and ending.refusals > 0:
            ending.refusals -= 1
            raise ending.refuse_with
        await ending.submitted.put(request.action_id)

    async def watch(self, request: Any, **_: object) -> AsyncIterator[Any]:
        caught_up = state_service_pb2.ControlMessage(sentinel=True)
        yield state_service_pb2.WatchResponse(control_message=caught_up)
        ending = self.endings[request.parent_action_id.run.name]
        update = state_service_pb2.ActionUpdate(
            action_id=await ending.submitted.get(),
            phase=phase(ending.phase),
            error=ending.error,
            output_uri="nowhere",
        )
        yield state_service_pb2.WatchResponse(action_update=update)
        await asyncio.Event().wait()  # a server keeps the stream open; the parent's end cancels it

    EnqueueAction = enqueue_action
    Watch = watch


class NotedController(RemoteController):
    """The real controller. It retries a SlowDownError itself, so this one records those."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.slow_downs: dict[str, BaseException] = {}

        async def client() -> Any:
            return plane

        super().__init__(client(), workers=1)

    def _start(self) -> None:
        # Its thread may take longer than 5 s.
        self._thread_wait_timeout = self._informer_start_wait_timeout = TIMEOUT
        super()._start()

    async def _bg_launch(self, action: Any) -> None:
        try:
            await super()._bg_launch(action)
        except flyte.errors.SlowDownError as error:
            self.slow_downs[action.run_name] = error
            raise


@functools.cache
def controller() -> NotedController:
    """The only controller: the SDK has no way to end a controller's thread, which is a daemon."""
    return NotedController(ControlPlane())


def child(**settings: Any) -> ContainerTask:
    """A task that the parent submits; a container task needs no Python code on the other side."""
    task = ContainerTask(name="child", image="alpine:3", command=["true"], **settings)
    flyte.TaskEnvironment.from_task("provoke-children", task)
    return task


async def accept_upload(*_: object, **__: object) -> None:
    """The bucket that the child's inputs go to."""


async def submit_child(ending: Ending, task: ContainerTask, **inputs: object) -> None:
    """Inside a parent task: submit the child, and wait for the ending that the server reports."""
    parent = flyte.ctx().action
    run_name = str(parent.run_name)
    controller().plane.endings[run_name] = ending
    try:
        with mock.patch("flyte.storage.put_stream", accept_upload):
            await controller().submit(task, **inputs)
    finally:
        await controller().finalize_parent_action(parent)
        del controller().plane.endings[run_name]


def child_ends(how: str, error: execution_pb2.ExecutionError | None = None) -> BaseException:
    """The exception that the parent task gets when the server reports this end of its child."""
    return caught_by_parent(lambda: submit_child(Ending(how, error), child()))


def server_error(kind: Any, code: str) -> execution_pb2.ExecutionError:
    return execution_pb2.ExecutionError(
        kind=kind, code=code, message=f"the server reports {code}", worker="gpu-node-7"
    )


# The server names a failure by kind and code; the SDK picks the class from these two.
# fmt: off
REPORTED_FAILURES = {
    "RuntimeSystemError":            (SYSTEM,  "NodeLost"),
    "RuntimeUnknownError":           (UNKNOWN, "Vanished"),
    "OOMError":                      (USER,    "OOMKilled"),
    "TaskInterruptedError":          (USER,    "Interrupted"),
    "PrimaryContainerNotFoundError": (USER,    "PrimaryContainerNotFound"),
    "RetriesExhaustedError":         (USER,    "RetriesExhausted|OutOfcpu"),
    "InvalidImageNameError":         (USER,    "ContainersNotReady|InvalidImageName"),
    "ImagePullBackOffError":         (USER,    "ContainersNotReady|ImagePullBackOff"),
    # Since 2.8.1, 2.12.1.
    "GPUFaultUserError":                  (USER,   "GpuXidError"),
    "GPUFaultSystemError":                (SYSTEM, "GpuFallenOffBus"),
    "AppleSiliconNotAvailableError":      (USER,   "APPLE_SILICON_NOT_AVAILABLE"),
    "AppleSiliconHostExecFailedError":    (USER,   "APPLE_SILICON_HOST_EXEC_FAILED"),
    "AppleSiliconDaemonStartFailedError": (USER,   "APPLE_SILICON_DAEMON_START_FAILED"),
    "AppleSiliconDaemonOOMError":         (USER,   "APPLE_SILICON_DAEMON_OOM"),
    "AppleSiliconModelNotFoundError":     (USER,   "APPLE_SILICON_MODEL_NOT_FOUND"),
    "AppleSiliconBridgeUnreachableError": (USER,   "APPLE_SILICON_BRIDGE_UNREACHABLE"),
}
# fmt: on
for _name, _failure in REPORTED_FAILURES.items():
    provokes(_name)(functools.partial(child_ends, "FAILED", server_error(*_failure)))

provokes("RunAbortedError")(functools.partial(child_ends, "ABORTED"))  # its name in 2.0.0b33
provokes("ActionAbortedError")(functools.partial(child_ends, "ABORTED"))  # its name since 2.0.0

provokes("TaskTimeoutError")(functools.partial(child_ends, "TIMED_OUT"))
for _name in ("MaxQueuedTimeExceededError", "MaxRuntimeExceededError", "DeadlineExceededError"):
    provokes(_name)(functools.partial(child_ends, "TIMED_OUT", server_error(USER, _name)))


@provokes("InlineIOMaxBytesBreached")
def inputs_too_large() -> BaseException:
    task = child(inputs={"text": str}, max_inline_io_bytes=10)
    ending = Ending("SUCCEEDED")
    return caught_by_parent(lambda: submit_child(ending, task, text="too long for that"))


def refused_once(code: str) -> BaseException:
    """The queue refuses the child, the controller waits half a second, then it is accepted."""

    async def body() -> None:
        run_name = str(flyte.ctx().action.run_name)
        refusal = rpc_error(code, "the queue is full")
        await submit_child(Ending("SUCCEEDED", refuse_with=refusal), child())
        raise controller().slow_downs.pop(run_name)  # the controller swallowed it; hand it out

    return caught_by_parent(body)


provokes("SlowDownError")(functools.partial(refused_once, "UNAVAILABLE"))
provokes("ResourceExhaustedError")(functools.partial(refused_once, "RESOURCE_EXHAUSTED"))


# --- client call: an API of the SDK that cannot succeed ------------------------------------------


@contextmanager
def initialized() -> Iterator[None]:
    """As `flyte.init(project=..., domain=...)`, but without resetting the root logger."""
    config = _InitConfig(root_dir=Path(), project="sales", domain="production")
    with mock.patch("flyte._initialize._init_config", config):
        yield


@contextmanager
def client_of(module: str, **services: object) -> Iterator[None]:
    """Let one of the SDK's client modules talk to these services."""
    client = SimpleNamespace(**services)
    with (
        mock.patch(f"{module}.ensure_client"),
        mock.patch(f"{module}.get_client", return_value=client),
    ):
        yield


@provokes("InitializationError")
def client_never_initialized() -> BaseException:
    with mock.patch("flyte._initialize._init_config", None):
        return caught(lambda: flyte.remote.Run.get("nightly"))


@provokes("DeploymentError")
def deploy_without_a_version() -> BaseException:
    """No code is copied, and no version says which code it is. A named image is not built."""
    unversioned = flyte.TaskEnvironment("unversioned", image="alpine:3")
    with initialized():
        return caught(lambda: flyte.deploy(unversioned, copy_style="none"))


@provokes("ImageBuildError")
def dockerfile_for_the_remote_builder() -> BaseException:
    """The remote builder gets an image that only the local builder can build."""
    image = flyte.Image.from_dockerfile(Path(__file__), registry="registry.test", name="app")
    return caught(lambda: _get_layers_proto(image, Path()))


@provokes("ModuleLoadError")
def syntax_error_in_a_module() -> BaseException:
    """As `flyte run broken.py`. The loader changes sys.path and sys.modules."""
    with tempfile.TemporaryDirectory() as scratch:
        broken = Path(scratch, "broken_module_of_provoke_flyte.py")
        broken.write_text("def main(:\n")
        with mock.patch.object(sys, "path", list(sys.path)), mock.patch.dict(sys.modules):
            return caught(lambda: _load_module_from_file(broken))


def deployed_task_called_locally() -> BaseException:
    """A deployed task can only run remotely."""
    deployed = flyte.remote.TaskDetails(task_definition_pb2.TaskDetails())
    return caught(lambda: asyncio.run(deployed()))


provokes("ReferenceTaskError")(deployed_task_called_locally)  # its name in 2.0.0b33
provokes("RemoteTaskUsageError")(deployed_task_called_locally)  # its name since 2.0.0


@provokes("OnlyAsyncIOSupportedError")
def file_system_without_async() -> BaseException:
    """fsspec's memory file system has no async side."""
    with initialized():
        return caught(lambda: asyncio.run(flyte.storage.open("memory://report.csv")))


@contextmanager
def no_logs_yet() -> Iterator[Any]:
    """An action for which the server has no logs."""
    from flyteidl2.common import identifier_pb2

    async def no_log_stream(*_: object, **__: object) -> AsyncIterator[object]:
        raise rpc_error("NOT_FOUND", "no log stream")
        yield

    service = SimpleNamespace(TailLogs=no_log_stream, tail_logs=no_log_stream)
    with client_of("flyte.remote._logs", logs_service=service, dataproxy_service=service):
        yield identifier_pb2.ActionIdentifier(name="a0")


@provokes("LogsNotYetAvailableError")
def logs_of_an_action_that_has_none() -> BaseException:
    from flyte.remote._logs import Logs

    with no_logs_yet() as action:
        return caught(lambda: list(Logs.tail(action, retry=1)))


@contextmanager
def no_such_task() -> Iterator[None]:
    """A server to which no task was deployed."""

    async def get_task_details(*_: object, **__: object) -> object:
        raise rpc_error("NOT_FOUND", "no such task")

    async def list_tasks(*_: object, **__: object) -> object:
        return SimpleNamespace(tasks=[], token="")

    service = SimpleNamespace(
        **dict.fromkeys(("get_task_details", "GetTaskDetails"), get_task_details),
        **dict.fromkeys(("list_tasks", "ListTasks"), list_tasks),
    )
    with client_of("flyte.remote._task", task_service=service):
        yield


@provokes("RemoteTaskNotFoundError")
def task_that_was_never_deployed() -> BaseException:
    with initialized(), no_such_task():
        return caught(lambda: flyte.remote.Task.get("sales.train", version="v1").fetch())


# --- by hand: the SDK has no raise site ----------------------------------------------------------


def raised_by_a_task(make: Callable[[], BaseException]) -> BaseException:
    """A task's own code raises it. The run then ends with the SDK's copy, of another class."""
    seen: list[BaseException] = []

    @env.task
    async def task() -> None:
        seen.append(make())
        raise seen[0]

    caught(lambda: run_locally(task))
    return seen[0]


BY_HAND: dict[str, Callable[[Any], BaseException]] = {
    "BaseRuntimeError": lambda cls: cls("Odd", "unknown", "nobody knows", "cpu-node-1"),
    "UnionRpcError": lambda cls: cls("UNAVAILABLE", "the server hung up", "cpu-node-1"),
    "CustomError": lambda cls: cls("EmptyReport", "nothing was sold"),
    "ActionNotFoundError": lambda cls: cls("no action a7 in this run"),
    "GPUFaultError": lambda cls: cls("GpuXidError", "system", "Xid 79", "gpu-node-7"),
    "NonRecoverableError": lambda cls: cls("the region does not exist"),
}


def _raise_by_hand(name: str) -> BaseException:
    return raised_by_a_task(lambda: BY_HAND[name](getattr(flyte.errors, name)))


for _name in BY_HAND:
    provokes(_name, by_hand=True)(functools.partial(_raise_by_hand, _name))
