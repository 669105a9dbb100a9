"""The ledger of one process counts exactly, whatever happens to the process or the file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens.exposition import ledger as ledger_module
from faultlens.exposition import owners, sheets
from faultlens.exposition.layout import (
    KEY_BYTES,
    Cell,
    Count,
    Layout,
    LedgerError,
    Trace,
    birth,
    checked,
    decode,
    encode,
    expected,
    published,
)
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.ledgers import Ledgers
from faultlens.settings import StorePath
from tests import children
from tests.exposition.attack import KEY, files, numbers, own
from tests.servers import until

ROOT = Path(__file__).parents[2]
OTHER = ("suppressed", "sdk.Error", "system", "w", "wrapped")

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user"
)


def attack(name: str, **options: object) -> Any:
    """Run an attack in its own process; returns its report."""
    done = run(name, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run(name: str, *before: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, *before, **options), **PIPES, timeout=children.TIMEOUT)


def command(name: str, *before: str, **options: object) -> list[str]:
    named = [f"{option}={value}" for option, value in options.items()]
    return [*before, sys.executable, "-m", "tests.exposition.attack", name, *named]


PIPES: dict[str, Any] = {
    "cwd": ROOT,
    "env": children.environment({"FAULTLENS": None}),
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


class Opened:
    """Ledgers in one directory, as if opened by one process after the other."""

    def __init__(self, place: StorePath) -> None:
        self.place = place
        self.told: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def __call__(self) -> Ledger:
        ledger = Ledger(self.place, self.told.append)
        ledger.open()
        return ledger

    def elsewhere(self, *before: str) -> tuple[subprocess.Popen[str], str]:
        """Another process that has counted, and the name of its ledger."""
        arguments = command("hold", *before, directory=self.place.directory)
        process = subprocess.Popen(arguments, **PIPES)
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return process, line.split("'")[1]

    def close(self) -> None:
        for process in self._processes:
            killed(process)


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(StorePath(tmp_path / "store", private=True))
    yield opened
    opened.close()


def count(ledger: Ledger, number: int = 1, key: tuple[str, ...] = KEY) -> None:
    for _ in range(number):
        ledger.add(key, 1.0)


def file_of(ledger: Ledger) -> Path:
    (sheet,) = ledger._state.sheets
    assert sheet.file is not None
    return sheet.file.path


# Keys.

keys = st.lists(st.text(), min_size=1, max_size=16).map(tuple)


@given(keys)
def test_any_key_survives_encoding(key: tuple[str, ...]) -> None:
    raw = encode(key)
    assert len(raw) <= KEY_BYTES
    plain = tuple(label.replace("\x1f", "").encode("utf-8", "replace").decode() for label in key)
    if sum(len(label.encode()) + 1 for label in plain) <= KEY_BYTES:
        assert decode(raw) == plain
    assert encode(decode(raw)) == raw


@given(st.lists(st.text(min_size=100, max_size=400), min_size=3, max_size=16).map(tuple))
def test_a_key_that_is_too_long_is_cut_where_it_is_longest(key: tuple[str, ...]) -> None:
    raw = encode(("failures", "user", *key[:14]))
    found = decode(raw)
    assert len(raw) <= KEY_BYTES
    assert found[:2] == ("failures", "user")
    assert len(found) == len(key[:14]) + 2
    assert encode(found) == raw


def test_a_key_has_labels(opened: Opened) -> None:
    with pytest.raises(ValueError, match="a key has 0 labels; expected 1 to 16"):
        opened().add((), 1.0)


# Counting.


def test_a_count_is_in_the_file_at_once(opened: Opened) -> None:
    count(opened(), 3)
    assert numbers(opened.place) == {KEY: 3}


def test_in_memory_it_counts_the_same(tmp_path: Path) -> None:
    ledger = Ledger(None, print)
    ledger.open()
    count(ledger, 3)
    ledger.add(KEY, 5.0, (1 << 120, 1 << 60))
    for number in range(500):
        count(ledger, 1, ("failures", str(number)))
    ledger.check()
    trace = Trace(f"{1 << 120:032x}", f"{1 << 60:016x}", 5.0)
    assert ledger.unsaved()[KEY] == Count(4, 1.0, 5.0, trace)
    mine = own(ledger)
    assert mine.pop(KEY) == 4
    assert mine == {("failures", str(number)): 1 for number in range(500)}


def test_counts_made_before_a_file_was_taken_are_moved_into_it(opened: Opened) -> None:
    ledger = Ledger(opened.place, opened.told.append)
    count(ledger, 3)
    ledger.add(KEY, 5.0, (7, 8))
    assert numbers(opened.place) == {}
    ledger.open()
    ledger.check()
    count(ledger, 1)
    assert numbers(opened.place) == own(ledger) == {KEY: 5}
    assert ledger.unsaved() == {}


def test_a_thread_that_still_counts_in_memory_loses_nothing(opened: Opened) -> None:
    ledger = Ledger(opened.place, opened.told.append)
    count(ledger)
    slot = ledger._state.slots[KEY]
    ledger.open()
    ledger.check()
    memory, index = slot
    for late in (1, 2, 3):
        memory.counts[index] += 1
        ledger._state.slots[KEY] = slot  # as a thread does that was just making it
        ledger.check()
        assert ledger._state.slots[KEY] != slot
        assert numbers(opened.place) == own(ledger) == {KEY: 1 + late}


def test_more_keys_than_a_ledger_has_slots_take_further_ledgers(opened: Opened) -> None:
    ledger = opened()
    for number in range(900):
        count(ledger, 2, ("failures", str(number)))
        if number % 50 == 0:
            ledger.check()
    ledger.check()
    assert numbers(opened.place) == own(ledger)
    assert sum(own(ledger).values()) == 1800
    assert ledger.unsaved() == {}
    assert len(files(opened.place)) <= 4  # each is larger than the one before


def test_keys_beyond_the_limit_are_counted_with_fewer_labels(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEYS", 100)
    ledger = opened()
    for number in range(150):
        for kind in ("user", "system"):
            count(ledger, 1, ("failures", str(number), kind))
    assert sum(own(ledger).values()) == 300
    assert own(ledger)["failures", "_OTHER", "_OTHER"] == 200
    assert len(ledger._state.slots) == 101

    by_kind = Ledger(opened.place, print, other=lambda key: (key[0], "_OTHER", key[2]))
    by_kind.open()
    for number in range(150):
        for kind in ("user", "system"):
            count(by_kind, 1, ("failures", str(number), kind))
    assert own(by_kind)["failures", "_OTHER", "user"] == 100


def test_restarts_use_the_same_file_and_the_same_slots(opened: Opened) -> None:
    """Even for keys that were cut or cleaned."""
    wanted = [("failures", str(number), "x" * 600, "\x1f\ud800") for number in range(60)]
    for _ in range(5):
        ledger = opened()
        assert own(ledger) == {}
        for key in wanted:
            count(ledger, 1, key)
        ledger.check()
        assert set(own(ledger).values()) == {1}
        ledger.close()
    assert set(numbers(opened.place).values()) == {5}
    assert len(numbers(opened.place)) == 60
    assert len(files(opened.place)) == 1


@pytest.mark.parametrize("keys", [90, 200, 700])
def test_restarts_of_a_program_with_many_keys_do_not_accumulate_files(
    opened: Opened, keys: int
) -> None:
    after = []
    for _ in range(12):
        ledger = opened()
        for number in range(keys):
            count(ledger, 1, ("failures", str(number)))
            if number % 30 == 0:
                ledger.check()
        ledger.close()
        after.append(len(files(opened.place)))
    assert after[-1] == after[5]
    assert set(numbers(opened.place).values()) == {12}


def test_a_clock_that_jumps_changes_no_count(opened: Opened) -> None:
    ledger = opened()
    for moment in (2e9, -1e9, 0.0, 4e9, 1e9):
        ledger.add(KEY, moment)
    ledger.close()
    opened().add(KEY, 3.0)
    assert numbers(opened.place) == {KEY: 6}


def test_close_lets_another_process_have_the_file_and_later_counts_are_in_memory(
    opened: Opened,
) -> None:
    first = opened()
    path = file_of(first)
    count(first)
    first.close()
    second = opened()
    assert file_of(second) == path
    count(first, 2)
    count(second, 4)
    assert numbers(opened.place) == {KEY: 5}
    assert first.unsaved()[KEY].number == 2


# Which process takes which file.


@linux
def test_the_file_of_a_live_process_is_not_taken(opened: Opened) -> None:
    first, second = opened(), opened()
    assert file_of(first) != file_of(second)


@linux
def test_the_file_of_a_killed_process_is_taken_even_if_nobody_waited_for_it(
    opened: Opened,
) -> None:
    process, name = opened.elsewhere()
    first = opened()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    second = opened()
    process.communicate()
    assert (file_of(first).name != name, file_of(second).name == name) == (True, True)
    assert numbers(opened.place) == {KEY: 1}


@linux
def test_a_free_lock_alone_proves_nothing(opened: Opened) -> None:
    """On overlayfs the lock is lost. Here a copy of the file stands for that: nobody locks it."""
    process, name = opened.elsewhere()
    path, copy = opened.place.directory / name, opened.place.directory / "copy.ledger"
    shutil.copy(path, copy)
    path.unlink()
    first = opened()
    killed(process)
    second = opened()
    assert (file_of(first) != copy, file_of(second) == copy) == (True, True)


@linux
def test_a_reused_process_id_is_another_process(opened: Opened) -> None:
    process, name = opened.elsewhere()
    path = opened.place.directory / name
    with path.open("r+b") as file:
        file.seek(Cell.START * 8)
        file.write((12345).to_bytes(8, sys.byteorder))
    first = opened()  # the lock is held
    killed(process)
    path.write_bytes(with_cell(path.read_bytes(), Cell.PID, os.getpid()))
    second = opened()
    assert (file_of(first) != path, file_of(second) == path) == (True, True)


def with_cell(content: bytes, cell: int, value: int) -> bytes:
    return content[: cell * 8] + value.to_bytes(8, sys.byteorder) + content[cell * 8 + 8 :]


NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def permitted(*arguments: str) -> None:
    """Skip the test if the system does not permit this command."""
    try:
        done = subprocess.run(arguments, capture_output=True, check=False, timeout=children.TIMEOUT)
    except FileNotFoundError:
        pytest.skip(f"no {arguments[0]}")
    if done.returncode != 0:
        pytest.skip(f"{' '.join(arguments)}: {done.stderr.decode().strip()}")


@pytest.fixture(params=["same file system", "overlayfs"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """A directory on a file system where a mapping keeps the lock, and one where it does not."""
    permitted(*NAMESPACE, "true")
    directory = tmp_path
    if request.param == "overlayfs":
        lower, upper, work, directory = (tmp_path / name for name in ("l", "u", "w", "merged"))
        for folder in (lower, upper, work, directory):
            folder.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        permitted("mount", "-t", "overlay", "overlay", "-o", options, str(directory))
    opened = Opened(StorePath(directory / "store", private=True))
    try:
        yield opened
    finally:
        opened.close()
        if directory != tmp_path:
            subprocess.run(["umount", "--lazy", directory], check=True)


@linux
def test_a_process_of_another_pid_namespace_keeps_its_file(shared: Opened) -> None:
    _, name = shared.elsewhere(*NAMESPACE)
    taken = {file for _ in range(3) for file in take(shared)}
    taken |= {file for _ in range(3) for file in take(shared, *NAMESPACE)}
    assert name not in taken
    assert numbers(shared.place) == {KEY: 7}


def take(opened: Opened, *before: str) -> list[str]:
    done = run("take", *before, directory=opened.place.directory)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])["files"]
    return found


@linux
def test_the_file_of_a_container_that_is_gone_is_taken(
    shared: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken at once if the mapping keeps the lock; on overlayfs, after a long silence."""
    process, name = shared.elsewhere(*NAMESPACE)
    killed(process)
    path = shared.place.directory / name
    holds_lock = path.read_bytes()[Cell.HOLDS_LOCK * 8]
    if not holds_lock:
        assert name not in {file_of(ledger).name for ledger in [shared() for _ in range(3)]}
        monkeypatch.setattr(owners, "_SILENT_SECONDS", 1.0)
        path.write_bytes(with_cell(path.read_bytes(), Cell.BEAT, 0))
    # The kernel may let go of the lock a little after the process has ended.
    until(lambda: file_of(shared()).name == name, "the file to be free")


