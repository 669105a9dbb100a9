"""An order service on Durable Workflow, as its users write one: it knows nothing of metrics.

    DURABLE_WORKFLOW_URL=http://localhost:8080 python durable_orders.py

A worker on the task queue `orders` reserves the stock, charges the card and ships. A client
places one order after another. Some succeed; the others go wrong as orders do. What the client
asks for is a span, and so is each task of the worker, where tracing has been set up.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from durable_workflow import Client, Worker, activity, workflow
from durable_workflow.client import ScheduleAction, ScheduleSpec
from durable_workflow.errors import (
    DurableWorkflowError,
    NonRetryableError,
    WorkflowCancelled,
)
from opentelemetry import trace

try:
    from durable_workflow.telemetry import ExecutionTelemetry
except ImportError:  # older SDKs have no tracing of their own
    TRACED: dict[str, Any] = {}
else:
    TRACED = {"interceptors": [ExecutionTelemetry()]}

TASK_QUEUE = "orders"
TOKEN = os.environ.get("DURABLE_WORKFLOW_TOKEN", "demo-token")

log = logging.getLogger("orders")
tracer = trace.get_tracer("orders")


# ── What the worker runs ──────────────────────────────────────────────────────────────────────


@activity.defn(name="reserve_stock")
def reserve_stock(order: dict[str, Any]) -> str:
    if order["item"] == "unicorn":
        raise LookupError("no such item: unicorn")
    return f"reservation-{order['id']}"


@activity.defn(name="charge_card")
async def charge_card(order: dict[str, Any]) -> str:
    if order["card"].endswith("0002"):
        raise NonRetryableError("card declined")  # another attempt would not help
    return f"charge-{order['id']}"


@activity.defn(name="ship")
async def ship(order: dict[str, Any]) -> str:
    if order["country"] == "AQ":
        raise ConnectionError("the carrier does not answer")
    return f"parcel-{order['id']}"


@workflow.defn(name="place_order")
class PlaceOrder:
    def run(self, ctx: Any, order: dict[str, Any]) -> Any:
        yield ctx.schedule_activity("reserve_stock", [order])
        yield ctx.schedule_activity("charge_card", [order])
        parcel = yield ctx.schedule_activity("ship", [order])
        return {"order": order["id"], "parcel": parcel}


@workflow.defn(name="await_pickup")
class AwaitPickup:
    def run(self, ctx: Any, order: dict[str, Any]) -> Any:
        yield ctx.start_timer(3600)
        return {"order": order["id"], "parcel": None}


# ── What the shop asks for ────────────────────────────────────────────────────────────────────


async def place_order(client: Client, **details: Any) -> Any:
    """Place an order and wait until it is shipped."""
    handle = await start(client, "place_order", **details)
    return await handle.result(poll_interval=0.1, timeout=120)


async def start(
    client: Client,
    workflow_type: str,
    *,
    task_queue: str = TASK_QUEUE,
    run_timeout_seconds: int = 600,
    **details: Any,
) -> Any:
    order_id = uuid.uuid4().hex[:8]
    order = {"id": order_id, "item": "lamp", "card": "4242", "country": "NL", **details}
    return await client.start_workflow(
        workflow_type=workflow_type,
        task_queue=task_queue,
        workflow_id=f"order-{order['id']}",
        input=[order],
        run_timeout_seconds=run_timeout_seconds,
    )


async def shipped(client: Client) -> None:
    await place_order(client)


async def ordered_twice(client: Client) -> None:
    handle = await start(client, "await_pickup")
    await start(client, "await_pickup", id=handle.workflow_id.removeprefix("order-"))


async def unknown_order(client: Client) -> None:
    await client.describe_workflow("order-of-yesterday")


async def impossible_deadline(client: Client) -> None:
    await place_order(client, run_timeout_seconds=0)


async def expired_token(client: Client) -> None:
    async with Client(client.base_url, token="expired") as stranger:
        await stranger.describe_workflow("order-1")


async def unknown_tenant(client: Client) -> None:
    async with Client(client.base_url, token=TOKEN, namespace="acme") as tenant:
        await tenant.describe_workflow("order-1")


async def out_of_catalogue(client: Client) -> None:
    await place_order(client, item="unicorn")


async def card_declined(client: Client) -> None:
    await place_order(client, card="4000-0000-0000-0002")


async def undeclared_query(client: Client) -> None:
    handle = await start(client, "await_pickup")
    await handle.query("where_is_my_parcel")


async def too_late_to_change(client: Client) -> None:
    handle = await start(client, "place_order")
    await handle.result(poll_interval=0.1, timeout=120)
    await handle.update("change_address", ["Main Street 1"])


async def scheduled_twice(client: Client) -> None:
    for _ in range(2):
        await client.create_schedule(
            schedule_id="nightly-restock",
            spec=ScheduleSpec(cron_expressions=["0 3 * * *"]),
            action=ScheduleAction("place_order", task_queue=TASK_QUEUE),
        )


async def cancelled_by_customer(client: Client) -> None:
    handle = await start(client, "await_pickup")
    await handle.cancel(reason="the customer changed his mind")
    await handle.result(poll_interval=0.1)


async def wholesale_is_down(client: Client) -> None:
    await place_order(client, task_queue="wholesale")


async def flash_sale_is_overloaded(client: Client) -> None:
    await place_order(client, task_queue="flash-sale")


async def carrier_is_down(client: Client) -> None:
    await place_order(client, country="AQ")


async def never_picked_up(client: Client) -> None:
    handle = await start(client, "await_pickup", run_timeout_seconds=1)
    await handle.result(poll_interval=0.1)


async def gift_without_a_worker(client: Client) -> None:
    """The shop is newer than the worker, which has no `wrap_gift` yet."""
    handle = await start(client, "wrap_gift")
    await handle.result(poll_interval=0.1)


SCENARIOS: dict[str, Callable[[Client], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        shipped,
        ordered_twice,
        card_declined,
        unknown_order,
        wholesale_is_down,
        impossible_deadline,
        expired_token,
        carrier_is_down,
        undeclared_query,
        never_picked_up,
        out_of_catalogue,
        too_late_to_change,
        flash_sale_is_overloaded,
        scheduled_twice,
        unknown_tenant,
        gift_without_a_worker,
        cancelled_by_customer,
    )
}


# ── A shop that is open ───────────────────────────────────────────────────────────────────────


def main(url: str, rounds: int | None = 1, pause: float = 0.5) -> None:
    """Go through all scenarios `rounds` times, or for ever."""
    log.addHandler(logging.NullHandler())
    logging.getLogger("durable_workflow").addHandler(logging.NullHandler())
    asyncio.run(open_shop(url, rounds, pause))


async def open_shop(url: str, rounds: int | None, pause: float) -> None:
    async with Client(url, token=TOKEN) as client:
        worker = Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=[PlaceOrder, AwaitPickup],
            activities=[reserve_stock, charge_card, ship],
            shutdown_timeout=5.0,
            **TRACED,
        )
        running = asyncio.create_task(worker.run())
        try:
            await serve_customers(client, rounds, pause)
        finally:
            await worker.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def serve_customers(client: Client, rounds: int | None, pause: float) -> None:
    for _ in itertools.count() if rounds is None else range(rounds):
        for name, scenario in SCENARIOS.items():
            try:
                with tracer.start_as_current_span(name):
                    await scenario(client)
                log.info("%s: done", name)
            except (DurableWorkflowError, WorkflowCancelled) as exc:
                log.warning("%s: %s: %s", name, type(exc).__name__, exc)
            await asyncio.sleep(pause)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1] if len(sys.argv) > 1 else os.environ["DURABLE_WORKFLOW_URL"], rounds=None)
