"""Sheets: slots to count in, in a mapped ledger file or in this process's memory.

A process adopts the ledger of a dead process and goes on counting in it; if there is none, it
creates one. It adopts a ledger only if the owner is provably gone: the lock is free, and the
process that the header names does not exist. A free lock alone proves nothing on overlayfs, where
the lock is lost when the descriptor is closed, although the file is still mapped. The header says
whether the lock survives that.

No descriptor stays open. A program that closes all descriptors would close ours too, and then get
their numbers for its own files.
"""

from __future__ import annotations

import contextlib
import operator
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from faultlens import guard
from faultlens.exposition.layout import (
    BIRTHS_AT,
    COLUMNS_AT,
    FORMAT,
    MAGIC,
    TRACE_BYTES,
    UUID,
    Cell,
    Count,
    Key,
    Layout,
    LedgerError,
    checked,
    counts,
    decode,
    encode,
    key_size,
    published,
)
from faultlens.exposition.owners import Process, is_gone
from faultlens.natives import monotonic, time
from faultlens.settings import StorePath

try:
    import fcntl

    from faultlens.exposition.mapping import map_file
except (ImportError, TypeError, AttributeError) as error:  # Windows; a Python without libffi
    MISSING: Exception | None = error
    """The reason why this system cannot have ledger files; None if it can."""
else:
    MISSING = None

__all__ = [
    "MISSING",
    "SUFFIX",
    "TOKEN",
    "File",
    "Sheet",
    "clear",
    "counts_in",
    "last_reset",
    "opened",
    "replace",
    "take",
]

SUFFIX = ".ledger"
_TEMPORARY = ".tmp"

CAPACITY = 128
"""The slots of an ordinary ledger, which takes about 125 kB."""
_CANDIDATES = 64
"""How many files are tried before a new one is created."""
_STALE_SECONDS = 3600.0
"""Unfinished files older than this are removed."""

TOKEN = Cell.TOKEN * 8 + (7 if sys.byteorder == "big" else 0)
"""The offset of the byte with the owner's token."""


class File(NamedTuple):
    """The file of a sheet."""

    path: Path
    identity: tuple[int, int]
    """Device and inode."""


