"""What is hooked in the Temporal SDK, beside the raises: what runs, and how it ends.

    the attempt of an activity, or the run of a workflow    its outcome
    ------------------------------------------------------  --------------------------------------
    its result was handed over; it continues as new         ok
    an ApplicationError of the category BENIGN              ok
    a cancellation, a worker that shuts down                cancelled
    any other exception                                     the kind, if it or what it was raised
                                                              from counted; else propagated
    it is completed from elsewhere                          that of the call that completes it, if
                                                              this process makes it

All that fails is converted by one public function, whose caller says what it ends. A run counts
once and not in a replay. A workflow's task is tried again without end: its failure counts once in a
run for each class. What the server ends, by a time-out or a termination, is no worker's attempt.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.failure import CANCELLED, OK, Failure, Kind, Role
from faultlens.sdks import CAUSE_LIMIT, PrivateHook, Recorder, Sdk, replace, stable_worker
from faultlens.sdks.memory import Bounded
from faultlens.sdks.temporal.kinds import CARRIERS, name_of
from faultlens.sdks.temporal.roles import (
    ending_workflow,
    is_benign,
    is_cancellation,
    is_rebuilt,
    running_workflow,
    update_in,
)

__all__ = [
    "BEFORE",
    "MODULES",
    "PRIVATE_HOOKS",
    "Hooks",
    "Undo",
    "context",
    "running_run",
    "running_task",
    "running_worker",
]

_log = logging.getLogger("faultlens")

_context_of = BaseException.__dict__["__context__"].__get__

Undo = Callable[[], None]

_ACTIVITY = "temporalio.worker._activity"
_WORKFLOW = "temporalio.worker._workflow"
_BRIDGE = "temporalio.bridge.worker"
_WORKER = "temporalio.worker._worker"
_CONVERTER = "temporalio.converter"
_CLIENT = "temporalio.client"

MODULES = (_ACTIVITY, _WORKFLOW, _BRIDGE, _WORKER, _CONVERTER, _CLIENT)

RUN_ACTIVITY = PrivateHook(
    _ACTIVITY,
    "_ActivityWorker._handle_start_activity_task",
    ("self", "task_token", "start", "running_activity"),
    "the attempts of activities are not counted, and their failures have no task",
)
BEFORE = {RUN_ACTIVITY: RUN_ACTIVITY._replace(name="_ActivityWorker._run_activity")}
"""The names that earlier versions have."""
ACTIVATE = PrivateHook(
    _WORKFLOW,
    "_WorkflowWorker._handle_activation",
    ("self", "act"),
    "the runs of workflows are not counted, nor those that are not deterministic",
)
COMPLETE_ACTIVITY = PrivateHook(
    _BRIDGE, "Worker.complete_activity_task", ("self", "comp"), RUN_ACTIVITY.without
)
COMPLETE_WORKFLOW = PrivateHook(
    _BRIDGE,
    "Worker.complete_workflow_activation",
    ("self", "comp"),
    "the runs of workflows are not counted",
)
PRIVATE_HOOKS = (RUN_ACTIVITY, ACTIVATE, COMPLETE_ACTIVITY, COMPLETE_WORKFLOW)

_ENDS = {
    # function that converts    its variable with the exception
    "encode_failure": "exception",  # of an attempt; also by a client, for an activity
    "_set_workflow_failure": "err",
    "run_update": "err",
    "run_query": "err",
    "activate": "activation_err",
    "_handle_activation": "err",
}
_FRAMES = 4
"""How far up that function is: a converter of the user's may call the SDK's."""
_IN_A_WORKFLOW = frozenset(_ENDS) - {"encode_failure"}
_OF_A_TASK = frozenset({"activate", "_handle_activation"})
_ANSWERS = frozenset({"run_update", "run_query"})

NONDETERMINISM = 3
"""The reason of an eviction; checked against the SDK's enum by a test."""
_OF_ONE_PROCESS = re.compile(r"\d+@.*")
"""The identity that a client has if the user chose none: process and host."""


class _Running:
    """What a worker runs: an attempt of an activity, or a workflow."""

    __slots__ = ("context", "is_replaying", "outcome", "run_id", "task")

    def __init__(
        self,
        task: str,
        context: dict[str, object] | None = None,
        run_id: str = "",
        is_replaying: bool = False,
    ) -> None:
        self.task = task
        self.context = context or {}
        self.run_id = run_id
        self.is_replaying = is_replaying
        self.outcome = ""


