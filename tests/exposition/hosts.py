"""A host: real processes that share a store, and a scraper."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from faultlens import series
from faultlens.commands import endpoint
from faultlens.exposition.ledgers import Ledgers
from faultlens.settings import StorePath
from tests import children
from tests.servers import free_port, until

needs_proc = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="no /proc that tells whose a socket is"
)

COMMON = """
import ctypes, os, signal, sys, threading, time, urllib.error, urllib.request
if "fork_by_c_code" in sys.argv:
    # No thread asks the one that has the interpreter's lock to let it in. If one asked while C code
    # forks, the child would wait until it is in.
    sys.setswitchinterval(1000)
from flyte.errors import RuntimeUserError as E

def wait_until_flyte_is_idle():
    # Flyte's thread for its event loop imports at first. If it waits for the interpreter's lock
    # while C code forks, the child's threads hang.
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    while any(sys._current_frames()[other].f_code.co_name != "select" for other in others):
        time.sleep(0.01)

if "fork_by_c_code" in sys.argv:
    wait_until_flyte_is_idle()

fork = os.fork
fork_by_c_code = ctypes.PyDLL(None).fork  # Python and its fork hooks do not hear of it

def fail(times=1):
    for _ in range(times):
        try:
            raise E("c", "m")
        except E:
            pass

def child(work):
    # Fork; the child does the work and ends at once, with a status that says whether it could.
    pid = fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid

def page():
    # What is served; waits until somebody serves.
    url = f"http://127.0.0.1:{os.environ['OTEL_EXPORTER_PROMETHEUS_PORT']}/metrics"
    for _ in range(100 * TIMEOUT):
        try:
            return urllib.request.urlopen(url).read()
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.01)
    raise TimeoutError(url)
"""


def program(source: str) -> str:
    """A program that uses Flyte, with the common code in front."""
    return f"TIMEOUT = {children.TIMEOUT}\n" + COMMON + children.ENDED + textwrap.dedent(source)


class Host:
    """A store and a port that all processes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.log = folder / "stderr.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self.env: dict[str, str | None] = {
            "FAULTLENS_STORE": str(self.store),
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.port),
        }

    def file(self, source: str, name: str = "program.py") -> Path:
        """Write a program to a file, from which a spawned child can import it."""
        path = self.folder / name
        path.write_text(program(source))
        return path

    def run(self, source: str, *args: str, ends: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program to its end.

        ends: the expected exit status.
        """
        done = children.run(program(source), *args, env=self.env, check=False)
        assert done.returncode == ends, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @contextlib.contextmanager
    def running(self, source: str | Sequence[str], **env: str) -> Iterator[Running]:
        """Run a program or a command within the block; then kill it and its children."""
        command = [sys.executable, "-c", source] if isinstance(source, str) else source
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                command,
                cwd=self.folder,
                env=children.environment({**self.env, **env}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            ) as process,
        ):

            def kill() -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

            try:
                with children.limited(kill):
                    yield Running(process, self.log)
            finally:
                kill()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Running]:
        """Run ``faultlens serve`` on the port within the block."""
        with self.running([sys.executable, "-m", "faultlens", "serve"]) as server:
            assert self.url in server.hear()
            yield server

    def counted(self) -> dict[str, int]:
        """The counts in the store, by counter and without zeros, e.g. ``{"failures": 3}``."""
        reading = Ledgers(StorePath(self.store, private=False), None, _cannot_be_read).read()
        totals = series.totals(reading.counts, reading.expected)
        found = {
            name: sum(count.number for count in counts.values()) for name, counts in totals.items()
        }
        assert found.pop("issues") == found["failures"]
        return {metric: number for metric, number in found.items() if number}

    def files(self) -> int:
        """How many ledgers there are. Fails if there are other files."""
        names = [path.name for path in self.store.iterdir()]
        assert all(name.endswith(".ledger") for name in names), names
        return len(names)

    def page(self) -> dict[str, float]:
        """The counters at the endpoint; raises OSError if there is none."""
        return _counters(endpoint.fetch(self.url, children.TIMEOUT))

    def failures(self) -> float:
        """How many failures the endpoint shows; -1 if there is none."""
        try:
            return failures(self.page())
        except OSError:
            return -1

    @contextlib.contextmanager
    def scraping(self) -> Iterator[Scraper]:
        """Scrape during the block. Fails if a counter was ever seen to go down."""
        scraper = Scraper(self.page)
        scraper.start()
        try:
            yield scraper
        finally:
            scraper.end()
        assert not scraper.wrong, scraper.wrong[:5]
        assert scraper.pages > 0, scraper.gaps


class Running:
    """A process that is controlled by lines on its standard input."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that this process does. Fails if it ends instead."""
        until(lambda: self.process.poll() is not None or condition(), what)
        assert self.process.poll() is None, self._log.read_text()

    def tell(self, line: str) -> str:
        """Send a line; returns the answer."""
        self.say(line)
        return self.hear()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


class Scraper(threading.Thread):
    """Scrapes until `end`, and records what a scraper must never see."""

    def __init__(self, scrape: Callable[[], dict[str, float]]) -> None:
        super().__init__(daemon=True)
        self.pages = 0
        self.gaps = 0
        """How often nobody answered, e.g. because a server was just killed."""
        self.wrong: list[str] = []
        """Counters that went down or vanished, and answers that were errors or never came."""
        self._scrape = scrape
        self._ended = threading.Event()

    def run(self) -> None:
        seen: dict[str, float] = {}
        while not self._ended.wait(0.02):
            try:
                page = self._scrape()
            except urllib.error.HTTPError as error:
                error.close()
                self.wrong.append(str(error))
            except OSError as error:
                if isinstance(getattr(error, "reason", error), TimeoutError):
                    self.wrong.append(str(error))
                self.gaps += 1
            else:
                self.wrong += [
                    f"{series}: {number}, then {page.get(series)}"
                    for series, number in seen.items()
                    if page.get(series, -1) < number
                ]
                seen = page
                self.pages += 1

    def end(self) -> None:
        self._ended.set()
        self.join()


def listeners(port: int) -> set[int]:
    """The processes that have the listening socket of a port on 127.0.0.1."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {
        f"socket:[{inode}]"
        for _, local, _, state, _, _, _, _, _, inode, *_ in table
        if state == "0A" and int(local.rpartition(":")[2], 16) == port
    }
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process ended
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):  # the descriptor was closed
                    if str(descriptor.readlink()) in sockets:
                        found.add(int(process.name))
    return found


def failures(counters: dict[str, float]) -> float:
    return sum(n for name, n in counters.items() if name.startswith("faultlens_failures_total"))


def _counters(page: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in page.splitlines() if "_total{" in line)
    return {series: float(number) for series, _, number in lines}


def _cannot_be_read(reason: str) -> None:
    raise AssertionError(f"the store cannot be read: {reason}")
