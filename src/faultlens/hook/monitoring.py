"""Raise detection by `sys.monitoring`, for Python 3.12 and later.

An always-on RAISE callback would make every exception of the process 30 to 80 percent slower. So
the event is switched on when an SDK exception is constructed, and off again after `FOREIGN_LIMIT`
raises of other exceptions while none is pending. It is not switched off at once, since switching is
expensive: every function checks its instrumentation on its next call, 3.15 re-instruments each
running frame of each thread (0.9 ms with 30 threads of 15 frames), and the JIT discards compiled
code.

The interpreter reports no raises of a thread while a callback runs in it. If a signal handler or
finalizer raises an SDK exception there, it is found by its traceback when the callback ends. If it
is freed before that, it is counted as dropped.

Switching walks the frames of every thread. In a process that C code forked, the interpreter still
lists the parent's threads, whose stacks new threads overwrite, so switching would crash (3.12,
3.13). The event therefore stays on in such a process. In uWSGI's master, whose C code forks the
workers, it is on from the start: importing Flyte starts a thread there.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from types import CodeType
from typing import Any

from faultlens import guard, interpreter
from faultlens.hook.births import Birth, Pending, Raised

# CPython's documentation assigns 0, 1 and 2 to debuggers, coverage tools and profilers. 5 comes
# first because ddtrace uses 3 and 4, and gives up silently when they are taken.
_TOOL_IDS = (5, 4, 3)

FOREIGN_LIMIT = 16
"""The event is switched off after this many raises of other exceptions in a row; measured in
``benchmarks/switching.py``."""

_FEW = 8
"""If more exceptions are pending than this, they are not checked at the end of a callback."""
_STACK_LIMIT = 64
"""How many frames are searched for our callback when a pending exception dies."""


class Monitoring:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.monitoring"
    finalizer = None

    def __init__(
        self,
        pending: Pending,
        raised: Raised,
        lost: Callable[[str], None],
    ) -> None:
        self._pending = pending
        self._raised = raised
        self._lost = lost
        self._tool: int | None = None
        self._on: Callable[[], Any] = _nothing
        self._off: Callable[[], Any] = _nothing
        self._is_on = False
        self._stays_on = False
        self._numbers = count()
        self._last_number = -1
        """Exceptions with a smaller number are older than the last callback for one of ours."""
        self._last = 0
        """The id of the exception reported last, whose event repeats in each frame it unwinds."""
        self._foreign = 0
        """Raises of other exceptions since the last of ours."""
        # Still reachable at exit, when module globals are gone.
        self._getframe = sys._getframe
        self._get_ident = threading.get_ident
        # Each look-up of a bound method creates a new object, which takes time.
        self._dies = self._died
        self._dies_unrecorded = self._died_unrecorded
        self._callback = self._on_raise
        self._callback_code = self._on_raise.__code__

    def start(self) -> bool:
        if sys.version_info < (3, 12):
            return False
        for tool in _TOOL_IDS:
            try:
                sys.monitoring.use_tool_id(tool, "faultlens")
            except ValueError:
                continue
            self._tool = tool
            event = sys.monitoring.events.RAISE
            self._on = partial(sys.monitoring.set_events, tool, event)
            self._off = partial(sys.monitoring.set_events, tool, 0)
            sys.monitoring.register_callback(tool, event, self._callback)
            self._stays_on = interpreter.is_master_of_uwsgi()
            if self._stays_on:
                self._is_on = True
                self._on()
            return True
        return False

    def stop(self) -> None:
        if sys.version_info >= (3, 12) and self._tool is not None:
            if self._may_switch_off():
                self._off()
            self._on = self._off = _nothing
            self._is_on = False
            sys.monitoring.register_callback(self._tool, sys.monitoring.events.RAISE, None)
            sys.monitoring.free_tool_id(self._tool)
            self._tool = None

    def expect(self, exc: BaseException) -> None:
        key = id(exc)
        birth = Birth(exc, self._dies)
        birth.key = key
        birth.thread = self._get_ident()
        birth.number = next(self._numbers)
        self._pending[key] = birth
        # The order matters: first the exception is pending, then the switch, then the flag. See
        # `_on_raise`.
        if not self._is_on:
            self._on()
            self._is_on = True

    def poll(self) -> None:
        """Nothing to do: a raise that the interpreter does not report cannot be found later."""

    def _on_raise(self, code: CodeType, offset: int, exc: BaseException) -> None:
        # Every exception of the process gets here while the event is on, so this test comes first.
        # Pending ids are those of live objects: `_died` removes an id before it can be reused.
        key = id(exc)
        reported = self._pending.pop(key, None)
        if reported is not None:
            self._last = key
            self._foreign = 0
            outcome: BaseException | bool = False
            try:
                # `_may_be_unseen` reads it from the frame.
                began = self._last_number = next(self._numbers)  # noqa: F841
                outcome = self._raised(exc, self._getframe(1))
            except (RecursionError, MemoryError):
                pass  # no room for the call: it is made again in the next frame that is unwound
            finally:
                if outcome is False:
                    birth = Birth(exc, self._dies_unrecorded)
                    birth.key, birth.thread = key, reported.thread
                    birth.number = reported.number
                    self._pending[key] = birth
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome and 0 < len(self._pending) <= _FEW:
                self._report_unseen()
        elif key != self._last:
            self._foreign += 1
            if self._foreign >= FOREIGN_LIMIT:
                self._foreign = 0
                # No lock is needed between the last test and `_off`: threads, signal handlers and
                # finalizers can interrupt only at calls and jumps. `expect` makes its exception
                # pending before it checks the flag, so either this test sees the exception or
                # `expect` switches the event on again.
                if self._may_switch_off() and not self._pending:
                    self._is_on = False
                    self._off()

    def _may_switch_off(self) -> bool:
        return not self._stays_on and not interpreter.forked_by_c_code()

    def _report_unseen(self) -> None:
        """Report the exceptions that were raised in this thread while this callback ran."""
        try:
            thread = self._get_ident()
            for birth in list(self._pending.values()):
                exc = birth() if birth.thread == thread else None
                if exc is not None and guard.was_raised(exc):
                    self._pending.pop(birth.key, None)
                    self._raised(exc, None)
        except (RecursionError, MemoryError):
            pass  # the next callback looks again

    def _died(self, birth: Birth) -> None:
        if self._pending.get(birth.key) is birth:
            self._pending.pop(birth.key, None)
            if self._may_be_unseen(birth):
                self._lost("reentrant")

    def _died_unrecorded(self, birth: Birth) -> None:
        if self._pending.pop(birth.key, None) is not None:
            self._lost("internal_error")

    def _may_be_unseen(self, birth: Birth) -> bool:
        """Whether it was constructed and freed by code that interrupted our callback.

        The garbage collector also frees older exceptions there, which were never raised.
        """
        if birth.thread != self._get_ident():
            return False
        frame = self._getframe(1).f_back  # None when module globals are cleared, at exit
        interrupted = False
        for _ in range(_STACK_LIMIT):
            if frame is None:
                return False
            if frame.f_code is self._callback_code:
                began: int | None = frame.f_locals.get("began")
                if began is not None:
                    return birth.number > began
                # It was interrupted before it handled anything. The collector by itself frees only
                # older ones. For what other code frees, the last callback's number is an estimate.
                return interrupted and birth.number > self._last_number
            interrupted = True
            frame = frame.f_back
        return False


def _nothing() -> None:
    """Replaces the switches before `start` and after `stop`."""