class Sheet:
    """Slots to count in: ``sheet.counts[index] += 1``.

    That is one store of 8 bytes, without a call, so other threads, signal handlers and SIGKILL take
    effect before or after it. ``struct.pack_into`` will not do: it writes zeros first.

    view: the whole ledger.
    generation: a number that differs in a forked child.
    file: the mapped file; None: in memory.
    """

    __slots__ = (
        "_born",
        "_cells",
        "_free",
        "_index",
        "_layout",
        "_published",
        "before",
        "counts",
        "file",
        "generation",
        "keys",
        "last",
        "seen",
        "token",
        "traces",
        "view",
    )

    def __init__(self, view: memoryview, generation: int, file: File | None = None) -> None:
        self.view = view
        self.generation = generation
        self.file = file
        self.token = view[TOKEN]
        self._cells = view[:COLUMNS_AT].cast("Q")
        self._layout = layout = Layout(
            self._cells[Cell.CAPACITY],
            self._cells[Cell.KEY_BYTES],
            self._cells[Cell.BIRTH_BYTES],
        )
        self.counts = view[layout.counts].cast("Q")
        self.last = view[layout.last].cast("d")
        self._born = view[layout.born].cast("d")
        self._published = view[layout.published].cast("Q")
        self.traces = view[layout.traces_at : layout.keys_at]
        self.keys: dict[int, Key] = {}
        """The key of each slot."""
        self._index: dict[Key, int] = {}
        free = []
        for index, cell in enumerate(self._published):
            if not cell:
                free.append(index)
                continue
            start = layout.key(index)
            raw = bytes(view[start : start + key_size(cell)])
            if published(raw) == cell:
                self.keys[index] = decode(raw)
                self._index[self.keys[index]] = index
        self._free = iter(free)
        self.before = self.counts.tolist()
        """The part of each count that `read` leaves out: previous owners', or moved elsewhere."""
        self.seen = list(self.before)
        """The counts at the last `look`."""

    @classmethod
    def in_memory(cls, generation: int) -> Sheet:
        """A sheet without a file."""
        layout = Layout(CAPACITY)
        return cls(memoryview(bytearray(_blank(layout, os.urandom(16)))), generation)

    @property
    def room(self) -> int:
        """How many slots are free."""
        return operator.length_hint(self._free)

    def find(self, key: Key) -> int | None:
        """The slot of a key; None if there is none."""
        index = self._index.get(key)
        return index if index is not None else self._index.get(decode(self._encode(key)))

    def make(self, key: Key, now: float) -> int | None:
        """Give a key its slot; returns None if no slot is free.

        Two threads that call this at once for one key make two slots. The reader sums both.
        """
        raw = self._encode(key)
        index = next(self._free, None)
        if index is not None:
            start = self._layout.key(index)
            self.view[start : start + len(raw)] = raw
            self._born[index] = now
            self._published[index] = published(raw)
            self.keys[index] = decode(raw)
            self._index[self.keys[index]] = index
        return index

    def copy(self, index: int, other: Sheet, other_index: int) -> None:
        """Copy the last time and trace from another sheet's slot, if they are later."""
        if other.last[other_index] > self.last[index]:
            self.last[index] = other.last[other_index]
            rows = [slice(i * TRACE_BYTES, (i + 1) * TRACE_BYTES) for i in (index, other_index)]
            if any(other.traces[rows[1]]):
                self.traces[rows[0]] = other.traces[rows[1]]

    def born(self, index: int) -> float:
        """When a slot's key was first counted."""
        return self._born[index]

    def expect(self, births: Iterable[str]) -> None:
        """Publish the classes and workers whose series start at 0, if there is room for them."""
        area = self.view[self._layout.births_at :]
        length = min(self._cells[BIRTHS_AT // 8], len(area))
        known = set(bytes(area[:length]).split(b"\n"))
        for line in births:
            raw = line.encode("utf-8", "replace")
            if raw not in known and length + len(raw) < len(area):
                area[length : length + len(raw) + 1] = raw + b"\n"
                length += len(raw) + 1
        self._cells[BIRTHS_AT // 8] = length

    def read(self) -> Iterator[tuple[Key, Count]]:
        """The counts of this process in this sheet."""
        content = bytes(self.view[: self._layout.keys_at])
        for index, count in counts(self._layout, content, list(self.before)):
            if index in self.keys:
                yield self.keys[index], count

    def look(self) -> None:
        """Remember the counts, and record that the owner is alive."""
        self.seen = self.counts.tolist()
        self._cells[Cell.BEAT] = int(monotonic())

    def release(self) -> None:
        """Let another process adopt the ledger, as if this process had ended."""
        self._cells[Cell.PID] = 0

    def _encode(self, key: Key) -> bytes:
        return encode(key, self._layout.key_bytes)


@contextlib.contextmanager
def opened(place: StorePath, *, make: bool) -> Iterator[int]:
    """Opens the directory; yields its descriptor.

    Raises LedgerError if the directory must not be used, because another user could have tampered
    with it; another OSError if it cannot be opened.

    make: whether to create a missing directory.
    """
    directory = place.directory
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700, parents=not place.private)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:
        what = "a symbolic link" if directory.is_symlink() else "not a directory"
        raise LedgerError(f"{directory} is {what}; expected a directory") from None
    except PermissionError:
        user = os.geteuid()
        raise LedgerError(
            f"user {user} has no access to {directory}; expected a directory that it can use"
        ) from None
    try:
        _check(place, os.fstat(handle))
        yield handle
    finally:
        os.close(handle)


def _check(place: StorePath, status: os.stat_result) -> None:
    directory, user = place.directory, os.geteuid()
    owners = {user} if place.private else {user, 0}
    if status.st_uid not in owners:
        raise LedgerError(
            f"{directory} belongs to user {status.st_uid}; expected user {user}"
            + ("" if place.private else " or root")
        )
    if place.private and status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise LedgerError(
            f"other users can write to {directory} (mode {mode:o}); expected mode 700"
        )


def take(place: StorePath, room: int, generation: int) -> Sheet:
    """Adopt or create a ledger with at least `room` free slots. Never waits for another process.

    Raises OSError if none can be created.
    """
    with _directory(place) as directory:
        here = Process.current()
        for name in _candidates(directory):
            if name.endswith(_TEMPORARY):
                _remove_stale(directory, name)
            elif (sheet := _adopt(place, directory, name, room, generation, here)) is not None:
                return sheet
        capacity = CAPACITY
        while capacity < 2 * room:
            capacity *= 2
        return _create(place, directory, _blank(Layout(capacity), os.urandom(16)), generation, here)


def replace(place: StorePath, sheet: Sheet) -> Sheet:
    """Create a file with the content of a ledger whose file was removed. Raises OSError."""
    with _directory(place) as directory:
        content = bytearray(sheet.view)
        new = _create(place, directory, content, sheet.generation, Process.current())
    new.before, sheet.before = sheet.before, new.before
    return new


def clear(place: StorePath) -> list[int]:
    """Remove all ledgers, unless a process counts in one.

    Returns the ids of such processes, as their containers have them; then nothing is removed. To
    remove a ledger is safe only for its owner: a process goes on counting in a file that was
    removed, and writes all of it anew. So each is adopted first, and no other process can take it.

    Raises OSError; FileNotFoundError if there is no directory.
    """
    here, owners = Process.current(), []
    adopted: list[tuple[str, Sheet]] = []
    with opened(place, make=False) as directory:
        for name in os.listdir(directory):  # noqa: PTH208
            if name.endswith(SUFFIX):
                sheet = _adopt(place, directory, name, 0, 0, here)
                if sheet is not None:
                    adopted.append((name, sheet))
                elif (owner := _owner(directory, name)) is not None:
                    owners.append(owner)
        for name, sheet in adopted:
            if owners:
                sheet.release()
            else:
                os.unlink(name, dir_fd=directory)
        if not owners:
            _note_reset(directory)
    return owners


def _owner(directory: int, name: str) -> int | None:
    """The id of the process that has a ledger; None if the file is not a ledger, or has gone."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        header = os.pread(handle, COLUMNS_AT, 0)
        checked(header, os.fstat(handle).st_size)
        return memoryview(header).cast("Q")[Cell.PID]
    except OSError:
        return None
    finally:
        os.close(handle)


def counts_in(place: StorePath, process: int) -> bool:
    """Whether a process, which is alive, has one of the ledgers. Raises OSError."""
    with opened(place, make=False) as directory:
        names = [name for name in os.listdir(directory) if name.endswith(SUFFIX)]  # noqa: PTH208
        return any(_owner(directory, name) == process for name in names)


_RESET = "faultlens.reset"
"""A symbolic link that leads nowhere. Its text is another one after each `clear`.

The directory may be one that the user chose, so the name is one that nobody else gives a file.
"""


def last_reset(directory: int) -> str:
    """Identifies the last `clear` of a directory; empty if there was none."""
    try:
        return os.readlink(_RESET, dir_fd=directory)
    except OSError:
        return ""


def _note_reset(directory: int) -> None:
    temporary = os.urandom(8).hex() + _TEMPORARY
    os.symlink(os.urandom(8).hex(), temporary, dir_fd=directory)
    os.rename(temporary, _RESET, src_dir_fd=directory, dst_dir_fd=directory)


@contextlib.contextmanager
def _directory(place: StorePath) -> Iterator[int]:
    if MISSING is not None:
        raise LedgerError(f"counts cannot be kept in files here: {MISSING}")
    with opened(place, make=True) as directory:
        yield directory


def _candidates(directory: int) -> list[str]:
    """The names of some files, chosen at random."""
    names = sorted(n for n in os.listdir(directory) if n.endswith((SUFFIX, _TEMPORARY)))
    # Names are random, so any run of consecutive names is a random choice.
    start = int.from_bytes(os.urandom(4), "big") % max(len(names), 1)
    return (names[start:] + names[:start])[:_CANDIDATES]


def _adopt(
    place: StorePath, directory: int, name: str, room: int, generation: int, here: Process
) -> Sheet | None:
    """Adopt a ledger, if its owner is gone and it has enough room; else return None."""
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        _let_signals_pass(error)
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return None
        header = os.pread(handle, COLUMNS_AT, 0)
        layout = checked(header, status.st_size)
        cells = os.pread(handle, 8 * layout.capacity, layout.published.start)
        free = memoryview(cells).cast("Q").tolist().count(0)
        if free < room or not is_gone(memoryview(header).cast("Q"), here):
            return None
        view = map_file(handle, layout.size, write=True)
        _own(view, here)
        return Sheet(view, generation, _file(place, name, status))
    except BlockingIOError:  # its owner holds the lock
        return None
    except OSError as error:
        _let_signals_pass(error)
        return None
    finally:
        os.close(handle)


def _let_signals_pass(error: OSError) -> None:
    """Re-raise the error if one of the program's signal handlers raised it."""
    if guard.of_a_signal(error):
        raise error


def _own(view: memoryview, here: Process) -> None:
    """Make this process the owner. The id is written last: until then there is no owner."""
    cells = view[:COLUMNS_AT].cast("Q")
    cells[Cell.PID] = 0
    cells[Cell.TOKEN] = cells[Cell.TOKEN] ^ (os.urandom(1)[0] % 255 + 1)
    cells[Cell.START], cells[Cell.NAMESPACE], cells[Cell.BOOT] = here[1:]
    cells[Cell.BEAT] = int(monotonic())
    cells[Cell.PID] = here.pid


def _create(
    place: StorePath, directory: int, content: bytearray, generation: int, here: Process
) -> Sheet:
    """Create a ledger. Other processes see it only when it is complete."""
    name = os.urandom(8).hex() + SUFFIX
    temporary = name + _TEMPORARY
    try:
        view, status = _write(place, directory, temporary, content)
        _own(view, here)
        cells = view[:COLUMNS_AT].cast("Q")
        cells[Cell.HOLDS_LOCK] = _is_locked(directory, temporary)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        what = f"cannot create a ledger in {place.directory}: {error.strerror or error}"
        raise LedgerError(what) from error
    return Sheet(view, generation, _file(place, name, status))


def _write(
    place: StorePath, directory: int, name: str, content: bytearray
) -> tuple[memoryview, os.stat_result]:
    """Write a whole file, so that a full disk is an error now and not a SIGBUS later; map it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    handle = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        if not place.private:  # everyone who may use the directory may use the file
            os.fchmod(handle, os.fstat(directory).st_mode & 0o666)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return map_file(handle, len(content), write=True), os.fstat(handle)
    finally:
        os.close(handle)


def _is_locked(directory: int, name: str) -> bool:
    """Whether a file is locked. If it is ours and not open, its mapping keeps the lock."""
    handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=directory)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _remove_stale(directory: int, name: str) -> None:
    """Remove a file that a process left unfinished when it was killed."""
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if time() - status.st_mtime > _STALE_SECONDS and not _is_locked(directory, name):
            os.unlink(name, dir_fd=directory)


def _blank(layout: Layout, uuid: bytes) -> bytearray:
    content = bytearray(layout.size)
    cells = memoryview(content)[:COLUMNS_AT].cast("Q")
    cells[Cell.MAGIC], cells[Cell.FORMAT] = MAGIC, FORMAT
    cells[Cell.CAPACITY] = layout.capacity
    cells[Cell.KEY_BYTES], cells[Cell.BIRTH_BYTES] = layout.key_bytes, layout.birth_bytes
    content[UUID] = uuid
    return content


def _file(place: StorePath, name: str, status: os.stat_result) -> File:
    return File(place.directory / name, (status.st_dev, status.st_ino))