@linux
def test_the_files_of_an_earlier_boot_are_taken(shared: Opened) -> None:
    process, name = shared.elsewhere()
    killed(process)
    path = shared.place.directory / name
    path.write_bytes(with_cell(path.read_bytes(), Cell.BOOT, 1))
    assert file_of(shared()) == path


@linux
def test_a_process_that_executes_another_program_takes_its_file_again(opened: Opened) -> None:
    attack("execute", directory=opened.place.directory)
    assert len(files(opened.place)) == 1
    assert numbers(opened.place) == {KEY: 2}


def test_a_process_that_finds_another_owner_in_its_file_takes_another_file(opened: Opened) -> None:
    ledger = opened()
    path = file_of(ledger)
    count(ledger, 3)
    ledger.check()
    content = with_cell(path.read_bytes(), Cell.HOLDS_LOCK, 0)
    with path.open("r+b") as file:  # as a process does that believes the owner is dead
        file.write(content[: sheets.TOKEN])
        file.write(bytes([content[sheets.TOKEN] ^ 1]))
    count(ledger, 2)
    assert ledger.unsaved()[KEY].number == 2
    ledger.check()
    assert file_of(ledger) != path
    assert numbers(opened.place) == own(ledger) == {KEY: 5}


def test_an_old_unfinished_file_of_a_killed_process_is_removed(opened: Opened) -> None:
    opened.place.directory.mkdir(mode=0o700)
    old, new, held = (opened.place.directory / f"{n}.ledger.tmp" for n in ("old", "new", "held"))
    for path in (old, new, held):
        path.write_bytes(b"")
    for path in (old, held):
        os.utime(path, (1.0, 1.0))
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        opened()
        assert (old.exists(), new.exists(), held.exists()) == (False, True, True)


