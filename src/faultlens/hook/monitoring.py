"""Raise detection by `sys.monitoring`, Python 3.12 on.

The RAISE event is switched on while an SDK exception is pending and off again when none is. An
always-on callback would cost every exception of the process 30 to 80 percent; switching costs
0.13 microseconds, and each function about 40 ns once, on its next call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any

from faultlens.hook.births import Birth, Pending

# Not 0, 1 and 2, which CPython's documentation gives to debuggers, coverage and profilers. 5 first,
# since ddtrace takes 3 and 4 and gives up silently when they are taken.
_TOOL_IDS = (5, 4, 3)


class Monitoring:
    """See `faultlens.hook.Mechanism`."""

    name = "sys.monitoring"
    finalizer = None

    def __init__(
        self,
        pending: Pending,
        raised: Callable[[BaseException, FrameType | None], None],
        lost: Callable[[], None],
    ) -> None:
        self._pending = pending
        self._raised = raised
        self._lost = lost
        self._tool: int | None = None
        self._on: Callable[[], Any] = _nothing
        self._off: Callable[[], Any] = _nothing
        self._getframe = sys._getframe  # reachable when module globals are gone, at exit
        # A bound method is a new object at each look-up, and a look-up takes time.
        self._dies = self._died

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
            sys.monitoring.register_callback(tool, event, self._on_raise)
            return True
        return False

    def stop(self) -> None:
        if sys.version_info >= (3, 12) and self._tool is not None:
            self._off()
            self._on = self._off = _nothing
            sys.monitoring.register_callback(self._tool, sys.monitoring.events.RAISE, None)
            sys.monitoring.free_tool_id(self._tool)
            self._tool = None

    def expect(self, exc: BaseException) -> None:
        key = id(exc)
        birth = Birth(exc, self._dies)
        birth.key = key
        self._pending[key] = birth
        self._on()

    def expect_again(self, exc: BaseException) -> None:
        def died(birth: Birth) -> None:
            self._died(birth)
            self._lost()

        birth = Birth(exc, died)
        birth.key = id(exc)
        self._pending[birth.key] = birth
        self._on()

    def poll(self) -> None:
        """Nothing to do: no raise escapes the interpreter's own event."""

    def _on_raise(self, code: CodeType, offset: int, exc: BaseException) -> None:
        # Also called for foreign exceptions while one of ours is pending: nothing before this test.
        # No id stands for an object that is gone: `_died` takes it out before it can be given anew.
        if self._pending.pop(id(exc), None) is not None:
            self._disarm()
            self._raised(exc, self._getframe(1))

    def _died(self, birth: Birth) -> None:
        if self._pending.get(birth.key) is birth:
            self._pending.pop(birth.key, None)
            self._disarm()

    def _disarm(self) -> None:
        # Test and call are one step, which needs no lock: threads take turns, and signal handlers
        # and finalizers run, at calls and jumps but not between the two. `expect` adds first and
        # switches on last, so whoever adds after the test also switches on after this.
        if not self._pending:
            self._off()


def _nothing() -> None:
    """After `Monitoring.stop`."""
