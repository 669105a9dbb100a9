"""A program that fails in every way at once, for a given time, must not grow.

    python -m tests.harmless.soak --minutes 30

Threads, asyncio tasks and forked children raise SDK exceptions, and a thread scrapes /metrics. The
collector, which gets the counters and a span for each failure, comes and goes. From round to round,
only the counts may grow, and they must be exact. The program prints its state after some of the
rounds, and the problems at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import children
from tests.servers import free_port

_PROGRAM = """
import asyncio, concurrent.futures, contextlib, gc, http.server, json, os, sys, threading, time
import urllib.request
import inside
from flyte.errors import RuntimeUserError
from faultlens import pipeline

collector, endpoint = map(int, sys.argv[1:])

class Failure(RuntimeUserError):
    def __init__(self):
        super().__init__("c", "m")

def fail(depth=3):
    if depth:
        try:
            fail(depth - 1)
        finally:
            len("")
    raise Failure

def work(times):
    for _ in range(times):
        with contextlib.suppress(Failure):
            fail()
        Failure()
        with contextlib.suppress(KeyError):
            {}["absent"]
    return times

async def one(times):
    done = 0
    for _ in range(times):
        await asyncio.sleep(0)
        done += work(1)
    return done

async def tasks():
    return sum(await asyncio.gather(*(one(10) for _ in range(10))))

def child():
    pid = os.fork()
    if pid == 0:
        try:
            work(5)
        finally:
            os._exit(0)
    return pid

class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass

@contextlib.contextmanager
def collecting():
    # It takes each request in this one thread, and is gone afterwards.
    server = http.server.HTTPServer(("127.0.0.1", collector), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

def scrape(times):
    for _ in range(times):
        with opener.open(f"http://127.0.0.1:{endpoint}/metrics", timeout=TIMEOUT) as answer:
            assert b"faultlens_failures_total" in answer.read()
    return 0

def play():
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(work, 50) for _ in range(4)]
        futures += [pool.submit(asyncio.run, tasks()), pool.submit(scrape, 5)]
        pids = [child() for _ in range(3)]
        done = sum(future.result(TIMEOUT) for future in futures)
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return done + 5 * len(pids)

def round(number):
    running = pipeline.running()
    with collecting() if number % 2 else contextlib.nullcontext():
        done = play()
        # What waits for a span of its own is bounded, and is sent or given up meanwhile.
        inside.until(lambda: not running.spans._waiting)
    return done

def costs():
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    running = pipeline.running()
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "pending": len(running.hook._pending),
        "remembered": len(running.spans._recorded._entries),
    }

inside.expect_dropped()  # it says so when too many spans wait
inside.until(lambda: pipeline.running().server.listening)
for number, line in enumerate(sys.stdin):
    done = round(number)
    found = {"done": done, "raised": inside.total(), "dropped": inside.dropped(), **costs()}
    print(json.dumps(found), flush=True)
"""


class Round(NamedTuple):
    """The state after a round."""

    done: int
    """The number of raises in this round."""
    raised: float
    """The number of raises in the store, from all rounds."""
    dropped: dict[str, float]
    memory: int
    descriptors: int
    threads: int
    pending: int
    remembered: int


def rounds(folder: Path) -> Generator[Round, None, None]:
    """Run one round after the other; the program ends with the iterator."""
    collector, endpoint = free_port(), free_port()
    env = {
        "FAULTLENS_STORE": str(folder / "store"),
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(endpoint),
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
    }
    source = f"TIMEOUT = {children.TIMEOUT}\n{_PROGRAM}"
    with (
        (folder / "stderr.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", source, str(collector), str(endpoint)],
            env=children.environment(dict(env)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while True:
                with children.limited(process.kill):
                    print(file=process.stdin, flush=True)
                    line = process.stdout.readline()
                assert line, (folder / "stderr.log").read_text()
                yield Round(**json.loads(line))
        finally:
            process.kill()


def problems(seen: Sequence[Round]) -> list[str]:
    """What is wrong after these rounds, of which there are at least twice WARM_UP.

    The first and the last WARM_UP rounds are compared, since an exporter may or may not have a
    connection after a single round.
    """
    first, last = seen[:WARM_UP], seen[-WARM_UP:]
    done = sum(each.done for each in seen)
    found = [] if last[-1].raised == done else [f"{done} raised, {last[-1].raised:g} counted"]

    def growth(name: str, allowed: int = 0) -> None:
        before = max(getattr(each, name) for each in first)
        now = min(getattr(each, name) for each in last)
        if now > before + allowed:
            found.append(f"{name}: {before:,}, then {now:,}")

    for name in ("descriptors", "threads", "pending", "remembered"):
        growth(name)
    # The allocator keeps some free memory; a leak of 1 kB per raise would be far more.
    growth("memory", allowed=max(8_000_000, first[-1].memory // 10))
    if last[-1].dropped.keys() - {"span_error"}:
        found.append(f"dropped: {last[-1].dropped}")
    return found


WARM_UP = 6
"""After this many rounds, everything that is created only once has been created."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.harmless.soak")
    parser.add_argument("--minutes", type=float, default=30)
    end = time.monotonic() + 60 * parser.parse_args().minutes
    seen: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        playing = rounds(Path(folder))
        for number, each in enumerate(playing, 1):
            seen.append(each)
            if number <= WARM_UP or number % 20 == 0:
                print(f"{number:5} {each}", flush=True)
            if number >= 2 * WARM_UP and time.monotonic() > end:
                break
        playing.close()
    wrong = problems(seen)
    print("\n".join(wrong) or f"{seen[-1].raised:g} raises, all counted once; nothing has grown")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
