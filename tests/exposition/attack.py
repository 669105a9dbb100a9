"""Attacks on ledgers by real processes that count, fork, and are killed.

The tests run each attack in its own process. To run one by hand, with larger numbers:

    python -m tests.exposition.attack kill processes=1000
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import operator
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from faultlens.exposition import ledger as ledger_module
from faultlens.exposition import sheets
from faultlens.exposition.layout import Key, Layout
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.ledgers import Ledgers
from faultlens.settings import StorePath

KEY = ("failures", "sdk.Error", "user", "w")
PR_SET_PDEATHSIG = 1
KEYS = [("failures", f"sdk.Error{number}", "user", "w") for number in range(8)]


def own(ledger: Ledger) -> dict[Key, int]:
    """How often this process has counted each key."""
    return {key: count.number for key, count in ledger.own().items()}


def kill(place: StorePath, processes: int = 200, at_once: int = 4) -> dict[str, object]:
    """SIGKILL at random instants: every completed count is there, none is there twice."""
    started, done = cells(processes), cells(processes)

    def count(number: int) -> None:
        ledger = opened(place)
        key = KEYS[number % len(KEYS)]
        for turn in range(1, 1 << 40):
            started[number] = turn
            ledger.add(key, float(turn), (turn, turn) if turn % 2 else None)
            done[number] = turn

    watch = Watch(place)
    alive: dict[int, int] = {}

    def kill_one() -> None:
        pid, number = random.choice(list(alive.items()))
        watch.look()
        goal = done[number] + random.randrange(2000)
        wait_for(lambda: done[number] >= goal or random.random() < 0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del alive[pid]

    for number in range(processes):
        alive[child(partial(count, number))] = number
        if len(alive) == at_once:
            kill_one()
    while alive:
        kill_one()
    found = watch.look()
    least: Counter[Key] = Counter()
    most: Counter[Key] = Counter()
    for number in range(processes):
        least[KEYS[number % len(KEYS)]] += done[number]
        most[KEYS[number % len(KEYS)]] += started[number]
    return {
        "counts": sum(least.values()),
        "lost": sum(max(0, least[key] - found[key]) for key in KEYS),
        "doubled": sum(max(0, found[key] - most[key]) for key in KEYS),
        "in the middle": sum(most.values()) - sum(least.values()),
        "reads": watch.reads,
        "wrong reads": watch.wrong,
        "files": len(files(place)),
        "at once": at_once,
    }


def race(place: StorePath, processes: int = 50, rounds: int = 12) -> dict[str, object]:
    """Many processes take a ledger at the same time; those of the previous round are dead."""
    return {
        "with a ledger of their own": sum(one_race(place, processes) for _ in range(rounds)),
        "of": processes * rounds,
        "lost": 100 * processes * rounds - numbers(place)[KEY],
        "files": len(files(place)),
    }


def one_race(place: StorePath, processes: int) -> int:
    """Returns how many different ledgers the processes have."""
    gate, ready, inodes = cells(1), cells(processes), cells(processes)

    def count(number: int) -> None:
        ready[number] = 1
        wait_for(lambda: gate[0] == 1)
        ledger = opened(place)
        (sheet,) = ledger._state.sheets
        inodes[number] = sheet.file.identity[1] if sheet.file is not None else 0
        for turn in range(100):
            ledger.add(KEY, float(turn))
        ready[number] = 2
        wait_for(lambda: gate[0] == 2)

    pids = [child(partial(count, number)) for number in range(processes)]
    for step in (1, 2):
        wait_for(lambda: sum(ready) == step * processes)  # noqa: B023
        gate[0] = step
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    return len(set(inodes) - {0})


def churn(place: StorePath, processes: int = 300) -> dict[str, object]:
    """Short processes one after the other; every fifth is killed."""
    watch = Watch(place)
    for number in range(processes):

        def count(number: int = number) -> None:
            opened(place).add(KEY, float(number))
            if number % 5 == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.waitpid(child(count), 0)
        if number % 10 == 0:
            watch.look()
    return {
        "lost": processes - watch.look()[KEY],
        "wrong reads": watch.wrong,
        "files": len(files(place)),
    }


def threads(place: StorePath, each: int = 50_000) -> dict[str, object]:
    """Threads that count and make slots, with many thread switches, while a reader watches."""
    sys.setswitchinterval(1e-6)
    ledger = opened(place)
    watch = Watch(place, ledger)

    def count(thread: int) -> None:
        for turn in range(each):
            ledger.add(KEY, float(turn))
            if turn % 100 == 0 and turn < 50_000:
                ledger.add(("failures", f"{turn // 100}"), float(turn))

    running = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        watch.look()
        ledger.check()
    for thread in running:
        thread.join()
    ledger.check()
    found = numbers(place)
    return {
        "lost": 4 * each - found[KEY],
        "wrong": [key for key, number in found.items() if key != KEY and number != 4],
        "own": sum(own(ledger).values()) - sum(found.values()),
        "wrong reads": watch.wrong,
    }


class Interrupted(Exception):
    """Raised by a signal handler."""


def signals(place: StorePath, turns: int = 20_000) -> dict[str, object]:
    """One signal handler counts in the middle of a count; another raises there."""
    ledger = opened(place)
    handled, ended = 0, False

    def count(number: int, frame: object) -> None:
        nonlocal handled
        ledger.add(KEY, 1.0)
        ledger.add(("handler", str(handled % 300)), 1.0)
        handled += 1
        if not ended:
            signal.setitimer(signal.ITIMER_REAL, 1e-4)

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    for turn in range(turns):
        ledger.add(KEY, 1.0)
        ledger.add(("main", str(turn % 300)), 1.0)
    ended = True
    wait_for(lambda: signal.getitimer(signal.ITIMER_REAL)[0] == 0)
    ledger.check()
    found = numbers(place)
    by_name = Counter[str]()
    for key, number in found.items():
        by_name[key[0]] += number
    signal.signal(signal.SIGALRM, interrupt)
    started = done = 0
    other = ("interrupted",)
    for turn in range(2000):
        with contextlib.suppress(Interrupted):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + turn % 50 * 1e-6)
                started += 1
                ledger.add(other, 1.0)
                done += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return {
        "handled": handled > 0,
        "lost": turns + handled - found[KEY],
        "lost of new keys": turns + handled - by_name["main"] - by_name["handler"],
        "completed": done <= numbers(place)[other] <= started,
    }


def forks(place: StorePath, children: int = 40) -> dict[str, object]:
    """Threads count while the process forks."""
    ledger = opened(place)
    stop = threading.Event()
    counted, inherited = cells(4), cells(children)

    def count(thread: int) -> None:
        while not stop.is_set():
            ledger.add(KEY, 1.0)
            counted[thread] += 1

    running = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for thread in running:
        thread.start()

    def in_child(number: int) -> None:
        for turn in range(100):
            ledger.add((*KEY[:3], f"child{turn % 2}"), 1.0)
        inherited[number] = sum(own(ledger).values())

    for number in range(children):
        pid = child(partial(in_child, number))
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in running:
        thread.join()
    found = numbers(place)
    return {
        "lost of the parent": sum(counted) - found[KEY],
        "lost of the children": 100 * children - sum(found.values()) + found[KEY],
        "own": sum(own(ledger).values()) - sum(counted),
        "own of a child": sorted(set(inherited)),
        "files": len(files(place)),
    }


def fork_by_c(place: StorePath, children: int = 20, by_pid: int = 0) -> dict[str, object]:
    """Forks that Python does not know about: the child keeps its parent's mapping."""
    if by_pid:  # simulates a system without MADV_WIPEONFORK
        ledger_module._MADV_WIPEONFORK = -1
    ledger = opened(place)
    assert isinstance(ledger._mark, memoryview) is not bool(by_pid)
    ledger.add(KEY, 1.0)
    for _ in range(children):
        pid = ctypes.PyDLL(None).fork()
        for turn in range(100):
            ledger.add(KEY, 1.0)
            ledger.add((*KEY[:3], "new" if pid else f"child{turn % 2}"), 1.0)
        if pid == 0:
            mine = sum(own(ledger).values())
            ledger.check()
            os._exit(0 if mine == 200 else 1)
        assert os.waitpid(pid, 0)[1] == 0
    found = numbers(place)
    return {
        "lost": 1 + 200 * children - found[KEY],
        "lost of new keys": 200 * children - sum(found.values()) + found[KEY],
        "own": sum(own(ledger).values()) - 1 - 200 * children,
        "files": len(files(place)),
    }


