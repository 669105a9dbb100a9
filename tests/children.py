"""Runs Python programs as their users would: in a process of their own, with FAULTLENS=1.

What a hook does to a process must not be tried on the process of the test runner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
PREFIXES = ("FAULTLENS", "OTEL_", "K8S_NODE_NAME", "NODE_NAME", "PROMETHEUS_")

ENDED = """
import os, signal, time

def ended(pid, seconds=20):
    # The exit status of a child, or None if it had to be killed.
    for _ in range(seconds * 100):
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

    A value of None takes the variable out.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(PREFIXES)}
    wanted: dict[str, str | None] = {
        "FAULTLENS": "1",
        "FAULTLENS_WORKER": "w",
        "FAULTLENS_STORE": "off",  # what one test counts is nothing to another
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        "PYTHONPATH": str(TESTS),
        **(env or {}),
    }
    return {key: value for key, value in {**inherited, **wanted}.items() if value is not None}


def run(
    source: str,
    *args: str,
    env: Mapping[str, str | None] | None = None,
    check: bool = True,
    timeout: float = 60,
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
    source: str, *args: str, env: Mapping[str, str | None] | None = None, timeout: float = 60
) -> Any:
    """Run a program that ends with ``inside.report(value)``; returns the value, by way of JSON.

    Fails the test if faultlens swallowed an error in it, unless the program calls
    ``inside.expect_dropped()``.
    """
    return json.loads(run(source, *args, env=env, timeout=timeout).stdout.splitlines()[-1])
