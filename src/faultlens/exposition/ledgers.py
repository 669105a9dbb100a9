"""Sums all ledgers of a directory: everything that the processes of a host have counted.

A reader's sums never go down, unless the user resets the store. For each ledger, by its uuid, the
reader keeps the largest counts that it has seen, even if the file is removed or truncated.

Most ledgers do not change between two reads. The reader maps their counts and compares them, a
thousand per system call, and opens only the files that have changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from faultlens import natives
from faultlens.exposition import sheets
from faultlens.exposition.layout import (
    BIRTHS_AT,
    COLUMNS_AT,
    UUID,
    Count,
    Key,
    LedgerError,
    checked,
    counts,
    decode,
    expected,
    key_size,
    published,
    total,
)
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.owners import boot
from faultlens.settings import StorePath

if TYPE_CHECKING:
    from faultlens.exposition.mapping import Snapshots

__all__ = ["Ledgers", "Reading"]

_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of this process, not of a file. They are temporary."""


class Reading(NamedTuple):
    """The sums of one read."""

    counts: dict[Key, Count]
    expected: set[tuple[str, str, str]]
    """Class, kind and worker of each series that starts at 0."""


class Ledgers:
    """The reader of a directory.

    place: the directory; None: only this process's counts are read.
    ledger: this process's ledger, whose counts in memory are added; None: nothing is added.
    problem: called once for each problem: what cannot be read, and why.
    """

    def __init__(
        self, place: StorePath | None, ledger: Ledger | None, problem: Callable[[str], None]
    ) -> None:
        self._place = place if sheets.MISSING is None else None
        self._ledger = ledger
        self._problem = problem
        self._told: set[str] = set()
        self.start_anew()
        _readers.add(self)

    def start_anew(self) -> None:
        """Forget everything. In a forked child, a thread of the parent may have been reading."""
        self._lock = natives.RLock()
        self._reset = ""
        """The last `sheets.clear` that is known of."""
        self._forget_all()

    def _forget_all(self) -> None:
        self._files: dict[str, _File] = {}
        self._snapshots: Snapshots | None = None
        self._largest: dict[bytes, dict[Key, int]] = {}
        """The largest counts seen, by the uuid of the ledger."""
        self._sums: dict[Key, Count] = {}
        self._births: set[int] = set()
        """Hashes of the births that are in `_expected`."""
        self._expected: set[tuple[str, str, str]] = set()

    @property
    def identity(self) -> str:
        """Identifies the directory among those of all machines; empty if there is none."""
        try:
            status = self._place.directory.stat() if self._place is not None else None
        except OSError:
            return ""
        return f"{boot():x}-{status.st_dev:x}-{status.st_ino:x}" if status else ""

    def read(self) -> Reading:
        """The sum of all ledgers.

        Raises OSError if this process cannot read now, e.g. because it has no descriptors left.
        """
        if self._ledger is None:
            with self._lock:
                self._update()
                return Reading(dict(self._sums), set(self._expected))
        with self._ledger.lock, self._lock:  # so that nothing moves from memory to a file meanwhile
            self._update()
            sums = dict(self._sums)
            for key, count in self._ledger.unsaved().items():
                sums[key] = total(sums.get(key), count)
            return Reading(sums, self._expected | self._ledger.expected())

    def _update(self) -> None:
        """Add the new counts in the directory to the sums."""
        if self._place is None:
            return
        try:
            with sheets.opened(self._place, make=False) as directory:
                self._start_anew_after_a_reset(directory)
                self._follow(directory)
                for file, piece in self._changed():
                    with self._only(file.name):
                        for key, count in file.read(directory, piece):
                            self._add(file, key, count)
                        self._expect(file.births)
        except FileNotFoundError:
            pass  # nobody has counted yet, or the directory was removed
        except LedgerError as error:
            self._tell(str(error))

    def _start_anew_after_a_reset(self, directory: int) -> None:
        """Only the user makes the sums go down: by `faultlens reset`."""
        reset = sheets.last_reset(directory)
        if reset and reset != self._reset:
            self._forget_all()
            self._reset = reset

    def _follow(self, directory: int) -> None:
        """Open new files, forget removed ones."""
        names = {name for name in os.listdir(directory) if name.endswith(sheets.SUFFIX)}
        before = set(self._files)
        for name in before - names:
            self._forget(name)
        for name in names - before:
            with self._only(name):
                self._files[name] = _File(directory, name)
                self._snapshots = None

    def _changed(self) -> list[tuple[_File, bytes]]:
        """The files that may have new counts or births."""
        files = list(self._files.values())
        try:
            if self._snapshots is None:
                from faultlens.exposition.mapping import Snapshots

                self._snapshots = Snapshots([(file.view, BIRTHS_AT) for file in files])
            pieces, broken = self._snapshots.take()
        except OSError as error:
            if error.errno in _OWN_TROUBLE:
                raise
            return [(file, b"") for file in files]  # not Linux, or a sandbox refuses the call
        for number in broken:
            pieces[number] = b""
        return [
            (file, piece)
            for file, piece in zip(files, pieces, strict=True)
            if piece != file.seen or not piece
        ]

    def _add(self, file: _File, key: Key, count: Count) -> None:
        """Add a file's new counts to the sums.

        If the file replaces a removed one of the same ledger, the sums have most of them already.
        """
        largest = self._largest.setdefault(file.uuid, {})
        file.numbers[key] = number = file.numbers.get(key, 0) + count.number
        more = number - largest.get(key, 0)
        if more > 0:
            largest[key] = number
            self._sums[key] = total(self._sums.get(key), count._replace(number=more))

    def _expect(self, births: bytes) -> None:
        if hash(births) not in self._births:
            self._births.add(hash(births))
            self._expected |= expected(births.decode("utf-8", "replace").split("\n"))

    @contextlib.contextmanager
    def _only(self, name: str) -> Iterator[None]:
        """Skip this file if it cannot be read, and report why."""
        try:
            yield
        except FileNotFoundError:
            self._forget(name)  # it was just removed
        except OSError as error:
            if error.errno in _OWN_TROUBLE:
                raise
            self._forget(name)
            what = error if isinstance(error, LedgerError) else f"cannot be read: {error.strerror}"
            self._tell(f"{self._place.directory / name} {what}" if self._place else str(what))

    def _forget(self, name: str) -> None:
        if self._files.pop(name, None) is not None:
            self._snapshots = None

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._problem(reason)


