"""Raise detection by `sys.monitoring`, Python 3.12 on.

An always-on RAISE callback would cost every exception of the process 30 to 80 percent. So the event
is switched on when an SDK exception is constructed, and off again after `FOREIGN_LIMIT` raises of
other exceptions while none is pending. It is not switched off at once: a switch makes every
function check its instrumentation on its next call, on 3.15 it re-instruments each running frame of
each thread (0.9 ms with 30 threads of 15 frames), and under the JIT it discards compiled code.

The interpreter reports no raises of a thread while a callback runs in it. An SDK exception that a
signal handler or finalizer raises there is found by its traceback when the callback ends. If it has
died before that, it is counted as dropped.

A switch walks the frames of every thread. In a process that C code forked, the interpreter still
lists the parent's threads, whose stacks new threads overwrite: a switch would crash there (3.12,
3.13). So the event stays on in such a process. In uWSGI's master, from which C code forks workers,
it is on from the start: importing Flyte starts a thread there.
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

# Not 0, 1 and 2, which CPython's documentation gives to debuggers, coverage and profilers. 5 first,
# since ddtrace takes 3 and 4 and gives up silently when they are taken.
_TOOL_IDS = (5, 4, 3)

FOREIGN_LIMIT = 16
"""After how many foreign raises in a row the event is switched off; measured in
``benchmarks/switching.py``."""

_FEW = 8
"""With more pending exceptions than this, they are not looked through when a callback ends."""
_STACK_LIMIT = 64
"""How far up our callback is looked for when a pending exception dies."""


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
        """That of the exception reported last."""
        self._last = 0
        """The id of the exception reported last, which is raised again in each frame it unwinds."""
        self._foreign = 0
        """Raises of foreign exceptions in a row, while none of ours was pending."""
        # Reachable when module globals are gone, at exit.
        self._getframe = sys._getframe
        self._get_ident = threading.get_ident
        # A bound method is a new object at each look-up, and a look-up takes time.
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
        # After the exception is pending, and the flag after the switch: see `_on_raise`.
        if not self._is_on:
            self._on()
            self._is_on = True

    def poll(self) -> None:
        """Nothing to do: what the interpreter does not report cannot be found later."""

    def _on_raise(self, code: CodeType, offset: int, exc: BaseException) -> None:
        # Foreign exceptions come here too: nothing before this test.
        # No id stands for an object that is gone: `_died` takes it out before it can be given anew.
        key = id(exc)
        reported = self._pending.pop(key, None)
        if reported is not None:
            self._last = key
            self._last_number = reported.number
            self._foreign = 0
            outcome: BaseException | bool = False
            try:
                outcome = self._raised(exc, self._getframe(1))
            except (RecursionError, MemoryError):
                pass  # no room to call it: the next frame that the exception unwinds has more
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
                # The last test and what follows are one step, which needs no lock: threads, signal
                # handlers and finalizers take turns at calls and jumps. `expect` first makes its
                # exception pending and then looks at the flag, so either this test sees it or it
                # switches on.
                if self._may_switch_off() and not self._pending:
                    self._is_on = False
                    self._off()

    def _may_switch_off(self) -> bool:
        return not self._stays_on and not interpreter.forked_by_c_code()

    def _report_unseen(self) -> None:
        """Report what was raised in this thread while this callback ran."""
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
        """Whether it died in code that interrupts our callback in this thread, and was made there.

        The garbage collector may free an older one there, which was never raised.
        """
        frame = self._getframe(1).f_back  # None when module globals are cleared, at exit
        for _ in range(_STACK_LIMIT):
            if frame is None:
                return False
            if frame.f_code is self._callback_code:
                found = frame.f_locals
                reported = found.get("reported") or self._pending.get(id(found.get("exc")))
                # For a foreign exception the last one of ours is as near as can be told.
                return birth.number > (reported.number if reported else self._last_number)
            frame = frame.f_back
        return False


def _nothing() -> None:
    """After `Monitoring.stop`."""
