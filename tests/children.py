"""Runs Python programs as their users would: in a process of their own, with FAULTLENS=1.

What a hook does to a process must not be tried on the process of the test runner.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import isolation

TESTS = Path(__file__).parent

TIMEOUT = 1200
"""Seconds after which a test gives up waiting: for what hangs, not for what is slow."""

ENDED = f"""
import os, signal, time

def ended(pid):
    # The exit status of a child, or None if it had to be killed.
    deadline = time.monotonic() + {TIMEOUT}
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
"""
"""What a program that forks needs in front to wait for its children."""


def environment(env: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """A child's environment: faultlens on, /metrics on a free port, and `env` over that.

    A value of None takes the variable out. Without FAULTLENS_STORE, TMPDIR must be given.
    """
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(isolation.PREFIXES)
    }
    wanted: dict[str, str | None] = {
        "FAULTLENS": "1",
        "FAULTLENS_WORKER": "w",
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        "PYTHONPATH": str(TESTS),
        **isolation.ENVIRONMENT,
        **(env or {}),
    }
    assert wanted["FAULTLENS_STORE"] or "TMPDIR" in wanted, "it would count in the user's store"
    return {key: value for key, value in {**inherited, **wanted}.items() if value is not None}


@contextlib.contextmanager
def limited(kill: Callable[[], None]) -> Iterator[None]:
    """Kill what still runs after TIMEOUT, so that no reader of its output waits for ever."""
    late = threading.Timer(TIMEOUT, kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()


def run(
    source: str,
    *args: str,
    env: Mapping[str, str | None] | None = None,
    check: bool = True,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Run a program; its indentation is taken off. Fails the test if the program fails."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *args],
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def report(
    source: str, *args: str, env: Mapping[str, str | None] | None = None, timeout: float = TIMEOUT
) -> Any:
    """Run a program that ends with ``inside.report(value)``; returns the value, by way of JSON.

    Fails the test if faultlens swallowed an error in it, unless the program calls
    ``inside.expect_dropped()``.
    """
    return json.loads(run(source, *args, env=env, timeout=timeout).stdout.splitlines()[-1])
