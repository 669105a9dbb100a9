"""The store alone: what it keeps, and what it does when it cannot keep it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faultlens import counts
from faultlens.counts import Count, Counts, Series, Trace, Unreadable
from faultlens.exposition import store as store_module
from faultlens.exposition.store import Store
from faultlens.settings import StorePath
from tests import children

ONE = Series("failures", "sdk.Error", "user", "w")
OTHER = Series("failure_codes", "sdk.Error", detail="C")


class Opened:
    """Stores over one directory, as several processes have them; a context manager."""

    def __init__(self, directory: Path, private: bool = False) -> None:
        self.path = StorePath(directory, private)
        self.stores: list[Store] = []
        self.failures = 0

    def __call__(self) -> Store:
        store = Store(self.path, self.failed)
        self.stores.append(store)
        return store

    def failed(self) -> None:
        self.failures += 1


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "store")
    yield opened
    for store in opened.stores:
        store.close()


def count(store: Store, number: int = 1, series: Series = ONE) -> None:
    add(store, {series: Count(number, 1.0, 2.0)})
    store.save()


def add(store: Store, more: Counts) -> None:
    with store.lock:
        counts.add(store.unsaved, more)


def number(store: Store, series: Series = ONE) -> int:
    return store.read()[series].number


def damage(path: Path) -> None:
    """Write over all of the database but its length."""
    for file in path.iterdir():
        file.write_bytes(b"\xff" * file.stat().st_size)


# What it keeps.


def test_what_one_process_counts_another_reads(opened: Opened) -> None:
    first, second = opened(), opened()
    count(first, 3)
    count(second, 4)
    assert number(first) == number(second) == 7


def test_a_count_is_in_the_file_as_soon_as_it_is_saved(opened: Opened) -> None:
    writer = opened()
    count(writer, 3)
    with sqlite3.connect(writer._database.path) as reader:
        assert reader.execute("SELECT number FROM counts").fetchall() == [(3,)]
    reader.close()


def test_moments_and_the_trace_come_back(opened: Opened) -> None:
    trace = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 2.0)
    add(opened(), {ONE: Count(1, 1.0, 2.0, trace)})
    opened.stores[0].save()
    count(opened.stores[0])  # without a trace: the last one that led somewhere stays
    assert opened().read() == {ONE: Count(2, 1.0, 2.0, trace)}


def test_a_series_that_starts_at_0_is_there_and_stays_what_it_is(opened: Opened) -> None:
    first, second = opened(), opened()
    add(first, {ONE: Count(0)})
    first.save()
    assert second.read() == {ONE: Count(0)}
    count(second, 5)
    add(first, {ONE: Count(0)})
    first.save()
    assert first.read() == {ONE: Count(5, None, 2.0)}


def test_many_series_at_once(opened: Opened) -> None:
    many = {Series("failures", f"sdk.E{n}"): Count(n) for n in range(500)}
    writer = opened()
    add(writer, many)
    writer.save()
    assert opened().read() == many


increments = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([ONE, OTHER, Series("suppressed", 'q"\n\\', "user", "é", "wrapped")]),
        st.integers(1, 3),
        st.sampled_from(["", "", "close", "remove", "damage", "read"]),
    ),
    max_size=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(increments)
def test_no_total_is_lost_or_goes_down_for_a_process_that_reads_all_the_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: list[tuple[int, Series, int, str]]
) -> None:
    """Three processes count; the file is closed, removed, written over. The reader saw it all."""
    opened = Opened(tmp_path / f"{time.monotonic_ns()}")
    writers, reader = (opened(), opened(), opened()), opened()
    expected: dict[Series, int] = {}
    try:
        for writer, series, more, then in steps:
            count(writers[writer], more, series)
            expected[series] = expected.get(series, 0) + more
            assert {s: c.number for s, c in reader.read().items()} == expected
            if then == "close":
                writers[writer].close()
            elif then == "remove":
                opened.path.directory.joinpath("counts.v1.db").unlink()
            elif then == "damage":
                for store in opened.stores:  # written over under a mapping, it would be a SIGBUS
                    store.close()
                damage(opened.path.directory)
            reader.read()
    finally:
        for store in opened.stores:
            store.close()


def test_threads_that_count_and_read_lose_nothing(opened: Opened) -> None:
    store, rounds = opened(), 200

    def work() -> None:
        for _ in range(rounds):
            count(store)

    def look() -> None:
        seen = 0
        while any(thread.is_alive() for thread in threads):
            now = store.read().get(ONE, Count(0)).number
            assert now >= seen
            seen = now

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    look()
    for thread in threads:
        thread.join()
    assert number(opened()) == 4 * rounds


def test_processes_that_are_killed_after_one_failure_do_not_let_the_log_grow() -> None:
    longest, total = children.report("""
        import os, signal, tempfile
        from pathlib import Path
        import inside
        from faultlens.counts import Count, Series
        from faultlens.exposition import database
        from faultlens.exposition.store import Store
        from faultlens.settings import StorePath

        database._LOG_BYTES = 50_000
        with tempfile.TemporaryDirectory() as folder:
            path, longest = StorePath(Path(folder), False), 0
            for _ in range(60):
                if os.fork() == 0:
                    store = Store(path, lambda: None)
                    store.unsaved[Series("failures", "sdk.Error")] = Count(1, 1.0, 1.0)
                    store.save()
                    os.kill(os.getpid(), signal.SIGKILL)
                os.wait()
                longest = max(longest, Path(folder, "counts.v1.db-wal").stat().st_size)
            reader = Store(path, lambda: None)
            inside.report([longest, sum(count.number for count in reader.read().values())])
            reader.close()
    """)
    assert longest < 60_000  # each adds 4 KB
    assert total == 60


# Names, which all processes together have a limited number of.


def test_names_are_limited_over_all_processes(opened: Opened) -> None:
    first, second = opened(), opened()
    assert [first.admit("worker", name, 2) for name in "aab"] == [True] * 3
    assert [second.admit("worker", name, 2) for name in "abcc"] == [True, True, False, False]
    assert second.admit("class", "c", 2) is True
    second.close()
    assert first.admit("worker", "c", 2) is False


# What it does where it cannot.


def test_a_file_that_is_no_database_is_put_aside(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    directory = opened.path.directory
    directory.mkdir()
    (directory / "counts.v1.db").write_bytes(b"no database, but long enough to be one" * 400)
    count(opened(), 2)
    count(opened(), 3)
    assert number(opened()) == 5
    assert (directory / "damaged.db").read_bytes().startswith(b"no database")
    (record,) = caplog.records
    assert "was damaged (file is not a database) and is replaced by a new one" in record.message
    assert opened.failures == 1


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 5000])
def test_a_file_that_was_cut_off_does_not_lose_what_the_reader_saw(
    opened: Opened, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    writer, reader = opened(), opened()
    count(writer, 2)
    count(writer, 3, OTHER)
    assert number(reader) == 2
    for store in (writer, reader):
        store.close()
    os.truncate(opened.path.directory / "counts.v1.db", size)
    count(writer, 1)
    found = reader.read()
    assert (found[ONE].number, found[OTHER].number) == (3, 3)
    assert len(caplog.records) <= 2


def test_another_process_takes_the_new_file_too(opened: Opened) -> None:
    first, second = opened(), opened()
    count(first, 2)
    count(second, 3)
    opened.path.directory.joinpath("counts.v1.db").unlink()
    count(first, 10)
    count(second, 20)
    # The 3 may be among what the first one put back, for all that the second can know.
    assert number(opened()) == 2 + 10 + 20


def test_a_lock_that_another_process_holds_delays_once_and_loses_nothing(
    opened: Opened, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.05)
    writer = opened()
    count(writer)
    other = sqlite3.connect(writer._database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(20):
        count(writer)
        assert writer._database.patience == 0  # the next one does not wait
    assert number(writer) == 21  # what waits is shown
    other.execute("ROLLBACK")
    other.close()
    count(writer)
    assert number(opened()) == 22
    assert writer._database.patience == 0.05
    assert "another process holds" in caplog.records[0].message
    assert len(caplog.records) == 1
    assert opened.failures >= 20


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """As by a process that is stopped while it opens the database."""
    handle = os.open(directory, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def test_what_was_never_read_is_not_shown_as_less_while_another_process_has_it_locked(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.05)
    count(opened(), 5)
    fresh = opened()
    with locked(opened.path.directory):
        count(fresh)
        with pytest.raises(Unreadable):
            fresh.read()
        assert opened.failures > 0
    assert number(fresh) == 6  # at once


def test_what_was_written_but_never_read_is_not_shown_as_less_while_it_is_locked(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.05)
    count(opened(), 5)
    writer = opened()
    count(writer)
    writer.close()
    with locked(opened.path.directory), pytest.raises(Unreadable):
        writer.read()
    assert number(writer) == 6  # at once


def test_what_was_read_is_shown_while_another_process_has_it_locked(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.05)
    count(opened(), 5)
    reader = opened()
    assert number(reader) == 5
    reader.close()
    with locked(opened.path.directory):
        count(reader)
        assert number(reader) == 6


FULL = """
    import resource, sys
    import flyte.errors, inside
    from faultlens import pipeline
    def fail(times):
        for _ in range(times):
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                pass
    fail(2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may grow, or be written
    fail(3)
    store = pipeline.running().store
    total = lambda: sum(count.number for series, count in store.read().items()
                        if series.metric == "failures")
    full = total()
    inside.expect_dropped()
    dropped = inside.dropped()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store._retry_at = 0.0
    fail(1)
    store.close()
    inside.report([full, list(dropped), len(store.unsaved), total()])
"""


def test_a_full_disk_is_one_warning_and_nothing_is_lost(tmp_path: Path) -> None:
    done = children.run(FULL, env={"FAULTLENS_STORE": str(tmp_path / "store")})
    assert done.stdout.splitlines()[-1] == '[5, ["store_error"], 0, 6]'
    assert done.stderr.count("faultlens's store") == 1, done.stderr


FAIL = """
    import flyte.errors, inside
    from faultlens import pipeline
    inside.expect_dropped()
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass
    read = pipeline.running().store.read()
    inside.report([sum(c.number for s, c in read.items() if s.metric == "failures"),
                   inside.failures(), inside.dropped()])
"""


@pytest.mark.parametrize("what", ["symlink", "file", "below a file", "another's"])
def test_a_directory_that_is_not_safe_is_refused_and_the_program_counts_in_memory(
    tmp_path: Path, what: str
) -> None:
    place, words = tmp_path / "store", ""
    if what == "symlink":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
        words = f"{place} is a symbolic link; expected a directory"
    elif what == "file":
        place.write_text("")
        words = f"{place} is no directory"
    elif what == "below a file":
        place.write_text("")
        place, words = place / "store", "Not a directory"
    elif os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    else:
        place.mkdir()
        os.chown(place, 12345, -1)
        words = f"{place} belongs to user 12345; expected user 0 or root"
    done = children.run(FAIL, env={"FAULTLENS_STORE": str(place)})
    assert done.stdout.splitlines()[-1].startswith('[1, {"flyte.errors.OOMError|user|w": 1}')
    assert "store_error" in done.stdout
    assert done.stderr.count("faultlens's store") == 1, done.stderr
    assert words in done.stderr
    if what == "symlink":
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_default_directory_is_its_user_s_alone(tmp_path: Path) -> None:
    env = {"FAULTLENS_STORE": None, "TMPDIR": str(tmp_path)}
    children.run(FAIL, env=env)
    directory = tmp_path / f"faultlens-{os.geteuid()}"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} <= {0o600}
    directory.chmod(0o777)
    done = children.run(FAIL, env=env)
    assert f"others may write in {directory} (mode 777); expected 700" in done.stderr


USERS = """
    import os, sys
    from pathlib import Path
    import inside
    from faultlens.counts import Count, Series
    from faultlens.exposition.store import Store
    from faultlens.settings import StorePath

    def count_as(user):
        ours, theirs = os.pipe()
        if os.fork() == 0:
            os.setuid(user)
            store = Store(StorePath(Path(sys.argv[1]), False), lambda: None)
            store.unsaved[Series("failures", "sdk.Error")] = Count(1)
            store.save()
            total = sum(count.number for count in store.read().values())
            os.write(theirs, b"%d %d" % (len(store.unsaved), total))
            os._exit(0)
        os.close(theirs)
        return os.read(ours, 100).decode()

    os.mkdir(sys.argv[1])
    os.chmod(sys.argv[1], 0o755)
    read_only = count_as(12345)
    os.chmod(sys.argv[1], 0o777)
    inside.report([read_only, *(count_as(user) for user in (12345, 0, 12346))])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_may_not_write_counts_in_memory_and_who_may_shares_the_files() -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is below one that is root's alone
        Path(folder).chmod(0o755)
        found = children.report(USERS, f"{folder}/store")
    assert found == ["1 1", "0 1", "0 2", "0 3"]


# The clock.


def test_a_clock_that_jumps_changes_no_count(opened: Opened) -> None:
    store = opened()
    for moment in (2e9, -1e9, 0.0, 4e9, 1e9):
        add(store, {ONE: Count(1, moment, moment)})
        store.save()
    assert store.read() == {ONE: Count(5, 2e9, 1e9)}
    assert opened.failures == 0


# Interruptions.


def test_a_signal_in_the_middle_of_a_write_neither_loses_nor_doubles(tmp_path: Path) -> None:
    total, completed = children.report(
        """
        import signal, sys
        import flyte.errors, inside
        from faultlens import pipeline

        class Timeout(Exception):
            pass

        def interrupt(number, frame):
            raise Timeout

        signal.signal(signal.SIGALRM, interrupt)
        raised = 0
        for turn in range(3000):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 + (turn % 60) * 1e-6)
                    try:
                        raise flyte.errors.OOMError("OOM", "m")
                    except flyte.errors.OOMError:
                        pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Timeout:
                pass
        store = pipeline.running().store
        read = sum(c.number for s, c in store.read().items()
                   if s.metric in ("failures", "suppressed"))
        inside.expect_dropped()
        inside.report([read, inside.total()])
        """,
        env={"FAULTLENS_STORE": str(tmp_path / "store")},
    )
    assert total == completed


def test_what_interrupts_the_reading_and_counts_is_no_loss(
    opened: Opened, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    count(store)
    run = store._run

    def interrupted(use: Callable[[], object]) -> object:
        found = run(use)
        monkeypatch.setattr(store, "_run", run)
        count(store)
        return found

    monkeypatch.setattr(store, "_run", interrupted)
    store.read()
    assert number(store) == 2
    assert (caplog.messages, opened.failures) == ([], 0)


def test_what_interrupts_right_after_a_write_does_not_have_it_written_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    add = store._database.add

    def interrupted(more: Counts) -> None:
        add(more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._database, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            count(store)
    count(store)
    assert number(opened()) == 2


def test_the_log_names_no_problem_twice(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    opened.path.directory.write_text("")
    store = opened()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            add(store, {ONE: Count(1)})
            store.save(insist=True)
    assert len(caplog.records) == 1
    assert opened.failures == 5
    assert store.read()[ONE].number == 5
