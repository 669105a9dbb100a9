"""Raise detection by `sys.settrace`, for Python 3.10 and 3.11.

Nearly every exception is raised near its construction. So the constructing thread is traced: the
frame that constructed the exception, the frames it calls, and each caller that control returns to.
Tracing ends with the raise, with the exception's death, or after `_BUDGET` events, so an exception
that is stored costs a bounded amount.

An exception may also be raised far from its construction: later, in another thread, or under a
debugger or coverage tool, whose trace function is left alone. Such a raise is found by the
exception's traceback, which is checked when the exception is freed and whenever metrics are read.
The counts stay exact, but the time, the stack and the span of the raise are lost. If the exception
loses its traceback (``with_traceback(None)``) after a far raise, the raise is missed.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from types import FrameType
from typing import Any

from faultlens import guard
from faultlens.hook.births import Birth, Pending, Raised

# A raise in the constructing function takes a handful of events; through factory functions, a few
# dozen. 1000 events take about 0.3 ms.
_BUDGET = 1000


class Settrace:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.settrace"

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self._pending = pending
        self._raised = raised
        self._thread = _Thread(pending, raised)
        # Still reachable at exit, when module globals are gone.
        self._getframe = sys._getframe
        self._gettrace = sys.gettrace
        self._settrace = sys.settrace

    def start(self) -> bool:
        _started.add(self)
        return True

    def stop(self) -> None:
        tracer = self._thread.tracer
        if sys.gettrace() is tracer.on_call:
            tracer.leave(sys._getframe(1))

    def expect(self, exc: BaseException) -> None:
        birth = Birth(exc)
        birth.key = key = id(exc)
        self._pending[key] = birth
        tracer, active = self._thread.tracer, self._gettrace()
        if active is not None and active is not tracer.on_call:
            return  # a debugger or coverage tool is left alone; the traceback shows this raise
        tracer.near.append(birth)
        tracer.budget = _BUDGET
        # Frame 0 is this one, 1 the hook's, 2 __new__, 3 the host's.
        tracer.follow(self._getframe(3))
        self._settrace(tracer.on_call)  # last, since it slows down everything after it

    def poll(self) -> None:
        for birth in list(self._pending.values()):
            exc = birth()
            if exc is not None and guard.was_raised(exc):
                self.finalizer(exc)

    def forget_the_parents(self) -> None:
        """In a forked child, forget what was raised before the fork: the parent reports it."""
        for birth in list(self._pending.values()):
            exc = birth()
            if exc is not None and guard.was_raised(exc):
                self._pending.pop(birth.key, None)

    def finalizer(self, exc: BaseException) -> None:
        """Report `exc` if its raise was not seen. Called when it is freed, and by `poll`."""
        try:
            if self._pending.pop(id(exc), None) is not None and guard.was_raised(exc):
                self._raised(exc, None)
        except Exception:
            pass  # at interpreter exit anything may be gone


class _Tracer:
    """Traces one thread while an exception that was just constructed there is pending."""

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self.near: list[Birth] = []
        self.budget = 0
        self._pending = pending
        self._raised = raised
        # Each look-up of a bound method creates a new object; these are compared by identity.
        self.on_call = self._on_call
        self.on_event = self._on_event
        # Still reachable at exit, when module globals are gone.
        self._gettrace = sys.gettrace
        self._settrace = sys.settrace

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The thread's trace function; called when a function starts or a generator resumes."""
        if frame.f_code.co_name == "__init__" and self.budget > 0:
            # Usually the exception's own. A raise in it is seen in the caller.
            self.budget -= 1
            return None
        if self._done():
            self.leave(frame.f_back)
            return None
        frame.f_trace_lines = False
        return self.on_event

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The trace function of a frame."""
        if self._gettrace() is not self.on_call:  # replaced by a debugger that starts here
            self._give_way(frame)
            return None
        if event == "exception":
            birth = self._pending.pop(id(arg[1]), None)
            if birth is not None and birth() is not None:
                self._report(birth, arg[1], frame)
        elif event == "return":
            # A frame that returned, or a coroutine that was suspended, is left as it was.
            frame.f_trace = None
            frame.f_trace_lines = True
            if self._done():
                self.leave(frame.f_back)
            else:
                self.follow(frame.f_back)
            return None
        if self._done():
            self.leave(frame)
            return None
        return self.on_event

    def _report(self, birth: Birth, exc: BaseException, frame: FrameType) -> None:
        outcome: BaseException | bool = False
        try:
            outcome = self._raised(exc, frame)
        except (RecursionError, MemoryError):
            pass  # no room for the call: made again in the next frame, or when `exc` is freed
        finally:
            if outcome is False:
                self._pending[birth.key] = birth
        if isinstance(outcome, BaseException):
            raise outcome

    def follow(self, frame: FrameType | None) -> None:
        """Trace a frame that is already running."""
        if frame is not None and frame.f_trace is None:
            frame.f_trace = self.on_event
            frame.f_trace_lines = False  # line events are the most frequent, and not needed

    def _done(self) -> bool:
        """Use up one event; returns True if tracing can end."""
        self.budget -= 1
        near = self.near
        if self.budget > 0:
            while near:
                if self._pending.get(near[-1].key) is near[-1]:
                    return False
                near.pop()  # raised, or dead
        return True

    def leave(self, frame: FrameType | None) -> None:
        """Stop tracing this thread.

        frame: the innermost traced frame.
        """
        self._settrace(None)
        self.near.clear()
        while frame is not None and frame.f_trace is self.on_event:
            frame.f_trace = None
            frame.f_trace_lines = True
            frame = frame.f_back

    def _give_way(self, frame: FrameType | None) -> None:
        """Stop tracing in favour of another trace function, which may own some frames already."""
        self.near.clear()
        while frame is not None:
            if frame.f_trace is self.on_event:
                frame.f_trace = None
            frame.f_trace_lines = True
            frame = frame.f_back


class _Thread(threading.local):
    """The tracer of each thread."""

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self.tracer = _Tracer(pending, raised)


_started: weakref.WeakSet[Settrace] = weakref.WeakSet()


def _after_fork() -> None:
    for mechanism in list(_started):
        mechanism.forget_the_parents()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