# Bad files and directories.


def test_the_default_directory_is_private_to_its_user(opened: Opened) -> None:
    count(opened())
    directory = opened.place.directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    directory.chmod(0o770)
    refused(opened, f"other users can write to {directory} (mode 770); expected mode 700")


def refused(opened: Opened, why: str) -> None:
    """Check that counts are in memory, and that the reason is reported once."""
    ledger = opened()
    count(ledger, 3)
    ledger.check()
    ledger.check()
    assert opened.told == [why]
    assert ledger.unsaved()[KEY].number == own(ledger)[KEY] == 3


def test_a_named_directory_is_created_and_its_files_get_its_mode(tmp_path: Path) -> None:
    opened = Opened(StorePath(tmp_path / "a" / "b", private=False))
    opened().close()
    assert stat.S_IMODE(opened.place.directory.stat().st_mode) == 0o700
    opened.place.directory.chmod(0o2770)
    opened(), opened()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files(opened.place)}
    assert modes == {0o600, 0o660}


def test_a_directory_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    target, link, file = (tmp_path / name for name in ("target", "link", "file"))
    target.mkdir(mode=0o700)
    link.symlink_to(target)
    file.write_text("")
    for path, what in ((link, "a symbolic link"), (file, "not a directory")):
        for private in (True, False):
            opened = Opened(StorePath(path, private))
            refused(opened, f"{path} is {what}; expected a directory")
    assert list(target.iterdir()) == []


