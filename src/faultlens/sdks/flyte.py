"""Flyte 2 (`flyte.errors`), 2.0.0b33 to 2.12.1.

Every exception carries its own ``.kind``, and that decides:

    RuntimeUserError and below      user      set by the class
    RuntimeSystemError and below    system    set by the class
    RuntimeUnknownError and below   unknown   set by the class
    LogsNotYetAvailableError        system    set by the class
    BaseRuntimeError and the rest   any       set at each raise
    ActionNotFoundError             unknown   a plain RuntimeError, without a kind

One failure is raised many times over: each level of nesting gets an object of its own, rebuilt
from the error's protobuf with neither ``__cause__`` nor ``__context__``. So the two functions that
a failure passes through are watched, where a native exception becomes an error and where an error
becomes an SDK exception again, and this decides:

    raised                                                  counts as
    a native exception that ends a task (not raised by the
      SDK: reported where the runtime converts it)          failure, of the class Flyte gives it
    rebuilt from an error
      of a task in this process                             propagated
      of a step that `flyte.trace` finds in its record      replayed
      of a child in another process                         propagated: that process counts it
        of a class that only the server gives, and not
        from an error file, which a process writes          failure: no process saw it
    below a function of the SDK that swallows it            control_flow
    from an SDK exception that was recorded                 wrapped (`faultlens.sdks`)
    anywhere else                                           failure
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from enum import Enum
from types import FrameType, ModuleType
from typing import Any

from faultlens import guard
from faultlens.failure import Kind, Role
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
)

# The classes whose constructor fixes the kind; by name, since a version may lack one.
_CLASS_KINDS = {
    "flyte.errors.RuntimeUserError": USER,
    "flyte.errors.RuntimeSystemError": SYSTEM,
    "flyte.errors.RuntimeUnknownError": UNKNOWN,
    "flyte.errors.LogsNotYetAvailableError": SYSTEM,
    "flyte.errors.BaseRuntimeError": ANY_KIND,
}

# What ends a pod from outside: no process of ours was there to see it, so the parent that is told
# is the first. Aborts are not here: the parent raises those itself.
_GIVEN_BY_THE_SERVER = frozenset(
    {
        "OOMError",
        "TaskInterruptedError",
        "PrimaryContainerNotFoundError",
        "RetriesExhaustedError",
        "InvalidImageNameError",
        "ImagePullBackOffError",
        "GPUFaultUserError",
        "GPUFaultSystemError",
        "TaskTimeoutError",
        "MaxQueuedTimeExceededError",
        "MaxRuntimeExceededError",
        "DeadlineExceededError",
    }
)


# ── What the SDK raises and swallows itself ───────────────────────────────────────────────────

_Swallows = Callable[[FrameType, FrameType], bool]
"""Whether the function swallows it this time: gets its frame, and the raising one."""


def _always(swallower: FrameType, raiser: FrameType) -> bool:
    return True


def _of_a_local_file(swallower: FrameType, raiser: FrameType) -> bool:
    """`File.open` reads a local file in another way, and lets the exception pass for the rest."""
    protocol = guard.attribute(raiser.f_locals.get("fs"), "protocol")
    return protocol is not None and "file" in protocol


def _in_a_directory(swallower: FrameType, raiser: FrameType) -> bool:
    """A directory is loaded although a file of it cannot be; a single file is not."""
    return swallower is not raiser and "python_files" in swallower.f_locals


def _tried_again(swallower: FrameType, raiser: FrameType) -> bool:
    """The controller puts the action back into its queue until the retries are used up."""
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
_SWALLOWING_FRAMES = 24
"""How far up the swallowing function is looked for; the farthest known one is 9 frames up."""


# ── What is hooked ────────────────────────────────────────────────────────────────────────────

# The log viewer swallows a LogsNotYetAvailableError that is raised in a thread of the SDK's, where
# none of its frames is seen. Its context is.
_viewing_logs: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "faultlens_viewing_logs", default=False
)

_LOGS = "flyte.remote._logs"
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
_OBSERVERS = (
    PrivateHook("flyte._observe", "register_observer", ("observer",), ""),
    PrivateHook("flyte._observe", "unregister_observer", ("observer",), ""),
)


class _Source(Enum):
    """What an SDK exception was rebuilt from."""

    HERE = "the error of a task in this process"
    ERROR_FILE = "what a child's process wrote into its error file"
    REPORT = "what the server reports of a child"


class Flyte(Sdk):
    """See `faultlens.sdks.Sdk`."""

    package = "flyte"
    distribution = "flyte"
    private_hooks = (_REBUILD, _FROM_EXCEPTION, _VIEW_LOGS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rebuilt: IdentityMap[_Source] = IdentityMap()
        self._sees_conversions = True

    def own_rule(self, cls: type) -> Rule:
        for base in guard.mro(cls):
            name = guard.class_name(base)
            if name in _CLASS_KINDS:
                kinds = _CLASS_KINDS[name]
                by = "at each raise" if kinds == ANY_KIND else f"by {name.rpartition('.')[2]}"
                return Rule(kinds, f"its .kind, set {by}", _own_kind)
        return Rule(UNKNOWN, "no .kind and no rule")

    def context(self, exc: BaseException) -> Mapping[str, object]:
        # In a task's own code this is the task's action; where a parent gets its child's failure,
        # the parent's. Local mode has neither project nor domain.
        task = _current_task()
        if task is None:
            return {}
        action = guard.attribute(task, "action")
        return {
            "flyte.project": guard.attribute(action, "project"),
            "flyte.domain": guard.attribute(action, "domain"),
            "flyte.run": guard.attribute(action, "run_name"),
            "flyte.action": guard.attribute(action, "name"),
        }

    # Origin or carrier: the table at the top.

    def verdict(
        self, exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
    ) -> Verdict | None:
        source = self._rebuilt.get(exc)
        if source is not None:
            return self._verdict_on_rebuilt(exc, frame, source)
        if "CustomError" in names and _raised_in(exc, frame, "flyte._run"):
            # What `flyte.run` raises in its hybrid mode is what the runtime converted.
            return Verdict(Role.PROPAGATED, _Source.HERE.value, _code(exc))
        if "LogsNotYetAvailableError" in names and _viewing_logs.get():
            return Verdict(Role.CONTROL_FLOW, f"swallowed by {_LOGS}.{_VIEW_LOGS.name}")
        return _verdict_on_swallowed(exc, frame, names)

    def _verdict_on_rebuilt(
        self, exc: BaseException, frame: FrameType | None, source: _Source
    ) -> Verdict:
        code, why = _code(exc), f"rebuilt from {source.value}"
        if _raised_in(exc, frame, "flyte._trace"):
            return Verdict(Role.REPLAYED, "a step's failure, from its record", code)
        # The runtime calls the worker of a converted native exception "user".
        native = source is _Source.HERE and guard.attribute(exc, "worker") == "user"
        if native and not self._sees_conversions:
            return Verdict(Role.ORIGIN, f"{why}, whose conversion is not seen")
        if source is _Source.REPORT and guard.short_name(type(exc)) in _GIVEN_BY_THE_SERVER:
            return Verdict(Role.ORIGIN, f"{why}, and only the server could see")
        return Verdict(Role.PROPAGATED, why, code)

    # The functions that a failure passes through.

    def lacking(self) -> Iterator[PrivateHook]:
        importlib.import_module(_TASKRUNNER)
        for hook in super().lacking():
            if hook is not _FROM_EXCEPTION or _observers() is None:
                yield hook

    def hook_into(self, module: ModuleType, recorder: Recorder) -> Callable[[], None] | None:
        if module.__name__ == _CONVERT:
            return self._hook_rebuilding(module)
        if module.__name__ == "flyte._observe":
            return self._observe(recorder)
        if module.__name__ == _TASKRUNNER and _observers() is None:
            return self._hook_conversion(module, recorder)
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
                source = _Source.HERE if type(err) is error_class else _source(err, exc)
                rebuilt.set(exc, source)
            return exc

        return replace(convert, "convert_error_to_native", convert_error_to_native)

    def _observe(self, recorder: Recorder) -> Callable[[], None] | None:
        """Learn of each native exception that ends a task, while the task's span is current.

        As the first observer, if Flyte was imported after us: so the last whose span is closed.
        """
        observers = _observers()
        if observers is None:
            return None
        register, unregister = observers
        observer = _Observer(functools.partial(self._ended, recorder))
        register(observer)
        return functools.partial(unregister, observer)

    def _hook_conversion(
        self, taskrunner: ModuleType, recorder: Recorder
    ) -> Callable[[], None] | None:
        """The same, in a version without observers."""
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
        return recorder.converted(native, lambda: self._as_flyte_gives_it(native)).forget

    def _hook_load_failures(
        self, entrypoints: ModuleType, recorder: Recorder
    ) -> Callable[[], None] | None:
        """A task that cannot be loaded; versions before 2.5 report nothing of it."""
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
        """The SDK exception that a parent task would get for it."""
        convert = sys.modules[_CONVERT]
        # Of the text only the code decides anything; the event has the native one's own.
        custom_error = self.errors.CustomError(type(native).__name__, "")
        try:
            return _rebuild(convert.convert_from_native_to_error(custom_error))
        except Exception:  # a version in which these two are others: it is a user's error still
            return custom_error


class _Observer:
    """A subscriber of `flyte._observe`: tells of the exception that ends a task."""

    def __init__(self, ended: Callable[[BaseException], Callable[[], None]]) -> None:
        self._ended = ended

    def task_span(self, info: Any, recorder: Any) -> AbstractContextManager[object]:
        record_error = recorder.record_error
        until_the_end = ExitStack()

        # At once, not at the end of this block: by then the spans of the observers that were
        # registered after us are closed, and they write the exception on them when they close.
        def record_error_and_tell(error: BaseException) -> None:
            record_error(error)
            until_the_end.callback(self._ended(error))

        recorder.record_error = record_error_and_tell
        return until_the_end

    def step_span(self, info: Any, recorder: Any) -> AbstractContextManager[object]:
        """A step's exception goes on into the task, which may handle it."""
        return nullcontext()


