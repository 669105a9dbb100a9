"""Flyte 2 (`flyte.errors`), 2.0.0b33 to 2.12.1.

Every exception has a ``.kind``, which decides:

    RuntimeUserError and below      user      set by the class
    RuntimeSystemError and below    system    set by the class
    RuntimeUnknownError and below   unknown   set by the class
    LogsNotYetAvailableError        system    set by the class
    BaseRuntimeError and the rest   any       set at each raise
    ActionNotFoundError             unknown   a plain RuntimeError, without a kind

One failure is raised several times: each level of nesting raises its own object, rebuilt from the
error's protobuf without ``__cause__`` and ``__context__``. So two functions are watched: the one
that converts a native exception to an error, and the one that converts an error back to an SDK
exception. Exceptions are counted like this:

    raised                                                  counts as
    a native exception that ends a task (not raised by the
      SDK: reported where the runtime converts it)          failure, of the class Flyte gives it
    rebuilt from an error
      of a task in this process                             propagated
      of a step that `flyte.trace` finds in its record      replayed
      of a child in another process                         propagated: that process counts it
        if only the backend can have written it: see
        `faultlens.sdks.flyte.backend`                      failure: no process saw it
    in a rank of a clustered task, after another rank       peer
    within a function of the SDK that swallows it           control_flow
    from an SDK exception that was recorded                 wrapped (`faultlens.sdks`)
    anywhere else                                           failure

An attempt is one run of a task in this process, or one whose end only the backend saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import os
import sys
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from enum import Enum
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from faultlens import guard
from faultlens.failure import CANCELLED, OK, Failure, Kind, Role
from faultlens.identity import IdentityMap
from faultlens.sdks import (
    ANY_KIND,
    SYSTEM,
    UNKNOWN,
    USER,
    PrivateHook,
    Recorder,
    Rule,
    Sdk,
    Verdict,
    replace,
    stable_worker,
)
from faultlens.sdks.flyte import backend, gang

# The classes that determine the kind; by name, since a version may lack one.
_CLASS_KINDS = {
    "flyte.errors.RuntimeUserError": USER,
    "flyte.errors.RuntimeSystemError": SYSTEM,
    "flyte.errors.RuntimeUnknownError": UNKNOWN,
    "flyte.errors.LogsNotYetAvailableError": SYSTEM,
    "flyte.errors.BaseRuntimeError": ANY_KIND,
}

# What went wrong, by the nearest base class in this table. A native exception, or the backend's
# code, is more specific: see `Flyte.reason`.
_REASONS = {
    "OOMError": "oom",
    "AppleSiliconDaemonOOMError": "oom",
    "TaskInterruptedError": "preempted",
    "InvalidImageNameError": "image",
    "ImagePullBackOffError": "image",
    "ImageBuildError": "image",
    "InvalidPackageError": "image",
    "MaxQueuedTimeExceededError": "scheduling",
    "TaskTimeoutError": "timeout",
    "ConditionTimedoutError": "timeout",
    "UnionRpcError": "network",
    "AppleSiliconBridgeUnreachableError": "network",
    "SlowDownError": "throttled",
    "GPUFaultError": "gpu",
    "InitializationError": "config",
    "DeploymentError": "config",
    "CodeBundleError": "config",
    "RemoteTaskNotFoundError": "config",
    "AppleSiliconNotAvailableError": "config",
    "AppleSiliconHostExecFailedError": "config",
    "AppleSiliconModelNotFoundError": "config",
    "CustomError": "code",
    "ModuleLoadError": "code",
    "NonRecoverableError": "code",
    "NotInTaskContextError": "code",
    "ReferenceTaskError": "code",
    "RemoteTaskUsageError": "code",
    "ActionNotFoundError": "code",
    "RestrictedTypeError": "code",
    "OnlyAsyncIOSupportedError": "code",
    "SyncTaskCallInAsyncContextError": "code",
    "TraceDoesNotAllowNestedTasksError": "code",
    "ConditionAlreadyExistsError": "code",
    "ConditionNotFoundError": "code",
    "RuntimeDataValidationError": "input",
    "InlineIOMaxBytesBreached": "input",
    "ParameterMaterializationError": "input",
    "ActionAbortedError": "cancelled",
    "RunAbortedError": "cancelled",
    "PrimaryContainerNotFoundError": "platform",
    "LogsNotYetAvailableError": "platform",
    "AppleSiliconDaemonStartFailedError": "platform",
}


# ── Exceptions that the SDK raises and swallows itself ────────────────────────────────────────

_Swallows = Callable[[FrameType, FrameType], bool]
"""Whether a function swallows the exception this time. Gets its frame and the raising frame."""


def _always(swallower: FrameType, raiser: FrameType) -> bool:
    return True


def _of_a_local_file(swallower: FrameType, raiser: FrameType) -> bool:
    """`File.open` swallows it for a local file, which it then opens in another way."""
    protocol = guard.attribute(raiser.f_locals.get("fs"), "protocol")
    return protocol is not None and "file" in protocol


def _in_a_directory(swallower: FrameType, raiser: FrameType) -> bool:
    """When a directory is loaded, a file that cannot be loaded is skipped; a single file is not."""
    return swallower is not raiser and "python_files" in swallower.f_locals


def _tried_again(swallower: FrameType, raiser: FrameType) -> bool:
    """The controller requeues the action until the retries are used up."""
    retries = guard.attribute(swallower.f_locals.get("action"), "retries")
    limit = guard.attribute(swallower.f_locals.get("self"), "_max_retries")
    return not (isinstance(retries, int) and isinstance(limit, int) and retries >= limit)


_STORAGE = "flyte.storage._storage"
_CORE = "flyte._internal.controllers.remote._core"
# fmt: off
_SWALLOWED: dict[str, tuple[tuple[str, str, _Swallows], ...]] = {
    # class                     module, function that swallows it, and when
    "OnlyAsyncIOSupportedError": ((_STORAGE, "put_stream", _always),
                                  ("flyte.io._file", "open", _of_a_local_file),
                                  ("flyte.io._file", "_open", _of_a_local_file)),
    "InitializationError":       ((_STORAGE, "get_configured_fsspec_kwargs", _always),),
    "ModuleLoadError":           (("flyte._utils.module_loader", "load_python_modules",
                                   _in_a_directory),),
    "SlowDownError":             ((_CORE, "_bg_run", _tried_again),),
    "ResourceExhaustedError":    ((_CORE, "_bg_run", _always),),
    "RemoteTaskNotFoundError":   (("flyte._internal.imagebuild.remote_builder", "build_image",
                                   _always),),
}
# fmt: on
_MESSAGE_LIMIT = 4096
"""How many characters of a message are searched for the backend's words."""
_SWALLOWING_FRAMES = 24
"""How many frames are searched for the swallowing function; the farthest known is 9 frames up."""


