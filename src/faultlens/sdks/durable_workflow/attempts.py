"""How the attempts of activities end, and the runs of workflows, on the workers of this process.

    the attempt of an activity, or the run        its outcome
    --------------------------------------------  ---------------------------------------------
    its result was taken; it continues as new     ok
    a cancellation ended it                       cancelled
    an SDK exception                              the kind, if it counted; else propagated
    a native exception that ended an activity     the kind of the carrier that will count it
    a native exception that ended a run           the same; propagated if it was raised from an
                                                  SDK exception, which has counted
    nothing was reported of an activity           system: its lease was lost, or the process
                                                  that ran it
    a local activity that returns too late: the
      SDK looks at its time-outs only then        ok

A native exception is a failure later, where the SDK first raises a carrier for it: in the workflow,
or at the client. It counts once there however often the activity was tried, and not at all if a
later attempt ended well. An attempt cannot wait for that. So the carrier is made here and asked for
its kind: the user's rules for the carrier and for the native class hold for the attempt too.

A run counts when the server has taken the command that ends it: once, however often the run was
replayed. A run that the server ends, by a time-out or a termination, is no attempt of a worker's.
Neither is a run in a WorkflowEnvironment.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from faultlens import guard
from faultlens.failure import CANCELLED, OK, Kind, Role
from faultlens.sdks import PrivateHook, Recorder, Sdk, replace
from faultlens.sdks.durable_workflow.raises import ERRORS, TEXT_LIMIT, plain
from faultlens.sdks.durable_workflow.roles import Roles

__all__ = ["PRIVATE_HOOKS", "Attempts", "running_task", "working_on"]

_log = logging.getLogger("faultlens")

_CANCELLATIONS = frozenset({f"{ERRORS}.ActivityCancelled", f"{ERRORS}.WorkflowCancelled"})

RUN_ACTIVITY = PrivateHook(
    "durable_workflow.worker",
    "Worker._run_activity_task",
    ("self", "task"),
    "the attempts of activities are not counted",
)
RUN_WORKFLOW = PrivateHook(
    "durable_workflow.worker",
    "Worker._run_workflow_task",
    ("self", "task"),
    "the runs of workflows are not counted",
)
RUN_QUERY = PrivateHook(
    "durable_workflow.worker",
    "Worker._run_query_task",
    ("self", "task"),
    "the failures of queries have no task",
    since=(0, 4, 106),
)
VALIDATE_UPDATE = PrivateHook(
    "durable_workflow.worker",
    "Worker._run_update_validation_task",
    ("self", "task"),
    "the failures of update validators have no task",
    since=(2, 12),
)
EXECUTE = PrivateHook(
    "durable_workflow.worker",
    "Worker._execute_activity_callable",
    ("self", "task", "activity_type"),
    "the attempts of local activities are not counted",
    since=(0, 4, 106),
)
TASKS = (RUN_ACTIVITY, RUN_WORKFLOW, RUN_QUERY, VALIDATE_UPDATE)
PRIVATE_HOOKS = (*TASKS, EXECUTE)


class _Running:
    """What a worker works on: a task of the server's, or a local activity."""

    __slots__ = ("id", "is_activity", "name", "outcome", "run")

    def __init__(
        self,
        name: str,
        is_activity: bool = False,
        task_id: str | None = None,
        run: str | None = None,
    ) -> None:
        self.name = name
        self.is_activity = is_activity
        self.id = task_id
        self.run = run
        self.outcome = ""


_running: contextvars.ContextVar[_Running | None] = contextvars.ContextVar(
    "faultlens_task", default=None
)


def running_task() -> str | None:
    """The type of the activity or the workflow that a worker runs; None outside of one."""
    running = _running.get()
    return running.name if running is not None else None


def working_on(name: str) -> contextvars.Token[_Running | None]:
    return _running.set(_Running(name))


