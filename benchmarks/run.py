"""Measures what faultlens costs, as ratios: ``python -m benchmarks.run``, or ``make bench``.

Each table compares several ways to do one thing. They take turns in one run, so a busy machine
slows all of them equally. Each figure is the median over the rounds, in processor time of the
thread unless stated otherwise. Absolute times depend on the machine; the ratios are portable.

``--quick`` makes fewer rounds. ``--only NAME`` prints one table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests import isolation

SOURCE = Path(__file__).parent.parent / "src"
ROUNDS = 25
Act = Callable[[], object]
Setup = Callable[[], contextlib.AbstractContextManager[object]]


def main() -> None:
    global ROUNDS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=TABLES)
    arguments = parser.parse_args()
    if arguments.quick:
        ROUNDS = 5
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start-up would compile everything
    os.environ.update(FAULTLENS="0", OTEL_EXPORTER_PROMETHEUS_PORT="0", FAULTLENS_WORKER="bench")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, median of {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("FAULTLENS_STORE", "TMPDIR", "PROMETHEUS_MULTIPROC_DIR"):
            os.environ[name] = folder
        for name, table in TABLES.items():
            if arguments.only in (None, name):
                print()
                table()


# How to measure.


def compare(title: str, ways: Mapping[str, tuple[Setup, Act]], times: int = 300) -> None:
    """Print how many microseconds each way takes, and its ratio to the first."""
    print(f"{title:52}{'µs':>9}   ratio")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            setup, act = ways[name]
            with setup():
                for _ in range(50):  # warm up
                    act()
                start = time.thread_time_ns()
                for _ in range(times):
                    act()
                taken[name].append((time.thread_time_ns() - start) / times / 1e3)
    first = next(iter(taken.values()))
    for name, found in taken.items():
        print(f"  {name:50}{median(found):9.2f}   {ratio(first, found)}")


def ratio(first: Sequence[float], found: Sequence[float]) -> str:
    """The median of the paired ratios, with its quartiles."""
    low, middle, high = quantiles([b / a for a, b in zip(first, found, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


@contextlib.contextmanager
def off() -> Iterator[None]:
    yield


def on(**environment: str) -> Setup:
    """Enables faultlens, with these environment variables."""

    @contextlib.contextmanager
    def setup() -> Iterator[None]:
        import faultlens

        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        faultlens.enable()
        try:
            yield
        finally:
            faultlens.disable()
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    return setup


memory = on(FAULTLENS_STORE="off")
ledger = on()


def recording_span(setup: Setup) -> Setup:
    @contextlib.contextmanager
    def within() -> Iterator[None]:
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider

        provider = TracerProvider(span_limits=SpanLimits(max_events=128))
        with provider.get_tracer("benchmark").start_as_current_span("work"), setup():
            yield

    return within


# The tables.


def failing() -> Act:
    """Returns a function that raises a Flyte exception and catches it."""
    from flyte.errors import RuntimeUserError

    def fail() -> None:
        try:
            raise RuntimeUserError("CODE", "message")
        except RuntimeUserError:
            pass

    return fail


def failures() -> None:
    from flyte.errors import RuntimeUserError

    def by_hand(counters: Sequence[Any]) -> Act:
        failures, codes = counters

        def act() -> None:
            try:
                raise RuntimeUserError("CODE", "message")
            except RuntimeUserError:
                failures.labels("flyte.errors.RuntimeUserError", "user", "bench").inc()
                codes.labels("flyte.errors.RuntimeUserError", "CODE").inc()

        return act

    compare(
        "raise and catch a Flyte exception",
        {
            "two prometheus_client counters by hand": (off, by_hand(two_counters())),
            "the same in its multiprocess mode": (off, by_hand(two_counters(shared=True))),
            "without anything": (off, failing()),
            "faultlens, FAULTLENS_STORE=off": (memory, failing()),
            "faultlens": (ledger, failing()),
            "constructed only": (ledger, lambda: RuntimeUserError("CODE", "message")),
        },
    )


def two_counters(shared: bool = False) -> tuple[Any, Any]:
    """The counters that a program would define itself.

    shared: whether to use prometheus_client's multiprocess mode. A counter chooses its mode when
        its labels are first used.
    """
    from prometheus_client import Counter, values

    before = values.ValueClass
    if shared:
        values.ValueClass = values.MultiProcessValue()
    failures = Counter("failures", "Failures.", ("class", "kind", "worker"), registry=None)
    codes = Counter("codes", "Codes.", ("class", "code"), registry=None)
    failures.labels("flyte.errors.RuntimeUserError", "user", "bench").inc()
    codes.labels("flyte.errors.RuntimeUserError", "CODE").inc()
    values.ValueClass = before
    return failures, codes


def rules() -> None:
    """Rules by cause and message. None of them matches, which is the slowest case."""
    from flyte.errors import RuntimeUserError

    def fail() -> None:
        try:
            raise RuntimeUserError("CODE", "message") from cause
        except RuntimeUserError:
            pass

    cause = KeyError("k")

    def with_rules(number: int, rule: str) -> Setup:
        path = Path(os.environ["FAULTLENS_STORE"], f"{number}-{rule[9]}.toml")
        path.write_text("".join(rule.format(n) for n in range(number)))
        return on(FAULTLENS_RULES=str(path))

    by_cause = '[[rule]]\ncause = "os.m{}.*"\nkind = "system"\n'
    by_message = '[[rule]]\nmessage = "no space {}"\nkind = "system"\n'
    compare(
        "raise a Flyte exception from a KeyError",
        {
            "without rules": (ledger, fail),
            "10 rules by cause": (with_rules(10, by_cause), fail),
            "100 rules by cause": (with_rules(100, by_cause), fail),
            "10 rules by message": (with_rules(10, by_message), fail),
            "100 rules by message": (with_rules(100, by_message), fail),
            "FAULTLENS_PROFILE=operator": (on(FAULTLENS_PROFILE="operator"), fail),
        },
    )


def spans() -> None:
    from flyte.errors import RuntimeUserError
    from opentelemetry import trace

    def by_hand() -> None:
        try:
            raise RuntimeUserError("CODE", "message")
        except RuntimeUserError as error:
            trace.get_current_span().add_event(
                "exception",
                {
                    "exception.type": "flyte.errors.RuntimeUserError",
                    "exception.message": str(error),
                    "kind": error.kind,
                },
            )

    def with_eight() -> None:
        try:
            raise RuntimeUserError("CODE", "message")
        except RuntimeUserError as error:
            trace.get_current_span().add_event(
                "exception",
                {
                    "exception.type": "flyte.errors.RuntimeUserError",
                    "exception.message": str(error),
                    "kind": error.kind,
                    "code": error.code,
                    "worker": "bench",
                    "sdk": "flyte",
                    "role": "origin",
                    "reason": "none",
                },
            )

    def record_exception() -> None:
        try:
            raise RuntimeUserError("CODE", "message")
        except RuntimeUserError as error:
            trace.get_current_span().record_exception(error)

    compare(
        "the same on a recording span",
        {
            "add_event with three attributes by hand": (recording_span(off), by_hand),
            "add_event with our eight attributes by hand": (recording_span(off), with_eight),
            "record_exception": (recording_span(off), record_exception),
            "faultlens, FAULTLENS_STACKTRACES=0": (
                recording_span(on(FAULTLENS_STACKTRACES="0")),
                failing(),
            ),
            "faultlens": (recording_span(ledger), failing()),
        },
    )


def logs() -> None:
    """What a log adds to a raise; our own threads write it later."""
    records = {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs"}
    compare(
        "raise and catch a Flyte exception, with a log",
        {
            "without one": (ledger, failing()),
            "FAULTLENS_LOG=json": (on(FAULTLENS_LOG=f"json:{os.devnull}"), failing()),
            "log records, without a provider": (on(**records), failing()),
            "FAULTLENS_LOG=json, FAULTLENS_STACKTRACES=0": (
                on(FAULTLENS_LOG=f"json:{os.devnull}", FAULTLENS_STACKTRACES="0"),
                failing(),
            ),
        },
    )


def scrubbing() -> None:
    """What one message costs; then a failure, with it, on a recording span."""
    from flyte.errors import RuntimeUserError

    from faultlens.scrub import Scrub

    messages = {
        "plain": "no space left on device: part 3 of 12",
        "with credentials in a URL": "cannot reach postgresql://app:hunter2@db:5432/orders",
        "4 096 plain characters": "no space left on device " * 170 + "in part 3 of 12.",
        "4 096 characters, the slowest found": ("://a:" * 820)[:4096],
    }
    scrub = Scrub()

    def failing_with(message: str) -> Act:
        def fail() -> None:
            try:
                raise RuntimeUserError("CODE", message)
            except RuntimeUserError:
                pass

        return fail

    compare(
        "take the secrets out of a message",
        {name: (off, partial(scrub.text, text)) for name, text in messages.items()},
        times=100,
    )
    compare(
        "a failure on a recording span",
        {
            "FAULTLENS_SCRUB=off": (
                recording_span(on(FAULTLENS_SCRUB="off")),
                failing_with(messages["plain"]),
            ),
            **{
                f"message: {name}": (recording_span(ledger), failing_with(text))
                for name, text in messages.items()
            },
        },
        times=100,
    )


def foreign() -> None:
    def fail(depth: int = 0) -> None:
        if depth:
            fail(depth - 1)
        else:
            raise KeyError("k")

    def caught(depth: int) -> Act:
        def act() -> None:
            try:
                fail(depth)
            except KeyError:
                pass

        return act

    for depth in (0, 10):
        compare(
            f"another exception, through {depth} frames",
            {"without": (off, caught(depth)), "faultlens": (ledger, caught(depth))},
            times=1000,
        )


def layers() -> None:
    from flyte.errors import RuntimeUserError

    @contextlib.contextmanager
    def layer() -> Iterator[None]:
        yield

    def through_with(depth: int = 10) -> None:
        if not depth:
            raise RuntimeUserError("CODE", "message")
        with layer():
            through_with(depth - 1)

    def through_finally(depth: int = 10) -> None:
        if not depth:
            raise RuntimeUserError("CODE", "message")
        try:
            through_finally(depth - 1)
        finally:
            pass

    async def through_coroutines(depth: int = 10) -> None:
        if not depth:
            raise RuntimeUserError("CODE", "message")
        await through_coroutines(depth - 1)

    def caught(act: Act) -> Act:
        def caught() -> None:
            with contextlib.suppress(RuntimeUserError):
                act()

        return caught

    def run() -> None:
        through_coroutines().send(None)

    for name, act in (
        ("with", caught(through_with)),
        ("finally", caught(through_finally)),
        ("coroutine", caught(run)),
    ):
        compare(
            f"a Flyte exception through 10 {name} layers",
            {"without": (off, act), "faultlens": (ledger, act)},
            times=100,
        )


def peers() -> None:
    """Each peer runs in its own process, since it changes the interpreter."""
    programs = {
        "without anything": "",
        "faultlens": "import faultlens; faultlens.enable()",
        "sentry-sdk, capture_exception, no transport": """
            import sentry_sdk
            sentry_sdk.init(dsn="http://key@localhost/1", transport=lambda event: None,
                            default_integrations=False)
            handle = sentry_sdk.capture_exception
        """,
        "ddtrace, handled errors": """
            import os
            os.environ.update(DD_ERROR_TRACKING_HANDLED_ERRORS="all", DD_TRACE_ENABLED="false")
            import ddtrace.auto
        """,
    }
    print(f"{'peers, each in its own process':52}{'µs':>9}   ratio")
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(min(ROUNDS, 5)):
        for name in list(programs)[:: 1 if number % 2 else -1]:
            done = subprocess.run(
                [sys.executable, "-c", _PEER % textwrap.dedent(programs[name])],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                taken[name].append(float(done.stdout.split()[-1]))
    for name, found in taken.items():
        if found and len(found) == len(taken["without anything"]):
            print(f"  {name:50}{median(found):9.2f}   {ratio(taken['without anything'], found)}")
        else:
            print(f"  {name:50}   not installed, or does not run here")


_PEER = """
import time
handle = lambda error: None
%s
from flyte.errors import RuntimeUserError