_running: contextvars.ContextVar[_Running | None] = contextvars.ContextVar(
    "faultlens_temporal_running", default=None
)
_worker: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "faultlens_temporal_worker", default=None
)
_workers: dict[str, str] = {}
"""The names of this process's workers by their task queue: a workflow's code has no context."""


def running_worker() -> str | None:
    """The name of the worker that runs the current code."""
    task_queue = guard.attribute(_info_of(running_workflow()), "task_queue")
    return _workers.get(task_queue) if type(task_queue) is str else _worker.get()


def running_task() -> object:
    """The type of the activity or the workflow that a worker runs."""
    workflow = running_workflow()
    if workflow is not None:
        return guard.attribute(_info_of(workflow), "workflow_type")
    running = _running.get()
    return running.task if running is not None else None


def running_run() -> str:
    """The run whose task a worker handles, outside of the workflow's code; else empty."""
    running = _running.get()
    return running.run_id if running is not None else ""


def context() -> dict[str, object]:
    """Where the current code runs, as span event attributes."""
    info = _info_of(running_workflow())
    if info is not None:
        names = ("namespace", "task_queue", "workflow_id", "workflow_type", "run_id", "attempt")
        return {f"temporal.{name}": guard.attribute(info, name) for name in names}
    running = _running.get()
    return running.context if running is not None else {}