class _File:
    """One ledger, as it was last read.

    Only the kernel reads the mapped memory: reading it here would be a SIGBUS if the file was
    truncated.
    """

    def __init__(self, directory: int, name: str) -> None:
        from faultlens.exposition.mapping import map_file

        self.name = name
        self.seen = b""
        """The compared part of `view` when the file was last read."""
        self.births = b""
        self.numbers: dict[Key, int] = {}
        self._counted: list[int] = []
        self._keys: dict[int, Key] = {}
        with _opened(directory, name) as (handle, status):
            header = os.pread(handle, COLUMNS_AT, 0)
            self._layout = checked(header, status.st_size)
            self._inode = status.st_ino
            self.uuid = header[UUID]
            self.view = map_file(handle, self._layout.counts.stop, write=False)
            """Header and counts. If they have not changed, nothing is new."""
        self._counted = [0] * self._layout.capacity

    def read(self, directory: int, seen: bytes) -> list[tuple[Key, Count]]:
        """The counts that were added since the last read."""
        layout = self._layout
        with _opened(directory, self.name) as (handle, status):
            if status.st_ino != self._inode:
                raise FileNotFoundError(errno.ENOENT, "another file has the name")
            content = os.pread(handle, layout.keys_at, 0)
            checked(content[:COLUMNS_AT], os.fstat(handle).st_size)
            self._learn(handle, content)
            length = int.from_bytes(content[BIRTHS_AT:COLUMNS_AT], sys.byteorder)
            if length != len(self.births):
                self.births = os.pread(handle, min(length, layout.birth_bytes), layout.births_at)
        more = []
        for index, count in counts(layout, content, self._counted):
            if index in self._keys:
                self._counted[index] += count.number
                more.append((self._keys[index], count))
            else:
                seen = b""  # on ARM the count may become visible before the key: read again later
        self.seen = seen
        return more

    def _learn(self, handle: int, content: bytes) -> None:
        """Read the new keys."""
        layout = self._layout
        cells = memoryview(content)[layout.published].cast("Q").tolist()
        new = [index for index, cell in enumerate(cells) if cell and index not in self._keys]
        if not new:
            return
        start = layout.key(new[0])
        block = os.pread(handle, layout.key(new[-1] + 1) - start, start)
        for index in new:
            at = layout.key(index) - start
            raw = block[at : at + key_size(cells[index])]
            if published(raw) == cells[index]:
                self._keys[index] = decode(raw)


@contextlib.contextmanager
def _opened(directory: int, name: str) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor of a regular file, and its status. Symbolic links are not followed."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LedgerError("is a symbolic link; expected a ledger") from None
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise LedgerError("is not a regular file; expected a ledger")
        yield handle, status
    finally:
        os.close(handle)


_readers: weakref.WeakSet[Ledgers] = weakref.WeakSet()


def _forked() -> None:
    for reader in list(_readers):
        reader.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