@root
def test_a_directory_of_another_user_is_refused(opened: Opened) -> None:
    directory = opened.place.directory
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    refused(opened, f"{directory} belongs to user 12345; expected user 0")
    named = Opened(StorePath(directory, private=False))
    refused(named, f"{directory} belongs to user 12345; expected user 0 or root")


@root
@pytest.mark.parametrize("private", ["yes", ""])
def test_a_child_of_root_that_becomes_another_user_is_counted_and_read(private: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        found = attack("another_user", directory=f"{folder}/store", private=private)
    assert found == {"counted": 100}


@root
def test_users_share_a_directory_whose_mode_permits_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        assert attack("users", directory=f"{folder}/store") == {
            "counted": 3,
            "files": 1,
            "in memory": 1,
        }


def test_only_ledgers_are_taken(opened: Opened, tmp_path: Path) -> None:
    directory = opened.place.directory
    opened().close()
    (whole,) = files(opened.place)
    content = whole.read_bytes()
    victims = [tmp_path / name for name in ("linked", "hard")]
    for victim in victims:
        victim.write_bytes(content)
    bound = socket.socket(socket.AF_UNIX)
    planted = {
        "link": lambda path: path.symlink_to(victims[0]),
        "hard": lambda path: path.hardlink_to(victims[1]),
        "fifo": os.mkfifo,
        "directory": Path.mkdir,
        "socket": lambda path: bound.bind(str(path)),
        "empty": lambda path: path.write_bytes(b""),
        "short": lambda path: path.write_bytes(content[:-1]),
        "header": lambda path: path.write_bytes(content[:4096]),
        "text": lambda path: path.write_bytes(b"x" * len(content)),
        "newer": lambda path: path.write_bytes(with_cell(content, Cell.FORMAT, 2)),
        "huge": lambda path: path.write_bytes(with_cell(content, Cell.CAPACITY, 1 << 60)),
    }
    whole.unlink()
    for name, plant in planted.items():
        plant(directory / f"{name}.ledger")
    bound.close()
    ledger = opened()
    count(ledger)
    assert file_of(ledger).stem not in planted
    assert {victim.read_bytes() for victim in victims} == {content}
    assert opened.told == []


def test_a_ledger_of_other_sizes_is_read_and_counted_in(opened: Opened) -> None:
    """Another version of faultlens may write such a ledger."""
    opened.place.directory.mkdir(mode=0o700)
    layout = Layout(64, key_bytes=100, birth_bytes=64)
    content = sheets._blank(layout, b"u" * 16)
    raw = encode(KEY)
    content[layout.key(5) : layout.key(5) + len(raw)] = raw
    view = memoryview(content)
    view[layout.published].cast("Q")[5] = published(raw)
    view[layout.counts].cast("Q")[5] = 41
    path = opened.place.directory / "old.ledger"
    path.write_bytes(content)
    assert numbers(opened.place) == {KEY: 41}
    long = ("failures", "x" * 200)
    for _ in range(3):
        ledger = opened()
        assert file_of(ledger) == path
        count(ledger)
        count(ledger, 1, long)
        ledger.expect_class("c" * 40, ["user"])
        ledger.expect_class("d" * 40, ["user"])  # no room
        ledger.close()
    found = numbers(opened.place)
    assert (found[KEY], len(found), sum(found.values())) == (44, 2, 47)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is 0 bytes long; expected a whole ledger"),
        (b"x" * 5000, "is not a ledger, or has another byte order"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_file(content: bytes, why: str) -> None:
    with pytest.raises(LedgerError, match=f"^{why}$"):
        checked(content[:4096], len(content))


def test_a_removed_file_is_replaced_by_one_with_all_its_counts(opened: Opened) -> None:
    before = opened()
    count(before, 5)
    before.expect_class("sdk.Error", ["user"])
    before.close()
    ledger = opened()
    ledger.expect_worker("w")
    count(ledger, 2)
    ledger.add(OTHER, 7.0, (1, 2))
    file_of(ledger).unlink()
    count(ledger, 3)
    ledger.check()
    count(ledger, 4)
    assert numbers(opened.place) == {KEY: 14, OTHER: 1}
    assert own(ledger) == {KEY: 9, OTHER: 1}
    ledger.check()
    assert len(files(opened.place)) == 1


def test_a_removed_directory_is_created_again(opened: Opened) -> None:
    ledger = opened()
    count(ledger, 2)
    shutil.rmtree(opened.place.directory)
    count(ledger, 3)
    ledger.check()
    assert numbers(opened.place) == {KEY: 5}


def test_a_thread_that_still_counts_in_a_removed_file_loses_nothing(
    opened: Opened,
) -> None:
    ledger = opened()
    count(ledger)
    sheet, index = ledger._state.slots[KEY]
    file_of(ledger).unlink()
    ledger.check()
    sheet.counts[index] += 1
    late = sheet.make(OTHER, 1.0)
    assert late is not None
    sheet.counts[late] += 1
    ledger.check()
    assert numbers(opened.place) == own(ledger) == {KEY: 2, OTHER: 1}


def test_counts_go_to_the_removed_file_until_a_new_one_can_be_created(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened()
    count(ledger, 2)

    def fail(*_: object) -> None:
        raise LedgerError("full")

    file_of(ledger).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(sheets, "_write", fail)
        ledger.check()
        count(ledger, 3)
        ledger.check()
    assert opened.told == [f"cannot create a ledger in {opened.place.directory}: full"]
    ledger.check()
    assert numbers(opened.place) == own(ledger) == {KEY: 5}


def test_a_truncated_file_is_abandoned_before_that_is_fatal(opened: Opened) -> None:
    ledger = opened()
    path = file_of(ledger)
    count(ledger, 3)
    ledger.check()
    os.truncate(path, 100)
    ledger.check()
    count(ledger, 2)
    assert opened.told == [f"{path} was truncated"]
    assert file_of(ledger) != path
    assert numbers(opened.place) == {KEY: 2}
    assert own(ledger) == {KEY: 5}


def test_a_full_disk() -> None:
    found = attack("full")
    told = found.pop("told")
    assert len(told) == 1
    assert told[0].startswith("cannot create a ledger in ")
    assert told[0].endswith(": File too large")
    assert found == {
        "in memory": 300,
        "in files": 0,
        "moved": 300,
        "unsaved": 0,
        "own": 300,
        "read": 300,
        "one": [2, 150.0, 300.0, [f"{299:032x}", f"{299:016x}", 300.0]],
        "left": [],
    }


def test_a_full_file_system(tmp_path: Path) -> None:
    permitted("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(tmp_path))
    try:
        opened = Opened(StorePath(tmp_path / "store", private=True))
        first = opened()
        filler = tmp_path / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        second = opened()
        for number in range(60):  # slots that were never touched
            count(first, 1, ("failures", str(number)))
            count(second, 1, ("failures", str(number)))
        why = f"cannot create a ledger in {opened.place.directory}: No space left on device"
        assert opened.told == [why]
        assert sum(numbers(opened.place).values()) == 60
        filler.unlink()
        second.check()
        assert sum(numbers(opened.place).values()) == 120
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_read_only_file_system(opened: Opened, tmp_path: Path) -> None:
    count(opened(), 2)
    opened().close()  # a ledger that could be adopted
    mounted = tmp_path / "read-only"
    mounted.mkdir()
    permitted("mount", "--bind", str(tmp_path), str(mounted))
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        there = Opened(StorePath(mounted / "store", private=True))
        why = f"cannot create a ledger in {there.place.directory}: Read-only file system"
        refused(there, why)
        assert numbers(there.place) == {KEY: 2}
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


# Series that start at 0.


def test_classes_and_workers_start_at_0_in_the_file(opened: Opened) -> None:
    ledger = Ledger(opened.place, print)
    ledger.expect_class("sdk.A", ["user", "system"])
    ledger.open()
    ledger.expect_worker("w")
    ledger.expect_class("sdk.B", ["unknown"])
    ledger.expect_class("sdk.B", ["unknown"])
    assert ledger.expected() == {
        ("sdk.A", "user", "w"),
        ("sdk.A", "system", "w"),
        ("sdk.B", "unknown", "w"),
    }
    assert Ledgers(opened.place, None, print).read().expected == ledger.expected()


def test_births_that_do_not_fit_are_left_out(opened: Opened) -> None:
    ledger = opened()
    ledger.expect_worker("w")
    for number in range(1000):
        ledger.expect_class(f"program.errors.SomeNotSoShortName{number}", ["user"])
    found = Ledgers(opened.place, None, print).read().expected
    assert 500 < len(found) < 1000
    assert found < ledger.expected()


@given(st.lists(st.tuples(st.text(), st.lists(st.text(), max_size=3))), st.lists(st.text()))
def test_births_of_any_name(classes: list[tuple[str, list[str]]], workers: list[str]) -> None:
    def plain(name: str) -> str:
        return name.replace("\x1f", "").replace("\n", "")

    lines = [birth("class", name, kinds) for name, kinds in classes]
    lines += [birth("worker", name) for name in workers]
    assert expected("\n".join(lines).split("\n")) == {
        (plain(name), plain(kind), plain(worker))
        for name, kinds in classes
        for kind in kinds
        for worker in workers
    }


# Attacks.


def test_processes_that_are_killed_at_random_instants_lose_no_count() -> None:
    found = attack("kill", processes=150)
    assert found["counts"] > 10_000
    assert (found["lost"], found["doubled"], found["wrong reads"]) == (0, 0, 0)
    assert found["files"] <= 2 * found["at once"]  # some may have been killed while creating one


def test_no_ledger_has_two_owners() -> None:
    found = attack("race", rounds=4)
    assert found["with a ledger of their own"] == found["of"] == 200
    assert found["lost"] == 0
    assert found["files"] <= 55  # some processes found no file that was free, and created one


def test_short_processes_one_after_the_other_use_one_file() -> None:
    assert attack("churn", processes=200) == {"lost": 0, "wrong reads": 0, "files": 1}


def test_threads() -> None:
    found = attack("threads", each=20_000)
    assert found == {"lost": 0, "wrong": [], "own": 0, "wrong reads": 0}


def test_signal_handlers() -> None:
    found = attack("signals", turns=10_000)
    assert found == {"handled": True, "lost": 0, "lost of new keys": 0, "completed": True}


def test_forks_in_threads() -> None:
    found = attack("forks", children=25)
    files_found = found.pop("files")
    assert found == {
        "lost of the parent": 0,
        "lost of the children": 0,
        "own": 0,
        "own of a child": [100],
    }
    assert files_found == 2


@pytest.mark.parametrize("by_pid", [0, 1])
def test_forks_by_c_code(by_pid: int) -> None:
    found = attack("fork_by_c", by_pid=by_pid)
    assert found == {"lost": 0, "lost of new keys": 0, "own": 0, "files": 2}


@linux
def test_a_child_does_not_keep_the_file_of_its_parent() -> None:
    assert attack("orphan") == {"taken": True}


def test_a_program_that_closes_all_descriptors_keeps_its_own_files() -> None:
    assert attack("descriptors") == {"lost": 0, "changed": [], "descriptors": True}


def test_a_child_takes_its_file_at_its_first_count_and_a_child_of_root_at_once() -> None:
    assert attack("first_count") in ({"root": 2, "user": 12}, {"user": 12})
