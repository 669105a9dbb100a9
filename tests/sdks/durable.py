"""Shared by the programs that use Durable Workflow: a real worker and a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from durable_workflow import Client, Worker
from durable_workflow.errors import ActivityCancelled, DurableWorkflowError, WorkflowCancelled
from durable_workflow.retry_policy import RetryPolicy

from faultlens.commands.demo import durable_server
from faultlens.commands.demo.durable_server import DurableServer
from tests.children import TIMEOUT

__all__ = ["IMPATIENT", "SDK_EXCEPTIONS", "answering", "result_of", "working_on"]

# A worker may take longer than 3 s to answer a query.
durable_server.ANSWER_SECONDS = TIMEOUT

IMPATIENT = RetryPolicy(max_attempts=2, initial_backoff_seconds=0.01)

# Since 0.3.1 the two cancellations are neither a DurableWorkflowError nor an Exception.
SDK_EXCEPTIONS = (DurableWorkflowError, WorkflowCancelled, ActivityCancelled)


def answering(
    method: str, path: str, status: int, *, times: int | None = None, **body: Any
) -> DurableServer:
    """A server with one scripted answer."""
    server = DurableServer()
    answer = {"message": "scripted by the test", **body}
    server.answer(method, path, status, answer, times=times)
    return server


@contextlib.asynccontextmanager
async def working_on(
    queue: str,
    client: Client,
    workflows: Iterable[type],
    activities: Iterable[Callable[..., Any]] = (),
    **options: Any,
) -> AsyncIterator[Worker]:
    """A real worker that polls."""
    worker = Worker(
        client,
        task_queue=queue,
        workflows=list(workflows),
        activities=list(activities),
        shutdown_timeout=TIMEOUT,
        **options,
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.stop()
        await asyncio.wait({running}, timeout=TIMEOUT)


async def result_of(handle: Any) -> Any:
    """The result of a workflow; waits for it."""
    return await handle.result(poll_interval=0.05, timeout=TIMEOUT)
