"""The background thread: everything that may wait happens in it.

It serves /metrics or stands by to do so, maintains the ledgers, sends spans and counters, and
writes log lines. Nothing may wait inside a raise, so everything that must wait is a `Job` here.

`threading` does not know the thread, so a program that joins all threads, or waits until only one
is left, ends as it does without faultlens. The thread blocks signals, so they interrupt the
program's own threads as before. It does not run in sub-interpreters, since those could not end
then. A forked child starts its own thread at its first failure. If C code forked the child and the
parent had the thread, the child starts none: its interpreter lock may still count the parent's
thread as waiting, and a new thread would hang. So uWSGI's master, whose C code forks the workers,
starts none.

A job that can hang, e.g. in a collector's socket, delays the other jobs of its thread: give it its
own `Background`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from faultlens import interpreter, natives
from faultlens.natives import POLLIN, monotonic
from faultlens.sockets import Socket, forget_the_parents

__all__ = ["Background", "Job", "Patience", "log", "no_fork"]

_log = logging.getLogger("faultlens")

_PATIENCE = 5.0
"""How many seconds `Background.remove` waits for a job."""

P = ParamSpec("P")
T = TypeVar("T")

no_fork = natives.RLock()
"""Held by a job while it imports or creates something that a fork would leave half-made."""
_FORK_SECONDS = 5.0
"""How many seconds a fork waits for `no_fork` at most."""


class Job:
    """Something to do in the background. Exceptions that it raises are logged at level DEBUG."""

    interval = 1.0
    """Seconds between two runs."""

    def run(self) -> None:
        """Called at the start, then once per interval."""

    def sockets(self) -> Mapping[int, int]:
        """The descriptors to wait for, each with its events. Called before each wait."""
        return {}

    def ready(self, events: Mapping[int, int]) -> None:
        """Called when some of these descriptors have events. A closed descriptor has one too.

        Must handle all events: the next wait returns at once with those that it leaves.
        """

    def end(self) -> None:
        """Called once, when the thread ends."""
        self.run()


class Patience:
    """How long the end of the program may be held up, all in all."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """What is left of it."""
        self.after_fork()

    def after_fork(self) -> None:
        """A forked child has something to wait for, too."""
        self._process = os.getpid()

    def is_ours(self) -> bool:
        """Whether what waits is this process's, not its parent's."""
        return self._process == os.getpid()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds, or until the patience is at its end."""
        if not self.is_ours():
            return
        with self:
            end = monotonic() + self.seconds
            while not condition() and monotonic() < end:
                natives.sleep(0.01)

    def __enter__(self) -> None:
        self._start = monotonic()

    def __exit__(self, *exception: object) -> None:
        self.seconds = max(0.0, self.seconds - (monotonic() - self._start))


class Background:
    """A thread that runs jobs, between `start` and `stop`."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._thread: _Thread | None = None
        self._in_workers = False
        """Whether to start in the workers of this process, uWSGI's master."""

    def add(self, job: Job) -> None:
        """Run a job, beginning within a second."""
        self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """Stop running a job. It is not called again, not even when the thread ends.

        Waits until the thread no longer waits for the job's sockets: one that is closed before that
        would stay open. Gives up after a few seconds if a job hangs.
        """
        self._jobs.remove(job)
        if self._thread is not None and self._thread.process == os.getpid():
            self._thread.let_go()

    def start(self) -> bool:
        """Start the thread unless it is running; returns False if none can be started here."""
        if self._thread is not None and self._thread.process == os.getpid():
            return True
        if sys.is_finalizing() or not interpreter.is_main():
            return False
        self._in_workers = interpreter.is_master_of_uwsgi()
        if self._in_workers:
            return False
        thread = _Thread(self._jobs)
        try:
            natives.start_new_thread(thread.run, ())
        except RuntimeError:  # the system has no more threads, or the interpreter is shutting down
            return False
        self._thread = thread
        return True

    def is_current(self) -> bool:
        """Whether the calling thread is this one, in its last moments too."""
        thread = self._thread
        return (
            thread is not None
            and thread.ident == natives.get_ident()
            and thread.process == os.getpid()
        )

    def resume(self) -> None:
        """In a forked child, start the thread if the parent had one or wants one in its workers.

        Never waits, so it may be called inside a raise.
        """
        if self._in_workers:
            self.start()
        elif self._thread is not None:
            forget_the_parents()
            if not interpreter.forked_by_c_code():
                self.start()

    def stop(self, patience: float) -> bool:
        """End all jobs and the thread; returns False if that takes more than `patience` seconds.

        A job that hangs keeps hanging until the process ends.
        """
        thread = self._thread
        ended = thread is None or thread.process != os.getpid() or thread.stop(patience)
        self._thread = None
        return ended