# ── Hooked functions ──────────────────────────────────────────────────────────────────────────

# The log viewer swallows a LogsNotYetAvailableError that the SDK raises in another thread. The
# viewer's frames are not on that thread's stack, but its context is visible there.
_viewing_logs: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "faultlens_viewing_logs", default=False
)

_LOGS = "flyte.remote._logs"
_OBSERVE = "flyte._observe"
_CONVERT = "flyte._internal.runtime.convert"
_TASKRUNNER = "flyte._internal.runtime.taskrunner"
_ENTRYPOINTS = "flyte._internal.runtime.entrypoints"

_REBUILD = PrivateHook(
    _CONVERT,
    "convert_error_to_native",
    ("err",),
    "a failed task counts again at each level of nesting",
)
_FROM_EXCEPTION = PrivateHook(
    "flyte.errors",
    "CustomError.from_exception",
    ("e",),
    "a native exception that ends a task is seen only where a parent raises it",
)
_VIEW_LOGS = PrivateHook(
    _LOGS, "AsyncLogViewer.run", ("self",), "logs that are not there yet count as a failure"
)
_CONVERT_AND_RUN = PrivateHook(
    _TASKRUNNER,
    "convert_and_run",
    ("task", "action", "controller"),
    "attempts of tasks are not counted, and a failure does not say in which task it was",
)
_RUN_TASK = PrivateHook(
    _TASKRUNNER,
    "run_task",
    ("tctx", "controller", "task"),
    "an attempt that an SDK exception ended is not counted",
)
_OBSERVERS = (
    PrivateHook("flyte._observe", "register_observer", ("observer",), ""),
    PrivateHook("flyte._observe", "unregister_observer", ("observer",), ""),
)


