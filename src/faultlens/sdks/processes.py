"""Recognizes exceptions that came back from another process or interpreter, which counted them.

There are two signs. A pool puts the worker's traceback on the exception, as its cause:

    concurrent.futures, multiprocessing.Pool     RemoteTraceback or _RemoteTraceback; all of
    joblib and loky, multiprocess (pathos),      them have copied the name
    billiard, pebble
    InterpreterPoolExecutor                      ExecutionFailed

Others set no cause, but raise the exception in one of their own modules:

    the proxies of a BaseManager                 multiprocessing.managers, and copies of it
    result.get() of Celery                       celery.result, usually through vine
    dask.distributed                             distributed.client
"""

from __future__ import annotations

from types import FrameType

from faultlens import guard

__all__ = ["came_back"]

_REMOTE_TRACEBACKS = frozenset({"RemoteTraceback", "_RemoteTraceback"})
_EXECUTION_FAILED = "concurrent.interpreters.ExecutionFailed"

_RAISING = frozenset(
    {
        "multiprocessing.managers",
        "multiprocess.managers",
        "billiard.managers",
        "celery.result",
        "distributed.client",
    }
)
_BETWEEN = frozenset({"vine.utils", "vine.promises"})
"""The modules through which Celery raises; others may use them too."""
_TOLD = _RAISING | _BETWEEN
_FRAMES = 4
"""How many frames are checked; vine has two, and the next one is Celery's."""

_get = dict.get  # ignores overridden methods: a program's globals may be a subclass of dict


def came_back(exc: BaseException, frame: FrameType | None) -> str | None:
    """How an exception came back, in words; None if it did not. Runs none of the host's code.

    frame: the raising frame; None if it is gone.
    """
    cause = guard.cause_of(exc)
    if cause is not None:
        kind = type(cause)
        if guard.short_name(kind) in _REMOTE_TRACEBACKS:
            return "raised in a worker of a pool"
        if guard.class_name(kind) == _EXECUTION_FAILED:
            return "raised in another interpreter"
    if frame is not None and _module_of(frame) not in _TOLD:
        return None  # the usual case
    for at in guard.frames(exc, frame, _FRAMES):
        module = _module_of(at)
        if module in _RAISING:
            return f"raised in another process, and here by {module}"
        if module not in _BETWEEN:
            return None
    return None


def _module_of(frame: FrameType) -> str:
    name = _get(frame.f_globals, "__name__")
    return name if type(name) is str else ""
