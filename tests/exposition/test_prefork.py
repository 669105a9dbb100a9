"""Servers that fork their workers: the totals are exact under a real gunicorn and Celery."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import threading
import urllib.error
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from faultlens.commands import endpoint
from tests.children import TIMEOUT
from tests.exposition.hosts import Host, Running, listeners, needs_proc
from tests.servers import answers, free_port, get, until


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# Each raise that was caught adds a byte to a file, with which the store is compared.
APP = """
done = os.open("raised", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def work():
    fail()
    os.write(done, b".")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""


class Gunicorn:
    """A gunicorn with two workers, whose every request causes one failure."""

    def __init__(self, host: Host, master: Running, port: int) -> None:
        self.host = host
        self.master = master
        self.port = port
        self._raised = host.folder / "raised"

    @property
    def raised(self) -> int:
        """How many failures its workers have caught."""
        return self._raised.stat().st_size

    @contextlib.contextmanager
    def loaded(self, requests: int) -> Iterator[None]:
        """Two clients at once. They lose the request of a worker that is killed."""

        def ask() -> None:
            for _ in range(requests // 2):
                with contextlib.suppress(OSError, HTTPException):
                    get(f"http://127.0.0.1:{self.port}/fail")

        clients = [threading.Thread(target=ask) for _ in range(2)]
        for client in clients:
            client.start()
        yield
        for client in clients:
            client.join()

    def load(self, requests: int) -> None:
        before = self.raised
        with self.loaded(requests):
            pass
        assert self.raised == before + requests
        self.all_are_served()

    def all_are_served(self) -> None:
        """Wait for that, since the worker that serves may be being replaced just now."""
        until(lambda: self.host.failures() == self.raised, "all failures to be served")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def page(self) -> str:
        return get(self.url)

    def whole_page(self) -> str:
        """The page in multiprocess mode. It is an error while a worker's file is still empty."""

        def page() -> str | None:
            with contextlib.suppress(urllib.error.HTTPError):
                return endpoint.fetch(self.url, TIMEOUT)
            return None

        return until(page, "a page")


@contextlib.contextmanager
def gunicorn(host: Host, *options: str, source: str = APP, **env: str) -> Iterator[Gunicorn]:
    host.file(source, "web.py")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--workers=2", "--no-control-socket"]
    command += ["--timeout=0"]  # otherwise it kills slow workers
    command += [f"--bind=127.0.0.1:{port}", *options, "web:app"]
    with host.running(command, **env) as master:
        master.until(lambda: answers(f"http://127.0.0.1:{port}/"), "gunicorn")
        yield Gunicorn(host, master, port)


PRELOAD = pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each loads", "preloaded"])


@PRELOAD
def test_workers_that_are_replaced_under_load(host: Host, preload: list[str]) -> None:
    with gunicorn(host, "--max-requests=15", *preload) as server, host.scraping():
        server.load(120)
        assert host.log.read_text().count("Booting worker") > 6
    assert host.counted() == {"failures": server.raised}


@needs_proc
def test_the_worker_that_serves_the_metrics_is_killed_under_load(host: Host) -> None:
    with gunicorn(host) as server, host.scraping():
        server.load(20)
        (serving,) = listeners(host.port)
        assert serving != server.master.pid
        with server.loaded(60):
            os.kill(serving, signal.SIGKILL)
        until(lambda: host.failures() >= 0, "another worker to serve")
        # The killed worker may have counted a failure before it could record that.
        assert host.failures() - server.raised in (0, 1)
        assert serving not in listeners(host.port)


@needs_proc
def test_the_master_that_serves_the_metrics_is_killed_and_started_again(host: Host) -> None:
    preloaded = APP + "\npage()\n"  # the master forks when it serves, so that no worker does
    with host.scraping():
        with gunicorn(host, "--preload", source=preloaded) as server:
            server.load(20)
            assert listeners(host.port) == {server.master.pid}
            server.master.process.kill()
        until(lambda: not listeners(host.port), "the end of its workers")
        with gunicorn(host, "--preload", source=preloaded) as server:
            server.load(20)
            assert server.raised == 40
            assert listeners(host.port) == {server.master.pid}


TASKS = """
import broker
from celery import Celery

folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {**folders, "polling_interval": 0.05}

@app.task
def catch():
    fail()

@app.task
def end_with_it():
    raise E("c", "m")
"""


def test_celery_workers_that_are_replaced_and_then_all_killed(host: Host) -> None:
    for folder in ("queue", "control"):
        (host.folder / folder).mkdir()
    host.file(TASKS, "tasks.py")
    worker = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c2", "-lINFO"]
    worker += ["--max-tasks-per-child=4", "--without-gossip", "--without-mingle"]
    send = "import tasks\nfor _ in range(20): tasks.catch.delay(), tasks.end_with_it.delay()"
    with host.running(worker) as celery, host.scraping():
        celery.until(lambda: "ready." in host.log.read_text(), "celery")
        until(lambda: host.failures() == 0, "celery to serve")
        with host.running([sys.executable, "-c", send]) as sender:
            assert sender.process.wait(TIMEOUT) == 0
        until(lambda: host.failures() == 40, "the tasks")
    workers = set(re.findall(r"ForkPoolWorker-\d+", host.log.read_text()))
    assert len(workers) >= 6, workers  # 40 tasks, 4 for each; the last lines may be missing
    assert host.counted() == {"failures": 40}


NOBODY = 65534
USER = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.geteuid()]
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as another user")
def test_workers_of_another_user_than_the_master_that_loaded_the_program() -> None:
    """The default store is private to the master's user; the workers still count there."""
    with tempfile.TemporaryDirectory() as parent:  # tmp_path is private to root
        Path(parent).chmod(0o755)
        host = Host(Path(parent, "host"))
        host.folder.mkdir()
        host.store = host.folder / "faultlens-0"
        env = {"FAULTLENS_STORE": "", "TMPDIR": str(host.folder)}
        options = ("--preload", f"--user={NOBODY}", "--max-requests=15")
        with gunicorn(host, *options, source=APP + USER, **env) as server, host.scraping():
            assert server.page() == str(NOBODY)
            server.load(60)
            assert host.log.read_text().count("Booting worker") > 3
            assert host.store.stat().st_mode & 0o777 == 0o700
        assert host.counted() == {"failures": server.raised}


# The program's own metrics.

OWN = """
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

requests = Counter("requests", "What the program counts itself.")
registry = REGISTRY
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        work()
        requests.inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [generate_latest(registry)]
"""


def test_the_program_s_own_metrics_stay_where_they_are(host: Host) -> None:
    with gunicorn(host, "--workers=1", source=APP + OWN) as server:
        server.load(10)
        own, ours = server.page(), get(host.url)
    assert "\nrequests_total 10.0\n" in own
    assert "\nprocess_cpu_seconds_total " in own
    assert "requests_total" not in ours
    assert "process_cpu_seconds_total" not in ours
    assert host.counted() == {"failures": 10}


def test_prometheus_client_s_multiprocess_mode_has_only_the_program_s_metrics(
    host: Host,
) -> None:
    files = host.folder / "multiprocess"
    files.mkdir()
    with gunicorn(
        host, "--max-requests=8", source=APP + OWN, PROMETHEUS_MULTIPROC_DIR=str(files)
    ) as server:
        server.load(40)
        own = server.whole_page()
        server.all_are_served()
    assert "\nrequests_total 40.0\n" in own
    assert "faultlens" not in own
    assert len(list(files.iterdir())) > 2  # one for each process
    assert not [file for file in files.iterdir() if b"faultlens" in file.read_bytes()]
