"""What can happen in Flyte, with the true number of failures: see `tests.sdks.flows`.

Covers local runs, parents of remote children (with the server's answers from `provoke_flyte`), the
client side, and exceptions that the SDK swallows itself. Pods are in `test_flyte_pods`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import flyte
import flyte.errors
import flyte.io
import flyte.storage
from flyte._internal.controllers._local_controller import LocalController
from flyte._internal.imagebuild import remote_builder
from flyte._internal.imagebuild.remote_builder import RemoteImageBuilder
from flyte._internal.runtime import convert
from flyte._utils.module_loader import load_python_modules
from flyte.remote._logs import Logs
from flyte.syncify import syncify
from flyteidl2.core import execution_pb2

from tests.sdks import provoke_flyte
from tests.sdks.flows import Flows, Truth
from tests.sdks.provoke_flyte import SYSTEM, USER, Ending, child, submit_child

FLOWS = Flows(flyte.errors.BaseRuntimeError, flyte.errors.ActionNotFoundError)
flow = FLOWS.enter

env = flyte.TaskEnvironment("flows")


def run(task: Any, *expected: type[BaseException]) -> None:
    """Run a task in this process, which ends with one of these exceptions."""
    with contextlib.suppress(*expected):
        provoke_flyte.run_locally(task)


USER_ERROR = flyte.errors.RuntimeUserError
ANY_ERROR = flyte.errors.BaseRuntimeError


# --- one task ------------------------------------------------------------------------------------


@env.task
async def succeeds() -> int:
    return 1


@env.task
async def raises_value_error() -> int:
    raise ValueError("a bad row")


@env.task
def raises_value_error_sync() -> int:
    raise ValueError("a bad row")


class RoomFullError(Exception):
    """Flyte finds OOM in its name."""


@env.task
async def raises_room_full() -> int:
    raise RoomFullError("no more guests")


@env.task
async def returns_the_wrong_type() -> int:
    return "nothing was sold"  # type: ignore[return-value]  # the point of this task


@flow("success")
def success() -> None:
    run(succeeds)


@flow("ValueError", {"RuntimeUserError": 1}, {"propagated": 1}, conversions=1)
def value_error() -> None:
    run(raises_value_error, USER_ERROR)


@flow("ValueError in a sync task", {"RuntimeUserError": 1}, {"propagated": 1}, conversions=1)
def value_error_sync() -> None:
    run(raises_value_error_sync, USER_ERROR)


@flow("a class that reads like OOM", {"OOMError": 1}, {"propagated": 1}, conversions=1)
def room_full() -> None:
    run(raises_room_full, flyte.errors.OOMError)


@flow("output of the wrong type", {"RuntimeDataValidationError": 1})
def wrong_type() -> None:
    run(returns_the_wrong_type, USER_ERROR)


RAISED_BY_A_TASK: dict[str, Callable[[], BaseException]] = {
    "RuntimeUserError": lambda: flyte.errors.RuntimeUserError("MYCODE", "m"),
    "RuntimeSystemError": lambda: flyte.errors.RuntimeSystemError("SYSCODE", "m", worker="w-7"),
    "RuntimeUnknownError": lambda: flyte.errors.RuntimeUnknownError("UNK", "m"),
    "CustomError": lambda: flyte.errors.CustomError("Mine", "m"),
    "OOMError": lambda: flyte.errors.OOMError("OOM", "m"),
    "TaskTimeoutError": lambda: flyte.errors.TaskTimeoutError("m"),
    "BaseRuntimeError": lambda: flyte.errors.BaseRuntimeError("Odd", "unknown", "m"),
    "ActionNotFoundError": lambda: flyte.errors.ActionNotFoundError("m"),
}


def _raised_by_a_task(make: Callable[[], BaseException]) -> None:
    @env.task
    async def raises() -> int:
        raise make()

    run(raises, ANY_ERROR)


for _name, _make in RAISED_BY_A_TASK.items():
    flow(f"a task raises {_name}", {_name: 1}, {"propagated": 1})(
        functools.partial(_raised_by_a_task, _make)
    )


# --- tasks that call tasks -----------------------------------------------------------------------


@env.task
async def calls_one() -> int:
    return await raises_value_error()


@env.task
async def calls_two() -> int:
    return await calls_one()


@env.task
async def catches() -> int:
    with contextlib.suppress(USER_ERROR):
        await raises_value_error()
    return 0


@env.task
async def gathers_three() -> int:
    results = await asyncio.gather(
        *(raises_value_error() for _ in range(3)), return_exceptions=True
    )
    return len(results)


@env.task
def fails_for(number: int) -> int:
    raise ValueError(str(number))


@env.task
def maps_three() -> int:
    return len(list(flyte.map(fails_for, range(3), return_exceptions=True)))


@env.task
async def wraps_in_native() -> int:
    try:
        return await raises_value_error()
    except USER_ERROR as error:
        raise RuntimeError("no report") from error


@env.task
async def wraps_in_sdk_error() -> int:
    try:
        return await raises_value_error()
    except USER_ERROR as error:
        raise flyte.errors.RuntimeSystemError("NoReport", "m") from error


@env.task
async def wraps_twice() -> int:
    try:
        return await wraps_in_native()
    except USER_ERROR as error:
        try:
            raise KeyError("region") from error
        except KeyError as missing:
            raise flyte.errors.RuntimeUserError("NoRegion", "m") from missing


@env.task
async def fails_while_handling() -> int:
    try:
        return await raises_value_error()
    except USER_ERROR:
        raise KeyError("region")  # noqa: B904  # a failure of the handler's own


@env.task
async def wraps_its_own() -> int:
    try:
        raise flyte.errors.RuntimeUserError("NoRow", "m")
    except USER_ERROR as error:
        raise flyte.errors.RuntimeSystemError("NoReport", "m") from error


@env.task
async def wraps_its_own_in_native() -> int:
    try:
        raise flyte.errors.RuntimeSystemError("NoDisk", "m")
    except ANY_ERROR as error:
        raise RuntimeError("no report") from error


started = asyncio.Event()


@env.task
async def waits() -> int:
    started.set()
    await asyncio.Event().wait()
    return 0


@env.task
async def cancels_its_child() -> int:
    child = asyncio.ensure_future(waits())
    await started.wait()
    child.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await child
    return 0


@env.task
async def raises_the_child_s_error_later() -> int:
    results: Any = await asyncio.gather(raises_value_error(), return_exceptions=True)
    raise results[0]


flow("nested once", {"RuntimeUserError": 1}, {"propagated": 2}, conversions=1)(
    lambda: run(calls_one, USER_ERROR)
)
flow("nested twice", {"RuntimeUserError": 1}, {"propagated": 3}, conversions=1)(
    lambda: run(calls_two, USER_ERROR)
)
flow("the parent catches it", {"RuntimeUserError": 1}, {"propagated": 1}, conversions=1)(
    lambda: run(catches)
)
flow("gather of three", {"RuntimeUserError": 3}, {"propagated": 3}, conversions=3)(
    lambda: run(gathers_three)
)
flow("flyte.map of three", {"RuntimeUserError": 3}, {"propagated": 3}, conversions=3)(
    lambda: run(maps_three)
)
flow("wrapped in a native one", {"RuntimeUserError": 1}, {"propagated": 2}, conversions=1)(
    lambda: run(wraps_in_native, USER_ERROR)
)
flow(
    "wrapped in an SDK's", {"RuntimeUserError": 1}, {"propagated": 2, "wrapped": 1}, conversions=1
)(lambda: run(wraps_in_sdk_error, ANY_ERROR))
flow(
    "wrapped again and again",
    {"RuntimeUserError": 1},
    {"propagated": 3, "wrapped": 1},
    conversions=1,
)(lambda: run(wraps_twice, USER_ERROR))
flow("wrapped within a task", {"RuntimeUserError": 1}, {"wrapped": 1, "propagated": 1})(
    lambda: run(wraps_its_own, ANY_ERROR)
)
flow("wrapped in a native one within a task", {"RuntimeSystemError": 1}, {"propagated": 1})(
    lambda: run(wraps_its_own_in_native, ANY_ERROR)
)
flow("a task is cancelled")(lambda: run(cancels_its_child))
flow("the handler fails too", {"RuntimeUserError": 2}, {"propagated": 2}, conversions=2)(
    lambda: run(fails_while_handling, USER_ERROR)
)
flow("re-raised later", {"RuntimeUserError": 1}, {"propagated": 2}, conversions=1)(
    lambda: run(raises_the_child_s_error_later, USER_ERROR)
)


# --- attempts ------------------------------------------------------------------------------------

attempts: Counter[str] = Counter()


def _retries(count: int) -> Any:
    """Retry without a pause, if the version has that. 2.0.0b33 does not retry in local mode."""
    if hasattr(flyte, "Backoff"):
        from datetime import timedelta

        pause = flyte.Backoff(base=timedelta(0))
        return flyte.RetryStrategy(count=count, backoff=pause)
    return count


@env.task(retries=_retries(2))
async def fails_each_time() -> int:
    attempts["each"] += 1
    raise ValueError("again")


@env.task(retries=_retries(2))
async def fails_at_first() -> int:
    attempts["first"] += 1
    if attempts["first"] == 1:
        raise ValueError("once")
    return 1


@env.task(retries=_retries(1))
async def tries_a_child() -> int:
    attempts["child"] += 1
    return await raises_value_error()


def _attempts(name: str) -> Callable[[], dict[str, int]]:
    return lambda: {"RuntimeUserError": attempts[name]}


def _attempts_before_the_last(name: str) -> Callable[[], dict[str, int]]:
    return lambda: {"RuntimeUserError": max(1, attempts[name] - 1)}


flow("three attempts", _attempts("each"), {"propagated": 1}, conversions=None)(
    lambda: run(fails_each_time, USER_ERROR)
)


flow(
    "the second attempt succeeds",
    _attempts_before_the_last("first"),
    lambda: {} if attempts["first"] > 1 else {"propagated": 1},
    conversions=None,
)(lambda: run(fails_at_first, USER_ERROR))
flow(
    "two attempts, in each a child fails",
    _attempts("child"),
    lambda: {"propagated": attempts["child"] + 1},
    conversions=None,
)(lambda: run(tries_a_child, USER_ERROR))


# --- steps, and calls outside of a run -----------------------------------------------------------


@flyte.trace
async def failing_step() -> int:
    raise ValueError("a bad step")


@env.task
async def task_with_a_step() -> int:
    return await failing_step()


@env.task
async def task_that_handles_its_step() -> int:
    with contextlib.suppress(ValueError):
        await failing_step()
    return 0


flow("a traced step fails", {"RuntimeUserError": 1}, {"propagated": 1}, conversions=1)(
    lambda: run(task_with_a_step, USER_ERROR)
)
flow("a traced step fails, the task handles it")(lambda: run(task_that_handles_its_step))


@flow("a step's failure from its record", {}, {"replayed": 1, "propagated": 1})
def recorded_step() -> None:
    """A resumed run gets the record from the server. Here the controller has it."""
    error = execution_pb2.ExecutionError(kind=USER, code="ValueError", message="m")
    fetch = LocalController.get_action_outputs

    async def from_the_record(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
        info, _ = await fetch(self, *args, **kwargs)
        info.error = convert.convert_error_to_native(error)
        return info, True

    with mock.patch.object(LocalController, "get_action_outputs", from_the_record):
        run(task_with_a_step, USER_ERROR)


@flow("a sync task called outside of a run", {"RuntimeUserError": 1})
def outside_of_a_run() -> None:
    with contextlib.suppress(USER_ERROR):
        raises_value_error_sync()


# --- a parent whose child runs elsewhere ---------------------------------------------------------

ABORTED = next(n for n in ("ActionAbortedError", "RunAbortedError") if hasattr(flyte.errors, n))


def reported(kind: Any, code: str, **fields: Any) -> execution_pb2.ExecutionError:
    return execution_pb2.ExecutionError(kind=kind, code=code, message="m", **fields)


def _child_ends(
    how: str, error: execution_pb2.ExecutionError | None = None
) -> Callable[[], object]:
    return lambda: provoke_flyte.child_ends(how, error)


def _child_ends_uncaught(error: execution_pb2.ExecutionError) -> None:
    @env.task
    async def parent() -> None:
        await submit_child(Ending("FAILED", error), child())

    run(parent, ANY_ERROR)


flow("remote: FAILED, ValueError", {}, {"propagated": 1})(
    _child_ends("FAILED", reported(USER, "ValueError"))
)
flow("remote: FAILED, a system error", {}, {"propagated": 1})(
    _child_ends("FAILED", reported(SYSTEM, "SYSCODE", worker="w-7"))
)
flow("remote: FAILED, not caught", {}, {"propagated": 2})(
    lambda: _child_ends_uncaught(reported(USER, "ValueError"))
)
for _class, _code in {
    "OOMError": "OOMKilled",
    "TaskInterruptedError": "Interrupted",
    "PrimaryContainerNotFoundError": "PrimaryContainerNotFound",
    "RetriesExhaustedError": "RetriesExhausted|OutOfcpu",
    "InvalidImageNameError": "ContainersNotReady|InvalidImageName",
    "ImagePullBackOffError": "ContainersNotReady|ImagePullBackOff",
}.items():
    flow(f"remote: FAILED, {_class}", {_class: 1})(_child_ends("FAILED", reported(USER, _code)))
flow("remote: ImagePullBackOff that a process passed on", {}, {"propagated": 1})(
    _child_ends("FAILED", reported(USER, "ImagePullBackOff"))
)
flow("remote: ValueError, retries used up", {}, {"propagated": 1})(
    _child_ends("FAILED", reported(USER, "RetriesExhausted|ValueError"))
)
flow("remote: a class that reads like OOM", {}, {"propagated": 1})(
    _child_ends("FAILED", reported(USER, "RoomFullError"))
)
flow("remote: OOM kill, not caught", {"OOMError": 1}, {"propagated": 1})(
    lambda: _child_ends_uncaught(reported(USER, "OOMKilled"))
)
flow("remote: OOMError that a process wrote down", {}, {"propagated": 1})(
    _child_ends("FAILED", reported(USER, "OOMKilled", error_uri="s3://bucket/a1/1/error.pb"))
)
# The storage is used before flyte.init, which is control flow, as below.
flow("remote: FAILED, and no error can be read", {"RuntimeSystemError": 1}, {"control_flow": 1})(
    _child_ends("FAILED")
)
flow("remote: ABORTED", {ABORTED: 1})(_child_ends("ABORTED"))
flow("remote: TIMED_OUT", {"TaskTimeoutError": 1})(_child_ends("TIMED_OUT"))
if hasattr(flyte.errors, "MaxRuntimeExceededError"):
    flow("remote: a time-out as FAILED", {"MaxRuntimeExceededError": 1})(
        _child_ends("FAILED", reported(USER, "MAX_RUNTIME_EXCEEDED"))
    )
    flow("remote: a time-out further down", {}, {"propagated": 1})(
        _child_ends("FAILED", reported(USER, "MaxRuntimeExceededError"))
    )


def _refused(code: str, times: int = 1) -> None:
    """The queue refuses the child at first."""

    @env.task
    async def parent() -> None:
        refusal = provoke_flyte.rpc_error(code, "not now")
        await submit_child(Ending("SUCCEEDED", refuse_with=refusal, refusals=times), child())

    run(parent, ANY_ERROR)


flow("remote: the queue is UNAVAILABLE twice", {}, {"control_flow": 2})(
    lambda: _refused("UNAVAILABLE", 2)
)
flow("remote: the queue is full once", {}, {"control_flow": 1})(
    lambda: _refused("RESOURCE_EXHAUSTED")
)
flow("remote: INVALID_ARGUMENT", {"RuntimeSystemError": 1}, {"wrapped": 1, "propagated": 1})(
    lambda: _refused("INVALID_ARGUMENT")
)


@flow("remote: the queue stays UNAVAILABLE", {"SlowDownError": 1}, {"wrapped": 1, "propagated": 1})
def retries_used_up() -> None:
    controller = provoke_flyte.controller()
    with mock.patch.object(controller, "_max_retries", 0):
        _refused("UNAVAILABLE", 1)


if not hasattr(flyte.errors, "ResourceExhaustedError"):
    # Before 2.6 a worker of the controller ends there, and the parent waits forever.
    del FLOWS["remote: the queue stays UNAVAILABLE"]


# --- the client's side ---------------------------------------------------------------------------


def _provoked(name: str) -> Callable[[], object]:
    return provoke_flyte.PROVOCATIONS[name].provoke


for _name in ("InitializationError", "DeploymentError", "ImageBuildError", "ModuleLoadError"):
    flow(f"client: {_name}", {_name: 1})(_provoked(_name))
flow("client: a file system without async", {"OnlyAsyncIOSupportedError": 1})(
    _provoked("OnlyAsyncIOSupportedError")
)
flow("client: logs of an action that has none", {"LogsNotYetAvailableError": 1})(
    _provoked("LogsNotYetAvailableError")
)


# --- exceptions that the SDK raises and swallows -------------------------------------------------


@flow("a local file is opened", {}, {"control_flow": 1})
def local_file() -> None:
    async def read(path: str) -> None:
        async with flyte.io.File(path=path).open("rb") as file:
            await file.read()

    with provoke_flyte.initialized(), tempfile.NamedTemporaryFile() as file:
        asyncio.run(read(file.name))


@flow("a file in memory is opened", {"OnlyAsyncIOSupportedError": 1})
def file_in_memory() -> None:
    async def read() -> None:
        async with flyte.io.File(path="memory://report.csv").open("rb"):
            pass

    with provoke_flyte.initialized(), contextlib.suppress(USER_ERROR):
        asyncio.run(read())


@flow("a local file is written", {}, {"control_flow": 1})
def local_stream() -> None:
    with provoke_flyte.initialized(), tempfile.TemporaryDirectory() as scratch:
        asyncio.run(flyte.storage.put_stream(b"report", to_path=f"{scratch}/report.csv"))


@flow("storage before flyte.init", {}, {"control_flow": 1})
def storage_before_init() -> None:
    from flyte.storage._storage import get_configured_fsspec_kwargs

    with mock.patch("flyte._initialize._init_config", None):
        get_configured_fsspec_kwargs("file")


BROKEN = "import flyte.errors; raise flyte.errors.ModuleLoadError('no module of this project')"
WRAPS_LOAD_ERRORS = "root_dir" not in load_python_modules.__code__.co_varnames  # 2.0.0b33


@flow("a directory with a broken file", {}, {"control_flow": 2 if WRAPS_LOAD_ERRORS else 1})
def broken_file_in_a_directory() -> None:
    """As `flyte deploy` does with a directory."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "broken_module_of_flyte_flows.py").write_text(BROKEN)
        Path(scratch, "sound_module_of_flyte_flows.py").write_text("x = 1")
        with mock.patch.object(sys, "path", [scratch, *sys.path]), mock.patch.dict(sys.modules):
            root = () if WRAPS_LOAD_ERRORS else (Path(scratch),)
            _, failed = load_python_modules(Path(scratch), *root)
            assert len(failed) == 1


