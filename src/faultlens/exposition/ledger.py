"""The ledger of this process. Its counts survive the process.

A ledger is a sheet, which is a mapped file, or several sheets if one has too few slots. If there
can be no file (no directory, a full disk), the counts are in a sheet in memory, and move to a file
when that works again.

A forked child starts at zero and takes a file of its own at its first count. It notices the fork by
a page that the kernel wipes in children, so forks by C code are noticed too.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from faultlens import guard, natives
from faultlens.exposition import sheets
from faultlens.exposition.layout import (
    OTHER,
    TRACE_BYTES,
    Count,
    Key,
    birth,
    expected,
    pack_trace,
    total,
)
from faultlens.exposition.sheets import TOKEN, Sheet
from faultlens.settings import StorePath

__all__ = ["KEYS", "Ledger"]

KEYS = 1000
"""The most keys of a process. Beyond that, failures are counted with fewer labels."""

_ROOM = 32
"""If fewer slots are free, another file is taken ahead, so that this need not happen in a raise."""
_LATE_SHEETS = 8
"""How many moved sheets are checked again, since a thread may still be counting in one."""
_PROBLEMS = 100
_MADV_WIPEONFORK = 18

_Slot = tuple[Sheet, int]


class Ledger:
    """Counts for this process, in any thread, signal handler or forked child.

    place: the store; None: count in memory only.
    problem: called once for each reason why counts cannot be in a file.
    other: returns the key to use in place of one beyond `KEYS`. It must return few distinct keys.
    """

    def __init__(
        self,
        place: StorePath | None,
        problem: Callable[[str], None] = lambda reason: None,
        other: Callable[[Key], Key] = lambda key: (key[0], *(OTHER for _ in key[1:])),
    ) -> None:
        self._place = place
        self._other = other
        self.problem = problem
        self.resume: Callable[[], None] = lambda: None
        """Called when a forked child counts for the first time. Must not wait."""
        self._births: dict[str, None] = {}
        self._problems: dict[str, bool] = {}
        """Each problem, and whether it was reported."""
        self._state = _State(1)
        self._mark = _mark()
        self._mark[0] = 1
        _ledgers.add(self)

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held while counts move from memory to a file. `add` never takes it."""
        lock: AbstractContextManager[object] = self._mine().lock
        return lock

    def add(
        self,
        key: Key,
        now: float,
        trace: tuple[int, int] | None = None,
        counted: list[bool] | None = None,
    ) -> None:
        """Count once. Never waits; if it raises, it has not counted.

        now: seconds since 1970.
        trace: trace id and span id of the current span, if that is sampled.
        counted: a list with one item, which becomes True in the step that counts.
        """
        if counted is None:
            counted = [False]
        row = None if trace is None else pack_trace(trace, now)
        slot = self._state.slots.get(key)
        if slot is None:
            slot = self._slot(key, now)
        sheet, index = slot
        # There is no call from here on, so no other thread, signal handler or fork can come between
        # the check and the count.
        if self._mark[0] != sheet.generation or sheet.view[TOKEN] != sheet.token:
            self._leave(sheet)
            return self.add(key, now, trace, counted)
        if row is not None:
            start = index * TRACE_BYTES
            sheet.traces[start : start + TRACE_BYTES] = row
        sheet.last[index] = now
        sheet.counts[index] += 1
        counted[0] = True

    def expect_class(self, name: str, kinds: Iterable[str]) -> None:
        """Start the series of a class at 0, for each expected worker."""
        self._expect(birth("class", name, kinds))

    def expect_worker(self, name: str) -> None:
        """Start the series of a worker at 0, for each expected class."""
        self._expect(birth("worker", name))

    def open(self) -> None:
        """Take a file, so that the first count need not. Reports an OSError, never raises it."""
        state = self._mine()
        state.wanted = True
        self._open(state)
        self._tell()

    def check(self) -> None:
        """Housekeeping, once a second: replace lost files, take a file ahead, move counts."""
        state = self._mine()
        if state.opened:  # a forked child takes no file before it counts
            with state.lock:
                for sheet in list(state.sheets):
                    if sheet.file is not None:
                        self._look_at(state, sheet, sheet.file)
                self._provide(state)
        self._tell()

    def close(self) -> None:
        """Release the files for other processes. Later counts are in memory."""
        self.check()
        state, self._state = self._mine(), _State(self._state.generation)
        for sheet in state.sheets:
            sheet.release()

    def own(self) -> dict[Key, Count]:
        """The counts of this process since it started or was forked."""
        state = self._mine()
        with state.lock:
            own = {key: Count(number, 0.0, 0.0) for key, number in state.lost.items()}
            for sheet in (*state.sheets, *state.moved):
                for key, count in sheet.read():
                    own[key] = total(own.get(key), count)
        return own

    def unsaved(self) -> dict[Key, Count]:
        """The counts of this process that are only in memory."""
        state = self._mine()
        counts: dict[Key, Count] = {}
        with state.lock:
            for sheet in (*state.sheets, *state.moved):
                if sheet.file is None:
                    for key, count in sheet.read():
                        counts[key] = total(counts.get(key), count)
        return counts

    def expected(self) -> set[tuple[str, str, str]]:
        """Class, kind and worker of each series of this process that starts at 0."""
        return expected(list(self._births))

    def _expect(self, line: str) -> None:
        if line in self._births:
            return
        self._births[line] = None
        state = self._mine()
        with state.lock:
            for sheet in state.sheets:
                if sheet.file is not None:
                    sheet.expect([line])

    def _mine(self) -> _State:
        """The state of this process: a new one after a fork."""
        state = self._state
        if self._mark[0] == state.generation:
            return state
        fresh = _State(state.generation % 255 + 1)
        fresh.wanted, fresh.is_child = state.wanted, True
        # Unless another thread did so. There is no call between the check and the mark.
        if self._mark[0] != self._state.generation:
            self._state = fresh
            self._mark[0] = fresh.generation
        return self._state

    def _slot(self, key: Key, now: float) -> _Slot:
        """The slot of a key that this process counts for the first time."""
        state = self._mine()
        if state.wanted:
            self._open(state)
        if state.is_child and not state.slots:
            self.resume()
        if len(state.slots) >= KEYS and (fewer := self._other(key)) != key:
            return state.slots.get(fewer) or self._slot(fewer, now)
        state.slots[key] = slot = _place(state, key, now)
        return slot

    def _leave(self, sheet: Sheet) -> None:
        """Stop using a sheet of the parent process, or one that another process took by mistake."""
        state = self._mine()
        if sheet.generation == state.generation:
            _lose(state, sheet)

    def _open(self, state: _State) -> None:
        if not state.opened:
            state.opened = True
            self._take(state, _ROOM)

    def _take(self, state: _State, room: int) -> None:
        """Take one more file."""
        if self._place is None:
            return
        try:
            sheet = sheets.take(self._place, room, state.generation)
        except OSError as error:
            self._failed(error)
        else:
            sheet.expect(list(self._births))
            state.sheets.insert(0, sheet)

    def _look_at(self, state: _State, sheet: Sheet, file: sheets.File) -> None:
        """Abandon a file that was truncated; replace one that was removed."""
        try:
            status = os.stat(file.path)  # noqa: PTH116
        except FileNotFoundError:
            removed = True
        except OSError:
            return  # this process has become another user, without access
        else:
            removed = (status.st_dev, status.st_ino) != file.identity
        if removed:
            self._replace(state, sheet)
        elif status.st_size < sheet.view.nbytes:
            _lose(state, sheet)  # touching the missing part is a SIGBUS
            self._failed(OSError(f"{file.path} was truncated"))
        else:
            sheet.look()

    def _replace(self, state: _State, sheet: Sheet) -> None:
        """Continue in a new file that has all the counts of the removed one."""
        if self._place is None:
            return
        try:
            new = sheets.replace(self._place, sheet)
        except OSError as error:
            self._failed(error)  # counts stay in the removed file, still mapped, until this works
        else:
            state.sheets.insert(0, new)
            _retire(state, sheet)

    def _provide(self, state: _State) -> None:
        """Keep enough slots free in files, and move counts from memory to files."""
        loose = [sheet for sheet in state.sheets if sheet.file is None]
        wanted = _ROOM + sum(len(sheet.keys) for sheet in loose)
        if sum(sheet.room for sheet in state.sheets if sheet.file is not None) < wanted:
            self._take(state, max(wanted, len(state.slots)))
        if any(sheet.file is not None for sheet in state.sheets):
            for sheet in loose:
                _retire(state, sheet)
        for sheet in state.moved:
            _move(state, sheet)
        del state.moved[:-_LATE_SHEETS]

    def _failed(self, error: OSError) -> None:
        if guard.of_a_signal(error):
            raise error
        if len(self._problems) < _PROBLEMS:
            self._problems.setdefault(str(error), False)

    def _tell(self) -> None:
        for reason, told in list(self._problems.items()):
            if not told:
                self._problems[reason] = True
                self.problem(reason)

    def _forked(self) -> None:
        """In a child, right after a fork by Python: unmap the parent's files.

        A child of root takes its own file at once: it may be about to become another user
        (gunicorn's ``--user``), who may not write to root's directory.
        """
        state = self._mine()
        if state.wanted and os.geteuid() == 0:
            self._open(state)


