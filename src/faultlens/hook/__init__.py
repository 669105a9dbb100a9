"""Raise detection: arm on birth, record on raise.

An exception cannot be raised before it is constructed. So the hook watches the *construction* of
SDK exceptions (`births`). The interpreter reports raises only while some constructed exception has
not been raised yet; all other exceptions cost nothing. A `Mechanism` reports the raises:
`monitoring` on Python 3.12 and later, `settrace` on earlier versions and where no monitoring tool
id is free.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Protocol

from faultlens import guard
from faultlens.hook import births
from faultlens.hook.births import Pending
from faultlens.hook.monitoring import Monitoring
from faultlens.hook.settrace import Settrace

__all__ = ["Hook", "RaiseHandler"]

RaiseHandler = Callable[[BaseException, "FrameType | None", list[bool]], None]
"""Called with an SDK exception when it is first raised, the raising frame (None if it is gone), and
a list with one item, which the handler sets to True in the step that counts.

Runs in the raising thread. An exception that it raises never reaches the host, unless one of the
host's signal handlers raised it.
"""


def _nothing(cls: type[BaseException]) -> None:
    """Ignore a new class."""


class Mechanism(Protocol):
    """Reports the first raise of every pending exception."""

    name: str

    @property
    def finalizer(self) -> Callable[[BaseException], None] | None:
        """Called when a watched exception is about to be freed; None if that is not needed."""
        ...

    def start(self) -> bool:
        """Start; returns False if this mechanism is not available in this process."""
        ...

    def stop(self) -> None:
        """Stop, and leave the interpreter as it was before `start`."""
        ...

    def expect(self, exc: BaseException) -> None:
        """Make `exc`, which was just constructed, pending, and watch for its raise."""
        ...

    def poll(self) -> None:
        """Report the raises that could not be seen when they happened."""
        ...


class Hook:
    """Calls `handler` once for each SDK exception that is raised, even if it is raised repeatedly.

    handler: if it raises before it has counted (at the recursion limit, out of memory, or
        interrupted by a signal), it is called again in the next frame that the exception unwinds.
    dropped: called for each exception that could not be handled, with a short reason and the error
        that prevented it (None if there was none).
    defined: called with each new subclass of a watched class.
    """

    def __init__(
        self,
        handler: RaiseHandler,
        dropped: Callable[[str, BaseException | None], None],
        defined: Callable[[type[BaseException]], None] = _nothing,
    ) -> None:
        self._handler = handler
        self._dropped = dropped
        self._defined = defined
        self._roots: list[type[BaseException]] = []
        self._pending: Pending = {}
        self._deferred: list[BaseException] = []
        self._untold: list[str] = []
        """Reasons of drops that could not be reported yet, e.g. at the recursion limit."""
        # Still reachable at exit, when module globals are gone.
        self._recording = _recording
        self._get_ident = threading.get_ident
        # Treats every KeyboardInterrupt as a signal's. That is safe: the guards keep the host's
        # objects from raising one here.
        self._of_a_signal = guard.of_a_signal
        self._mechanism: Mechanism | None = None

    @property
    def detector(self) -> str:
        """The name of the mechanism in use; ``none`` before the first `watch`."""
        return self._mechanism.name if self._mechanism is not None else "none"

    def watch(self, roots: Iterable[type[BaseException]]) -> None:
        """Watch these classes and all their subclasses, including future ones."""
        mechanism = self._mechanism
        if mechanism is None:
            mechanism = self._mechanism = self._start()
        for root in roots:
            births.cover(root, births.Watch(self._born, mechanism.finalizer, self._defined))
            self._roots.append(root)

    def poll(self) -> None:
        """Handle raises that could not be seen when they happened; report drops that could not."""
        if self._mechanism is not None:
            self._mechanism.poll()
        self._catch_up()
        untold, self._untold = self._untold, []
        for reason in untold:
            self._drop(reason, None)

    def report(self, handle: Callable[[], None]) -> None:
        """Run `handle`, which records something other than a raise, with the handler's guards."""
        thread = self._get_ident()
        if thread in self._recording:
            self._drop("reentrant", None)
            return
        self._recording.add(thread)
        try:
            handle()
        except BaseException as error:
            if self._of_a_signal(error):
                raise
            self._drop("internal_error", error)
        finally:
            self._recording.discard(thread)

    def stop(self) -> None:
        """Stop watching, and leave classes and interpreter as they were."""
        for root in self._roots:
            births.uncover(root)
        self._roots.clear()
        if self._mechanism is not None:
            self._mechanism.stop()
            self._mechanism = None
        self._pending.clear()
        self._deferred.clear()

    def _start(self) -> Mechanism:
        mechanisms: tuple[Mechanism, ...] = (
            Monitoring(self._pending, self._raised, self._lost),
            Settrace(self._pending, self._raised),
        )
        return next(mechanism for mechanism in mechanisms if mechanism.start())

    def _born(self, exc: BaseException) -> None:
        """A watched class constructed `exc`. Must not raise: the host's constructor is running."""
        try:
            if self._recording and self._get_ident() in self._recording:
                # Constructed while the handler runs: by code that handling another exception
                # triggered, or by a signal handler. The interpreter reports no raises here.
                self._drop("reentrant", None)
            elif self._mechanism is not None:
                self._mechanism.expect(exc)
        except Exception as error:
            if self._of_a_signal(error):
                raise
            self._drop("internal_error", error)

    def _raised(self, exc: BaseException, frame: FrameType | None) -> BaseException | bool:
        """Handle `exc`, which the mechanism took from the pending ones; see `births.Raised`."""
        thread = self._get_ident()
        if thread in self._recording:
            # The garbage collector freed it while this thread handles another: handled afterwards.
            self._deferred.append(exc)
            return True
        outcome: BaseException | bool = True
        counted = [False]
        self._recording.add(thread)
        try:
            self._handler(exc, frame, counted)
        except (RecursionError, MemoryError) as error:
            if not counted[0] and frame is not None:
                return False
            self._drop("internal_error", error)
        except BaseException as error:
            if not self._of_a_signal(error):
                self._drop("internal_error", error)
            elif counted[0]:
                outcome = error
            else:
                raise
        finally:
            self._recording.discard(thread)
        if self._deferred and frame is not None:
            try:
                self._catch_up()
            except (RecursionError, MemoryError):
                pass  # the next raise or scrape catches up
        return outcome

    def _catch_up(self) -> None:
        """Handle the exceptions that were freed while another was being handled."""
        while self._deferred:
            try:
                late = self._deferred.pop()
            except IndexError:  # another thread took it
                return
            self._raised(late, None)

    def _lost(self, reason: str) -> None:
        """An exception that was not handled, and may have been raised, has been freed."""
        self._drop(reason, None)

    def _drop(self, reason: str, error: BaseException | None) -> None:
        try:
            self._dropped(reason, error)
        except (RecursionError, MemoryError):
            self._untold.append(reason)  # `poll` reports it
        except BaseException as failure:  # from the host's logging, perhaps
            if self._of_a_signal(failure):
                raise


# The threads in which a handler runs. Cleared in a forked child, which has only one thread.
_recording: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recording.clear)
