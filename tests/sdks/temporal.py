"""What the programs on Temporal share: a real server, and a real worker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from tests.children import TIMEOUT
from tests.sdks import temporal_workflows
from tests.servers import needs

__all__ = [
    "ADDRESS",
    "JARS",
    "QUEUE",
    "connected",
    "is_missing",
    "needs_server",
    "one_server",
    "start_server",
    "until",
    "working",
]

QUEUE = "flows"
HERE = Path(__file__).parent
JARS = Path(
    os.environ.get("TEMPORAL_TEST_SERVER") or HERE.parents[1] / ".venv/tools/temporal-test-server"
)
"""The jars of io.temporal:temporal-test-server: see temporal_server/pom.xml."""


ADDRESS = "TEMPORAL_TEST_ADDRESS"


def needs_server(test: Any) -> Any:
    """Skip a test where a JDK or the jars are missing; in CI, where they must be, it fails."""
    return needs("javac")(needs("temporal-test-server", JARS)(test))


def is_missing() -> bool:
    """The same for a program."""
    there = JARS.exists() and shutil.which("javac") is not None
    return not there and "CI" not in os.environ


@functools.cache
def server() -> str:
    """The address of the server of this process, or of the one that started it."""
    return os.environ.get(ADDRESS) or start_server()


def start_server() -> str:
    """Start a server that ends with this process, as its stdin closes; returns its address."""
    process = subprocess.Popen(
        [
            "java",
            # Java's warnings would go to stdout, where the port is expected.
            "-Xlog:disable",
            "-Xlog:all=error:stderr",
            "-cp",
            f"{JARS}/*",
            str(HERE / "temporal_server/TemporalServer.java"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, f"Temporal's test server did not start, from {JARS}"
    _servers.append(process)
    return f"127.0.0.1:{port}"


_servers: list[subprocess.Popen[str]] = []
"""Kept, or their stdin would be closed."""


_clients = itertools.count(1)


async def connected(address: str = "", **options: Any) -> Client:
    """A client of a server, in a namespace of its own.

    Otherwise the server might give a task to a worker that has just gone, which loses the task.
    """
    namespace = f"tests-{os.getpid()}-{next(_clients)}"
    return await Client.connect(address or server(), namespace=namespace, **options)


@pytest.fixture(autouse=True)
def one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that a test starts share this process's server."""
    if not is_missing():
        monkeypatch.setenv(ADDRESS, server())


@contextlib.asynccontextmanager
async def working(client: Client, *names: str, **options: Any) -> AsyncIterator[Worker]:
    """A real worker that polls.

    Without a cache: each task of a workflow is a replay from its beginning.

    names: its workflows; a sandbox for each is tried when the worker is made.
    """
    given = {
        "task_queue": QUEUE,
        "workflows": [temporal_workflows.WORKFLOWS[name] for name in names],
        "activities": temporal_workflows.ACTIVITIES,
        "max_cached_workflows": 0,
        # After this time the server gives a cached run's task to any worker, which replays the run.
        "sticky_queue_schedule_to_start_timeout": timedelta(minutes=10),
        **options,
    }
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        worker = Worker(client, **{"activity_executor": threads, **given})
        # The SDK reports a deadlock if a workflow gets no CPU for two seconds.
        worker._workflow_worker._deadlock_timeout_seconds = TIMEOUT  # type: ignore[union-attr]
        async with worker:
            yield worker


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that will be, but not for ever."""

    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), TIMEOUT)