class _State:
    """The state of one process. A forked child gets a new one."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.wanted = False
        """Whether `open` was called, here or in the parent."""
        self.is_child = False
        """Whether it was forked from a process that had a ledger."""
        self.opened = False
        """Whether taking a file was tried."""
        self.slots: dict[Key, _Slot] = {}
        self.sheets: list[Sheet] = []
        self.moved: list[Sheet] = []
        """Sheets whose counts have moved to others."""
        self.lost: dict[Key, int] = {}
        """Counts of sheets that can no longer be read."""
        self.lock = natives.RLock()


def _place(state: _State, key: Key, now: float) -> _Slot:
    """A key's slot; in memory if no file has room, since taking a file is I/O."""
    held = list(state.sheets)
    for sheet in held:
        if (index := sheet.find(key)) is not None:
            return sheet, index
    for sheet in held:
        if (index := sheet.make(key, now)) is not None:
            return sheet, index
    sheet = Sheet.in_memory(state.generation)
    index = sheet.make(key, now)
    assert index is not None  # it is empty
    state.sheets.append(sheet)
    return sheet, index


def _retire(state: _State, sheet: Sheet) -> None:
    """Stop placing keys in a sheet, and queue its counts to be moved."""
    if _remove(state, sheet):
        state.moved.append(sheet)


