"""The reader of all ledgers: no sum goes down, and no file can harm it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

from faultlens.exposition import mapping, sheets
from faultlens.exposition.layout import Cell, Count, Key, Layout, Trace, pack_trace
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.ledgers import Ledgers
from faultlens.exposition.mapping import Snapshots
from faultlens.settings import StorePath
from tests.exposition.attack import KEY, files, open_descriptors
from tests.exposition.test_ledger import Opened, count, file_of, opened, with_cell

__all__ = ["opened"]  # a fixture


def reader(opened: Opened) -> Ledgers:
    return Ledgers(opened.place, None, opened.told.append)


def number(ledgers: Ledgers, key: Key = KEY) -> int:
    return ledgers.read().counts[key].number


take = Snapshots.take


@pytest.fixture(params=["mapped", "by descriptor"], autouse=True)
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the system call that copies pieces, and with a sandbox that refuses it."""
    if request.param == "by descriptor":

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "refused")

        monkeypatch.setattr(Snapshots, "take", refuse)


def test_the_counts_of_all_processes_are_summed(opened: Opened) -> None:
    first, second, ledgers = opened(), opened(), reader(opened)
    assert ledgers.read().counts == {}
    first.add(KEY, 5.0, (1, 2))
    second.add(KEY, 3.0)
    second.add(KEY, 9.0)
    trace = Trace(f"{1:032x}", f"{2:016x}", 5.0)
    assert ledgers.read().counts == {KEY: Count(3, 3.0, 9.0, trace)}
    second.add(KEY, 10.0, (3, 4))
    trace = Trace(f"{3:032x}", f"{4:016x}", 10.0)
    for one in (ledgers, reader(opened)):
        assert one.read().counts == {KEY: Count(4, 3.0, 10.0, trace)}


def test_new_counts_keys_births_and_files_are_seen(opened: Opened) -> None:
    ledger, ledgers = opened(), reader(opened)
    for turn in range(1, 6):
        count(ledger)
        count(ledger, 1, ("failures", str(turn)))
        ledger.expect_worker(f"w{turn}")
        ledger.expect_class("sdk.Error", ["user"])
        count(opened(), 1, ("another", str(turn)))
        found = ledgers.read()
        assert found.counts[KEY].number == turn
        assert len(found.counts) == 1 + 2 * turn
        assert found.expected == {("sdk.Error", "user", f"w{n}") for n in range(1, turn + 1)}


def test_two_slots_of_one_key_are_summed(opened: Opened) -> None:
    ledger = opened()
    count(ledger, 2)
    (sheet,) = ledger._state.sheets
    index = sheet.make(KEY, 0.5)  # as two threads at once do
    assert index is not None
    sheet.counts[index] += 3
    sheet.last[index] = 9.0
    ledgers = reader(opened)
    assert ledgers.read().counts == {KEY: Count(5, 0.5, 9.0)}
    count(ledger)
    assert number(ledgers) == 6


def test_a_half_written_trace_is_ignored(opened: Opened) -> None:
    ledger = opened()
    (sheet,) = ledger._state.sheets
    ledger.add(KEY, 5.0, (1, 2))
    sheet.traces[:20] = pack_trace((3, 4), 6.0)[:20]
    assert reader(opened).read().counts[KEY].trace is None