class Hooks:
    """Hooks the SDK's modules, and reports how what runs there ends."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._ends: Bounded[str] = Bounded()
        """The outcome of a run, by its id."""
        self._types: Bounded[str] = Bounded()
        """The type of a run's workflow."""
        self._attempts: dict[tuple[str, ...], str] = {}
        """The type of an activity that runs, by its token and its ids."""
        self._elsewhere: Bounded[str] = Bounded()
        """The same of one that is completed from elsewhere."""
        self._counted: Bounded[object] = Bounded()
        self._in_conversion: list[BaseException] = []
        """The exceptions that are converted just now, in all threads."""

    def hook_into(self, module: ModuleType, recorder: Recorder) -> Undo | None:
        """Hook one of the SDK's modules; returns what undoes it, None if nothing is hooked."""
        hook = {
            _CONVERTER: self._hook_converter,
            _CLIENT: self._hook_client,
            _WORKER: self._hook_worker,
            _ACTIVITY: self._hook_activities,
            _WORKFLOW: self._hook_workflows,
            _BRIDGE: self._hook_bridge,
        }.get(module.__name__)
        undo = list(hook(module, recorder)) if hook is not None else []

        def undo_all() -> None:
            for step in reversed(undo):
                step()

        return undo_all if undo else None

    def _hook_converter(self, module: ModuleType, recorder: Recorder) -> Iterator[Undo]:
        converter = guard.attribute(module, "DefaultFailureConverter")
        original = vars(converter).get("to_failure") if isinstance(converter, type) else None
        if inspect.isfunction(original):
            yield replace(converter, "to_failure", self._converting(original, recorder))

    def _hook_client(self, module: ModuleType, recorder: Recorder) -> Iterator[Undo]:
        handle = guard.attribute(module, "AsyncActivityHandle")
        for name, outcome in (("complete", OK), ("fail", ""), ("report_cancellation", CANCELLED)):
            original = vars(handle).get(name) if isinstance(handle, type) else None
            if inspect.iscoroutinefunction(original):
                wrapped = self._completing(original, outcome, recorder)
                yield replace(handle, name, wrapped)

    def _hook_worker(self, module: ModuleType, recorder: Recorder) -> Iterator[Undo]:
        worker = guard.attribute(module, "Worker")
        original = vars(worker).get("run") if isinstance(worker, type) else None
        if inspect.iscoroutinefunction(original):
            yield replace(worker, "run", _within_worker(original, recorder))

    def _hook_activities(self, module: ModuleType, recorder: Recorder) -> Iterator[Undo]:
        run = BEFORE[RUN_ACTIVITY].find(module) or self._sdk.find(RUN_ACTIVITY, module)
        if run is not None:
            yield replace(module._ActivityWorker, run.__name__, self._attempting(run))

    def _hook_workflows(self, module: ModuleType, recorder: Recorder) -> Iterator[Undo]:
        activate = self._sdk.find(ACTIVATE, module)
        if activate is not None:
            wrapped = self._activating(activate, recorder)
            yield replace(module._WorkflowWorker, activate.__name__, wrapped)

    def _hook_bridge(self, module: ModuleType, recorder: Recorder) -> Iterator[Undo]:
        for hook, report in (
            (COMPLETE_ACTIVITY, self._attempt_ended),
            (COMPLETE_WORKFLOW, self._run_ended),
        ):
            original = self._sdk.find(hook, module)
            if original is not None:
                wrapped = _reporting(original, functools.partial(report, recorder))
                yield replace(module.Worker, original.__name__, wrapped)

    # The wrappers.

    def _converting(self, convert: Any, recorder: Recorder) -> Any:
        @functools.wraps(convert)
        def to_failure(self_: Any, *args: Any, **kwargs: Any) -> Any:
            end = _end_that_converts(sys._getframe(1))
            if end is not None:
                exc = end.f_locals.get(_ENDS[end.f_code.co_name])
                if isinstance(exc, BaseException):
                    with _harmless():
                        self._converted(end, exc, recorder)
                    with self._while_converting(exc):
                        return convert(self_, *args, **kwargs)
            return convert(self_, *args, **kwargs)

        return to_failure

    def _attempting(self, run: Any) -> Any:
        @functools.wraps(run)
        async def wrapper(worker: Any, token: Any, start: Any, *args: Any, **kwargs: Any) -> Any:
            running, keys = None, dict[tuple[str, ...], str]()
            with _harmless():
                running = _attempt_of(worker, start)
                ids = start.workflow_execution.workflow_id, start.activity_id
                # Before the worker knows, the activity may tell another thread to complete it.
                keys = dict.fromkeys((("token", token.hex()), ("ids", *ids)), running.task)
                self._attempts.update(keys)
            before = _running.set(running)
            try:
                return await run(worker, token, start, *args, **kwargs)
            finally:
                _running.reset(before)
                for key in keys:
                    self._attempts.pop(key, None)

        return wrapper

    @contextlib.contextmanager
    def _while_converting(self, exc: BaseException) -> Iterator[None]:
        self._in_conversion.append(exc)
        try:
            yield
        finally:
            # By identity: a comparison would be the host's.
            self._in_conversion[:] = [other for other in self._in_conversion if other is not exc]

    def is_made_by_the_converter(self, exc: BaseException) -> bool:
        """Whether it is made only to be read, from a native exception whose traceback it has."""
        traceback = guard.traceback_of(exc)
        for native in list(self._in_conversion):
            link: BaseException | None = native
            for _ in range(CAUSE_LIMIT):
                if link is None or link is exc:
                    break
                if guard.traceback_of(link) is traceback:
                    return True
                link = guard.cause_of(link) or _context_of(link)
        return False

    def _completing(self, complete: Any, outcome: str, recorder: Recorder) -> Any:
        """The end of an activity that is completed from elsewhere."""

        @functools.wraps(complete)
        async def wrapper(handle: Any, *args: Any, **kwargs: Any) -> Any:
            key = _key_of(guard.attribute(handle, "_id_or_token"))
            running = _Running(self._attempts.get(key) or self._elsewhere.get(key) or "")
            token = _running.set(running)
            try:
                answer = await complete(handle, *args, **kwargs)
            finally:
                _running.reset(token)
            with _harmless():
                self._report(recorder, running.task, outcome or running.outcome)
            return answer

        return wrapper

    def _activating(self, activate: Any, recorder: Recorder) -> Any:
        @functools.wraps(activate)
        async def wrapper(worker: Any, act: Any, *args: Any, **kwargs: Any) -> Any:
            running = None
            with _harmless():
                running = self._run_of(act)
            token = _running.set(running)
            try:
                with _harmless():
                    self._note_nondeterminism(act, recorder)
                return await activate(worker, act, *args, **kwargs)
            finally:
                _running.reset(token)

        return wrapper

    # What they make of it.

    def _run_of(self, act: Any) -> _Running:
        run_id, found = act.run_id, {"temporal.run_id": act.run_id}
        for job in act.jobs:
            # The first has another name since 1.8.
            if job.WhichOneof("variant") in ("start_workflow", "initialize_workflow"):
                start = getattr(job, job.WhichOneof("variant"))
                self._types.setdefault(("type", run_id), start.workflow_type)
                found["temporal.workflow_id"] = start.workflow_id
        name = found["temporal.workflow_type"] = self._types.get(("type", run_id)) or ""
        return _Running(name, found, run_id, act.is_replaying)

    def _converted(self, end: FrameType, exc: BaseException, recorder: Recorder) -> None:
        """Something ends by an exception, which is about to be converted."""
        function = end.f_code.co_name
        running = _running.get()
        if function not in _IN_A_WORKFLOW:
            outcome = self._outcome(exc, recorder)
            if running is not None:
                running.outcome = outcome
            return
        workflow = end.f_locals.get("self") if function != "_handle_activation" else None
        token = ending_workflow.set(workflow)
        try:
            self._workflow_ends(function, end, exc, recorder)
        finally:
            ending_workflow.reset(token)

    def _workflow_ends(
        self, function: str, end: FrameType, exc: BaseException, recorder: Recorder
    ) -> None:
        workflow, running = running_workflow(), _running.get()
        if workflow is not None:
            run_id = guard.attribute(_info_of(workflow), "run_id")
            is_replaying = guard.attribute(workflow, "_is_replaying") is True
        else:
            run_id = running.run_id if running is not None else ""
            is_replaying = running is not None and running.is_replaying
        if type(run_id) is not str or (is_replaying and function != "run_query"):
            return
        if function in _OF_A_TASK and not self._is_first("task", run_id, type(exc)):
            return
        if function == "run_update" and not self._is_first(update_in([end]), run_id, type(exc)):
            return
        outcome = self._outcome(exc, recorder)
        if function not in _ANSWERS:
            self._ends.setdefault(("run", run_id), outcome)

    def _outcome(self, exc: BaseException, recorder: Recorder) -> str:
        if is_cancellation(exc):
            return CANCELLED
        if is_benign(exc):
            return OK
        if not issubclass(type(exc), self._class("TemporalError")):
            name = guard.short_name(type(exc))
            convert = functools.partial(self._class("ApplicationError"), "", type=name)
            return recorder.converted(exc, convert).outcome
        if guard.traceback_of(exc) is None:  # it was only made, and ends something all the same
            if is_rebuilt(exc):
                return Role.PROPAGATED.value
            return _raised(exc, recorder)
        outcome, failure = recorder.outcome(exc), self._sdk.seen.get(exc)
        if failure is not None and self._counted_before(exc, failure):
            return failure.kind.value
        return outcome

    def _counted_before(self, exc: BaseException, failure: Failure) -> bool:
        """Whether this very failure counted, in an earlier replay or in a process of a pool."""
        if failure.role is Role.REPLAYED:
            return failure.carries == failure.type
        return (
            failure.role is Role.PROPAGATED
            and not is_rebuilt(exc)
            and name_of(type(exc)) not in CARRIERS
        )

    def _note_nondeterminism(self, act: Any, recorder: Recorder) -> None:
        """Core alone finds that a history does not fit: it evicts the run, and raises nothing."""
        for job in act.jobs:
            if job.WhichOneof("variant") != "remove_from_cache":
                continue
            evicted = job.remove_from_cache
            # Without a worker it is a Replayer's, which raises the exception itself.
            if evicted.reason == NONDETERMINISM and _worker.get() is not None:
                cls = self._class("NondeterminismError")
                if self._is_first("task", act.run_id, cls):
                    _raised(cls(evicted.message), recorder)

    def _attempt_ended(self, recorder: Recorder, completion: Any) -> None:
        running = _running.get()
        status = completion.result.WhichOneof("status")
        if running is None:  # a worker that shuts down refuses what it was given
            return
        if status == "will_complete_async":
            ids = (str(running.context[f"temporal.{name}_id"]) for name in ("workflow", "activity"))
            for key in (_key_of(completion.task_token), ("ids", *ids)):
                self._elsewhere.setdefault(key, running.task)
            return
        outcomes = {"completed": OK, "cancelled": CANCELLED}
        self._report(recorder, running.task, outcomes.get(status) or running.outcome or _UNKNOWN)

    def _run_ended(self, recorder: Recorder, completion: Any) -> None:
        running = _running.get()
        if running is None or running.is_replaying:
            return
        for command in completion.successful.commands:
            end = command.WhichOneof("variant")
            if end == "fail_workflow_execution":
                outcome = self._ends.get(("run", running.run_id)) or _UNKNOWN
            elif end in _OUTCOMES:
                outcome = _OUTCOMES[end]
            else:
                continue
            if self._is_first("end", running.run_id):
                self._report(recorder, running.task, outcome)

    def _class(self, name: str) -> Any:
        """The SDK's class of this name: the module that declares it depends on the version."""
        found = [cls for full, cls in self._sdk.classes.items() if full.endswith(f".{name}")]
        return found[0]

    def _is_first(self, what: str, run_id: str, cls: type | None = None) -> bool:
        key = what, run_id, guard.class_name(cls) if cls is not None else ""
        token = object()
        return self._counted.setdefault(key, token) is token

    def _report(self, recorder: Recorder, task: str, outcome: str) -> None:
        if task and outcome:
            recorder.attempted(self._sdk, task, outcome)


