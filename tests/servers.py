"""The servers that tests run: on loopback, on free ports, and gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from faultlens.commands import endpoint
from tests import children
from tests.children import TIMEOUT
from tests.scrape import Scrape, parse

T = TypeVar("T")


def needs(tool: str, path: Path | None = None) -> pytest.MarkDecorator:
    """Skip where a tool is neither at `path` nor on PATH; in CI, where it must be, fail."""
    there = path.exists() if path else shutil.which(tool) is not None
    return pytest.mark.skipif(
        not there and "CI" not in os.environ, reason=f"{tool} is not installed"
    )


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_numbers = itertools.count(secrets.randbelow(1_000))  # other sessions may run on this machine


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has.

    Each worker has its own thousand, below the ports that the system hands out.
    """
    for number in itertools.islice(_numbers, 1_000):
        port = 10_000 + 1_000 * (_WORKER % 20) + number % 1_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there is no free port")


def until(condition: Callable[[], T | None], what: str) -> T:
    """Wait for something that will be, but not for ever; returns what the condition then gives."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


def get(url: str, body: bytes | None = None, **headers: str) -> str:
    """The page at `url`, of a server that is there; with a body, by POST."""
    # Not through http_proxy: what is asked runs on this host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, headers)
    with opener.open(request, timeout=TIMEOUT) as answer:
        page: bytes = answer.read()
    return page.decode()


def answers(url: str) -> bool:
    """Whether there is a page at `url`."""
    try:
        endpoint.fetch(url)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def serving(command: Sequence[str], url: str, directory: Path) -> Iterator[None]:
    """Run a server whose page `url` says that it is ready; afterwards it is gone.

    directory: where it runs and where its output goes, to a file of its name.
    """
    log = directory / f"{Path(command[0]).name}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=directory, stdout=output, stderr=output) as process,
    ):
        try:
            until(lambda: process.poll() is not None or answers(url), command[0])
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


class Receiver:
    """Takes what is sent by OTLP/HTTP, uncompressed, and keeps it.

    hang: answers nothing until `close`.
    """

    def __init__(self, hang: bool = False) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        """What was sent: path and body."""
        self._done = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.bodies.append((self.path, body))
                if hang:
                    receiver._done.wait(TIMEOUT)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._server.shutdown()
        self._server.server_close()

    def counted(self, metric: str) -> dict[str, float]:
        """For each process, by its ``service.instance.id``, what its latest counts add up to."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
            ExportMetricsServiceRequest,
        )

        found = {}
        for path, body in list(self.bodies):
            if path != "/v1/metrics":
                continue
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                who = {a.key: a.value.string_value for a in resource.resource.attributes}
                found[who["service.instance.id"]] = sum(
                    point.as_int or point.as_double
                    for scope in resource.scope_metrics
                    for one in scope.metrics
                    if one.name == metric
                    for point in one.sum.data_points
                )
        return found

    def events(self) -> list[dict[str, str]]:
        """The attributes of all events on all spans."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        return [
            {attribute.key: attribute.value.string_value for attribute in event.attributes}
            for path, body in list(self.bodies)
            if path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            for event in span.events
        ]

    def records(self) -> list[dict[str, str]]:
        """The attributes of all log records, with their event name, severity and ids."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
            ExportLogsServiceRequest,
        )

        return [
            {
                "event_name": record.event_name,
                "severity_text": record.severity_text,
                "trace_id": record.trace_id.hex(),
                "span_id": record.span_id.hex(),
                **{one.key: one.value.string_value for one in record.attributes},
            }
            for path, body in list(self.bodies)
            if path == "/v1/logs"
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


class Program:
    """A process with faultlens on, which goes on until its stdin closes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._skipped: list[str] = []
        self.target = self.line_with("faultlens serves").split("//")[1].split("/")[0]

    def line_with(self, text: str) -> str:
        """The next line with this text. A thread of faultlens may have written others before it."""
        for line in self._skipped:
            if text in line:
                self._skipped.remove(line)
                return line
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
            self._skipped.append(line)
        raise AssertionError(f"it ended without saying {text!r}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def scrape(self) -> Scrape:
        return parse(get(f"http://{self.target}/metrics"))


@contextlib.contextmanager
def running(*args: str) -> Iterator[Program]:
    with subprocess.Popen(
        [sys.executable, *args],
        env=children.environment({"FAULTLENS_WORKER": None}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            with children.limited(process.kill):
                yield Program(process)
        finally:
            process.kill()


class Prometheus:
    """A running Prometheus, or what has its interface."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.moment: float | None = None
        """When queries are evaluated, in seconds since 1970; None: now."""

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The samples of an instant vector: labels and value."""
        moment = {} if self.moment is None else {"time": self.moment}
        parameters = urllib.parse.urlencode({"query": expression, **moment})
        answer: Any = json.loads(get(f"{self.url}/api/v1/query?{parameters}"))
        assert answer["status"] == "success", answer
        return [(s["metric"], float(s["value"][1])) for s in answer["data"]["result"]]

    def by(self, labels: Sequence[str], expression: str) -> dict[tuple[str, ...], float]:
        """The values of `sum by (labels) (expression)`."""
        samples = self.query(f"sum by ({', '.join(labels)}) ({expression})")
        return {tuple(metric.get(label, "") for label in labels): v for metric, v in samples}

    def wait_for(self, expression: str) -> None:
        """Wait until the expression gives something."""
        until(lambda: self.query(expression), expression)

    def wait_for_scrape(self) -> float:
        """Wait for a successful scrape that begins after this call; returns its moment.

        On a busy machine a later one may fail, and then the series have no value.
        """
        expression = f"timestamp(up) > {time.time()} and up == 1"
        return until(lambda: self.query(expression), expression)[0][1]


@contextlib.contextmanager
def victoria(program: str, directory: Path, url: str, *flags: str) -> Iterator[None]:
    """A server of VictoriaMetrics or VictoriaLogs; afterwards it is gone."""
    command = [
        program,
        f"-storageDataPath={directory / 'data'}",
        f"-httpListenAddr={url.removeprefix('http://')}",
        *flags,
    ]
    with serving(command, f"{url}/health", directory):
        yield


@contextlib.contextmanager
def victoria_metrics(directory: Path) -> Iterator[Prometheus]:
    """VictoriaMetrics, which takes OTLP/HTTP and answers PromQL; afterwards it is gone."""
    server = Prometheus(free_port())
    flags = (
        "-search.latencyOffset=0s",  # what was taken can be asked for at once
        "-retentionPeriod=100y",  # histories may be of any time
    )
    with victoria("victoria-metrics", directory, server.url, *flags):
        yield server


@contextlib.contextmanager
def prometheus(directory: Path, config: str, *flags: str) -> Iterator[Prometheus]:
    """Prometheus, with a configuration and its storage in `directory`; afterwards it is gone."""
    file = directory / "prometheus.yml"
    file.write_text(config)
    server = Prometheus(free_port())
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={server.url.removeprefix('http://')}",
        *flags,
    ]
    with serving(command, f"{server.url}/-/ready", directory):
        yield server