def test_this_process_s_counts_in_memory_are_added_and_never_twice(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(opened.place, opened.told.append)
    ledgers = Ledgers(opened.place, ledger, opened.told.append)
    count(ledger, 2)
    ledger.expect_class("sdk.Error", ["user"])
    ledger.expect_worker("w")
    assert (number(ledgers), ledgers.read().expected) == (2, {("sdk.Error", "user", "w")})
    ledger.open()
    assert number(ledgers) == 2
    count(ledger, 3)
    ledger.check()
    count(ledger, 4)
    assert number(ledgers) == number(reader(opened)) == 9


def test_without_a_directory_only_this_process_is_read() -> None:
    ledger = Ledger(None, print)
    ledger.open()
    count(ledger, 3)
    ledgers = Ledgers(None, ledger, print)
    assert (number(ledgers), ledgers.identity) == (3, "")


def test_a_removed_file_stays_counted(opened: Opened) -> None:
    ledger, ledgers = opened(), reader(opened)
    count(ledger, 5)
    assert number(ledgers) == 5
    file_of(ledger).unlink()
    assert number(ledgers) == 5
    count(ledger, 2)
    ledger.check()  # a new file, of the same ledger
    assert number(ledgers) == 7
    count(ledger, 2)
    shutil.rmtree(opened.place.directory)
    assert number(ledgers) == 7
    ledger.check()
    count(ledger)
    assert number(ledgers) == number(reader(opened)) == 10
    assert opened.told == []


def test_a_copy_of_a_ledger_counts_once(opened: Opened, tmp_path: Path) -> None:
    ledger, ledgers = opened(), reader(opened)
    count(ledger, 5)
    shutil.copy(file_of(ledger), tmp_path / "copy.ledger")
    count(ledger, 1)
    assert number(ledgers) == 6
    shutil.move(tmp_path / "copy.ledger", opened.place.directory)
    assert number(ledgers) == number(reader(opened)) == 6


@pytest.mark.parametrize("size", [0, 100, 4096, 4200, 20_000])
def test_a_truncated_file_stays_counted(opened: Opened, size: int) -> None:
    broken, whole, ledgers = opened(), opened(), reader(opened)
    count(broken, 5)
    count(whole, 2)
    assert number(ledgers) == 7
    path = file_of(broken)
    os.truncate(path, size)
    count(whole, 2)
    assert number(ledgers) == number(ledgers) == 9
    assert number(reader(opened)) == 4
    expected = f"{path} is {size} bytes long; expected "
    assert opened.told
    assert all(reason.startswith(expected) for reason in opened.told)


def test_an_overwritten_file_stays_counted(opened: Opened) -> None:
    ledger, ledgers = opened(), reader(opened)
    count(ledger, 5)
    assert number(ledgers) == 5
    path = file_of(ledger)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert number(ledgers) == 5
    count(opened(), 1)
    assert number(ledgers) == 6


def test_a_file_that_is_not_a_ledger_is_reported_once_and_left_out(
    opened: Opened, tmp_path: Path
) -> None:
    ledger, ledgers = opened(), reader(opened)
    count(ledger, 5)
    content = file_of(ledger).read_bytes()
    directory = opened.place.directory
    target = tmp_path / "target"
    target.write_bytes(content)
    (directory / "link.ledger").symlink_to(target)
    os.mkfifo(directory / "fifo.ledger")
    (directory / "directory.ledger").mkdir()
    (directory / "short.ledger").write_bytes(content[:10])
    (directory / "text.ledger").write_bytes(b"x" * 5000)
    (directory / "newer.ledger").write_bytes(with_cell(content, Cell.FORMAT, 2))
    (directory / "other.txt").write_bytes(content)
    for _ in range(3):
        assert number(ledgers) == 5
    assert sorted(why.removeprefix(f"{directory}/") for why in opened.told) == [
        "directory.ledger is not a regular file; expected a ledger",
        "fifo.ledger is not a regular file; expected a ledger",
        "link.ledger is a symbolic link; expected a ledger",
        "newer.ledger has format 2; expected 1",
        "short.ledger is 10 bytes long; expected a whole ledger",
        "text.ledger is not a ledger, or has another byte order",
    ]


def test_a_name_that_now_leads_to_another_file_is_read_anew(opened: Opened) -> None:
    first, second, ledgers = opened(), opened(), reader(opened)
    count(first, 5)
    assert number(ledgers) == 5
    count(second, 2)
    file_of(second).rename(file_of(first))
    ledgers.read()  # the first name now leads to another file; noticed when either file changes
    count(second, 2)
    count(first, 1)
    ledgers.read()
    assert number(ledgers) == 9


def test_an_unsafe_directory_is_reported(opened: Opened) -> None:
    opened.place.directory.mkdir()
    opened.place.directory.chmod(0o777)
    ledgers = reader(opened)
    assert ledgers.read().counts == {}
    assert opened.told == [
        f"other users can write to {opened.place.directory} (mode 777); expected mode 700"
    ]


def test_without_descriptors_reading_fails_rather_than_giving_a_wrong_sum(opened: Opened) -> None:
    ledger, ledgers = opened(), reader(opened)
    count(ledger, 5)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    for left in (0, 1):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, limit[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                ledgers.read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert number(ledgers) == 5


def test_two_directories_have_two_identities(tmp_path: Path) -> None:
    places = [StorePath(tmp_path / name, private=True) for name in "ab"]
    readers = [Ledgers(place, None, print) for place in places for _ in range(2)]
    assert {ledgers.identity for ledgers in readers} == {""}
    for place in places:
        Ledger(place, print).open()
    first, again, other, _ = [ledgers.identity for ledgers in readers]
    assert first == again != other


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has the call")
def test_more_files_than_one_system_call_can_copy(tmp_path: Path) -> None:
    """Some are truncated: the first and last, adjacent ones, and those at the end of a call."""
    count, size, cut = 2100, 8192, [0, 7, 8, 1022, 1023, 1024, 1025, 2099]
    pieces = []
    for number in range(count):
        path = tmp_path / str(number)
        path.write_bytes(number.to_bytes(8, "big") * (size // 8))
        with path.open("rb") as file:
            start = 8 * (number % 3)
            pieces.append((mapping.map_file(file.fileno(), size, write=False), start))
    snapshots = Snapshots(pieces)
    for number in cut:
        os.truncate(tmp_path / str(number), 100)
    found, broken = take(snapshots)
    assert broken == cut
    for number, piece in enumerate(found):
        if number not in cut:
            assert piece == number.to_bytes(8, "big") * (size // 8 - number % 3)
    assert take(Snapshots([])) == ([], [])


def test_two_thousand_ledgers(opened: Opened) -> None:
    """Ledgers of dead processes, each with 16 kinds of failures. No descriptor stays open."""
    directory = opened.place.directory
    directory.mkdir(mode=0o700)
    kinds = [("failures", f"sdk.Error{kind}", "user", "w") for kind in range(16)]
    for _ in range(2000):
        content = sheets._blank(Layout(sheets.CAPACITY), os.urandom(16))
        sheet = sheets.Sheet(memoryview(content), 1)
        for key in kinds:
            index = sheet.make(key, 1.0)
            assert index is not None
            sheet.counts[index] += 1
        (directory / f"{os.urandom(8).hex()}.ledger").write_bytes(content)
    before = open_descriptors()
    ledgers = reader(opened)
    for _ in range(3):
        found = ledgers.read().counts
        assert {key: count.number for key, count in found.items()} == dict.fromkeys(kinds, 2000)
    living = opened()  # one of them
    count(living, 5, kinds[3])
    assert number(ledgers, kinds[3]) == 2005
    assert len(files(opened.place)) == 2000
    assert open_descriptors() == before
