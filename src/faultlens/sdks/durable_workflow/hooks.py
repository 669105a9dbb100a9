"""What is hooked in the Durable Workflow SDK, beside the raises: who runs, and what ends a run.

Public functions are hooked as they are. A private one is checked first, by `PrivateHook`: where it
is not what it was, one warning says what is lost, and the rest goes on.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import itertools
import logging
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.sdks import PrivateHook, Recorder, stable_worker
from faultlens.sdks.durable_workflow.roles import Roles

__all__ = ["PRIVATE_HOOKS", "Undo", "hook_into", "name_of", "running_worker"]

_log = logging.getLogger("faultlens")

Undo = Callable[[], None]

REPLAY = PrivateHook(
    "durable_workflow.workflow",
    "_replay_state",
    ("workflow_cls", "history_events", "start_input"),
    "a failure that a workflow catches counts again at each of its tasks and queries",
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
)
QUERY_THREAD = PrivateHook(
    "durable_workflow.worker",
    "Worker._run_query_task_thread",
    ("self",),
    "the failures of queries have the process's worker label",
)
PRIVATE_HOOKS = (REPLAY, FAIL_WORKFLOW, FAIL_UPDATE, QUERY_THREAD)

# The versions that brought them; an older one lacks nothing by not having them.
_SINCE = {REPLAY: (0, 4), FAIL_UPDATE: (0, 4), QUERY_THREAD: (0, 4, 106)}

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


def hook_into(module: ModuleType, version: str, roles: Roles, recorder: Recorder) -> Undo | None:
    """Hook one of the SDK's modules; returns what undoes it, None if it is not one of ours."""
    name = module.__name__
    if name == "durable_workflow.worker":
        return _hook_worker(module, version, recorder)
    if name == "durable_workflow.workflow":
        return _hook_workflow(module, version, roles)
    if name == "durable_workflow.testing":
        return _hook_testing(module)
    return None


def _hook_worker(module: ModuleType, version: str, recorder: Recorder) -> Undo:
    """Remember the running worker: in its tasks, in the threads they start, in the query thread."""
    worker = guard.attribute(module, "Worker")
    patches = _Patches()
    for name in ("run", "run_until", "stop"):
        original = vars(worker).get(name) if isinstance(worker, type) else None
        if inspect.iscoroutinefunction(original):
            patches.set(worker, name, _within_worker(original, recorder))
    if _find(QUERY_THREAD, module, version) is not None:
        name = QUERY_THREAD.name.rpartition(".")[2]
        patches.set(worker, name, _in_query_thread(getattr(worker, name)))
    return patches.undo


def _hook_workflow(module: ModuleType, version: str, roles: Roles) -> Undo:
    """Know the function that replays, and what ends a run or an update."""
    patches = _Patches()
    roles.environment = _environment.get
    roles.replay_code = _replay_code(module, version)
    if (command := _find(FAIL_WORKFLOW, module, version)) is not None:
        patches.set(command, "__init__", _reporting(command.__init__, roles, of_update=False))
    if (command := _find(FAIL_UPDATE, module, version)) is not None:
        patches.set(command, "__init__", _reporting(command.__init__, roles, of_update=True))

    def undo() -> None:
        patches.undo()
        roles.replay_code = None

    return undo


def _hook_testing(module: ModuleType) -> Undo:
    """Number the executions of a WorkflowEnvironment: the id of their runs is always the same."""
    patches = _Patches()
    environment = guard.attribute(module, "WorkflowEnvironment")
    original = guard.attribute(environment, "execute_workflow")
    if inspect.isfunction(original):
        patches.set(environment, "execute_workflow", _numbered(original))
    return patches.undo


class _Patches:
    """Attributes that were replaced, to be put back."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        self._originals.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def undo(self) -> None:
        for owner, name, original in reversed(self._originals):
            setattr(owner, name, original)


def _find(hook: PrivateHook, module: ModuleType, version: str) -> Any:
    found = hook.find(module)
    if found is None and not _before(version, _SINCE.get(hook, ())):
        _warn(hook, version)
    return found


def _replay_code(module: ModuleType, version: str) -> CodeType | None:
    """The code that replays, if it has the locals that are read of it."""
    found = REPLAY.find(module)
    if found is None and _before(version, _SINCE[REPLAY]):
        found = guard.attribute(module, "replay")  # all there was then
    code = guard.attribute(found, "__code__")
    if isinstance(code, CodeType) and {"run_id", "ctx"} <= {*code.co_varnames, *code.co_cellvars}:
        return code
    _warn(REPLAY, version)
    return None


def _warn(hook: PrivateHook, version: str) -> None:
    _log.warning(
        "faultlens does not know %s.%s of durable-workflow %s; without it %s.",
        hook.module,
        hook.name,
        version,
        hook.without,
    )


def _before(version: str, since: tuple[int, ...]) -> bool:
    parts = version.split(".")[:3]
    return all(map(str.isdigit, parts)) and tuple(map(int, parts)) < since


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


def _reporting(init: Any, roles: Roles, *, of_update: bool) -> Any:
    @functools.wraps(init)
    def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        try:
            roles.command_made(self.update_id if of_update else None)
        except Exception:
            _log.debug("faultlens could not note how a run ended", exc_info=True)

    return wrapper


def _numbered(execute: Any) -> Any:
    numbers = itertools.count(1)

    @functools.wraps(execute)
    def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        token = _environment.set(next(numbers))
        try:
            return execute(self, *args, **kwargs)
        finally:
            _environment.reset(token)

    return wrapper
