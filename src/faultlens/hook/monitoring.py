"""Raise detection by `sys.monitoring`, Python 3.12 on.

The RAISE event is switched on while an SDK exception is pending and off again when none is. An
always-on callback would cost every exception of the process 30 to 80 percent; switching costs
0.13 microseconds, and each function about 40 ns once, on its next call.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType

from faultlens.hook.births import Birth, Pending

# Not 0, 1 and 2, which CPython's documentation gives to debuggers, coverage and profilers. 5 first,
# since ddtrace takes 3 and 4 and gives up silently when they are taken.
_TOOL_IDS = (5, 4, 3)


class Monitoring:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.monitoring"
    finalizer = None

    def __init__(
        self, pending: Pending, raised: Callable[[Birth, BaseException, FrameType | None], None]
    ) -> None:
        self._pending = pending
        self._raised = raised
        self._tool: int | None = None
        self._on = False
        self._new_lock()

    def start(self) -> bool:
        if sys.version_info < (3, 12):
            return False
        for tool in _TOOL_IDS:
            try:
                sys.monitoring.use_tool_id(tool, "faultlens")
            except ValueError:
                continue
            self._tool = tool
            self._event = sys.monitoring.events.RAISE
            self._set_events = sys.monitoring.set_events  # reachable when globals are gone, at exit
            sys.monitoring.register_callback(tool, self._event, self._on_raise)
            os.register_at_fork(after_in_child=self._new_lock)
            return True
        return False

    def stop(self) -> None:
        if sys.version_info >= (3, 12) and self._tool is not None:
            with self._lock:
                self._set_events(self._tool, 0)
                sys.monitoring.register_callback(self._tool, self._event, None)
                sys.monitoring.free_tool_id(self._tool)
                self._tool, self._on = None, False

    def birth(self, exc: BaseException) -> Birth:
        return Birth(exc, self._died)

    def arm(self, birth: Birth) -> None:
        with self._lock:
            if not self._on and self._tool is not None:
                self._set_events(self._tool, self._event)
                self._on = True

    def poll(self) -> None:
        """Nothing to do: no raise escapes the interpreter's own event."""

    def _new_lock(self) -> None:
        # Re-entrant: the garbage collector may run `_died` while this thread holds it. New in a
        # forked child, where the thread that holds it may not exist.
        self._lock = threading.RLock()

    def _on_raise(self, code: CodeType, offset: int, exc: BaseException) -> None:
        # Also called for foreign exceptions while one of ours is pending: nothing before this test.
        if id(exc) not in self._pending.births:
            return
        birth = self._pending.claim(exc)
        if birth is not None:
            self._disarm()
            self._raised(birth, exc, sys._getframe(1))

    def _died(self, birth: Birth) -> None:
        if self._pending.births.get(birth.key) is birth:
            self._pending.births.pop(birth.key, None)
            self._disarm()

    def _disarm(self) -> None:
        if self._pending.births:
            return
        with self._lock:
            if self._on and self._tool is not None and not self._pending.births:
                self._set_events(self._tool, 0)
                self._on = False
                if self._pending.births:  # constructed by a signal handler, in between
                    self.arm(next(iter(self._pending.births.values())))