class Attempts:
    """Reports the attempts and the runs. See the top of this file."""

    def __init__(self, sdk: Sdk, roles: Roles, recorder: Recorder) -> None:
        self._sdk = sdk
        self._roles = roles
        self._recorder = recorder

    def hook_worker(self, module: ModuleType) -> Iterator[Callable[[], None]]:
        """Know what a worker works on."""
        for hook in TASKS:
            original = self._sdk.find(hook, module)
            if original is not None:
                wrapped = self._working(original, is_activity=hook is RUN_ACTIVITY)
                yield replace(module.Worker, original.__name__, wrapped)
        execute = self._sdk.find(EXECUTE, module)
        if execute is not None:
            yield replace(module.Worker, execute.__name__, self._executing(execute))

    def hook_client(self, module: ModuleType) -> Iterator[Callable[[], None]]:
        """Know what a worker reports to the server of it."""
        client = guard.attribute(module, "Client")
        for name, wrap in (
            ("complete_activity_task", self._completing),
            ("fail_activity_task", self._failing),
            ("complete_workflow_task", self._ending),
        ):
            original = vars(client).get(name) if isinstance(client, type) else None
            if inspect.iscoroutinefunction(original):
                yield replace(client, name, wrap(original))

    def run_failed(self, exc: BaseException, command: object) -> str:
        """The outcome of a run for which the SDK made this command to fail it."""
        if self._of_sdk(exc) is not None or self._roles.behind(exc)[1]:
            return self._outcome(exc) or Role.PROPAGATED.value
        text = {
            name: plain(guard.attribute(command, name))
            for name in ("message", "exception_type", "exception_class")
        }
        return self._of_native("WorkflowFailed", **text)

    # The wrappers.

    def _working(self, run: Any, is_activity: bool) -> Any:
        @functools.wraps(run)
        async def wrapper(worker: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
            with self._work(_task(task, is_activity)):
                return await run(worker, task, *args, **kwargs)

        return wrapper

    def _executing(self, execute: Any) -> Any:
        """A local activity is a part of a workflow's task, and the SDK tries it again itself."""

        @functools.wraps(execute)
        async def wrapper(worker: Any, task: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
            within = _running.get()
            if within is not None and within.is_activity:
                return await execute(worker, task, name, *args, **kwargs)
            with self._work(_Running(plain(name) or "", is_activity=True)) as running:
                result = await execute(worker, task, name, *args, **kwargs)
                running.outcome = OK
                return result

        return wrapper

    @contextlib.contextmanager
    def _work(self, running: _Running) -> Iterator[_Running]:
        token = _running.set(running)
        try:
            yield running
        except BaseException as exc:
            self._note(running, exc)
            raise
        finally:
            _running.reset(token)
            if running.is_activity:
                self._report(running.name, running.outcome or Kind.SYSTEM.value)

    def _completing(self, complete: Any) -> Any:
        @functools.wraps(complete)
        async def wrapper(client: Any, *args: Any, **kwargs: Any) -> Any:
            running = _reported(kwargs)
            try:
                answer = await complete(client, *args, **kwargs)
            except Exception as exc:  # its result cannot be encoded, or the server does not take it
                self._note(running, exc)
                raise
            if running is not None:
                running.outcome = OK
            return answer

        return wrapper

    def _failing(self, fail: Any) -> Any:
        # The worker reports a failure while it handles the exception, so that is at hand.
        @functools.wraps(fail)
        async def wrapper(client: Any, *args: Any, **kwargs: Any) -> Any:
            self._note(_reported(kwargs), sys.exc_info()[1], kwargs)
            return await fail(client, *args, **kwargs)

        return wrapper

    def _ending(self, complete: Any) -> Any:
        @functools.wraps(complete)
        async def wrapper(client: Any, *args: Any, **kwargs: Any) -> Any:
            answer = await complete(client, *args, **kwargs)
            running, commands = _reported(kwargs), kwargs.get("commands")
            if running is not None and type(commands) is list:
                types = {dict.get(command, "type") for command in commands}
                if "fail_workflow" in types:
                    self._report(running.name, self._roles.outcome_of_run(running.run))
                elif types & {"complete_workflow", "continue_as_new"}:
                    self._report(running.name, OK)
            return answer

        return wrapper

    # What they make of it.

    def _note(
        self, running: _Running | None, exc: BaseException | None, reported: Any = None
    ) -> None:
        """Note how an activity's attempt ended, by the exception and by what is reported of it."""
        if running is None or running.outcome or _is_abandoned(exc):
            return
        try:
            native = _native(exc, reported or {})
            if native.get("exception_class") in _CANCELLATIONS:
                running.outcome = CANCELLED
            else:
                running.outcome = self._outcome(exc) or self._of_native("ActivityFailed", **native)
        except Exception:
            _log.debug("faultlens could not note how an attempt ended", exc_info=True)

    def _outcome(self, exc: BaseException | None) -> str:
        """The outcome by an SDK exception, or by a cancellation; empty for any other."""
        if exc is None:
            return ""
        known = self._of_sdk(exc)
        if known in _CANCELLATIONS or not issubclass(type(exc), Exception):
            return CANCELLED
        if known is None:
            return ""
        outcome, failure = self._recorder.outcome(exc), self._sdk.seen.get(exc)
        if failure is not None and failure.role is Role.REPLAYED and failure.carries == known:
            return failure.kind.value  # it counted in an earlier replay of this run
        return outcome

    def _of_sdk(self, exc: BaseException) -> str | None:
        """The class of an SDK exception; None for any other."""
        names = map(guard.class_name, guard.mro(type(exc)))
        return guard.class_name(type(exc)) if any(n in self._sdk.classes for n in names) else None

    def _of_native(self, carrier: str, **failure: str | None) -> str:
        """The outcome by a native exception: the kind that its carrier will have."""
        message = failure.pop("message", None) or ""
        classes = self._sdk.classes
        cls = classes.get(f"durable_workflow.errors.{carrier}")
        if carrier == "ActivityFailed" and cls is not None:
            exc = cls(message, **failure)
        else:
            name = failure.get("exception_class") or failure.get("exception_type")
            exc = classes["durable_workflow.errors.WorkflowFailed"](message, name)
        seen = self._sdk.describe(exc, None, with_context=False)
        return OK if seen.role is Role.CONFIGURED else seen.kind.value

    def _report(self, name: str, outcome: str) -> None:
        try:
            self._recorder.attempted(self._sdk, name, outcome)
        except Exception:
            _log.debug("faultlens could not count an attempt", exc_info=True)


def _task(task: Any, is_activity: bool) -> _Running:
    found = {
        name: plain(dict.get(task, name)) if issubclass(type(task), dict) else None
        for name in ("activity_type" if is_activity else "workflow_type", "task_id", "run_id")
    }
    name, task_id, run = found.values()
    return _Running(name or "", is_activity, task_id, run)


def _is_abandoned(exc: BaseException | None) -> bool:
    """Whether the SDK gives the attempt up, by an exception of its own: its lease was lost."""
    name = guard.class_name(type(exc))
    return name.startswith("durable_workflow.") and name.endswith("ExecutionAborted")


def _reported(kwargs: Any) -> _Running | None:
    """The running task if this report is about it. User code may report other tasks too."""
    running = _running.get()
    if running is None or running.id is None or plain(kwargs.get("task_id")) != running.id:
        return None
    return running


def _native(exc: BaseException | None, reported: Any) -> dict[str, str | None]:
    """What is told of a native exception: it may have been raised in another process."""
    if "message" in reported:
        names = {"message": "message", "exception_type": "failure_type"}
        return {
            **{key: plain(reported.get(name)) for key, name in names.items()},
            "exception_class": plain(reported.get("failure_class")),
        }
    if exc is None:
        return {}
    return {
        "message": guard.message(exc, TEXT_LIMIT),
        "exception_type": guard.short_name(type(exc)),
        "exception_class": guard.class_name(type(exc)),
    }
