"""A nightly sales report as a Flyte pipeline, and the ways in which such a night can end.

An ordinary Flyte script, run in local mode: it needs no cluster, and knows nothing of metrics. Each
scenario is a span, where tracing has been set up. It runs one thing, and catches what the caller of
it would catch:

    scenario                  what happens                                               whose fault
    good_night                load, clean, train, publish: all fine                      nobody's
    good_total                one task, fine                                             nobody's
    bad_row                   a child raises ValueError, its parent fails with it        user
    no_such_region            a task raises KeyError                                     user
    wrong_output_type         a task returns something else than it declares             user
    skipped_region            a child fails, its parent catches that and goes on         user
    more_memory               a child runs out of memory, its parent retries with more   user
    some_regions_fail         four regions at once, two of them fail                     user
    not_connected             the client asks for a run, but was never given a server    user
    deployed_without_version  a deployment lacks its version                             user
    gpu_lost                  the GPU of a node is gone                                  system
    warehouse_down            a child of a child fails, and with it the whole run        system
    mail_not_sent             nobody can tell why                                        unknown

All tasks are async: in local mode, each run of a sync task leaves a thread of the SDK behind.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from tempfile import gettempdir
from typing import Any

import flyte
import flyte.errors
import flyte.remote
from opentelemetry import trace

# Flyte logs each failure of a task with its traceback; here that is all that would ever be printed.
flyte.init(log_level=logging.CRITICAL)

# A named image: nothing is built, not even for a deployment.
env = flyte.TaskEnvironment("sales", image="python:3.12-slim")

tracer = trace.get_tracer("sales")

ORDERS = {
    "north": ["12.50", "8.00", "31.20"],
    "south": ["9.90", "n/a", "4.10"],  # the till writes n/a when its printer is out of paper
    "west": ["77.00", "3.40"],
}

# --- the pipeline --------------------------------------------------------------------------------


@env.task
async def load(region: str) -> list[str]:
    return ORDERS[region]


@env.task
async def clean(orders: list[str]) -> list[float]:
    return [float(order) for order in orders]


@env.task
async def train(sales: list[float]) -> float:
    """Forecast tomorrow's average order."""
    return sum(sales) / len(sales)


@env.task
async def publish(region: str, forecast: float) -> str:
    return f"{region}: {forecast:.2f}"


@env.task
async def nightly_report(region: str) -> str:
    orders = await load(region)
    sales = await clean(orders)
    forecast = await train(sales)
    return await publish(region, forecast)


@env.task
async def report_without_bad_regions(regions: list[str]) -> list[str]:
    """A parent that handles a failed child: the run succeeds all the same."""
    lines = []
    for region in regions:
        try:
            lines.append(await nightly_report(region))
        except flyte.errors.RuntimeUserError as error:
            lines.append(f"{region}: no report, {error.code}")
    return lines


@env.task
async def report_of_all_regions(regions: list[str]) -> int:
    """All regions at once; returns how many of them failed."""
    reports = (nightly_report(region) for region in regions)
    results = await asyncio.gather(*reports, return_exceptions=True)
    return sum(isinstance(result, Exception) for result in results)


# --- tasks that stand for trouble which a laptop does not have ----------------------------------


@env.task
async def total(sales: list[float]) -> float:
    if not sales:
        return "nothing was sold"  # type: ignore[return-value]  # a bug that the SDK detects
    return sum(sales)


@env.task
async def join_history(years: int, memory_gib: int) -> int:
    """Join the orders of the last years; each takes one GiB."""
    if years > memory_gib:
        raise flyte.errors.OOMError("OOMKilled", f"{years} years in {memory_gib} GiB", "cpu-node-3")
    return years


@env.task
async def history_with_enough_memory(years: int) -> int:
    try:
        return await join_history(years, memory_gib=2)
    except flyte.errors.OOMError:
        return await join_history(years, memory_gib=16)


@env.task
async def train_on_gpu(sales: list[float]) -> float:
    raise flyte.errors.RuntimeSystemError("GpuFellOffBus", "Xid 79 on GPU 3", worker="gpu-node-7")


@env.task
async def query_warehouse(region: str) -> list[float]:
    raise flyte.errors.RuntimeSystemError("Unavailable", "no route to it", worker="cpu-node-1")


@env.task
async def yearly_sales(region: str) -> list[float]:
    return await query_warehouse(region)


@env.task
async def yearly_report(region: str) -> float:
    return sum(await yearly_sales(region))


@env.task
async def mail(report: str) -> str:
    raise flyte.errors.RuntimeUnknownError("NoReply", "the relay hung up", worker="mail-node-2")


# --- the scenarios; the pipeline's owner would look at what is suppressed here --------------


def run(task: Any, **inputs: object) -> Any:
    """Run a task in this process. A new name, or place for data, would be a new directory."""
    here = flyte.with_runcontext(mode="local", name="nightly-sales", raw_data_path=gettempdir())
    return here.run(task, **inputs).outputs()


def good_night() -> None:
    run(nightly_report, region="north")


def good_total() -> None:
    run(total, sales=[12.5, 8.0])


def bad_row() -> None:
    with suppress(flyte.errors.RuntimeUserError):
        run(nightly_report, region="south")


def no_such_region() -> None:
    with suppress(flyte.errors.RuntimeUserError):
        run(load, region="atlantis")


def wrong_output_type() -> None:
    with suppress(flyte.errors.RuntimeDataValidationError):
        run(total, sales=[])


def skipped_region() -> None:
    run(report_without_bad_regions, regions=["north", "south"])


def more_memory() -> None:
    run(history_with_enough_memory, years=7)


def gpu_lost() -> None:
    with suppress(flyte.errors.RuntimeSystemError):
        run(train_on_gpu, sales=[12.5, 8.0])


def warehouse_down() -> None:
    with suppress(flyte.errors.RuntimeSystemError):
        run(yearly_report, region="north")


def mail_not_sent() -> None:
    with suppress(flyte.errors.RuntimeUnknownError):
        run(mail, report="north: 17.23")


def some_regions_fail() -> None:
    run(report_of_all_regions, regions=["north", "south", "west", "atlantis"])


def not_connected() -> None:
    with suppress(flyte.errors.InitializationError):
        flyte.remote.Run.get("nightly-sales")


def deployed_without_version() -> None:
    with suppress(flyte.errors.DeploymentError):
        flyte.deploy(env, copy_style="none")


SCENARIOS: tuple[Callable[[], None], ...] = (
    good_night,
    bad_row,
    gpu_lost,
    good_total,
    no_such_region,
    mail_not_sent,
    wrong_output_type,
    more_memory,
    warehouse_down,
    skipped_region,
    some_regions_fail,
    not_connected,
    deployed_without_version,
)


def main(rounds: int | None = 1, pause: float = 0.5) -> None:
    """Run all scenarios `rounds` times, or for ever, with a pause after each."""
    for _ in itertools.count() if rounds is None else range(rounds):
        for scenario in SCENARIOS:
            with tracer.start_as_current_span(scenario.__name__):
                scenario()
            time.sleep(pause)


if __name__ == "__main__":
    main()