def orphan(place: StorePath) -> dict[str, object]:
    """A child lives on when its parent is killed, and does not keep the parent's file."""
    names, told = os.pipe()

    def in_parent() -> None:
        ledger = opened(place)
        ledger.add(KEY, 1.0)
        (name,) = files_of(ledger)
        if os.fork() == 0:
            os.write(told, f"{name} {os.getpid()}".encode())
        signal.pause()

    parent = child(in_parent)
    name, pid = os.read(names, 100).decode().split()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    taken = [file for ledger in [opened(place) for _ in range(3)] for file in files_of(ledger)]
    os.kill(int(pid), signal.SIGKILL)
    return {"taken": name in taken}


def descriptors(place: StorePath) -> dict[str, object]:
    """The program closes all descriptors, then gets their numbers for its own files and sockets."""
    ledger = opened(place)
    reader = Ledgers(place, ledger, print)
    ledger.add(KEY, 1.0)
    reader.read()
    os.closerange(3, 4096)
    with tempfile.TemporaryDirectory() as folder:
        written = [Path(folder, str(number)) for number in range(40)]
        held = [path.open("wb") for path in written]
        for number, file in enumerate(held):
            file.write(b"%d" % number)
            file.flush()
        ours, theirs = zip(*(socket.socketpair() for _ in range(40)), strict=True)
        before = open_descriptors()
        for turn in range(300):  # makes slots, fills the ledger, takes another
            ledger.add(("failures", str(turn)), 1.0)
            if turn % 50 == 0:
                ledger.check()
                reader.read()
        assert exit_code(partial(ledger.add, KEY, 1.0)) == 0
        found = reader.read().counts
        ledger.close()
        del ledger, reader
        after = open_descriptors()
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.send(b"%d" % number)
            assert other.recv(100) == b"%d" % number
            other.setblocking(False)
        for file in held:
            file.close()
        return {
            "lost": 302 - sum(count.number for count in found.values()),
            "changed": [p.name for p in written if p.read_bytes() != p.name.encode()],
            "descriptors": after == before,
        }


