"""The file that all processes of a host count in: an SQLite database in WAL mode.

Why SQLite: a row that is written survives SIGKILL, also in the middle of a write; a writer needs
neither a file of its own nor a look at who is still alive, so nothing is left to fold and two
containers that share a directory but no process ids cannot take each other's; a full disk is an
error, where a memory map is a SIGBUS. It costs about 16 µs for a failure, prometheus_client's
memory-mapped files 2 µs (``benchmarks/store.py``).

Why ``synchronous=OFF``: what a process wrote survives that process without it. After a power
failure the file may be damaged; it is replaced then.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from faultlens.counts import Count, Counts, Series, Trace

__all__ = ["Database", "DatabaseError", "LockedError", "is_closed", "is_damage", "is_lock"]

_FILE = "counts.v1.db"
"""The name changes with the tables, so that versions of faultlens can share a directory."""
_DAMAGED = "damaged.db"
_BESIDE = ("-wal", "-shm")

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS counts (
        metric TEXT, class TEXT, kind TEXT, worker TEXT, detail TEXT,
        number INTEGER NOT NULL, born REAL, last REAL,
        trace_id TEXT, span_id TEXT, traced REAL,
        PRIMARY KEY (metric, class, kind, worker, detail)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS names (
        label TEXT, name TEXT, PRIMARY KEY (label, name)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT);
    INSERT OR IGNORE INTO identity VALUES (1, lower(hex(randomblob(16))));
"""
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT = "INSERT INTO counts VALUES {} ON CONFLICT (metric, class, kind, worker, detail) DO UPDATE"
_ADD = f"""{_INSERT} SET
    number = number + excluded.number,
    last = excluded.last,
    trace_id = coalesce(excluded.trace_id, trace_id),
    span_id = coalesce(excluded.span_id, span_id),
    traced = coalesce(excluded.traced, traced)
    WHERE excluded.number > 0
"""
_RAISE = f"{_INSERT} SET number = excluded.number WHERE number < excluded.number"
_ROWS_AT_ONCE = 90  # of 11 values each: SQLite before 3.32 takes 999

_LOG_BYTES = 4 << 20
"""As long as SQLite lets its log become before it copies the log into the file: 1000 pages."""


class DatabaseError(OSError):
    """Why there is no database: what is wrong with the directory, and what is expected."""


class LockedError(DatabaseError):
    """Another process was not done in time."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file's content is not, or no longer, a database.

    It says so with the base class of its errors itself; a full disk, a lock that another process
    has, a file that is missing are subclasses.
    """
    return type(error) is sqlite3.DatabaseError or "no such table" in str(error)


def is_lock(error: BaseException) -> bool:
    """Whether another process was not done with the database in time."""
    by_sqlite = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    return by_sqlite or isinstance(error, LockedError)


def is_closed(error: BaseException) -> bool:
    """Whether the database was closed in the middle of its use, as a fork does."""
    return isinstance(error, sqlite3.ProgrammingError)