class _Thread:
    """One run of the thread, from start to stop."""

    def __init__(self, jobs: list[Job]) -> None:
        self.process = os.getpid()
        self._jobs = jobs
        self._bell = _Bell()
        self._due: dict[Job, float] = {}
        self._failed: set[Job] = set()
        """Jobs whose sockets are ignored until their next run: they would fail again at once."""
        self.ident = 0
        self._stopping = False
        self._turns = 0
        self._ended = natives.allocate_lock()
        self._ended.acquire()

    def stop(self, patience: float) -> bool:
        self._stopping = True
        if self.ident == natives.get_ident():  # called by a job
            return True
        self._bell.ring()
        ended: bool = self._ended.acquire(timeout=max(0.0, patience))
        return ended

    def let_go(self) -> None:
        """Wait until the current turn of the thread is over."""
        turns, end = self._turns, monotonic() + _PATIENCE
        if self.ident != natives.get_ident():
            self._bell.ring()
            while self._turns == turns and monotonic() < end:
                natives.sleep(0.001)

    def run(self) -> None:
        try:
            self.ident = natives.get_ident()
            _block_signals()
            while not self._stopping:
                try:
                    self._turn((self._bell, *self._jobs))
                except BaseException:  # poll() fails if RLIMIT_NOFILE was lowered
                    log(logging.DEBUG, "the thread of faultlens failed", exc_info=True)
                    natives.sleep(1)  # rather than spin
                finally:
                    self._turns += 1
            for job in (*self._jobs, self._bell):
                self._call(job, job.end)
        finally:
            self._ended.release()

    def _turn(self, jobs: tuple[Job, ...]) -> None:
        """Run the jobs that are due, then wait for sockets until the next job is due."""
        for job in jobs:
            if self._due.get(job, 0) <= monotonic():
                self._failed.discard(job)
                self._call(job, job.run)
                self._due[job] = monotonic() + job.interval
        watched = {job: self._call(job, job.sockets) or {} for job in jobs}
        descriptors = {
            number: events
            for job, sockets in watched.items()
            if job not in self._failed
            for number, events in sockets.items()
        }
        seconds = min(self._due[job] for job in jobs) - monotonic()
        happened = natives.wait(descriptors, max(0.0, seconds))
        for job, sockets in watched.items():
            ready = {number: happened[number] for number in sockets if number in happened}
            if ready:
                self._call(job, job.ready, ready)

    def _call(self, job: Job, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return what(*args, **kwargs)
        except BaseException:
            self._failed.add(job)
            log(logging.DEBUG, "%s of faultlens failed", type(job).__name__, exc_info=True)
            return None
        finally:
            _leave_threading()


class _Bell(Job):
    """Wakes the thread. It must not ring in a raise, where the program may own the descriptor."""

    def __init__(self) -> None:
        self._ends: tuple[Socket, ...] = ()

    def ring(self) -> None:
        for end in self._ends[1:]:
            try:
                end.send(b"\0")
            except OSError:  # the program closed the socket; the thread wakes within a second
                pass

    def run(self) -> None:
        if not (self._ends and all(end.is_ours() for end in self._ends)):
            self.end()
            self._ends = Socket.pair()

    def sockets(self) -> Mapping[int, int]:
        return {end.fileno(): POLLIN for end in self._ends[:1]}

    def ready(self, events: Mapping[int, int]) -> None:
        self.end()  # it was rung, or the program closed it
        self.run()

    def end(self) -> None:
        ends, self._ends = self._ends, ()
        for end in ends:
            end.close()


def _block_signals() -> None:
    """Block signals here. A program that waits for a signal blocks it only in its own threads."""
    if hasattr(signal, "pthread_sigmask"):
        faults = {signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)


def log(level: int, message: str, *args: object, exc_info: bool = False) -> None:
    """Log from a thread of ours. Never raises.

    Under eventlet, logging's locks are eventlet's, so warnings go straight to stderr. Lesser
    messages are not logged there.
    """
    try:
        if not natives.locks_are_eventlets():
            _log.log(level, message, *args, exc_info=exc_info, stacklevel=2)
        elif level >= logging.WARNING:
            natives.write(natives.stderr(), f"{message % args}\n".encode(errors="replace"))
    except BaseException:  # a handler of the program failed, or there is no stderr
        pass


def _leave_threading() -> None:
    """Remove this thread from `threading`; code that asks for the current thread, as logging does,
    adds it.
    """
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._active.pop(threading.get_ident(), None)


_forking: dict[int, bool] = {}
"""Whether a forking thread acquired `no_fork`, by the thread's identifier."""


def _before_fork() -> None:
    _forking[natives.get_ident()] = no_fork.acquire(timeout=_FORK_SECONDS)


def _forked() -> None:
    if _forking.pop(natives.get_ident(), False):
        no_fork.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_forked,
        after_in_child=no_fork._at_fork_reinit,
    )
