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

from faultlens.hook.births import Birth, Pending

# A raise in the constructing function takes a handful of events, one through factories some tens.
# 1000 are about 0.3 ms.
_BUDGET = 1000

_traceback_of = BaseException.__traceback__.__get__  # type: ignore[attr-defined]


class Settrace:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.settrace"

    def __init__(
        self, pending: Pending, raised: Callable[[Birth, BaseException, FrameType | None], None]
    ) -> None:
        self._pending = pending
        self._raised = raised
        self._near = _Near()
        # A bound method is a new object at each look-up; these are compared by identity.
        self._global_trace = self._on_call
        self._local_trace = self._on_event

    def start(self) -> bool:
        return True

    def stop(self) -> None:
        if sys.gettrace() is self._global_trace:
            self._leave(sys._getframe(1))

    def birth(self, exc: BaseException) -> Birth:
        return Birth(exc)

    def arm(self, birth: Birth) -> None:
        if sys.gettrace() not in (None, self._global_trace):
            return  # a debugger or a coverage tool: undisturbed, and this exception is far
        self._near.births[birth.key] = birth
        self._near.budget = _BUDGET
        # Frames: 0 this one, 1 the hook's, 2 __new__ or our trace function, 3 the host's.
        self._follow(sys._getframe(3))
        sys.settrace(self._global_trace)

    def poll(self) -> None:
        for birth in list(self._pending.births.values()):
            exc = birth()
            if exc is not None and _traceback_of(exc) is not None:
                self.finalizer(exc)

    def finalizer(self, exc: BaseException) -> None:
        """Report `exc` if it was raised and nobody saw it. Called when it is freed, and by `poll`."""
        try:
            birth = self._pending.claim(exc)
            if birth is not None and _traceback_of(exc) is not None:
                self._raised(birth, exc, None)
        except Exception:
            pass  # at interpreter exit anything may be gone

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The thread's trace function: a function is called, or a generator resumed."""
        if self._spend():
            return self._local_trace
        self._leave(frame.f_back)
        return None

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The trace function of a frame."""
        if sys.gettrace() is not self._global_trace:  # replaced by a debugger that starts here
            self._leave(frame)
            return None
        if event == "exception" and id(arg[1]) in self._pending.births:
            birth = self._pending.claim(arg[1])
            if birth is not None:
                self._near.births.pop(birth.key, None)
                self._raised(birth, arg[1], frame)
        if event == "return":
            # A frame that is left, or a coroutine that is suspended, keeps no trace of us.
            frame.f_trace = None
            frame = frame.f_back  # type: ignore[assignment]
        if not self._spend():
            self._leave(frame)
        elif event == "return":
            self._follow(frame)
        else:
            return self._local_trace
        return None

    def _follow(self, frame: FrameType | None) -> None:
        if frame is not None and frame.f_trace is None:
            frame.f_trace = self._local_trace

    def _spend(self) -> bool:
        """Use up one event; False if there is nothing to trace for any more."""
        near = self._near
        near.budget -= 1
        for key, birth in list(near.births.items()):
            if near.budget <= 0 or birth() is None:
                near.births.pop(key, None)
        return bool(near.births)

    def _leave(self, frame: FrameType | None) -> None:
        """Stop tracing this thread; `frame` is where the frames being traced begin."""
        self._near.births.clear()
        if sys.gettrace() is self._global_trace:
            sys.settrace(None)
        while frame is not None and frame.f_trace is self._local_trace:
            frame.f_trace = None
            frame = frame.f_back


class _Near(threading.local):
    """What a thread is being traced for."""

    def __init__(self) -> None:
        self.births: dict[int, Birth] = {}
        self.budget = 0