class _Source(Enum):
    """What an SDK exception was rebuilt from."""

    HERE = "the error of a task in this process"
    PROCESS = "the error that a child's process wrote"
    BACKEND = "a child's error that only the backend can have written"


class _Rebuilt(NamedTuple):
    """The origin of an SDK exception that was rebuilt from an error."""

    source: _Source
    report: backend.Report
    child: object
    """The name of the failed task, if another process ran it."""


class _Attempt:
    """A run of a task in this process."""

    __slots__ = ("outcome", "task")

    def __init__(self, task: object) -> None:
        self.task = task
        self.outcome: str | None = None
        """How the attempt ended; None while that is not known."""


_attempt: contextvars.ContextVar[_Attempt | None] = contextvars.ContextVar(
    "faultlens_flyte_attempt", default=None
)

_CONTROLLERS = frozenset(
    {
        "flyte._internal.controllers.remote._controller",
        "flyte._internal.controllers.remote._r_controller",
    }
)
_FAILED = frozenset(kind.value for kind in Kind)
_CHILD_ENDED = ("ActionAbortedError", "RunAbortedError", "TaskTimeoutError")
"""The exceptions that a controller raises itself when the server reports that end of a child."""


class Flyte(Sdk):
    """See `faultlens.sdks.Sdk`."""

    interface = 1
    package = "flyte"
    distribution = "flyte"
    errors_modules = ("flyte.errors",)
    hooked_modules = (_CONVERT, _TASKRUNNER, _ENTRYPOINTS, _OBSERVE, _LOGS)
    private_hooks = (_REBUILD, _FROM_EXCEPTION, _CONVERT_AND_RUN, _RUN_TASK, _VIEW_LOGS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rebuilt: IdentityMap[_Rebuilt] = IdentityMap()
        self._children: IdentityMap[object] = IdentityMap()
        """The name of the child task whose failure an exception reports, if only it does."""
        self._sees_conversions = True
        self._rank: tuple[int, gang.Rank | None] = (0, None)
        """A process id, and the rank of that process."""

    def trial(self) -> BaseException:
        return self.classes["flyte.errors.RuntimeSystemError"]("FaultlensDoctor", "a test failure")

    def own_rule(self, cls: type) -> Rule:
        bases = [base for base in guard.mro(cls) if self._has(base)]
        reason = next(filter(None, (_REASONS.get(guard.short_name(base)) for base in bases)), "")
        for base in bases:
            name = guard.class_name(base)
            if name in _CLASS_KINDS:
                kinds = _CLASS_KINDS[name]
                by = "at each raise" if kinds == ANY_KIND else f"by {name.rpartition('.')[2]}"
                return Rule(kinds, f"its .kind, set {by}", _own_kind, reason)
        return Rule(UNKNOWN, "no .kind and no rule", reason=reason)

    def code(self, exc: BaseException) -> object:
        code = guard.attribute(exc, "code")
        if type(code) is str and code == backend.EXCEEDED:
            return backend.read(code, guard.message(exc, _MESSAGE_LIMIT)).code
        return code

    def reason(self, exc: BaseException, rule: Rule) -> str:
        rebuilt = self._rebuilt.get(exc)
        if rebuilt is None:
            return ""
        if rebuilt.source is _Source.HERE:
            return "code" if _is_native(exc) else ""
        return rebuilt.report.reason

    def task(self, exc: BaseException) -> object:
        child = self._children.get(exc)
        if child is not None:
            return child
        attempt = _attempt.get()
        return None if attempt is None else attempt.task

    def context(self, exc: BaseException) -> Mapping[str, object]:
        # This is the task whose code runs: for the failure of a child, the parent. The attribute
        # names are those of flyteplugins-otel. Local mode has no project or domain.
        task = _current_task()
        if task is None:
            return {}
        # Within a traced step, `action` is that of the step.
        action = guard.attribute(task, "task_action") or guard.attribute(task, "action")
        attempt = _attempt.get()
        return {
            "flyte.org": guard.attribute(action, "org"),
            "flyte.project": guard.attribute(action, "project"),
            "flyte.domain": guard.attribute(action, "domain"),
            "flyte.run_name": guard.attribute(action, "run_name"),
            "flyte.action_name": guard.attribute(action, "name"),
            "flyte.task_name": None if attempt is None else attempt.task,
            "flyte.version": guard.attribute(task, "version"),
        }

    def _describe(
        self,
        exc: BaseException,
        known: Any,
        verdict: Verdict,
        with_context: bool,
        first: BaseException,
        links: Any,
    ) -> Failure:
        failure = super()._describe(exc, known, verdict, with_context, first, links)
        if "GPUFaultError" in known.names:
            sick = stable_worker(guard.attribute(exc, "node"))
            failure = failure._replace(worker=sick or failure.worker)
        # A native exception ends the attempt. An SDK exception may be handled, so it is claimed by
        # class and code.
        of = (failure.type, failure.code or "") if exc is first else ()
        if failure.role is Role.ORIGIN and not self._is_first_of_its_ranks(*of):
            why = "another rank of the attempt has counted"
            failure = failure._replace(role=Role.PEER, why=why)
        return failure

    def _is_first_of_its_ranks(self, *of: str) -> bool:
        rank = self._current_rank()
        return rank is None or self.claim(rank.claim(*of), rank.number)

    def _current_rank(self) -> gang.Rank | None:
        pid = os.getpid()
        if self._rank[0] != pid:  # a launcher may set the environment after the fork
            self._rank = pid, gang.current()
        return self._rank[1]

    def native_names(self, exc: BaseException) -> tuple[str, ...]:
        # The copy's code is the native exception's short name, which identifies built-in classes.
        rebuilt = self._rebuilt.get(exc)
        if rebuilt is None or rebuilt.source is _Source.BACKEND:
            return ()
        code = guard.text(guard.attribute(exc, "code"), 64)
        return (code,) if code else ()

    def ended_unseen(self, exc: BaseException, failure: Failure) -> tuple[object, str] | None:
        child = self._children.get(exc)
        if child is None or failure.role is not Role.ORIGIN:
            return None
        cancelled = failure.reason == "cancelled"
        return child, CANCELLED if cancelled else failure.kind.value

    # Whether an exception is an origin or a carrier: see the table at the top.

    def verdict(
        self, exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
    ) -> Verdict | None:
        rebuilt = self._rebuilt.get(exc)
        if rebuilt is not None:
            return self._verdict_on_rebuilt(exc, frame, rebuilt)
        if "CustomError" in names and _raised_in(exc, frame, {"flyte._run"}):
            # In hybrid mode, `flyte.run` raises the exception that the runtime converted.
            return Verdict(Role.PROPAGATED, _Source.HERE.value, _text(self.code(exc)))
        if "LogsNotYetAvailableError" in names and _viewing_logs.get():
            return Verdict(Role.CONTROL_FLOW, f"swallowed by {_LOGS}.{_VIEW_LOGS.name}")
        if any(name in names for name in _CHILD_ENDED):
            raiser = _raised_in(exc, frame, _CONTROLLERS)
            child = raiser and guard.attribute(raiser.f_locals.get("_task"), "name")
            if child:
                self._children.set(exc, child)
        return _verdict_on_swallowed(exc, frame, names)

    def _verdict_on_rebuilt(
        self, exc: BaseException, frame: FrameType | None, rebuilt: _Rebuilt
    ) -> Verdict:
        code, why = _text(self.code(exc)), f"rebuilt from {rebuilt.source.value}"
        if _raised_in(exc, frame, {"flyte._trace"}):
            return Verdict(Role.REPLAYED, "a step's failure, from its record", code)
        if rebuilt.source is _Source.HERE and _is_native(exc) and not self._sees_conversions:
            return Verdict(Role.ORIGIN, f"{why}, whose conversion is not seen")
        if rebuilt.source is _Source.BACKEND:
            if rebuilt.child is not None:
                self._children.set(exc, rebuilt.child)
            return Verdict(Role.ORIGIN, why)
        return Verdict(Role.PROPAGATED, why, code)

    # The hooks in the functions that a failure passes through.

    def lacking(self) -> Iterator[PrivateHook]:
        importlib.import_module(_TASKRUNNER)
        for hook in super().lacking():
            if hook is not _FROM_EXCEPTION or _observers() is None:
                yield hook

    def hook_into(self, module: ModuleType, recorder: Recorder) -> Callable[[], None] | None:
        if module.__name__ == _CONVERT:
            return self._hook_rebuilding(module)
        if module.__name__ == _OBSERVE:
            return self._observe(recorder)
        if module.__name__ == _TASKRUNNER:
            return self._hook_task_runner(module, recorder)
        if module.__name__ == _ENTRYPOINTS:
            return self._hook_load_failures(module, recorder)
        if module.__name__ == _LOGS:
            return self._hook_log_viewer(module)
        return None

    def _hook_rebuilding(self, convert: ModuleType) -> Callable[[], None] | None:
        original = self.find(_REBUILD, convert)
        if original is None:
            return None
        error_class = guard.attribute(convert, "Error")
        rebuilt = self._rebuilt

        @functools.wraps(original)
        def convert_error_to_native(err: Any, *args: Any, **kwargs: Any) -> Any:
            exc = original(err, *args, **kwargs)
            if isinstance(exc, BaseException) and exc is not err:
                here = type(err) is error_class
                # The caller is a controller's `handle_action_failure`, which knows the name.
                child = None if here else sys._getframe(1).f_locals.get("task_name")
                rebuilt.set(
                    exc, _rebuilt_from(guard.attribute(err, "err") if here else err, here, child)
                )
            return exc

        return replace(convert, "convert_error_to_native", convert_error_to_native)

    def _observe(self, recorder: Recorder) -> Callable[[], None] | None:
        """Get each native exception that ends a task while the task's span is still current.

        If Flyte was imported after faultlens, ours is the first observer, so its span closes last.
        """
        observers = _observers()
        if observers is None:
            return None
        register, unregister = observers
        observer = _Observer(functools.partial(self._ended, recorder))
        register(observer)
        return functools.partial(unregister, observer)

    def _hook_task_runner(
        self, taskrunner: ModuleType, recorder: Recorder
    ) -> Callable[[], None] | None:
        undo = []
        convert_and_run = self.find(_CONVERT_AND_RUN, taskrunner)
        if convert_and_run is not None:
            replacement = self._attempting(convert_and_run, recorder)
            undo.append(replace(taskrunner, "convert_and_run", replacement))
            undo.append(_rebind(convert_and_run, replacement))
        run_task = self.find(_RUN_TASK, taskrunner)
        if run_task is not None:
            undo.append(replace(taskrunner, "run_task", self._running(run_task, recorder)))
        conversion = self._hook_conversion(taskrunner, recorder) if _observers() is None else None
        if conversion is not None:
            undo.append(conversion)

        def restore() -> None:
            for step in undo:
                step()

        return restore

    def _attempting(
        self, original: Callable[..., Awaitable[Any]], recorder: Recorder
    ) -> Callable[..., Any]:
        """Wrap a coroutine function that runs a task, so that each run counts as an attempt."""

        @functools.wraps(original)
        async def attempting(*args: Any, **kwargs: Any) -> Any:
            attempt = _Attempt(guard.attribute(kwargs.get("task"), "name"))
            token = _attempt.set(attempt)
            try:
                result = await original(*args, **kwargs)
                if attempt.outcome is None and _error_of(result) is None:
                    attempt.outcome = OK
                return result
            except (asyncio.CancelledError, GeneratorExit):
                attempt.outcome = CANCELLED
                raise
            except Exception as exc:
                # A native exception here is not reported; the parent sees the container end.
                if attempt.outcome is None and any(map(self._has, guard.mro(type(exc)))):
                    attempt.outcome = recorder.outcome(exc)
                raise
            finally:
                with contextlib.suppress(ValueError):  # the coroutine was freed in another context
                    _attempt.reset(token)
                self._attempted(attempt, recorder)

        return attempting

    def _running(
        self, original: Callable[..., Awaitable[Any]], recorder: Recorder
    ) -> Callable[..., Any]:
        """The same for `run_task`, which hybrid mode calls without `convert_and_run`."""

        @functools.wraps(original)
        async def run_task(*args: Any, **kwargs: Any) -> Any:
            result = await original(*args, **kwargs)
            attempt = _attempt.get()
            error = _error_of(result)
            if attempt is not None and attempt.outcome is None and error is not None:
                attempt.outcome = recorder.outcome(error)
            return result

        alone = self._attempting(run_task, recorder)

        @functools.wraps(original)
        async def run_task_alone(*args: Any, **kwargs: Any) -> Any:
            run = run_task if _attempt.get() is not None else alone
            return await run(*args, **kwargs)

        return run_task_alone

    def _attempted(self, attempt: _Attempt, recorder: Recorder) -> None:
        if attempt.outcome is None or type(attempt.task) is not str:
            return
        rank = self._current_rank()
        if rank is not None:
            # The first rank that fails counts the attempt; if none fails, rank 0 counts it.
            fails = attempt.outcome in _FAILED
            if not (self._is_first_of_its_ranks() if fails else rank.number == "0"):
                return
        recorder.attempted(self, attempt.task, attempt.outcome)

    def _hook_conversion(
        self, taskrunner: ModuleType, recorder: Recorder
    ) -> Callable[[], None] | None:
        """As `_observe`, for versions without observers."""
        custom_error = guard.attribute(taskrunner, "CustomError")
        if self.find(_FROM_EXCEPTION, taskrunner) is None:
            self._sees_conversions = False
            return None
        from_exception = custom_error.__dict__["from_exception"].__func__

        @functools.wraps(from_exception)
        def noted(cls: Any, e: Any, *args: Any, **kwargs: Any) -> Any:
            if sys._getframe(1).f_globals.get("__name__") == _TASKRUNNER:
                self._ended(recorder, e)()
            return from_exception(cls, e, *args, **kwargs)

        return replace(custom_error, "from_exception", classmethod(noted))

    def _ended(self, recorder: Recorder, native: BaseException) -> Callable[[], None]:
        converted = recorder.converted(native, lambda: self._as_flyte_gives_it(native))
        attempt = _attempt.get()
        if attempt is not None:
            attempt.outcome = converted.outcome
        return converted.forget

    def _hook_load_failures(
        self, entrypoints: ModuleType, recorder: Recorder
    ) -> Callable[[], None] | None:
        """Record a task that cannot be loaded; versions before 2.5 do not report it."""
        original = guard.attribute(entrypoints, "convert_from_native_to_error")
        if original is None:
            return None

        @functools.wraps(original)
        def convert_from_native_to_error(err: Any, *args: Any, **kwargs: Any) -> Any:
            error = original(err, *args, **kwargs)
            recorder.converted(err, lambda: _rebuild(error)).forget()
            return error

        return replace(entrypoints, "convert_from_native_to_error", convert_from_native_to_error)

    def _hook_log_viewer(self, logs: ModuleType) -> Callable[[], None] | None:
        original = self.find(_VIEW_LOGS, logs)
        if original is None:
            return None

        @functools.wraps(original)
        async def run(viewer: Any, *args: Any, **kwargs: Any) -> Any:
            token = _viewing_logs.set(True)
            try:
                return await original(viewer, *args, **kwargs)
            finally:
                _viewing_logs.reset(token)

        return replace(logs.AsyncLogViewer, "run", run)

    def _as_flyte_gives_it(self, native: BaseException) -> Any:
        """The SDK exception that a parent task would get for a native exception."""
        convert = sys.modules[_CONVERT]
        # The message is not needed: the span event has that of the native exception.
        custom_error = self.classes["flyte.errors.CustomError"](type(native).__name__, "")
        try:
            return _rebuild(convert.convert_from_native_to_error(custom_error))
        except Exception:  # this version converts differently; it is a user's error in any case
            return custom_error


class _Observer:
    """A subscriber of `flyte._observe` that reports the exception that ends a task."""

    def __init__(self, ended: Callable[[BaseException], Callable[[], None]]) -> None:
        self._ended = ended

    def task_span(self, info: Any, recorder: Any) -> AbstractContextManager[object]:
        record_error = recorder.record_error
        until_the_end = ExitStack()

        # Record at once: observers that were registered after us close their spans, and record the
        # exception on them, before this block ends.
        def record_error_and_tell(error: BaseException) -> None:
            record_error(error)
            until_the_end.callback(self._ended(error))

        recorder.record_error = record_error_and_tell
        return until_the_end

    def step_span(self, info: Any, recorder: Any) -> AbstractContextManager[object]:
        """Do nothing: a step's exception propagates to the task, which may handle it."""
        return nullcontext()


def _error_of(result: Any) -> Any:
    """The error in the task runner's result, which is a tuple of outputs and error."""
    return result[1] if type(result) is tuple and len(result) == 2 else None


def _observers() -> tuple[Any, Any] | None:
    """The functions to subscribe and unsubscribe; None before Flyte 2.5."""
    module = sys.modules.get("flyte._observe")
    found = [hook.find(module) if module is not None else None for hook in _OBSERVERS]
    return None if None in found else (found[0], found[1])


def _rebuilt_from(err: object, here: bool, child: object) -> _Rebuilt:
    """The origin of an error, which is a protobuf message.

    If the server read the error from a file, which a process wrote, `error_uri` is set.
    """
    # Not guard.attribute: a protobuf message stores nothing in Python, and runs no host code.
    code, message = (str(getattr(err, name, None) or "") for name in ("code", "message"))
    report = backend.read(code, message[:_MESSAGE_LIMIT])
    if here:
        source = _Source.HERE
    elif getattr(err, "error_uri", None) or not report.unseen:
        source = _Source.PROCESS
    else:
        source = _Source.BACKEND
    return _Rebuilt(source, report, child)


def _rebind(original: Any, replacement: Any) -> Callable[[], None]:
    """Replace `convert_and_run` where it was imported by name; returns a function to undo that."""
    entrypoints: Any = sys.modules.get(_ENTRYPOINTS)
    if getattr(entrypoints, "convert_and_run", None) is original:
        entrypoints.convert_and_run = replacement

    def restore() -> None:
        entrypoints: Any = sys.modules.get(_ENTRYPOINTS)  # may have been imported since
        if getattr(entrypoints, "convert_and_run", None) is replacement:
            entrypoints.convert_and_run = original

    return restore


def _is_native(exc: BaseException) -> bool:
    """Whether it was rebuilt from a native exception, whose worker the runtime sets to "user"."""
    return bool(guard.attribute(exc, "worker") == "user")


def _rebuild(error: Any) -> Any:
    convert = sys.modules[_CONVERT]
    return convert.convert_error_to_native(error)


def _verdict_on_swallowed(
    exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
) -> Verdict | None:
    for name in names:
        if name in _SWALLOWED:
            rows = _SWALLOWED[name]
            break
    else:
        return None
    raiser = None
    for at in guard.frames(exc, frame, _SWALLOWING_FRAMES):
        raiser = raiser or at
        module = at.f_globals.get("__name__")
        for swallowing_module, function, swallows in rows:
            if module == swallowing_module and at.f_code.co_name == function:
                if swallows(at, raiser):
                    return Verdict(Role.CONTROL_FLOW, f"swallowed by {module}.{function}")
                return None
    return None


def _raised_in(
    exc: BaseException, frame: FrameType | None, modules: Container[str]
) -> FrameType | None:
    raiser = next(guard.frames(exc, frame, 1), None)
    return raiser if raiser is not None and raiser.f_globals.get("__name__") in modules else None


def _text(code: object) -> str | None:
    return guard.text(code, 64)


def _current_task() -> object:
    """Flyte's task context: None or an empty one outside of a task, depending on the version."""
    try:
        # Not flyte.ctx(): it may import modules, which must not happen inside a raise.
        return sys.modules["flyte._context"].internal_ctx().data.task_context
    except Exception:  # flyte is still being imported
        return None


_KINDS = {"user": Kind.USER, "system": Kind.SYSTEM}


def _own_kind(exc: BaseException) -> Kind:
    kind = guard.attribute(exc, "kind")
    # The type is checked first: the __eq__ of a user's object may raise.
    return _KINDS.get(kind, Kind.UNKNOWN) if type(kind) is str else Kind.UNKNOWN
