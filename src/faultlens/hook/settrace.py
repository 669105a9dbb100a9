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

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from faultlens.hook.births import Birth, Pending, traceback_of

# A raise in the constructing function takes a handful of events, one through factories some tens.
# 1000 are about 0.3 ms.
_BUDGET = 1000

Raised = Callable[[BaseException, "FrameType | None"], None]


class Settrace:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.settrace"

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self._pending = pending
        self._raised = raised
        self._thread = _Thread(pending, raised)

    def start(self) -> bool:
        return True

    def stop(self) -> None:
        tracer = self._thread.tracer
        if sys.gettrace() is tracer.on_call:
            tracer.leave(sys._getframe(1))

    def expect(self, exc: BaseException) -> None:
        birth = Birth(exc)
        birth.key = key = id(exc)
        self._pending[key] = birth
        tracer, active = self._thread.tracer, sys.gettrace()
        if active is None or active is tracer.on_call:
            # Frames: 0 this one, 1 the hook's, 2 __new__ or our trace function, 3 the host's.
            tracer.trace_for(birth, sys._getframe(3))
        # else a debugger or a coverage tool: undisturbed, and this exception is far

    def poll(self) -> None:
        for birth in list(self._pending.values()):
            exc = birth()
            if exc is not None and traceback_of(exc) is not None:
                self.finalizer(exc)

    def finalizer(self, exc: BaseException) -> None:
        """Report `exc` if it was raised and nobody saw it. Called when it is freed, and by `poll`."""
        try:
            if _claim(self._pending, exc) and traceback_of(exc) is not None:
                self._raised(exc, None)
        except Exception:
            pass  # at interpreter exit anything may be gone


class _Tracer:
    """Traces one thread, while there is something near to trace for."""

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self._pending = pending
        self._raised = raised
        self._near: list[Birth] = []
        self._budget = 0
        # A bound method is a new object at each look-up; these are compared by identity.
        self.on_call = self._on_call
        self.on_event = self._on_event

    def trace_for(self, birth: Birth, frame: FrameType) -> None:
        self._near.append(birth)
        self._budget = _BUDGET
        self._follow(frame)
        sys.settrace(self.on_call)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The thread's trace function: a function is called, or a generator resumed."""
        if self._spend():
            frame.f_trace_lines = False
            return self.on_event
        self.leave(frame.f_back)
        return None

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The trace function of a frame."""
        if sys.gettrace() is not self.on_call:  # replaced by a debugger that starts here
            self._give_way(frame)
            return None
        if event == "exception":
            exc = arg[1]
            if id(exc) in self._pending and _claim(self._pending, exc):
                self._raised(exc, frame)
        elif event == "return":
            # A frame that is left, or a coroutine that is suspended, keeps no trace of us.
            _forget(frame)
            if self._spend():
                self._follow(frame.f_back)
            else:
                self.leave(frame.f_back)
            return None
        if self._spend():
            return self.on_event
        self.leave(frame)
        return None

    def _follow(self, frame: FrameType | None) -> None:
        if frame is not None and frame.f_trace is None:
            frame.f_trace = self.on_event
            frame.f_trace_lines = False  # a raise is no line's event, and lines are most events

    def _spend(self) -> bool:
        """Use up one event; False if there is nothing to trace for any more."""
        self._budget -= 1
        near = self._near
        if self._budget > 0:
            while near:
                if self._pending.get(near[-1].key) is near[-1]:
                    return True
                near.pop()  # raised, or dead
        return False

    def leave(self, frame: FrameType | None) -> None:
        """Stop tracing this thread; `frame` is where the frames being traced begin."""
        self._near.clear()
        sys.settrace(None)
        while frame is not None and frame.f_trace is self.on_event:
            _forget(frame)
            frame = frame.f_back

    def _give_way(self, frame: FrameType | None) -> None:
        """Leave the thread to another trace function, which may have taken over some frames."""
        self._near.clear()
        while frame is not None:
            if frame.f_trace is self.on_event:
                frame.f_trace = None
            frame.f_trace_lines = True
            frame = frame.f_back


class _Thread(threading.local):
    """The tracer of each thread."""

    def __init__(self, pending: Pending, raised: Raised) -> None:
        self.tracer = _Tracer(pending, raised)


def _claim(pending: Pending, exc: BaseException) -> bool:
    """Take `exc` out; True for the one caller that gets it."""
    birth = pending.get(id(exc))
    if birth is None:
        return False
    alive = birth()
    # A dead reference under the id of a living object is that object's own: the garbage collector
    # clears weak references before it runs finalizers.
    if alive is not None and alive is not exc:
        return False
    return pending.pop(id(exc), None) is birth


def _forget(frame: FrameType) -> None:
    frame.f_trace = None
    frame.f_trace_lines = True
