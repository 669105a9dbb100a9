"""``faultlens demo``: starts the example programs, and shows what they count.

The examples run in a child process of their own, with FAULTLENS=1, exactly as a user's program
would, and with a store of their own. What is shown here is what ``faultlens top`` would show of it.
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
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

from faultlens import settings
from faultlens.commands import endpoint, screen, top
from faultlens.commands.demo import workload
from faultlens.commands.scrape import parse
from faultlens.commands.table import View
from faultlens.exposition.ledgers import Ledgers
from faultlens.exposition.rows import Counted, counted, rest
from faultlens.settings import Settings, StorePath

__all__ = ["demo"]

QUERY = "sum by (kind) (increase(faultlens_failures_total[5m]))"

_BUSY = ("The examples start ...", "The examples run once, which takes some seconds ...")

_SERVING_SECONDS = 60.0
"""How long /metrics may take to be there, and to answer."""

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
    try:
        with (
            screen.ending_by_signals(),
            tempfile.TemporaryDirectory(prefix="faultlens-demo-") as store,
            Child(settings.load(), once, port, Path(store)) as child,
        ):
            if sys.stdout.isatty():
                print(_BUSY[once], flush=True)
            child.wait_until_ready()
            if once:
                child.wait_until_done()
            else:
                _show(child, seconds)
            found, info = child.counted(), child.info()
    except (DemoError, OSError) as error:
        print(f"faultlens: {error}", file=sys.stderr)
        return 1
    print("\n".join(top.printed(found, _final(found, info))))
    return 1 if once and not found.total else 0


class Child:
    """The process that runs the examples; a context manager, after which it is gone.

    own: where the user's own programs would serve /metrics.
    once: whether it goes through the examples once, as fast as they go.
    port: where this one does; None for the same.
    store: where this one counts: the examples' failures are none of this host's.
    """

    def __init__(self, own: Settings, once: bool, port: int | None, store: Path) -> None:
        self._store = store
        self._ledgers = Ledgers(StorePath(store, private=True), None, _nobody_minds)
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
            message = f"{where} is taken; the demo serves /metrics on another port"
            print(f"faultlens: {message}.", file=sys.stderr)
            self.port = 0
        self._start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def counted(self) -> Counted:
        """What the examples have counted. Raises DemoError if they have ended."""
        self._must_run()
        return counted(self._ledgers.read().counts)

    def info(self) -> dict[str, str]:
        """The labels of faultlens_info, as /metrics has them."""
        try:
            return parse(endpoint.fetch(self.url, _SERVING_SECONDS)).info
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

    def run_for(self, seconds: float) -> None:
        """Wait for some seconds; raises DemoError if it ends before."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._must_run(within=min(1.0, left))

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
            "FAULTLENS_STORE": str(self._store),
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


def _show(child: Child, seconds: float) -> None:
    """Show what is counted for some seconds, or until somebody quits."""
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty():
            foot = _Foot(child.url, seconds)
            top.watch(child.counted, foot, "", seconds=seconds)
        else:
            limit = f"for {seconds:g} seconds;" if seconds < math.inf else "until"
            print(f"{child.url} {limit} Ctrl-C ends it.", flush=True)
            child.run_for(seconds)


class _Foot:
    """The lines below the live table."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._started = time.monotonic()

    def __call__(self, view: View, found: Counted) -> list[str]:
        passed = time.monotonic() - self._started
        limited = self._seconds < math.inf
        left = f"{max(0.0, self._seconds - passed):.0f} s left" if limited else "no limit"
        return [
            *rest(found),
            f"/metrics  {self._url}",
            f"PromQL    {QUERY}",
            view.progress(passed / self._seconds, left),
        ]


def _final(found: Counted, info: dict[str, str]) -> list[str]:
    names = ("flyte", "durable_workflow")
    versions = ", ".join(f"{name} {info[name]}" for name in names if name in info)
    return [
        *rest(found),
        f"seen in   {versions}, Python {info.get('python')}",
        "your own  FAULTLENS=1 python your_program.py",
        "then      faultlens top",
        f"PromQL    {QUERY}",
    ]


def _nobody_minds(reason: str) -> None:
    """A file of the store cannot be read, perhaps since it is going."""
