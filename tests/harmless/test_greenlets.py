"""Greenlets: if recording a raise let another greenlet run, the raises of that one would be lost.

The interpreter reports no events of a thread while our callback runs in it.
"""

from __future__ import annotations

import pytest

from tests import children

GREENLETS = 40

_PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
_IMPORT = "import flyte.errors"

_PROGRAM = """
import time
import inside
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

class Sleeps(SpanProcessor):
    def on_start(self, span, parent_context=None):
        time.sleep(0)
    def on_end(self, span):
        time.sleep(0)

provider = TracerProvider()
provider.add_span_processor(Sleeps())
trace.set_tracer_provider(provider)

class Failure(flyte.errors.RuntimeUserError):
    def __str__(self):
        time.sleep(0)
        return "waits"

done = []

def work(number):
    for _ in range(5):
        time.sleep(0)
        try:
            raise Failure("c", "m")
        except Failure:
            pass
        with trace.get_tracer("host").start_as_current_span("host"):
            try:
                raise Failure("c", "m")
            except Failure:
                pass
    done.append(number)
"""

_RUN = {
    "gevent": "import gevent; gevent.joinall([gevent.spawn(work, n) for n in range({n})])",
    "eventlet": """
pool = eventlet.GreenPool()
for number in range({n}):
    pool.spawn(work, number)
pool.waitall()
""",
}


def _program(package: str, first: str, *rest: str) -> str:
    """A program that patches itself before or after it imports the SDK."""
    order = [_PATCH[package], _IMPORT] if first == "patch" else [_IMPORT, _PATCH[package]]
    return "\n".join([*order, *rest])


@pytest.mark.parametrize("first", ["patch", "import"])
@pytest.mark.parametrize("package", _PATCH)
def test_each_raise_of_each_greenlet_is_counted(package: str, first: str) -> None:
    pytest.importorskip(package)
    source = _program(package, first, _PROGRAM, _RUN[package].format(n=GREENLETS))
    counted = children.report(f"{source}\ninside.report([len(done), inside.total()])")
    assert counted == [GREENLETS, GREENLETS * 10]


_OUTSIDE = """
import inside
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

def fail():
    try:
        raise flyte.errors.RuntimeUserError("c", "m")
    except flyte.errors.RuntimeUserError:
        pass

fail()
with trace.get_tracer("host").start_as_current_span("host"):
    fail()
inside.settle()
found = sorted((span.name, len(span.events)) for span in spans.get_finished_spans())
inside.report([inside.total(), found])
"""


@pytest.mark.parametrize(
    ("package", "spans"), [("gevent", [["exception", 1], ["host", 1]]), ("eventlet", [["host", 1]])]
)
def test_our_thread_does_not_share_eventlets_locks(package: str, spans: list[object]) -> None:
    """A thread that waits for one is never woken, so no span of our own is made there."""
    pytest.importorskip(package)
    found = children.report(_program(package, "patch", _OUTSIDE))
    assert found == [2, spans]


_FAIL = """
import inside
try:
    raise flyte.errors.RuntimeUserError("c", "m")
except flyte.errors.RuntimeUserError:
    pass
"""


@pytest.mark.parametrize("first", ["patch", "import"])
def test_under_eventlet_nothing_is_sent_by_opentelemetry(first: str) -> None:
    """OpenTelemetry's exporters log from our thread."""
    pytest.importorskip("eventlet")
    # The counters of a program that patches later may be sent before.
    signals = ["TRACES", "LOGS", *(["METRICS"] if first == "patch" else [])]
    env = {f"OTEL_{signal}_EXPORTER": "console" for signal in signals}
    done = children.run(
        _program("eventlet", first, _FAIL, "inside.settle()", "print(inside.total())"),
        env={**env, "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs/dup"},
    )
    assert done.stdout == "1\n"
    if first == "patch":
        for signal in signals:
            assert done.stderr.count(f"OTEL_{signal}_EXPORTER=console: under eventlet") == 1


_WARNED = """
import logging
from faultlens import pipeline

class Handler(logging.Handler):
    def emit(self, record):
        raise SystemExit("it was logged")

logging.getLogger("faultlens").addHandler(Handler())
logging.getLogger("faultlens").setLevel(logging.DEBUG)
inside.until(lambda: pipeline.running().server._warned)
turns = pipeline.running().background._thread._turns
inside.until(lambda: pipeline.running().background._thread._turns > turns)
"""


@pytest.mark.parametrize("stderr", ["open", "closed", "a broken pipe"])
def test_under_eventlet_a_warning_goes_past_the_locks_of_logging(stderr: str) -> None:
    pytest.importorskip("eventlet")
    first = {
        "open": "",
        "closed": "import os; os.close(2); assert os.open(os.devnull, os.O_RDONLY) == 2",
        "a broken pipe": "import os; ends = os.pipe(); os.dup2(ends[1], 2); os.close(ends[0])",
    }[stderr]
    done = children.run(
        "\n".join([_PATCH["eventlet"], first, _IMPORT, _FAIL, _WARNED]),
        env={"OTEL_EXPORTER_PROMETHEUS_HOST": "203.0.113.1"},  # an address that no machine has
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("faultlens: ")]
    assert [line.split(" (")[0] for line in said] == (
        ["faultlens: 203.0.113.1:0 cannot be served"] if stderr == "open" else []
    )