_UNKNOWN = Kind.UNKNOWN.value
_OUTCOMES = {
    "complete_workflow_execution": OK,
    "continue_as_new_workflow_execution": OK,
    "cancel_workflow_execution": CANCELLED,
}


def _within_worker(run: Any, recorder: Recorder) -> Any:
    @functools.wraps(run)
    async def wrapper(worker: Any, *args: Any, **kwargs: Any) -> Any:
        name = None
        with _harmless():
            name = _name_of(worker)
        token = _worker.set(name or "")
        if name:
            with _harmless():
                _workers[worker.task_queue] = name
                recorder.worker_seen(name)
        try:
            return await run(worker, *args, **kwargs)
        finally:
            _worker.reset(token)

    return wrapper


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """What goes wrong within, in a version of the SDK that differs, must not reach the program."""
    try:
        yield
    except Exception as error:
        if guard.of_a_signal(error):
            raise
        _log.debug("faultlens could not note what Temporal runs, or how it ended", exc_info=True)


def _attempt_of(worker: Any, start: Any) -> _Running:
    execution = start.workflow_execution
    found = {
        "temporal.namespace": start.workflow_namespace,
        "temporal.task_queue": guard.attribute(worker, "_task_queue"),
        "temporal.workflow_id": execution.workflow_id,
        "temporal.workflow_type": start.workflow_type,
        "temporal.run_id": execution.run_id,
        "temporal.activity_id": start.activity_id,
        "temporal.activity_type": start.activity_type,
        "temporal.attempt": start.attempt,
    }
    return _Running(start.activity_type, found)