def fail():
    try:
        raise RuntimeUserError("CODE", "message")
    except RuntimeUserError as error:
        handle(error)

for _ in range(50):
    fail()
start = time.thread_time_ns()
for _ in range(500):
    fail()
print((time.thread_time_ns() - start) / 500 / 1e3)
"""


def many_processes() -> None:
    """How long one failure takes while other processes fail too, in wall time."""
    print(f"{'one failure, microseconds of wall time':40}{'p50':>10}{'p99':>10}{'max':>10}")
    for name, environment in (
        ("without", {"FAULTLENS": "0"}),
        ("faultlens", {"FAULTLENS": "1"}),
    ):
        for count in (1, 16):
            processes = [
                subprocess.Popen(
                    [sys.executable, "-c", _FAILING],
                    env={**os.environ, **environment},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for _ in range(count)
            ]
            for process in processes:
                assert process.stdout is not None
                process.stdout.readline()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            times = sorted(
                time for process in processes for time in json.loads(process.communicate()[0])
            )
            row = (times[len(times) // 2], times[len(times) * 99 // 100], times[-1])
            figures = "".join(f"{time / 1e3:10.1f}" for time in row)
            print(f"  {f'{name}, {count} processes at once':38}{figures}")


_FAILING = """
import json, sys, time
from flyte.errors import RuntimeUserError

