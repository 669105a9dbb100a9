"""Raise detection: arm on birth, record on raise.

An exception cannot be raised before it is constructed. So the hook watches the *construction* of
SDK exceptions (`births`) and has the interpreter report raises only while a constructed one has not
been raised; every other exception costs nothing. How a raise is reported is a `Mechanism`'s
business: `monitoring` (Python 3.12 on), `settrace` (before, and where no monitoring tool id is
free).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Protocol

from faultlens.hook import births
from faultlens.hook.births import Pending
from faultlens.hook.monitoring import Monitoring
from faultlens.hook.settrace import Settrace

__all__ = ["Hook", "RaiseHandler"]

RaiseHandler = Callable[[BaseException, "FrameType | None"], None]
"""Gets an SDK exception when it is first raised, and the raising frame (None if it is gone).

Runs in the raising thread. What it raises never reaches the host; see `Hook` for what happens then.
"""


class Mechanism(Protocol):
    """Reports the first raise of every pending exception."""

    name: str
    finalizer: Callable[[BaseException], None] | None
    """Called when a watched exception is about to be freed, if the mechanism needs to know."""

    def start(self) -> bool:
        """Begin; False if this mechanism is not to be had in this process."""
        ...

    def stop(self) -> None:
        """End; leaves the interpreter as it was before `start`."""
        ...

    def expect(self, exc: BaseException) -> None:
        """Make `exc`, which was constructed just now, pending, and look out for its raise."""
        ...

    def poll(self) -> None:
        """Report the raises that could not be seen when they happened."""
        ...


class Hook:
    """Calls `handler` once for each SDK exception that is raised, however often and wherever.

    handler: must raise only if it has recorded nothing. At the recursion limit, out of memory or
        when a signal interrupts it, it is tried again in the next frame that the exception unwinds.
    dropped: called with a short reason for each exception that could not be handled, and with the
        error that prevented it, if one did.
    """

    def __init__(
        self, handler: RaiseHandler, dropped: Callable[[str, BaseException | None], None]
    ) -> None:
        self._handler = handler
        self._dropped = dropped
        self._roots: list[type[BaseException]] = []
        self._pending: Pending = {}
        self._thread = _Thread()
        self._mechanism: Mechanism | None = None

    @property
    def detector(self) -> str:
        """The name of the mechanism in use, ``none`` before the first `watch`."""
        return self._mechanism.name if self._mechanism is not None else "none"

    def watch(self, roots: Iterable[type[BaseException]]) -> None:
        """Watch these classes and all their subclasses, existing and to come."""
        mechanism = self._mechanism
        if mechanism is None:
            mechanism = self._mechanism = self._start()
        for root in roots:
            births.cover(root, self._born, mechanism.finalizer)
            self._roots.append(root)

    def poll(self) -> None:
        """Handle the raises that could not be seen when they happened."""
        if self._mechanism is not None:
            self._mechanism.poll()

    def stop(self) -> None:
        """Watch nothing any more; classes and interpreter are as they were."""
        for root in self._roots:
            births.uncover(root)
        self._roots.clear()
        if self._mechanism is not None:
            self._mechanism.stop()
            self._mechanism = None
        self._pending.clear()

    def _start(self) -> Mechanism:
        mechanisms: tuple[Mechanism, ...] = (
            Monitoring(self._pending, self._raised),
            Settrace(self._pending, self._raised),
        )
        return next(mechanism for mechanism in mechanisms if mechanism.start())

    def _born(self, exc: BaseException) -> None:
        """A watched class made `exc`. Must not raise: the host's constructor is on the stack."""
        try:
            if self._thread.recording:
                # Provoked by our own look at another exception (its __str__ raises an SDK error),
                # or by a signal handler that hit just then: the interpreter reports no raises here.
                self._dropped("reentrant", None)
            elif self._mechanism is not None:
                self._mechanism.expect(exc)
        except Exception as error:
            if _of_a_signal(error):
                raise
            self._failed(error)

    def _raised(self, exc: BaseException, frame: FrameType | None) -> None:
        """`exc`, claimed by the mechanism, was raised. Must not raise: the host would see it."""
        thread = self._thread
        if thread.recording:  # freed while another one is recorded
            self._dropped("reentrant", None)
            return
        thread.recording = True
        try:
            self._handler(exc, frame)
        except BaseException as error:
            signalled = _of_a_signal(error)
            if frame is None or not (signalled or isinstance(error, (RecursionError, MemoryError))):
                self._failed(error)
            elif self._mechanism is not None:
                self._mechanism.expect(exc)
            if signalled:
                raise
        finally:
            thread.recording = False

    def _failed(self, error: BaseException) -> None:
        try:
            self._dropped("internal_error", error)
        except Exception:
            pass  # nothing is left to tell it to


class _Thread(threading.local):
    """What a thread is doing."""

    recording = False


def _of_a_signal(error: BaseException) -> bool:
    """Whether the host's signal handler raised this, in the middle of our code.

    It is the host's then, and meant for it: a time-out, or a SIGTERM that exits.
    """
    if isinstance(error, KeyboardInterrupt):
        return True  # nobody else's: code of others is called behind guards
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {
        getattr(handler, "__code__", None) or getattr(handler.__call__, "__code__", None)
        for handler in handlers
        if callable(handler)
    }
    entry = error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code in codes:
            return True
        entry = entry.tb_next
    return False