@flow("the log viewer, before there are logs", {}, {"control_flow": 1})
def log_viewer() -> None:
    with provoke_flyte.no_logs_yet() as action, provoke_flyte.initialized():
        viewer = Logs.create_viewer(action)
        with contextlib.redirect_stdout(io.StringIO()):
            asyncio.run(viewer)


if hasattr(flyte.errors, "RemoteTaskNotFoundError"):

    @flow("a remote image builder that is not there", {"ImageBuildError": 1}, {"control_flow": 1})
    def no_remote_builder() -> None:
        """In the SDK's own loop, as `flyte.build` does."""
        image = flyte.Image.from_debian_base(registry="registry.test", name="app")
        prepared = mock.AsyncMock(return_value=("spec", "context"))
        build = syncify(RemoteImageBuilder().build_image)
        with (
            mock.patch.object(remote_builder, "_validate_configuration", prepared),
            provoke_flyte.no_such_task(),
            provoke_flyte.initialized(),
            contextlib.suppress(flyte.errors.ImageBuildError),
        ):
            build(image)


# --- why, and which attempts ---------------------------------------------------------------------

PARENT = "provoke.parent ok"
"""The parent that `provoke_flyte` makes catches the exception that ends its child."""


CHILD_FAILED = {"child user": 1, PARENT: 1}
BAD_ROW = {"flows.raises_value_error user": 1}