def fail():
    try:
        raise RuntimeUserError("CODE", "message")
    except RuntimeUserError:
        pass

for _ in range(100):
    fail()
print("ready", flush=True)
sys.stdin.readline()
times = []
for _ in range(3000):
    start = time.perf_counter_ns()
    fail()
    times.append(time.perf_counter_ns() - start)
print(json.dumps(times))
"""


def scrapes() -> None:
    """How long it takes to read a store whose processes are dead."""
    from faultlens import settings
    from faultlens.exposition import sheets
    from faultlens.exposition.ledgers import Ledgers

    heads = "".join(f"{head:>10}" for head in ("first, ms", "read, ms", "page, ms"))
    print(f"{'a scrape of ledgers with 16 series each':44}{heads}")
    for count in (1, 100, 2000):
        with tempfile.TemporaryDirectory() as folder:
            place = settings.store_path(folder)
            assert place is not None
            made = [sheets.take(place, 32, 1) for _ in range(count)]
            for number, sheet in enumerate(made):
                for series in range(16):
                    index = sheet.make(("failures", f"c{series}", "user", "w", ""), 1.0 + number)
                    assert index is not None
                    sheet.counts[index] += 1
            reader = Ledgers(place, None, print)
            first: list[float] = []
            read: list[float] = []
            page: list[float] = []
            for number in range(ROUNDS + 1):
                made[number % count].counts[0] += 1
                start = time.thread_time_ns()
                reading = reader.read()
                (read if number else first).append((time.thread_time_ns() - start) / 1e6)
                start = time.thread_time_ns()
                _page(reading)
                page.append((time.thread_time_ns() - start) / 1e6)
            row = "".join(f"{median(times):10.2f}" for times in (first, read, page))
            print(f"  {f'{count} processes':42}{row}")
            for sheet in made:
                sheet.release()


def _page(reading: Any) -> bytes:
    from faultlens.exposition.families import Collector, page

    return page(Collector(lambda: reading, lambda: {"version": "0"}), "")[1]


def memory_of_failures() -> None:
    """How much memory a process gains by 10 000 equal failures."""
    from flyte.errors import RuntimeUserError

    def grown() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with ledger():
        for times, name in ((100, "the first 100 failures"), (10_000, "10 000 more")):
            before = grown()
            for _ in range(times):
                with contextlib.suppress(RuntimeUserError):
                    raise RuntimeUserError("CODE", "message")
            print(f"memory: {name} take {grown() - before} kB")


def start_ups() -> None:
    print(f"{'start-up, milliseconds of processor time':52}{'ms':>9}   ratio")
    with tempfile.TemporaryDirectory() as folder:
        bare, ours = Path(folder, "bare"), Path(folder, "ours")
        for place in (bare, ours):
            venv.create(place, symlinks=True)
        site = next(ours.glob("lib/python*/site-packages"))
        shutil.copytree(SOURCE / "faultlens", site / "faultlens")
        shutil.copy(SOURCE / "faultlens.pth", site)
        without, within = str(bare / "bin/python"), str(ours / "bin/python")
        started(
            {
                "python -c pass": (without, None, "pass"),
                "python -c pass, FAULTLENS unset": (within, None, "pass"),
                "python -c pass, FAULTLENS=1": (within, "1", "pass"),
            }
        )
    started(
        {
            "import flyte": (sys.executable, "0", "import flyte"),
            "import flyte, FAULTLENS=1": (sys.executable, "1", "import flyte"),
        }
    )


def started(programs: Mapping[str, tuple[str, str | None, str]]) -> None:
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(ROUNDS):
        for name in list(programs)[:: 1 if number % 2 else -1]:
            python, value, code = programs[name]
            environment = {key: v for key, v in os.environ.items() if key != "FAULTLENS"}
            if value is not None:
                environment["FAULTLENS"] = value
            process = os.posix_spawn(python, [python, "-c", code], environment)
            _, _, used = os.wait4(process, 0)
            taken[name].append((used.ru_utime + used.ru_stime) * 1e3)
    first = next(iter(taken.values()))
    for name, found in taken.items():
        print(f"  {name:50}{median(found):9.2f}   {ratio(first, found)}")


TABLES: Mapping[str, Callable[[], None]] = {
    "failures": failures,
    "rules": rules,
    "spans": spans,
    "logs": logs,
    "scrubbing": scrubbing,
    "foreign": foreign,
    "layers": layers,
    "peers": peers,
    "processes": many_processes,
    "scrapes": scrapes,
    "memory": memory_of_failures,
    "start-up": start_ups,
}


if __name__ == "__main__":
    isolation.isolate()
    main()