def _remove(state: _State, sheet: Sheet) -> bool:
    """Remove a sheet from the list; returns False if another thread did so first."""
    try:
        state.sheets.remove(sheet)
    except ValueError:
        return False
    return True


def _move(state: _State, old: Sheet) -> None:
    """Move the counts of a retired sheet to the others."""
    slots = {}
    for index, key in list(old.keys.items()):
        slots[index] = sheet, at = _place(state, key, old.born(index))
        sheet.copy(at, old, index)
        late = old.counts[index] - old.before[index]
        # There is no call in between, so both happen, or neither.
        sheet.counts[at] += late
        old.before[index] += late
    for key, (sheet, index) in list(state.slots.items()):
        if sheet is old and index in slots:
            state.slots[key] = slots[index]


def _lose(state: _State, sheet: Sheet) -> None:
    """Stop using a sheet whose memory must not be touched; keep its last known counts."""
    if _remove(state, sheet):
        for index, key in list(sheet.keys.items()):
            number = sheet.seen[index] - sheet.before[index]
            state.lost[key] = state.lost.get(key, 0) + number
    for key, slot in list(state.slots.items()):
        if slot[0] is sheet:
            state.slots.pop(key, None)


class _Mark(Protocol):
    """A cell that loses its value in a forked child."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class _MarkByPid:
    """Used if the kernel has no ``MADV_WIPEONFORK``. Each look costs a system call."""

    def __init__(self) -> None:
        self._value, self._pid = 0, 0

    def __getitem__(self, index: int, /) -> int:
        return self._value if self._pid == os.getpid() else 0

    def __setitem__(self, index: int, value: int, /) -> None:
        self._value, self._pid = value, os.getpid()


def _mark() -> _Mark:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (AttributeError, TypeError, OSError):
        return _MarkByPid()
    return memoryview(page)


_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()


def _forked() -> None:
    for ledger in list(_ledgers):
        ledger._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