def full(place: StorePath) -> dict[str, object]:
    """At first no file can grow, so counts are in memory. Later they move to a file."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    told: list[str] = []
    ledger = Ledger(place, told.append)
    reader = Ledgers(place, ledger, told.append)
    ledger.open()
    for turn in range(300):
        ledger.add(("failures", str(turn % 150)), 1.0 + turn, (turn, turn))
        if turn % 50 == 0:
            ledger.check()
    in_memory = sum(count.number for count in reader.read().counts.values())
    in_files = sum(numbers(place).values())
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    ledger.check()
    again = reader.read().counts
    return {
        "told": told,
        "in memory": in_memory,
        "in files": in_files,
        "moved": sum(numbers(place).values()),
        "unsaved": len(ledger.unsaved()),
        "own": sum(own(ledger).values()),
        "read": sum(count.number for count in again.values()),
        "one": again["failures", "149"],
        "left": [path.name for path in place.directory.iterdir() if path.suffix == ".tmp"],
    }


def another_user(place: StorePath, named: bool = False) -> dict[str, object]:
    """A child of root becomes another user (gunicorn's --preload --user) and counts in the store.

    A process of another user that had no ledger before counts in memory.
    """
    ledger = opened(place)
    told: list[str] = []

    def in_child() -> None:
        os.setuid(12345)
        for turn in range(100):
            ledger.add(("failures", str(turn)), 1.0)
        ledger.check()
        assert not ledger.unsaved()

    def alone() -> None:
        os.setuid(12346)
        other = Ledger(place, told.append)
        other.open()
        other.add(KEY, 1.0)
        assert other.unsaved()[KEY].number == 1
        assert told == [
            f"user 12346 has no access to {place.directory}; expected a directory that it can use"
        ]

    for work in (in_child, alone):
        assert exit_code(work) == 0
    return {"counted": sum(numbers(place).values())}


def users(place: StorePath) -> dict[str, object]:
    """Users who may write to a directory share it; others count in memory."""
    place.directory.mkdir()
    place.directory.chmod(0o755)
    told: list[str] = []

    def count_as(user: int) -> None:
        os.setuid(user)
        ledger = Ledger(place, told.append)
        ledger.open()
        ledger.add(KEY, 1.0)
        assert bool(told) is bool(ledger.unsaved())
        assert set(told) <= {f"cannot create a ledger in {place.directory}: Permission denied"}
        os._exit(len(told))

    in_memory = exit_code(partial(count_as, 12345))
    place.directory.chmod(0o777)
    in_memory += sum(exit_code(partial(count_as, user)) for user in (12345, 0, 12346))
    return {
        "counted": numbers(place)[KEY],
        "files": len(files(place)),
        "in memory": in_memory,
    }


def first_count(place: StorePath) -> dict[str, object]:
    """A child takes a file at its first count; a child of root takes it at once."""
    found: dict[str, object] = {}
    if os.geteuid() == 0:
        ledger = opened(place)
        found["root"] = exit_code(lambda: os._exit(len(files(place))))
        ledger.close()
        place = StorePath(place.directory.with_name("user"), private=True)
        place.directory.parent.chmod(0o755)
        place.directory.mkdir(mode=0o700)
        os.chown(place.directory, 12345, -1)

    def of_user() -> None:
        if os.geteuid() == 0:
            os.setuid(12345)
        ledger = opened(place)

        def count() -> None:
            ledger.check()
            before = len(files(place))
            ledger.add(KEY, 1.0)
            os._exit(10 * before + len(files(place)))

        os._exit(exit_code(count))

    return {**found, "user": exit_code(of_user)}


def hold(place: StorePath) -> dict[str, object]:
    """Count once and wait to be killed. For processes in other namespaces."""
    ledger = opened(place)
    ledger.add(KEY, 1.0)
    print(files_of(ledger), flush=True)
    signal.pause()
    raise AssertionError


def take(place: StorePath) -> dict[str, object]:
    """Take a ledger, count once, and end."""
    ledger = opened(place)
    ledger.add(KEY, 1.0)
    return {"files": files_of(ledger)}


def execute(place: StorePath) -> dict[str, object]:
    """After an exec, a process no longer owns its ledger."""
    first = opened(place)
    first.add(KEY, 1.0)
    command = [sys.executable, "-m", __spec__.name, "take", f"directory={place.directory}"]
    os.execv(sys.executable, command)


# Helpers of the attacks.


class Watch:
    """Watches for a sum or a slot that goes down, even for an instant."""

    def __init__(self, place: StorePath, ledger: Ledger | None = None) -> None:
        self._place = place
        self._ledgers = Ledgers(place, ledger, print)
        self._fresh = ledger is None
        self._least: Counter[Key] = Counter()
        self._slots: dict[str, list[int]] = {}
        self.reads = 0
        self.wrong = 0

    def look(self) -> Counter[Key]:
        if self._place.directory.exists():
            for path in files(self._place):
                self._look_at(path)
        found = Counter({key: c.number for key, c in self._ledgers.read().counts.items()})
        self.reads += 1
        self.wrong += any(found[key] < number for key, number in self._least.items())
        self._least = found
        if self._fresh:  # a new reader sees at least as much
            self.wrong += any(numbers(self._place)[key] < found[key] for key in found)
        return found

    def _look_at(self, path: Path) -> None:
        layout = Layout(sheets.CAPACITY)
        with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            for _ in range(5):
                raw = os.pread(file.fileno(), 8 * layout.capacity, layout.counts.start)
                now = memoryview(raw).cast("Q").tolist()
                self.wrong += any(map(operator.lt, now, self._slots.get(path.name, [])))
                self._slots[path.name] = now


def opened(place: StorePath) -> Ledger:
    ledger = Ledger(place, lambda reason: print(reason, file=sys.stderr, flush=True))
    ledger.open()
    return ledger


def numbers(place: StorePath) -> Counter[Key]:
    """The counts that a new reader gets."""
    return Counter({k: c.number for k, c in Ledgers(place, None, print).read().counts.items()})


def files(place: StorePath) -> list[Path]:
    return list(place.directory.iterdir())


def files_of(ledger: Ledger) -> list[str]:
    return [sheet.file.path.name for sheet in ledger._state.sheets if sheet.file is not None]


def cells(count: int) -> memoryview:
    """Integers that a process shares with its children."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("Q")


def child(work: Callable[[], object]) -> int:
    """Fork a child that does the work and then ends; it also ends when its parent does."""
    pid = os.fork()
    if pid:
        return pid
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def exit_code(work: Callable[[], object]) -> int:
    """The exit code of a child that does the work."""
    return os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1])


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0)


def open_descriptors() -> list[tuple[int, int]]:
    """Number and inode of each open descriptor."""
    found = []
    for number in range(3, 300):
        with contextlib.suppress(OSError):
            found.append((number, os.fstat(number).st_ino))
    return found


@contextlib.contextmanager
def _directory(named: str | None) -> Iterator[Path]:
    if named is not None:
        yield Path(named)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "store")


def main() -> None:
    name, *rest = sys.argv[1:]
    options = dict(option.split("=", 1) for option in rest)
    with _directory(options.pop("directory", None)) as directory:
        attack = globals()[name]
        result = attack(
            StorePath(directory, bool(options.pop("private", ""))),
            **{key: int(value) for key, value in options.items()},
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
