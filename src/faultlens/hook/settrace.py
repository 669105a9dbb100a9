"""Raise detection by `sys.settrace`, for Python 3.10 and 3.11.

Near the construction, which is where nearly every exception is raised, the constructing thread is
traced: the frame that constructed the exception, the frames it calls, and each caller that control
returns to. Tracing ends with the raise, the exception's death, or after `_BUDGET` events, so an
exception that is stored away costs a bounded amount.

Far from it (stored and raised later, or in another thread, or under a debugger or coverage tool,
whose trace function is left alone), the exception itself tells: a raised one has a traceback. That
is looked at when it is freed and whenever metrics are read. Counts stay exact; the moment, the
stack and the span of such a raise are lost. An exception that loses its traceback
(``with_traceback(None)``) after a far raise is missed.
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

# A raise in the constructing function takes a handful of events, one through factories some tens.
# 1000 are about 0.3 ms.
_BUDGET = 1000


class Settrace:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.settrace"

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self._pending = pending
        self._raised = raised
        self._thread = _Thread(pending, raised)
        # Reachable when module globals are gone, at exit.
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
            return  # a debugger or a coverage tool: undisturbed, and this exception is far
        tracer.near.append(birth)
        tracer.budget = _BUDGET
        # Frames: 0 this one, 1 the hook's, 2 __new__, 3 the host's.
        tracer.follow(self._getframe(3))
        self._settrace(tracer.on_call)  # last: from here on the interpreter is slower

    def poll(self) -> None:
        for birth in list(self._pending.values()):
            exc = birth()
            if exc is not None and guard.was_raised(exc):
                self.finalizer(exc)

    def forget_the_parents(self) -> None:
        """In a forked child: what was raised before the fork is for the parent to report."""
        for birth in list(self._pending.values()):
            exc = birth()
            if exc is not None and guard.was_raised(exc):
                self._pending.pop(birth.key, None)

    def finalizer(self, exc: BaseException) -> None:
        """Report `exc` if it was raised and nobody saw it: when it is freed, and from `poll`."""
        try:
            if self._pending.pop(id(exc), None) is not None and guard.was_raised(exc):
                self._raised(exc, None)
        except Exception:
            pass  # at interpreter exit anything may be gone


class _Tracer:
    """Traces one thread, while there is something near to trace for."""

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self.near: list[Birth] = []
        self.budget = 0
        self._pending = pending
        self._raised = raised
        # A bound method is a new object at each look-up; these are compared by identity.
        self.on_call = self._on_call
        self.on_event = self._on_event
        # Reachable when module globals are gone, at exit.
        self._gettrace = sys.gettrace
        self._settrace = sys.settrace

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The thread's trace function: a function is called, or a generator resumed."""
        if frame.f_code.co_name == "__init__" and self.budget > 0:
            # The exception's own, most often. What is raised there is seen in the caller.
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
            # A frame that is left, or a coroutine that is suspended, keeps no trace of us.
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
            pass  # no room to call it: it is tried again in the next frame, or when it is freed
        finally:
            if outcome is False:
                self._pending[birth.key] = birth
        if isinstance(outcome, BaseException):
            raise outcome

    def follow(self, frame: FrameType | None) -> None:
        """Trace a frame that runs already."""
        if frame is not None and frame.f_trace is None:
            frame.f_trace = self.on_event
            frame.f_trace_lines = False  # nothing is raised by a line, and lines are most events

    def _done(self) -> bool:
        """Use up one event; True if there is nothing to trace for any more."""
        self.budget -= 1
        near = self.near
        if self.budget > 0:
            while near:
                if self._pending.get(near[-1].key) is near[-1]:
                    return False
                near.pop()  # raised, or dead
        return True

    def leave(self, frame: FrameType | None) -> None:
        """Stop tracing this thread; `frame` is where the frames being traced begin."""
        self._settrace(None)
        self.near.clear()
        while frame is not None and frame.f_trace is self.on_event:
            frame.f_trace = None
            frame.f_trace_lines = True
            frame = frame.f_back

    def _give_way(self, frame: FrameType | None) -> None:
        """Leave the thread to another trace function, which may have taken over some frames."""
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