# fmt: off
WHY: dict[str, tuple[Truth, Truth]] = {
    # case                          kind and reason        attempts
    "success":                          ({}, {"flows.succeeds ok": 1}),
    "ValueError":                       ({"user code": 1}, {"flows.raises_value_error user": 1}),
    "ValueError in a sync task":        ({"user code": 1},
                                         {"flows.raises_value_error_sync user": 1}),
    "a class that reads like OOM":      ({"user code": 1}, {"flows.raises_room_full user": 1}),
    "output of the wrong type":         ({"user input": 1},
                                         {"flows.returns_the_wrong_type user": 1}),
    "a task raises RuntimeUserError":    ({"user": 1},          {"flows.raises user": 1}),
    "a task raises RuntimeSystemError":  ({"system": 1},        {"flows.raises system": 1}),
    "a task raises RuntimeUnknownError": ({"unknown": 1},       {"flows.raises unknown": 1}),
    "a task raises CustomError":         ({"user code": 1},     {"flows.raises user": 1}),
    "a task raises OOMError":            ({"user oom": 1},      {"flows.raises user": 1}),
    "a task raises TaskTimeoutError":    ({"user timeout": 1},  {"flows.raises user": 1}),
    "a task raises BaseRuntimeError":    ({"unknown": 1},       {"flows.raises unknown": 1}),
    "a task raises ActionNotFoundError": ({"unknown code": 1},  {"flows.raises unknown": 1}),
    "nested once":              ({"user code": 1}, {**BAD_ROW, "flows.calls_one propagated": 1}),
    "nested twice":             ({"user code": 1}, {**BAD_ROW, "flows.calls_one propagated": 1,
                                                    "flows.calls_two propagated": 1}),
    "the parent catches it":    ({"user code": 1}, {**BAD_ROW, "flows.catches ok": 1}),
    "gather of three":          ({"user code": 3}, {"flows.raises_value_error user": 3,
                                                    "flows.gathers_three ok": 1}),
    "flyte.map of three":       ({"user code": 3}, {"flows.fails_for user": 3,
                                                    "flows.maps_three ok": 1}),
    "wrapped in a native one":  ({"user code": 1}, {**BAD_ROW,
                                                    "flows.wraps_in_native propagated": 1}),
    "wrapped in an SDK's":      ({"user code": 1}, {**BAD_ROW,
                                                    "flows.wraps_in_sdk_error propagated": 1}),
    "wrapped again and again":  ({"user code": 1}, {**BAD_ROW,
                                                    "flows.wraps_in_native propagated": 1,
                                                    "flows.wraps_twice propagated": 1}),
    "wrapped within a task":    ({"user": 1},      {"flows.wraps_its_own user": 1}),
    "wrapped in a native one within a task":
                                ({"system": 1},    {"flows.wraps_its_own_in_native system": 1}),
    "the handler fails too":    ({"user code": 2}, {**BAD_ROW,
                                                    "flows.fails_while_handling user": 1}),
    "re-raised later":          ({"user code": 1}, {**BAD_ROW,
                                             "flows.raises_the_child_s_error_later propagated": 1}),
    "a task is cancelled":      ({},               {"flows.waits cancelled": 1,
                                                    "flows.cancels_its_child ok": 1}),
    "three attempts": (lambda: {"user code": attempts["each"]},
                       lambda: {"flows.fails_each_time user": attempts["each"]}),
    "the second attempt succeeds": (
        {"user code": 1},
        lambda: {"flows.fails_at_first user": 1,
                 **({"flows.fails_at_first ok": 1} if attempts["first"] > 1 else {})}),
    "two attempts, in each a child fails": (
        lambda: {"user code": attempts["child"]},
        lambda: {"flows.raises_value_error user": attempts["child"],
                 "flows.tries_a_child propagated": attempts["child"]}),
    "a traced step fails":             ({"user code": 1}, {"flows.task_with_a_step user": 1}),
    "a traced step fails, the task handles it":
                                       ({}, {"flows.task_that_handles_its_step ok": 1}),
    "a step's failure from its record": ({}, {"flows.task_with_a_step propagated": 1}),
    "a sync task called outside of a run": ({"user": 1}, {}),
    "remote: FAILED, ValueError":       ({}, {PARENT: 1}),
    "remote: FAILED, a system error":   ({}, {PARENT: 1}),
    "remote: FAILED, not caught":       ({}, {"flows.parent propagated": 1}),
    "remote: FAILED, OOMError":                      ({"user oom": 1},        CHILD_FAILED),
    "remote: FAILED, TaskInterruptedError":          ({"user preempted": 1},  CHILD_FAILED),
    "remote: FAILED, PrimaryContainerNotFoundError": ({"user platform": 1},   CHILD_FAILED),
    "remote: FAILED, RetriesExhaustedError":         ({"user scheduling": 1}, CHILD_FAILED),
    "remote: FAILED, InvalidImageNameError":         ({"user image": 1},      CHILD_FAILED),
    "remote: FAILED, ImagePullBackOffError":         ({"user image": 1},      CHILD_FAILED),
    "remote: ImagePullBackOff that a process passed on": ({}, {PARENT: 1}),
    "remote: ValueError, retries used up":           ({}, {PARENT: 1}),
    "remote: a class that reads like OOM":           ({}, {PARENT: 1}),
    "remote: OOM kill, not caught":
                             ({"user oom": 1}, {"child user": 1, "flows.parent propagated": 1}),
    "remote: OOMError that a process wrote down":    ({}, {PARENT: 1}),
    "remote: FAILED, and no error can be read":      ({"system": 1}, {PARENT: 1}),
    "remote: ABORTED":               ({"user cancelled": 1}, {"child cancelled": 1, PARENT: 1}),
    "remote: TIMED_OUT":             ({"user timeout": 1}, CHILD_FAILED),
    "remote: a time-out as FAILED":  ({"user timeout": 1}, CHILD_FAILED),
    "remote: a time-out further down":               ({}, {PARENT: 1}),
    "remote: the queue is UNAVAILABLE twice":        ({}, {"flows.parent ok": 1}),
    "remote: the queue is full once":                ({}, {"flows.parent ok": 1}),
    "remote: INVALID_ARGUMENT":            ({"system": 1}, {"flows.parent system": 1}),
    "remote: the queue stays UNAVAILABLE": ({"user throttled": 1}, {"flows.parent user": 1}),
    "client: InitializationError":         ({"user config": 1}, {}),
    "client: DeploymentError":             ({"user config": 1}, {}),
    "client: ImageBuildError":             ({"user image": 1}, {}),
    "client: ModuleLoadError":             ({"user code": 1}, {}),
    "client: a file system without async": ({"user code": 1}, {}),
    "client: logs of an action that has none": ({"system platform": 1}, {}),
    "a file in memory is opened":          ({"user code": 1}, {}),
    "a remote image builder that is not there": ({"user image": 1}, {}),
}
# fmt: on
for _name, _flow in FLOWS.items():
    # The flows that are not in the table are swallowed by the SDK, outside of a task.
    _causes, _attempts_truth = WHY[_name] if _flow.failures or _name in WHY else ({}, {})
    FLOWS[_name] = dataclasses.replace(_flow, causes=_causes, attempts=_attempts_truth)


if __name__ == "__main__":
    FLOWS.main()
