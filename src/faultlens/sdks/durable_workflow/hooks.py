"""What is hooked in the Durable Workflow SDK, beside the raises: who runs, and what ends a run.

Public functions are hooked as they are. A private one is checked first, by `PrivateHook`.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.sdks import PrivateHook, Recorder, Sdk, replace, stable_worker
from faultlens.sdks.durable_workflow import attempts
from faultlens.sdks.durable_workflow.attempts import Attempts, working_on
from faultlens.sdks.durable_workflow.raises import plain
from faultlens.sdks.durable_workflow.roles import Roles

__all__ = ["MODULES", "PRIVATE_HOOKS", "Undo", "hook_into", "name_of", "running_worker"]

_log = logging.getLogger("faultlens")

Undo = Callable[[], None]

MODULES = tuple(f"durable_workflow.{name}" for name in ("client", "testing", "worker", "workflow"))
"""The modules that are hooked."""

REPLAY = PrivateHook(
    "durable_workflow.workflow",
    "_replay_state",
    ("workflow_cls", "history_events", "start_input"),
    "a failure that a workflow catches counts again at each of its tasks and queries",
    since=(0, 4),
)
FAIL_WORKFLOW = PrivateHook(
    "durable_workflow.workflow",
    "FailWorkflow",
    ("message", "exception_type"),
    "a failed workflow may count a second time where its result is awaited",
)
FAIL_UPDATE = PrivateHook(
    "durable_workflow.workflow",
    "FailUpdate",
    ("update_id", "message"),
    "an update that fails by an SDK exception counts a second time at its client",
    since=(0, 4),
)
QUERY_THREAD = PrivateHook(
    "durable_workflow.worker",
    "Worker._run_query_task_thread",
    ("self",),
    "the failures of queries have the process's worker label",
    since=(0, 4, 106),
)
PRIVATE_HOOKS = (REPLAY, FAIL_WORKFLOW, FAIL_UPDATE, QUERY_THREAD, *attempts.PRIVATE_HOOKS)

_worker: contextvars.ContextVar[Any] = contextvars.ContextVar("faultlens_worker", default=None)
_environment: contextvars.ContextVar[int] = contextvars.ContextVar(
    "faultlens_environment", default=0
)


def running_worker() -> Any:
    """The Worker that runs the current code; None outside of one."""
    return _worker.get()


def name_of(worker: object) -> str | None:
    """A worker's stable name: its default id is made anew for each instance, the queue is not."""
    return stable_worker(guard.attribute(worker, "worker_id")) or stable_worker(
        guard.attribute(worker, "task_queue")
    )


def hook_into(module: ModuleType, sdk: Sdk, roles: Roles, recorder: Recorder) -> Undo | None:
    """Hook one of the SDK's modules; returns what undoes it, None if it is not one of ours."""
    undo: list[Undo] = []
    reporting = Attempts(sdk, roles, recorder)
    if module.__name__ == "durable_workflow.worker":
        undo.extend(_hook_worker(module, sdk, recorder))
        undo.extend(reporting.hook_worker(module))
    elif module.__name__ == "durable_workflow.client":
        undo.extend(reporting.hook_client(module))
    elif module.__name__ == "durable_workflow.workflow":
        undo.extend(_hook_workflow(module, sdk, roles, reporting))
    elif module.__name__ == "durable_workflow.testing":
        undo.extend(_hook_testing(module))

    def undo_all() -> None:
        for step in reversed(undo):
            step()

    return undo_all if undo else None


def _hook_worker(module: ModuleType, sdk: Sdk, recorder: Recorder) -> Iterator[Undo]:
    """Remember the running worker: in its tasks, in the threads they start, in the query thread."""
    worker = guard.attribute(module, "Worker")
    for name in ("run", "run_until", "stop"):
        original = vars(worker).get(name) if isinstance(worker, type) else None
        if inspect.iscoroutinefunction(original):
            yield replace(worker, name, _within_worker(original, recorder))
    query_thread = sdk.find(QUERY_THREAD, module)
    if query_thread is not None:
        yield replace(worker, query_thread.__name__, _in_query_thread(query_thread))


def _hook_workflow(
    module: ModuleType, sdk: Sdk, roles: Roles, reporting: Attempts
) -> Iterator[Undo]:
    """Know the function that replays, and what ends a run or an update."""
    roles.environment = _environment.get
    roles.replay_code = _replay_code(module, sdk)
    yield roles.forget_replays
    for hook in (FAIL_WORKFLOW, FAIL_UPDATE):
        command = sdk.find(hook, module)
        if command is not None:
            of_update = hook is FAIL_UPDATE
            init = _reporting(command.__init__, roles, reporting, of_update)
            yield replace(command, "__init__", init)


def _hook_testing(module: ModuleType) -> Iterator[Undo]:
    """Number the executions of a WorkflowEnvironment: the id of their runs is always the same."""
    environment = guard.attribute(module, "WorkflowEnvironment")
    original = guard.attribute(environment, "execute_workflow")
    if inspect.isfunction(original):
        yield replace(environment, "execute_workflow", _numbered(original))


def _replay_code(module: ModuleType, sdk: Sdk) -> CodeType | None:
    """The code that replays, if it has the locals that are read of it."""
    found = REPLAY.find(module) or guard.attribute(module, "replay")  # all that 0.2.0 has
    code = guard.attribute(found, "__code__")
    if isinstance(code, CodeType) and {"run_id", "ctx"} <= {*code.co_varnames, *code.co_cellvars}:
        return code
    sdk.warn_of(REPLAY)
    return None


def _within_worker(run: Any, recorder: Recorder) -> Any:
    @functools.wraps(run)
    async def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        token = _worker.set(self)
        if name := name_of(self):
            recorder.worker_seen(name)
        try:
            return await run(self, *args, **kwargs)
        finally:
            _worker.reset(token)

    return wrapper


def _in_query_thread(main: Any) -> Any:
    # A thread starts with an empty context.
    @functools.wraps(main)
    def wrapper(self: Any, /) -> Any:
        _worker.set(self)
        return main(self)

    return wrapper


def _reporting(init: Any, roles: Roles, reporting: Attempts, of_update: bool) -> Any:
    @functools.wraps(init)
    def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        try:
            roles.command_made(
                lambda exc: reporting.run_failed(exc, self), self.update_id if of_update else None
            )
        except Exception:
            _log.debug("faultlens could not note how a run ended", exc_info=True)

    return wrapper


def _numbered(execute: Any) -> Any:
    numbers = itertools.count(1)

    @functools.wraps(execute)
    def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        number, task = _environment.set(next(numbers)), working_on(_workflow_type(args))
        try:
            return execute(self, *args, **kwargs)
        finally:
            task.var.reset(task)
            _environment.reset(number)

    return wrapper


def _workflow_type(args: tuple[Any, ...]) -> str:
    definition = args[0] if args else None
    return plain(guard.attribute(definition, "__workflow_name__")) or ""
