"""What test programs see of faultlens from inside their process. Imported by them, not by tests."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import faultlens

_drops_expected = False


def samples(name: str) -> dict[str, float]:
    """The samples of a metric that are not 0, by their label values joined with ``|``."""
    gc.collect()
    return {
        "|".join(sample.labels.values()): sample.value
        for metric in faultlens.collector().collect()
        for sample in metric.samples
        if sample.name == name and sample.value
    }


def failures() -> dict[str, float]:
    """``{"flyte.errors.OOMError|user|w": 1.0}``"""
    return samples("faultlens_failures_total")


def suppressed() -> dict[str, float]:
    """``{"flyte.errors.OOMError|user|w|propagated": 1.0}``"""
    return samples("faultlens_suppressed_total")


def raises() -> dict[str, float]:
    """All raised SDK exceptions, failures and the rest, in the form of `failures`."""
    found = failures()
    for series, count in suppressed().items():
        series = series.rpartition("|")[0]
        found[series] = found.get(series, 0) + count
    return found


def total() -> float:
    return sum(raises().values())


def more(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """What was counted between two looks."""
    new = {series: count - before.get(series, 0) for series, count in after.items()}
    return {series: count for series, count in new.items() if count}


def dropped() -> dict[str, float]:
    return samples("faultlens_dropped_total")


def until(condition: Callable[[], object], seconds: float = 1200) -> None:
    """Wait for something that will be, but not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def settle() -> None:
    """Have our own thread send what waits, and end."""
    from faultlens import pipeline

    running = pipeline.running()
    assert running is not None
    assert running.sender.stop(1200)


def exemplars() -> list[dict[str, str]]:
    """The labels of all exemplars."""
    return [
        dict(sample.exemplar.labels)
        for metric in faultlens.collector().collect()
        for sample in metric.samples
        if sample.exemplar is not None
    ]


def page() -> str:
    """The metrics as a scraper gets them."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(faultlens.collector())
    return generate_latest(registry).decode()


def expect_dropped() -> None:
    """This program provokes errors inside faultlens; they do not fail its test."""
    global _drops_expected
    _drops_expected = True


def report(value: Any) -> None:
    """The program's last words to its test."""
    print(json.dumps(value))


@atexit.register
def _no_error_was_swallowed() -> None:
    if not _drops_expected and dropped():
        print(f"faultlens swallowed errors: {dropped()}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(99)
