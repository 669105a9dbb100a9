"""``faultlens demo``: starts the example programs, and shows what their ``/metrics`` says.

The examples run in a child process of their own, with FAULTLENS=1, exactly as a user's program
would. What is shown here comes over HTTP from its ``/metrics``, as it would come to Prometheus.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType

from rich.console import Console, RenderableType
from rich.live import Live

from faultlens import settings
from faultlens.commands import endpoint
from faultlens.commands.demo import workload
from faultlens.commands.demo.scrape import Scrape, parse
from faultlens.commands.demo.table import View
from faultlens.settings import Settings

__all__ = ["demo"]

QUERY = "sum by (kind) (increase(faultlens_failures_total[5m]))"

_BUSY = ("The examples start ...", "The examples run once, which takes some seconds ...")

_SERVING_SECONDS = 10.0
"""How long /metrics may take: a thread of faultlens opens the port meanwhile."""

_GRACE_SECONDS = 3.0
"""How long the child has to end before it is killed."""


class DemoError(Exception):
    """Why there is nothing to show; one line."""


def demo(*, once: bool, seconds: float, port: int | None) -> int:
    """Run the demo; returns the exit status. Raises KeyboardInterrupt if there is nothing to show.

    once: go through the examples once instead of for `seconds`.
    seconds: how long; infinity for until it is stopped.
    port: where to serve /metrics; None for what the environment says.
    """
    # Not FORCE_COLOR, for one, makes a terminal of a file.
    own = settings.load()
    console = Console(highlight=False, force_terminal=None if sys.stdout.isatty() else False)
    try:
        with _ending_by_signals(), Child(own, once, port) as child:
            with console.status(_BUSY[once], spinner="line"):
                child.wait_until_ready()
                if once:
                    child.wait_until_done()
            scrape = child.scrape() if once else _run(child, console, seconds)
    except DemoError as error:
        print(f"faultlens demo: {error}", file=sys.stderr)
        return 1
    console.print(_final(scrape, console, own), soft_wrap=True)
    return 1 if once and not scrape.total else 0


class Child:
    """The process that runs the examples; a context manager, after which it is gone.

    own: where the user's own programs would serve /metrics.
    once: whether it goes through the examples once, as fast as they go.
    port: where this one does; None for the same.
    """

    def __init__(self, own: Settings, once: bool, port: int | None) -> None:
        self.host = own.host
        self.port = own.port if port is None else port
        self.url = ""
        self._rounds = ("--rounds", "1", "--pause", "0") if once else ()
        self._said: deque[str] = deque(maxlen=100)
        self._ready = threading.Event()
        self._done = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Child:
        error = endpoint.bind_error(self.host, self.port)
        if error is not None and error.errno == errno.EADDRINUSE:
            where = endpoint.address(self.host, self.port)
            print(f"{where} is taken; the demo serves /metrics on a free port.", file=sys.stderr)
            self.port = 0
        self._start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def scrape(self) -> Scrape:
        """Ask /metrics."""
        try:
            return parse(endpoint.fetch(self.url))
        except OSError as error:
            self._must_run(within=1.0)
            raise DemoError(f"{self.url} does not answer: {error}") from error

    def wait_until_ready(self) -> None:
        """Wait until /metrics is served and the examples are about to run."""
        self._wait_for(self._ready)
        deadline = time.monotonic() + _SERVING_SECONDS
        while not (self.url or self._warnings()) and time.monotonic() < deadline:
            self._must_run(within=0.1)
        if not self.url:
            raise DemoError(self._why_no_metrics())

    def wait_until_done(self) -> None:
        """Wait until the examples have ended; /metrics is still served then."""
        self._wait_for(self._done)

    def _start(self) -> None:
        module = (sys.executable, "-m", "faultlens.commands.demo.workload")
        self._process = subprocess.Popen(
            [*module, "--until-stdin-closes", *self._rounds],
            env=self._environment(),
            stdin=subprocess.PIPE,  # closes when this process ends, however that happens
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._listener.start()

    def _environment(self) -> dict[str, str]:
        environment = {
            **os.environ,
            "FAULTLENS": "1",
            "FAULTLENS_PROFILE": "operator",
            "FAULTLENS_STORE": "off",  # the examples' failures are none of this host's
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.port),
            "PYTHONIOENCODING": "utf-8",
        }
        environment.pop("OTEL_METRICS_EXPORTER", None)  # there would be no /metrics of faultlens's
        return environment

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.rstrip())
            served = re.search(r"faultlens serves .*:(\d+)/metrics", line)
            if served:
                self.url = endpoint.metrics_url(self.host, int(served[1]))
            elif workload.READY in line:
                self._ready.set()
            elif workload.DONE in line:
                self._done.set()

    def _wait_for(self, event: threading.Event) -> None:
        while not event.wait(0.1):
            self._must_run()

    def _must_run(self, within: float = 0.0) -> None:
        """Raise if the child has ended, or ends soon."""
        assert self._process is not None
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            return
        self._listener.join(1.0)  # for its last words
        last = next((line.strip() for line in reversed(self._said) if line.strip()), "no word")
        raise DemoError(f"the examples ended with {status}: {last}")

    def _why_no_metrics(self) -> str:
        warned = self._warnings()
        if not warned:
            return "FAULTLENS=1 has no effect here; see `FAULTLENS=1 faultlens doctor`"
        return warned[-1].removeprefix(workload.WARNED).removeprefix("faultlens: ")

    def _warnings(self) -> list[str]:
        return [line for line in list(self._said) if line.startswith(workload.WARNED)]

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM):  # another Ctrl-C must not leave it running
            signal.signal(number, signal.SIG_IGN)
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _run(child: Child, console: Console, seconds: float) -> Scrape:
    """Show what is counted for some seconds, or until Ctrl-C; returns the last of it."""
    window = console.is_interactive
    if not window:
        limit = f"for {seconds:g} seconds;" if seconds < math.inf else "until"
        console.print(f"{child.url} {limit} Ctrl-C ends it.", soft_wrap=True)
    started = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), _live(console, window) as live:
        while (passed := time.monotonic() - started) < seconds:
            scrape = child.scrape()
            if window:
                live.update(_current(scrape, console, child.url, passed, seconds), refresh=True)
            time.sleep(min(1.0, seconds - passed))
    return child.scrape()


def _live(console: Console, window: bool) -> Live:
    return Live(console=console, screen=window, auto_refresh=False, vertical_overflow="crop")


def _current(
    scrape: Scrape, console: Console, url: str, passed: float, seconds: float
) -> RenderableType:
    view = _view(console, console.height)
    left = f"{seconds - passed:.0f} s left, " if seconds < math.inf else ""
    below = (
        f"/metrics  {url}",
        f"PromQL    {QUERY}",
        view.progress(passed / seconds, f"{left}Ctrl-C ends"),
    )
    return view.report(scrape, below)


def _final(scrape: Scrape, console: Console, own: Settings) -> RenderableType:
    info = dict(scrape.info)
    names = ("flyte", "durable_workflow")
    versions = ", ".join(f"{name} {info[name]}" for name in names if name in info)
    below = (
        f"seen in   {versions}, Python {info.get('python')}",
        "your own  FAULTLENS=1 python your_program.py",
        f"/metrics  {endpoint.metrics_url(own.host, own.port)}, while it runs",
        f"PromQL    {QUERY}",
    )
    return _view(console, None).report(scrape, below)


def _view(console: Console, height: int | None) -> View:
    ascii_only = console.options.ascii_only
    return View(width=console.width, now=time.time(), height=height, ascii=ascii_only)


@contextlib.contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Have SIGTERM end the demo as Ctrl-C does; afterwards both are what they were."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