def _name_of(worker: Any) -> str | None:
    """A worker's identity if the user chose it, else its task queue."""
    for identity in (worker.config().get("identity"), worker.client.identity):
        name = stable_worker(identity)
        if name is not None and not _OF_ONE_PROCESS.fullmatch(name):
            return name
    return stable_worker(worker.task_queue)


def _reporting(complete: Any, report: Callable[[Any], None]) -> Any:
    @functools.wraps(complete)
    async def wrapper(worker: Any, completion: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await complete(worker, completion, *args, **kwargs)
        with _harmless():
            report(completion)
        return answer

    return wrapper


def _end_that_converts(frame: FrameType | None) -> FrameType | None:
    """The frame of what ends by a failure; None where a cause of one is converted."""
    for _ in range(_FRAMES):
        if frame is None or frame.f_code.co_name in ("_error_to_failure", "to_payloads"):
            return None
        module = dict.get(frame.f_globals, "__name__")
        if type(module) is str and module.startswith("temporalio."):
            return frame if frame.f_code.co_name in _ENDS else None
        frame = frame.f_back
    return None


def _raised(exc: BaseException, recorder: Recorder) -> str:
    """Raise it, so that the hook sees it, and leave no mark of that; its outcome."""
    before = exc.__context__
    outcome = ""
    try:
        raise exc
    except BaseException as raised:
        if raised is exc:
            outcome = recorder.outcome(exc)
        exc.__traceback__, exc.__context__ = None, before
        if raised is not exc:
            raise
    return outcome


def _key_of(id_or_token: Any) -> tuple[str, ...]:
    """What names an activity that is completed from elsewhere."""
    if type(id_or_token) is bytes:
        return ("token", id_or_token.hex())
    ids = (guard.attribute(id_or_token, name) for name in ("workflow_id", "activity_id"))
    return ("ids", *(value if type(value) is str else "" for value in ids))


def _info_of(workflow: object) -> object:
    return guard.attribute(workflow, "_info")