class Database:
    """The counts of all processes in a directory. `open` comes before each use.

    Not for two threads at once.

    directory: made if it is missing.
    private: whether nobody else may be able to write in it.
    patience: for how many seconds another process's write is waited for.

    Every method raises DatabaseError or sqlite3.Error if it cannot be done; nothing is changed
    then.
    """

    def __init__(self, directory: Path, *, private: bool, patience: float) -> None:
        self.directory = directory
        self.path = directory / _FILE
        self.identity = ""
        """What tells this database from every other, once it has been open."""
        self.file: tuple[int, int] | None = None
        """Device and inode, once it has been open."""
        self.writes = 0
        """Grows when something has been written."""
        self.patience = patience
        self._private = private
        self._connection: sqlite3.Connection | None = None
        self._pid = 0

    def add(self, counts: Counts) -> None:
        """Add to the counts, to all or to none.

        Raises what a signal handler of the program's does, also when it is done: `writes` tells.
        """
        self._upsert(_ADD, counts)

    def raise_to(self, counts: Counts) -> None:
        """Have no count be below these."""
        self._upsert(_RAISE, counts)

    def admit(self, label: str, name: str, limit: int) -> bool:
        """Whether a name is among the first `limit` of its label that anybody used."""
        connection = self._opened()
        known = "SELECT 1 FROM names WHERE label = ? AND name = ?"
        if connection.execute(known, (label, name)).fetchone() is None:
            connection.execute(
                "INSERT OR IGNORE INTO names SELECT ?, ? "
                "WHERE (SELECT count(*) FROM names WHERE label = ?) < ?",
                (label, name, label, limit),
            )
        return connection.execute(known, (label, name)).fetchone() is not None

    def read(self) -> Counts:
        """All counts, as they are at one moment."""
        return dict(_counts(self._opened()))

    def open(self) -> None:
        """Have a connection to the file that is in the directory now."""
        if self._connection is not None:
            if self._pid == os.getpid() and self.file == _identity(self.path):
                return
            self.close()
        if _of_a_parent:
            raise DatabaseError("this process was forked while its parent had the database open")
        self._check_directory()
        with self._locked():
            self._create()
            self.file = _identity(self.path)
            self._connection = connection = self._connect()
            self._pid = os.getpid()
            try:
                connection.execute("PRAGMA synchronous = OFF")
                if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")
                (self.identity,) = connection.execute("SELECT id FROM identity").fetchone()
                self._truncate_log(connection)
            except BaseException:
                self.close()
                raise

    def wait(self, patience: float) -> None:
        """Wait for so many seconds from now on."""
        changed, self.patience = patience != self.patience, patience
        if changed and self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pid == os.getpid():
            connection.close()
        else:
            # SQLite in this process takes the parent's locks for its own, which they are not:
            # neither this connection nor another one is safe here.
            _of_a_parent.append(connection)

    def set_aside(self) -> Counts:
        """Put a damaged file out of the way; returns what could still be read from it."""
        found = self.file
        self.close()
        rescued: Counts = {}
        with self._locked():
            if found is not None and found != _identity(self.path):
                return rescued  # another process did it
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as reader:
                rescued.update(_counts(reader))
            for suffix in _BESIDE:
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self.path.replace(self.directory / _DAMAGED)
        return rescued

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError(f"{self.path} is not open")
        return self._connection

    def _upsert(self, sql: str, counts: Counts) -> None:
        connection = self._opened()
        before = connection.total_changes
        rows = [_row(*item) for item in counts.items()]
        try:
            if len(rows) <= _ROWS_AT_ONCE:  # one statement, one transaction
                values = ", ".join([_ROW] * len(rows))
                connection.execute(sql.format(values), tuple(chain.from_iterable(rows)))
            else:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(sql.format(_ROW), rows)
                connection.execute("COMMIT")
            self.writes += 1
        except BaseException as error:
            if self._connection is not connection:
                raise  # a signal handler forked: closed, and nothing is left open
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            elif not isinstance(error, sqlite3.Error) and connection.total_changes > before:
                self.writes += 1
            raise

    def _connect(self) -> sqlite3.Connection:
        # rw: SQLite itself must not make a file, which could be behind a symbolic link by then.
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=self.patience,
            check_same_thread=False,
        )

    def _create(self) -> None:
        """Make the file if there is none, for those who may use the directory."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            for suffix in _BESIDE:  # of a file that somebody removed: it must not be replayed
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            # Closed at once, and never opened but by SQLite when it exists: a close would free
            # the locks of this process's connections.
            os.close(os.open(self.path, flags, 0o600))
            self.path.chmod(self.directory.stat().st_mode & 0o666)
        else:
            if not stat.S_ISREG(status.st_mode):
                raise DatabaseError(f"{self.path} is no regular file")

    def _truncate_log(self, connection: sqlite3.Connection) -> None:
        """Have the write-ahead log not grow without end.

        SQLite starts over in it at a connection's second write. Processes that are killed after
        one, with nobody else on the file, only ever append.
        """
        try:
            log_bytes = Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return
        if log_bytes > _LOG_BYTES:
            patience = self.patience
            self.wait(0)  # who is at it now can do it later
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.wait(patience)

    def _check_directory(self) -> None:
        """Make the directory; refuse one that somebody else could have prepared for us."""
        directory = self.directory
        try:
            directory.mkdir(mode=0o700, parents=not self._private)
        except FileExistsError:
            pass
        status = directory.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise DatabaseError(f"{directory} is a symbolic link; expected a directory")
        if not stat.S_ISDIR(status.st_mode):
            raise DatabaseError(f"{directory} is no directory")
        if not hasattr(os, "getuid"):
            return  # Windows, where a temporary directory is its user's
        owners = {os.geteuid()} if self._private else {os.geteuid(), 0}
        if status.st_uid not in owners:
            raise DatabaseError(
                f"{directory} belongs to user {status.st_uid}; expected user {os.geteuid()}"
                + ("" if self._private else " or root")
            )
        if self._private and status.st_mode & 0o022:
            mode = stat.S_IMODE(status.st_mode)
            raise DatabaseError(f"others may write in {directory} (mode {mode:o}); expected 700")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other process from making, opening or replacing the file."""
        try:
            import fcntl
        except ImportError:  # Windows, where an open file cannot be replaced
            yield
            return
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            end = time.monotonic() + self.patience
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise LockedError(f"{self.directory} is locked") from None
                    time.sleep(0.002)
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile has it too
            os.close(handle)


_of_a_parent: list[sqlite3.Connection] = []
"""Open when this process was forked: by C code, since `Store` closes its own for Python's forks, or
while another thread took too long."""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # at each failure: Path.stat takes twice as long
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _row(series: Series, count: Count) -> tuple[object, ...]:
    return (*series, count.number, count.born, count.last, *(count.trace or (None, None, None)))


def _counts(connection: sqlite3.Connection) -> Iterable[tuple[Series, Count]]:
    for row in connection.execute("SELECT * FROM counts"):
        number, born, last, trace_id, span_id, traced = row[5:]
        trace = Trace(trace_id, span_id, traced) if trace_id is not None else None
        yield Series(*row[:5]), Count(number, born, last, trace)