def _observers() -> tuple[Any, Any] | None:
    """The functions by which to subscribe, 2.5 on."""
    module = sys.modules.get("flyte._observe")
    found = [hook.find(module) if module is not None else None for hook in _OBSERVERS]
    return None if None in found else (found[0], found[1])


def _source(err: object, exc: BaseException) -> _Source:
    """Where the error of a child in another process comes from.

    The server names the file if it read one. The code that is the name of an SDK's class was
    written by a process that got such an exception and passed it on.
    """
    # `err` is a protobuf message, which stores nothing in Python.
    in_file = getattr(err, "error_uri", None) or (
        guard.text(getattr(err, "code", None), 64) == guard.short_name(type(exc))
    )
    return _Source.ERROR_FILE if in_file else _Source.REPORT


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


def _raised_in(exc: BaseException, frame: FrameType | None, module: str) -> bool:
    raiser = next(guard.frames(exc, frame, 1), None)
    return raiser is not None and raiser.f_globals.get("__name__") == module


def _code(exc: object) -> str | None:
    return guard.text(guard.attribute(exc, "code"), 64)


def _current_task() -> object:
    """Flyte's task context: None or an empty one outside of a task, depending on the version."""
    try:
        # Not flyte.ctx(), which may import something: never inside a raise.
        return sys.modules["flyte._context"].internal_ctx().data.task_context
    except Exception:  # flyte is being imported still
        return None


_KINDS = {"user": Kind.USER, "system": Kind.SYSTEM}


def _own_kind(exc: BaseException) -> Kind:
    kind = guard.attribute(exc, "kind")
    # Compared by type first: a stranger's __eq__ may raise.
    return _KINDS.get(kind, Kind.UNKNOWN) if type(kind) is str else Kind.UNKNOWN
