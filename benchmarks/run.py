"""What faultlens costs, as ratios: ``python -m benchmarks.run``, or ``make bench``.

Each row compares two or three ways of doing one thing, taken in turns in one run, so that a busy
machine slows all of them alike; a row's figures are medians over the rounds. Absolute times are of
this machine, at this minute; the ratios are what carries over.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median, quantiles

SOURCE = Path(__file__).parent.parent / "src"
ROUNDS = 40
START_UPS = 30


def main() -> None:
    os.environ.update(FAULTLENS="0", OTEL_EXPORTER_PROMETHEUS_PORT="0", FAULTLENS_WORKER="bench")
    with tempfile.TemporaryDirectory() as store:
        os.environ["FAULTLENS_STORE"] = store
        tables()


def tables() -> None:
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, median of {ROUNDS} rounds\n"
    )
    print(f"{'raise and catch, microseconds':46}{'off':>9}{'on':>9}{'on - off':>10}  ratio")
    for name, attempt, span in exceptions():
        with span():
            row(name, *on_and_off(attempt))
    print()
    print(f"{'start-up, milliseconds':46}{'without':>9}{'with':>9}{'more':>10}  ratio")
    for name, without, with_it in start_ups():
        row(name, without, with_it)


def row(name: str, off: list[float], on: list[float]) -> None:
    """A line of the table. The ratio is the median of the paired ratios, with its quartiles."""
    low, ratio, high = quantiles([b / a for a, b in zip(off, on, strict=True)], n=4)
    more = median(on) - median(off)
    print(
        f"{name:46}{median(off):9.2f}{median(on):9.2f}{more:10.2f}"
        f"  {ratio:.2f} ({low:.2f} to {high:.2f})"
    )


def exceptions() -> Iterator[
    tuple[str, Callable[[], None], Callable[[], AbstractContextManager[None]]]
]:
    import flyte.errors

    def foreign() -> None:
        try:
            raise KeyError("k")
        except KeyError:
            pass

    def foreign_through_10_frames(depth: int = 10) -> None:
        if depth:
            foreign_through_10_frames(depth - 1)
        else:
            raise KeyError("k")

    def foreign_deep() -> None:
        try:
            foreign_through_10_frames()
        except KeyError:
            pass

    def sdk() -> None:
        try:
            raise flyte.errors.RuntimeUserError("CODE", "message")
        except flyte.errors.RuntimeUserError:
            pass

    def constructed() -> None:
        flyte.errors.RuntimeUserError("CODE", "message")

    yield "another exception", foreign, no_span
    yield "another exception, through 10 frames", foreign_deep, no_span
    yield "an SDK exception, no span", sdk, no_span
    yield "an SDK exception, on a recording span", sdk, recording_span
    yield "an SDK exception, constructed only", constructed, no_span


@contextmanager
def no_span() -> Iterator[None]:
    yield


@contextmanager
def recording_span() -> Iterator[None]:
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    provider = TracerProvider(span_limits=SpanLimits(max_events=128))
    with provider.get_tracer("benchmark").start_as_current_span("work"):
        yield


def on_and_off(attempt: Callable[[], None]) -> tuple[list[float], list[float]]:
    """Microseconds for one attempt, round by round, without and with faultlens."""
    import faultlens

    off: list[float] = []
    on: list[float] = []
    for number in range(ROUNDS):
        for enabled in (False, True) if number % 2 else (True, False):
            if enabled:
                faultlens.enable()
            (on if enabled else off).append(microseconds(attempt))
            faultlens.disable()
    return off, on


def microseconds(attempt: Callable[[], None], times: int = 1000) -> float:
    for _ in range(50):  # what is done once, on the first call after a switch
        attempt()
    start = time.perf_counter()
    for _ in range(times):
        attempt()
    return (time.perf_counter() - start) / times * 1e6


def start_ups() -> Iterator[tuple[str, list[float], list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        bare, ours = Path(folder, "bare"), Path(folder, "ours")
        for place in (bare, ours):
            venv.create(place, symlinks=True)
        site = next(ours.glob("lib/python*/site-packages"))
        shutil.copytree(SOURCE / "faultlens", site / "faultlens")
        shutil.copy(SOURCE / "faultlens.pth", site)
        without, unset = bare / "bin/python", ours / "bin/python"
        yield "python -c pass, FAULTLENS unset", *starts((without, None), (unset, None))
        yield "python -c pass, FAULTLENS=1", *starts((without, None), (unset, "1"))
    this = Path(sys.executable)
    code = "import flyte"
    yield "import flyte, FAULTLENS=1", *starts((this, "0"), (this, "1"), code=code, times=10)


def starts(
    first: tuple[Path, str | None],
    second: tuple[Path, str | None],
    code: str = "pass",
    times: int = START_UPS,
) -> tuple[list[float], list[float]]:
    """Milliseconds that a process takes, in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(times):
        for which in (0, 1) if number % 2 else (1, 0):
            python, value = (first, second)[which]
            environment = {key: v for key, v in os.environ.items() if key != "FAULTLENS"}
            if value is not None:
                environment["FAULTLENS"] = value
            start = time.perf_counter()
            subprocess.run([str(python), "-c", code], env=environment, check=True)
            taken[which].append((time.perf_counter() - start) * 1e3)
    return taken


if __name__ == "__main__":
    main()
