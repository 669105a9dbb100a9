"""The store: what every process of a host has counted, kept where it survives the process.

`Store` writes each count at once, and reads those of all processes for ``/metrics``. What cannot be
written now (no directory, a full disk, a database that another process holds) stays in memory, is
shown, and is written as soon as that works again. What it has once seen in the database it never
shows less of: if the file is damaged or removed, the counts are put into a new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from faultlens import counts, guard
from faultlens.counts import Counts, Unreadable
from faultlens.exposition.database import Database, is_closed, is_damage, is_lock
from faultlens.forks import at_fork
from faultlens.settings import StorePath

__all__ = ["Store"]

_log = logging.getLogger("faultlens")

PATIENCE_SECONDS = 1.0
"""How long a failure waits for another process's write; not again until a write worked."""
RETRY_SECONDS = 5.0
"""How long a database that cannot be used is left alone."""
_WARNINGS = 10
_FORK_SECONDS = 5.0
"""How long a fork waits for another thread to be done with the database."""

_T = TypeVar("_T")


class Store:
    """Keeps what is counted in a database; a `faultlens.sinks.counters.Keeper`.

    failed: called after each time that it could not be used; the log has said what happens now.
    """

    def __init__(self, path: StorePath, failed: Callable[[], None]) -> None:
        self.directory = path.directory
        self._database = Database(path.directory, private=path.private, patience=PATIENCE_SECONDS)
        self._failed = failed
        self.unsaved: Counts = {}
        """What is not written yet; changed under `lock`."""
        self._writing: Counts = {}
        self._known: Counts = {}
        """No count in the database can be below these."""
        self._filled = ""
        """The identity of the database that has all that is known."""
        self._retry_at = 0.0
        self._problems: list[str] = []
        self._warned: set[str] = set()
        self._used = False
        self._locked_out = False
        """Whether the last use failed because of another process."""
        self._was_read = False
        self._ended = False
        # Re-entrant: a finalizer or a signal handler may count while this thread writes.
        self.lock = threading.RLock()
        self._held: list[bool] = []
        """For each fork under way whether it has the lock: a signal handler may fork in another."""
        _stores.add(self)

    @property
    def identity(self) -> str:
        """What tells this store from every other; empty before it was open."""
        return self._database.identity

    def admit(self, label: str, value: str, limit: int) -> bool | None:
        """Whether a value is among the first `limit` of its label that any process used.

        None if there is no telling now.
        """
        return self._run(lambda: self._database.admit(label, value, limit))

    def save(self, insist: bool = False) -> None:
        """Write what is not written yet. Raises only what a signal handler of the program's does.

        insist: also if that has not worked a moment ago.
        """
        if insist:
            self._retry_at = 0.0
        if self.unsaved:
            self._run(self._write)
            self._report()

    def read(self) -> Counts:
        """What all processes have counted; if that cannot be read, as much of it as is known.

        Raises Unreadable if that is nothing, since another process has the database locked: who
        has seen more before would take this process's own counts for a reset.
        """
        self.save(insist=True)
        with self.lock:
            known = dict(self._known)  # who interrupts the reading may add to it
            found = self._run(self._database.read)
            if found is None:
                if self._locked_out and not self._was_read:
                    raise Unreadable(f"{self._database.path} is locked by another process")
                found = dict(self._known)
            elif counts.raise_to(found, known):
                self._problems.append(f"{self._database.path} has lost counts")
                self._filled = ""
            self._was_read = True
            self._known = dict(found)
            counts.add(found, self.unsaved)
        self._report()
        return found

    def open(self) -> None:
        """Open the database now rather than at its first use.

        Raises DatabaseError or sqlite3.Error if it cannot be used.
        """
        with self.lock:
            self._attempt(lambda: None)
        self._report()

    def close(self) -> None:
        """Let go of the database until it is used again."""
        with self.lock:
            self._database.close()

    def end(self) -> None:
        """Write what is left; from now on the database is closed after each use."""
        self._ended = True
        self.save(insist=True)
        self.close()

    def _run(self, use: Callable[[], _T]) -> _T | None:
        """Use the database; None if that is not possible now."""
        with self.lock:
            if self._used or time.monotonic() < self._retry_at:
                return None  # used: this thread was interrupted, by a finalizer perhaps
            self._used = True
            self._locked_out = False
            try:
                return self._attempt(use)
            except RecursionError:
                pass  # there is room again at the next failure
            except Exception as error:
                self._give_up(error)
            finally:
                self._used = False
                if self._ended:
                    self._database.close()
        return None

    def _attempt(self, use: Callable[[], _T]) -> _T:
        """Use the database; if it turns out to be damaged, a new one."""
        try:
            self._prepare()
            return use()
        except Exception as error:
            if is_damage(error):
                damage = f"{self._database.path} was damaged ({error}) and is replaced by a new one"
                self._problems.append(damage)
                counts.raise_to(self._known, self._database.set_aside())
            elif not is_closed(error):  # by a signal handler that forked
                raise
        self._prepare()
        return use()

    def _prepare(self) -> None:
        """Have the database open, with all counts in it that are known."""
        self._database.open()
        if self._filled != self._database.identity:  # the first, or somebody removed it
            if self._known:
                self._database.raise_to(self._known)
            self._filled = self._database.identity

    def _write(self) -> None:
        if not self.unsaved:  # another thread has written it meanwhile
            return
        interruption, before = None, self._database.writes
        self._writing, self.unsaved = self.unsaved, {}
        try:
            self._database.add(self._writing)
        except BaseException as error:
            if self._database.writes == before:
                if self.unsaved:  # by who interrupted
                    counts.add(self._writing, self.unsaved)
                self.unsaved = self._writing
                raise
            interruption = error
        self._database.wait(PATIENCE_SECONDS)
        counts.add(self._known, self._writing)
        if interruption is not None:
            raise interruption

    def _give_up(self, error: Exception) -> None:
        """Decide when the database is tried again after an error."""
        if guard.of_a_signal(error):
            raise error
        self._locked_out = is_lock(error)
        if self._locked_out:
            self._database.wait(0)
            self._problems.append(f"another process holds {self._database.path} ({error})")
            return
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._database.close()
        what = str(error) or type(error).__name__
        here = str(self.directory) in what
        self._problems.append(what if here else f"{self._database.path}: {what}")

    def _report(self) -> None:
        """Say what went wrong. Not under the lock: who counts has another one, and takes ours."""
        while self._problems:
            problem = self._problems.pop()
            self._failed()
            if problem not in self._warned and len(self._warned) < _WARNINGS:
                self._warned.add(problem)
                _log.warning(
                    "faultlens's store: %s. What this process counts is not lost: it is kept in "
                    "memory until it can be written. FAULTLENS_STORE names another directory.",
                    problem,
                )

    # Around a fork: SQLite's connections must not be carried across, nor what is not written yet.

    def _before_fork(self) -> None:
        held = self.lock.acquire(timeout=_FORK_SECONDS)
        self._held.append(held)
        if held:
            self._database.close()

    def _after_fork_in_parent(self) -> None:
        if self._held.pop():
            self.lock.release()

    def _after_fork_in_child(self) -> None:
        self.lock = threading.RLock()
        self._used = self._used and self._held[-1]  # by this thread, which a signal handler forked
        self._held = []
        self.unsaved, self._writing = {}, {}  # the parent writes it
        self._database.close()


_stores = at_fork(
    before=Store._before_fork,
    after_in_parent=Store._after_fork_in_parent,
    after_in_child=Store._after_fork_in_child,
)
