"""What the store of counts keeps, and what it costs: ``python -m benchmarks.store``.

Without arguments all sections, one after the other, with little churn; else those that are named::

    python -m benchmarks.store churn --seconds 600

What is compared in a table was taken in turns, in one run: see `benchmarks.run`.
prometheus_client's multiprocess mode, one memory-mapped file for each process, is what the store
is compared with.
"""

# prometheus_client's multiprocess mode has no types.
# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from multiprocessing.context import ForkProcess
from pathlib import Path
from statistics import median, quantiles

import flyte.errors
import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

import faultlens
from benchmarks.run import microseconds, row
from faultlens import endpoint, pipeline
from faultlens.counts import FAILURES
from faultlens.exposition.database import Database
from faultlens.exposition.families import Collector
from faultlens.exposition.server import TAKE_OVER_SECONDS
from faultlens.exposition.store import Store
from faultlens.failure import Failure, Kind
from faultlens.settings import StorePath
from faultlens.sinks.counters import Counters

FORK = multiprocessing.get_context("fork")
FAILURE = Failure("flyte", "flyte.errors.RuntimeUserError", Kind.USER, "node-0")


def main() -> None:
    sections: dict[str, Callable[[], None]] = {
        "kills": kills,
        "write": write,
        "scrape": scrape,
        "churn": lambda: churn(arguments.seconds),
        "takeover": takeover,
        "fork": fork,
    }
    parser = argparse.ArgumentParser(description="Figures of the store, printed.")
    parser.add_argument("section", nargs="*", help=", ".join(sections))
    parser.add_argument("--seconds", type=float, default=20, help="of churn; default: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.section) - set(sections)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    for name in list(os.environ):
        if name.startswith(("FAULTLENS", "OTEL_", "PROMETHEUS_", "PYTHONDONTWRITEBYTECODE")):
            del os.environ[name]
    # Forks of a process with threads are what is measured here.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    for name in arguments.section or sections:
        print(flush=True)
        sections[name]()


# What the processes do that are measured.


LEAVES, KILLED = b"l", b"k"
"""How a process ends, and what it says after each failure."""


def fail(worker: str = "node-0") -> None:
    try:
        raise flyte.errors.RuntimeUserError("CODE", "message", worker)
    except flyte.errors.RuntimeUserError:
        pass


def fail_and_say(worker: str, times: int, pipe: int, word: bytes) -> None:
    """Fail, and say so each time that it is over; then stay, if it is going to be killed."""
    for _ in range(times):
        fail(worker)
        os.write(pipe, word)
    if word == KILLED:
        signal.pause()


def enable(directory: str, port: int = 0) -> None:
    """Switch faultlens on, in this process and those that it forks."""
    os.environ["FAULTLENS_STORE"] = directory
    os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = str(port)
    faultlens.enable()
    if pipeline.running() is None:
        raise RuntimeError("faultlens could not be switched on")


def counted(directory: str) -> Tally[str]:
    """The failures in the file, by worker. Not read by a `Store`, which heals what is missing."""
    database = Database(Path(directory), private=False, patience=30)
    with closing(database):
        database.open()
        found = Tally[str]()
        for series, count in database.read().items():
            if series.metric == FAILURES:
                found[series.worker] += count.number
        return found


def on_disk(directory: str) -> tuple[int, int]:
    """Files, and bytes that they take."""
    blocks = []
    for path in Path(directory).iterdir():
        try:
            blocks.append(path.stat().st_blocks)
        except FileNotFoundError:  # SQLite is done with its log
            pass
    return len(blocks), sum(blocks) * 512


def show(what: str, figure: object) -> None:
    print(f"  {what:48}{figure!s:>12}")


# kills


def kills(processes: int = 1000, failures: int = 100, at_once: int = 4) -> None:
    """What is counted of processes that are killed, looked up for each of them."""
    totals = Tally[str]()
    workers = [f"node-{number}" for number in range(at_once)]
    with tempfile.TemporaryDirectory() as directory:
        enable(directory)
        try:
            whole = median(
                child.whole()
                for _ in range(5)
                for child in [Doomed(worker, failures) for worker in workers]
            )
            counts = counted(directory)
            for _ in range(processes // at_once):
                children = [Doomed(worker, failures) for worker in workers]
                ends = {child: child.born + random.uniform(0, whole) for child in children}
                for child in sorted(children, key=lambda child: ends[child]):
                    child.kill(ends[child])
                before, counts = counts, counted(directory)
                for child in children:
                    completed = child.completed()
                    more = counts[child.worker] - before[child.worker] - completed
                    totals["early"] += completed < failures
                    totals["completed"] += completed
                    totals["lost"] += max(-more, 0)
                    totals["instant"] += more == 1
                    totals["more"] += max(more - 1, 0)
        finally:
            faultlens.disable()
    print(f"{processes} processes, each killed at a random instant of {failures} failures")
    show("killed before their last failure", totals["early"])
    show("failures whose raise was completed", totals["completed"])
    show("of these lost", totals["lost"])
    show("counted in the instant of the kill, besides", totals["instant"])
    show("counted more than once", totals["more"])


class Doomed:
    """A process that fails, and is killed."""

    def __init__(self, worker: str, failures: int) -> None:
        self.worker = worker
        self.born = time.monotonic()
        self._failures = failures
        self._said, said = os.pipe()
        self._process = FORK.Process(target=fail_and_say, args=(worker, failures, said, KILLED))
        self._process.start()
        os.close(said)

    def kill(self, moment: float) -> None:
        time.sleep(max(moment - time.monotonic(), 0))
        self._process.kill()
        self._process.join()
        self._process.close()

    def completed(self) -> int:
        """How often it said that it had failed."""
        with os.fdopen(self._said, "rb") as said:
            return len(said.read())

    def whole(self) -> float:
        """The seconds it lives until its last failure, after which it is killed too."""
        for _ in range(self._failures):
            os.read(self._said, 1)
        lived = time.monotonic() - self.born
        self.kill(0)
        os.close(self._said)
        return lived


# write


def write(rounds: int = 40, times: int = 250, processes: int = 16) -> None:
    with writing() as ways:
        taken: dict[str, list[list[float]]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in sorted(ways, reverse=number % 2 == 0):
                taken[name].append(each(ways[name], times))
        together: dict[str, list[float]] = {OURS: [], THEIRS: []}
        for number in range(6):
            for name in sorted(together, reverse=number % 2 == 0):
                together[name] += at_once(ways[name], processes, times * 4)

    print(f"{'counting one failure, microseconds':46}{'median':>9}{'p99':>9}   ratio to that ...")
    print(f"{'':64}   in memory  in multiprocess mode")
    for name, by_round in taken.items():
        every = list(chain.from_iterable(by_round))
        ratios = [paired(by_round, taken[other]) for other in (MEMORY, THEIRS)]
        print(f"{name:46}{median(every):9.2f}{p99(every):9.2f}{ratios[0]:12.2f}{ratios[1]:12.2f}")

    what = f"the same in {processes} processes at once"
    print(f"\n{what:46}{'median':>9}{'p99':>9}{'max':>9}")
    for name, figures in together.items():
        print(f"{name:46}{median(figures):9.2f}{p99(figures):9.0f}{max(figures):9.0f}")

    print(f"\n{'raise and catch, microseconds':46}{'without':>9}{'with':>9}{'more':>10}  ratio")
    off, memory, store = raises(rounds // 2)
    row("faultlens off, on without a store", off, memory)
    row("faultlens off, on with a store", off, store)
    row("faultlens on, without and with a store", memory, store)


MEMORY = "faultlens, in memory"
OURS = "faultlens, into the store"
THEIRS = "prometheus_client, multiprocess mode"


@contextmanager
def writing() -> Iterator[Mapping[str, Callable[[], object]]]:
    """The ways to count a failure."""
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        memory, kept, store = Counters(), Counters(), store_in(ours)
        kept.keep_in(store)
        with_code = replace(FAILURE, code="CODE")
        in_memory = counter()
        by_hand = MmapedDict(str(Path(theirs, "by_hand.db")))
        number = 0

        def into_the_store(failure: Failure = FAILURE) -> None:
            kept.count(failure)
            store.save()

        def write_by_hand() -> None:
            nonlocal number
            number += 1
            by_hand.write_value("key", number, 0.0)

        with multiprocess_mode(theirs):
            shared = counter()
            yield {
                MEMORY: lambda: memory.count(FAILURE),
                OURS: into_the_store,
                "faultlens, into the store, with an error code": lambda: into_the_store(with_code),
                "prometheus_client, in memory": lambda: increment(in_memory),
                THEIRS: lambda: increment(shared),
                "its memory-mapped dictionary, by hand": write_by_hand,
            }
        store.close()
        by_hand.close()


def store_in(directory: str) -> Store:
    return Store(StorePath(Path(directory), private=False), lambda: print("could not be written"))


def counter() -> Counter:
    return Counter("failures", "Failures.", ("class", "kind", "worker"), registry=None)


def increment(counter: Counter, failure: Failure = FAILURE) -> None:
    counter.labels(failure.type, failure.kind.value, failure.worker).inc()


@contextmanager
def multiprocess_mode(directory: str) -> Iterator[None]:
    """Have prometheus_client do for new counters what it chooses for all when it is imported."""
    before = prometheus_client.values.ValueClass
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue()
    try:
        yield
    finally:
        prometheus_client.values.ValueClass = before
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]


def each(way: Callable[[], object], times: int) -> list[float]:
    """The microseconds of each call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter_ns()
        way()
        taken.append((time.perf_counter_ns() - start) / 1e3)
    return taken


def at_once(way: Callable[[], object], processes: int, times: int) -> list[float]:
    """The microseconds of each call in processes that all begin together."""
    results, barrier = FORK.SimpleQueue(), FORK.Barrier(processes)

    def one() -> None:
        way()
        barrier.wait()
        results.put(each(way, times))

    children = [FORK.Process(target=one) for _ in range(processes)]
    for child in children:
        child.start()
    taken: list[float] = []
    for _ in children:
        taken += results.get()
    for child in children:
        child.join()
    return taken


def raises(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Microseconds of raise and catch: without faultlens, without the store, with it."""
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for which in (0, 1, 2) if number % 2 else (2, 1, 0):
                if which:
                    enable("off" if which == 1 else directory)
                taken[which].append(microseconds(fail))
                faultlens.disable()
    return taken


def paired(ways: list[list[float]], others: list[list[float]]) -> float:
    return median(median(a) / median(b) for a, b in zip(ways, others, strict=True))


def p99(figures: list[float]) -> float:
    return quantiles(figures, n=100)[98]


# scrape


def scrape(rounds: int = 15) -> None:
    print(f"{'one scrape':22}{'faultlens':^32}   {'multiprocess mode':^32}")
    columns = f"{'ms':>8}{'files':>10}{'KiB on disk':>14}"
    print(f"{'processes counted':22}{columns}   {columns}   ratio of times")
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        store, registry, other = store_in(ours), CollectorRegistry(), CollectorRegistry()
        registry.register(Collector(store.read, dict))
        MultiProcessCollector(other, path=theirs)
        with multiprocess_mode(theirs):
            so_far = 0
            for processes in (1, 100, 2000):
                for _ in range(processes - so_far):
                    child = FORK.Process(target=count_in_both, args=(ours, counter()))
                    child.start()
                    child.join()
                so_far = processes
                taken: tuple[list[float], list[float]] = ([], [])
                for number in range(rounds):
                    for which in (0, 1) if number % 2 else (1, 0):
                        page = (registry, other)[which]
                        taken[which].extend(each(partial(generate_latest, page), 1))
                ratio = median(b / a for a, b in zip(*taken, strict=True))
                sides = [
                    f"{median(times) / 1e3:8.2f}{files:10}{size / 1024:14.0f}"
                    for times, (files, size) in (
                        (taken[0], on_disk(ours)),
                        (taken[1], on_disk(theirs)),
                    )
                ]
                print(f"{processes:<22}{sides[0]}   {sides[1]}{ratio:10.2f}")
        store.close()


def count_in_both(directory: str, counter: Counter) -> None:
    """A few series, as a process counts them that fails in a few ways."""
    counters, store = Counters(), store_in(directory)
    counters.keep_in(store)
    for number in range(5):
        failure = replace(FAILURE, type=f"sdk.errors.Error{number}")
        counters.count(failure)
        store.save()
        increment(counter, failure)


# churn


def churn(seconds: float) -> None:
    """Processes that come and go, while somebody scrapes the one that forks them and a sidecar."""
    said, say = os.pipe()
    os.set_blocking(said, False)
    words = Tally[int]()
    sizes = []
    port, scraper = free_port(), Scraper()
    with tempfile.TemporaryDirectory() as directory, sidecar(directory) as beside:
        forking = FORK.Process(target=keep_forking, args=(directory, port, say))
        forking.start()
        url = endpoint.metrics_url("localhost", port)
        wait_for_answer(url)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for endpoint_url in (url, beside):
                scraper.scrape(endpoint_url)
            words.update(drain(said))
            sizes.append(on_disk(directory))
            time.sleep(0.05)
        forking.terminate()
        while forking.is_alive():
            words.update(drain(said))
            time.sleep(0.01)
        words.update(drain(said))
        scraper.scrape(beside)
        counts, left = counted(directory), on_disk(directory)
    os.close(said)
    os.close(say)

    print(f"{seconds:.0f} seconds of processes that fail and end, and of scrapes")
    killed = words[ord(KILLED.upper())]
    show("processes", words[ord(LEAVES.upper())] + killed)
    show("of these killed", killed)
    show("scrapes", len(scraper.taken))
    show(
        "median and longest, milliseconds", f"{median(scraper.taken):.0f}, {max(scraper.taken):.0f}"
    )
    show("errors", len(scraper.errors))
    show("series that went down or away", len(scraper.decreases))
    for problem in [*scraper.errors[:5], *scraper.decreases[:5]]:
        print(f"    {problem}")
    print(f"  {'failures':36}{'completed':>12}{'counted':>12}{'difference':>12}")
    for what, word in (
        ("of processes that left", LEAVES),
        ("of processes that were killed", KILLED),
    ):
        completed, number = words[ord(word)], counts[WORKERS[word]]
        print(f"  {what:36}{completed:12}{number:12}{number - completed:12}")
    show("files, at most and at the end", f"{max(files for files, _ in sizes)}, {left[0]}")
    show("KiB on disk, the same", f"{max(size for _, size in sizes) >> 10}, {left[1] >> 10}")


WORKERS = {LEAVES: "node-that-is-left", KILLED: "node-of-the-killed"}


def keep_forking(directory: str, port: int, pipe: int, at_once: int = 4) -> None:
    """Fork processes, and fail oneself, until SIGTERM; says each in capitals."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    enable(directory, port)
    alive: deque[tuple[ForkProcess, bytes, float]] = deque()
    while alive or not ended.is_set():
        if not ended.is_set():
            word = random.choice((LEAVES, KILLED))
            what = (WORKERS[word], random.randint(1, 20), pipe, word)
            child = FORK.Process(target=fail_and_say, args=what)
            child.start()
            os.write(pipe, word.upper())
            alive.append((child, word, time.monotonic() + random.uniform(0, 0.02)))
            fail_and_say(WORKERS[LEAVES], random.randint(0, 1), pipe, LEAVES)
        if ended.is_set() or len(alive) == at_once:
            child, word, moment = alive.popleft()
            if word == KILLED:
                time.sleep(max(moment - time.monotonic(), 0))
                child.kill()
            child.join()
            child.close()


class Scraper:
    """Scrapes, and remembers what was wrong."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        """Milliseconds."""
        self.errors: list[str] = []
        self.decreases: list[str] = []
        self._last: dict[str, float] = {}

    def scrape(self, url: str) -> None:
        start = time.monotonic()
        try:
            page = endpoint.fetch(url)
        except OSError as error:
            self.errors.append(f"{url}: {error}")
            return
        finally:
            self.taken.append((time.monotonic() - start) * 1e3)
        found = totals(page)
        self.decreases += [
            f"{url}: {series} from {before:.0f} to {found.get(series)}"
            for series, before in self._last.items()
            if found.get(series, -1) < before
        ]
        self._last = found


def totals(page: str) -> dict[str, float]:
    """The counters of a page."""
    lines = [line for line in page.splitlines() if re.match(r"faultlens_\w+_total{", line)]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


@contextmanager
def sidecar(directory: str) -> Iterator[str]:
    """``faultlens serve``; where it serves."""
    command = (sys.executable, "-m", "faultlens", "serve", "--store", directory, "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0]
        finally:
            process.terminate()


def drain(pipe: int) -> bytes:
    """What is in a pipe now."""
    found = b""
    while True:
        try:
            found += os.read(pipe, 1 << 16)
        except BlockingIOError:
            return found


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_answer(url: str) -> str:
    """The page, once somebody serves it."""
    end = time.monotonic() + 60
    while True:
        try:
            return endpoint.fetch(url)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


# takeover


def takeover(times: int = 7) -> None:
    """How long nobody answers when the process that serves is killed and one other stands by."""
    taken, decreases = [], 0
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        url = endpoint.metrics_url("localhost", port)
        serving = standing_by(directory, port)
        before = totals(wait_for_answer(url))
        for _ in range(times):
            following = standing_by(directory, port)
            time.sleep(random.uniform(0, TAKE_OVER_SECONDS))
            start = time.monotonic()
            serving.kill()
            after = totals(wait_for_answer(url))
            taken.append(time.monotonic() - start)
            decreases += sum(after.get(series, -1) < number for series, number in before.items())
            serving.join()
            serving, before = following, after
        serving.kill()
        serving.join()
    print(f"another process serves after the one that served is killed, {times} times")
    show("seconds, median and longest", f"{median(taken):.2f}, {max(taken):.2f}")
    show("series that went down or away", decreases)


def standing_by(directory: str, port: int) -> ForkProcess:
    """A process that has failed once, and serves if it can."""
    said, say = os.pipe()

    def one() -> None:
        enable(directory, port)
        fail_and_say("node-0", 1, say, KILLED)

    process = FORK.Process(target=one, daemon=True)
    process.start()
    os.close(say)
    os.read(said, 1)
    os.close(said)
    return process


# fork


def fork(rounds: int = 10, times: int = 40) -> None:
    print(f"{'os.fork, microseconds':46}{'off':>9}{'on':>9}{'on - off':>10}  ratio")
    with tempfile.TemporaryDirectory() as directory:
        for name, before, child in (
            ("in a process that failed once", nothing, nothing),
            ("after a failure, each time", fail, nothing),
            ("until the child has failed, and ended", nothing, fail),
        ):
            taken: tuple[list[float], list[float]] = ([], [])
            for number in range(rounds):
                for on in (0, 1) if number % 2 else (1, 0):
                    if on:
                        enable(directory)
                    fail()
                    taken[on].append(median(forked(before, child) for _ in range(times)))
                    faultlens.disable()
            row(name, *taken)


def nothing() -> None:
    pass


def forked(before: Callable[[], None], child: Callable[[], None]) -> float:
    """Microseconds of a fork; with what its child does, if that is something."""
    before()
    start = time.perf_counter()
    process = os.fork()
    if not process:
        child()
        os._exit(0)
    end = time.perf_counter()
    os.waitpid(process, 0)
    return ((end if child is nothing else time.perf_counter()) - start) * 1e6


if __name__ == "__main__":
    main()
