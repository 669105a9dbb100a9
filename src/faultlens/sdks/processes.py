"""Exceptions that come back from another process or interpreter, which has counted them.

Two things tell. A pool puts the worker's traceback on the exception, as its cause:

    concurrent.futures, multiprocessing.Pool     RemoteTraceback or _RemoteTraceback, a name
    joblib and loky, multiprocess (pathos),      that all of them have copied
    billiard, pebble
    InterpreterPoolExecutor                      ExecutionFailed

Others leave no cause, but raise the exception in a module of their own:

    the proxies of a BaseManager                 multiprocessing.managers, and copies of it
    result.get() of Celery                       celery.result, mostly by way of vine
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
"""What Celery raises through, and others may."""
_TOLD = _RAISING | _BETWEEN
_FRAMES = 4
"""How many frames to look at: two of vine, then one of Celery."""

_get = dict.get  # past a method of the host's: a program may run with globals of its own kind


def came_back(exc: BaseException, frame: FrameType | None) -> str | None:
    """How an exception came back, in words; None if it did not. Runs no code of the host's.

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
        return None  # nearly always
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
