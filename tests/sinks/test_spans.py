from __future__ import annotations

import re
from typing import Any

import pytest

from tests import children
from tests.sinks.test_instruments import PATIENT

TRACING = """
import flyte.errors, inside
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app")

def spans():
    inside.settle()  # spans of our own are made in a thread of ours
    return {
        span.name: [
            {"name": event.name, **event.attributes} for event in span.events
        ]
        for span in memory.get_finished_spans()
    }
"""


def program(body: str, **env: str | None) -> Any:
    import textwrap

    return children.report(TRACING + textwrap.dedent(body), env=env)


def test_the_event_is_on_the_current_span_with_every_attribute_of_the_contract() -> None:
    found = program("""
        def fail():
            raise flyte.errors.OOMError("OOM", "out of memory")
        with tracer.start_as_current_span("work") as span:
            try:
                fail()
            except Exception:
                pass
            status = span.status.status_code.name
        inside.report([spans(), status])
    """)
    spans, status = found
    (event,) = spans["work"]
    stack = event.pop("exception.stacktrace")
    assert event == {
        "name": "exception",
        "exception.type": "flyte.errors.OOMError",
        "exception.message": "out of memory",
        "error.type": "flyte.errors.OOMError",
        "faultlens.kind": "user",
        "faultlens.reason": "oom",
        "faultlens.worker": "w",
        "faultlens.code": "OOM",
        "faultlens.sdk": "flyte",
        "faultlens.role": "origin",
    }
    assert stack.startswith("Traceback (most recent call last):\n")
    assert ", in fail\n" in stack
    assert stack.endswith("flyte.errors.OOMError: out of memory\n")
    assert status == "UNSET"


def test_an_exception_that_leaves_three_spans_is_on_each_of_them_once() -> None:
    spans = program("""
        try:
            with tracer.start_as_current_span("outer"):
                with tracer.start_as_current_span("middle"):
                    with tracer.start_as_current_span("inner") as span:
                        error = flyte.errors.RuntimeSystemError("S", "m")
                        try:
                            raise error
                        finally:
                            span.record_exception(error)  # as a plugin might, by hand
        except Exception:
            pass
        inside.report(spans())
    """)
    assert {name: len(events) for name, events in spans.items()} == {
        "inner": 1,
        "middle": 1,
        "outer": 1,
    }
    assert spans["outer"][0]["faultlens.kind"] == "system"


def test_a_foreign_exception_is_recorded_as_ever() -> None:
    spans = program("""
        try:
            with tracer.start_as_current_span("work") as span:
                error = ValueError("x")
                span.record_exception(error)
                raise error
        except ValueError:
            pass
        inside.report(spans())
    """)
    assert [event["exception.type"] for event in spans["work"]] == ["ValueError", "ValueError"]
    assert not any(key.startswith("faultlens") for event in spans["work"] for key in event)


def test_without_a_current_span_the_event_gets_a_span_of_its_own() -> None:
    spans = program("""
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except Exception:
            pass
        inside.report(spans())
    """)
    assert [event["exception.type"] for event in spans["exception"]] == ["flyte.errors.OOMError"]


def test_an_unsampled_trace_counts_without_an_event_or_an_exemplar() -> None:
    found = children.report("""
        import flyte.errors, inside
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        memory = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampling.ParentBased(sampling.ALWAYS_OFF))
        provider.add_span_processor(SimpleSpanProcessor(memory))
        trace.set_tracer_provider(provider)
        with trace.get_tracer("app").start_as_current_span("work"):
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except Exception:
                pass
        exemplars = inside.exemplars()
        inside.settle()
        inside.report([len(memory.get_finished_spans()), exemplars, inside.failures()])
    """)
    assert found == [0, [], {"flyte.errors.OOMError|user|w": 1}]


def test_a_sampled_trace_is_the_exemplar() -> None:
    spans = program("""
        with tracer.start_as_current_span("work") as span:
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except Exception:
                pass
            context = span.get_span_context()
        (exemplar,) = inside.exemplars()
        wanted = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        inside.report(exemplar == wanted)
    """)
    assert spans is True


@pytest.mark.parametrize(
    ("variable", "attribute"),
    [
        ("FAULTLENS_MESSAGES", "exception.message"),
        ("FAULTLENS_STACKTRACES", "exception.stacktrace"),
    ],
)
def test_messages_and_stack_traces_can_be_turned_off(variable: str, attribute: str) -> None:
    spans = program(
        """
        try:
            raise flyte.errors.OOMError("OOM", "the secret")
        except Exception:
            pass
        inside.report(spans())
        """,
        **{variable: "0"},
    )
    (event,) = spans["exception"]
    assert attribute not in event
    assert len({"exception.message", "exception.stacktrace"} & set(event)) == 1
    assert variable == "FAULTLENS_STACKTRACES" or "the secret" not in str(event)


def test_attributes_are_bounded() -> None:
    spans = program("""
        def deep(n):
            if n == 0:
                raise flyte.errors.RuntimeUserError("c" * 10_000, "m" * 1_000_000)
            deep(n - 1)
        try:
            deep(500)
        except Exception:
            pass
        inside.report(spans())
    """)
    (event,) = spans["exception"]
    assert len(event["exception.message"]) == 4096
    assert len(event["faultlens.code"]) == 64


def test_the_end_of_a_long_stack_is_within_what_tempo_keeps() -> None:
    spans = program("""
        def site():
            raise flyte.errors.RuntimeUserError("C", "why")
        def deep(n):
            deep(n - 1) if n else site()
        def long():
            raise flyte.errors.RuntimeUserError("C", "\\N{EURO SIGN}" * 4000)
        with tracer.start_as_current_span("work"):
            for fail in (lambda: deep(500), long):
                try:
                    fail()
                except Exception:
                    pass
        inside.report(spans())
    """)
    stacks = {}
    for event in spans["work"]:
        stack = event["exception.stacktrace"]
        assert len(stack.encode()) <= 2048
        head, *frames, last = stack.splitlines()
        assert head == "Traceback (most recent call last):"
        stacks[frames[-1].rpartition(", in ")[2]] = frames, last
    assert set(stacks) == {"site", "long"}
    frames, last = stacks["site"]
    assert last == "flyte.errors.RuntimeUserError: why"
    assert len(frames) > 20
    assert all(frame.endswith(", in deep") for frame in frames[:-1])
    _, last = stacks["long"]
    assert re.fullmatch("flyte.errors.RuntimeUserError: \N{EURO SIGN}{300,}", last)


def test_a_str_of_the_users_is_not_called_and_the_message_is_made_from_args() -> None:
    found = program("""
        class Broken(flyte.errors.RuntimeUserError):
            def __str__(self):
                called.append(1)
                raise SystemExit("no text")
        called = []
        error = Broken("B", "m")
        try:
            raise error
        except Exception as caught:
            same = caught is error
        failures = inside.failures()
        inside.report([same, called, spans(), failures])
    """)
    same, called, spans, failures = found
    assert same
    assert called == []
    (event,) = spans["exception"]
    assert event["exception.message"] == "m"
    assert event["exception.type"] == "__main__.Broken"
    assert failures == {"__main__.Broken|user|w": 1}


@pytest.mark.parametrize("step", ["on_start", "on_end"])
def test_a_span_processor_that_raises_costs_the_event_and_nothing_else(step: str) -> None:
    found = children.report(
        """
        import sys
        import flyte.errors, inside
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider, SpanProcessor
        def broken(*args, **kwargs):
            raise RuntimeError("exporter is down")
        Broken = type("Broken", (SpanProcessor,), {sys.argv[1]: broken})
        provider = TracerProvider()
        provider.add_span_processor(Broken())
        trace.set_tracer_provider(provider)
        inside.expect_dropped()
        for _ in range(3):
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                pass
        inside.settle()
        inside.report([inside.failures(), inside.dropped()])
        """,
        step,
    )
    assert found == [{"flyte.errors.OOMError|user|w": 3}, {"span_error": 3}]


def test_a_span_processor_never_runs_inside_a_raise() -> None:
    """Here it would wait for ever."""
    spans = program("""
        import threading
        from opentelemetry.sdk.trace import SpanProcessor
        class Slow(SpanProcessor):
            def on_start(self, span, parent_context=None):
                go_on.wait()
            def on_end(self, span):
                go_on.wait()
        go_on = threading.Event()
        provider.add_span_processor(Slow())
        for _ in range(3):
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                pass
        go_on.set()
        inside.settle()
        inside.report([len(span.events) for span in memory.get_finished_spans()])
    """)
    assert spans == [1, 1, 1]


def test_a_span_of_our_own_is_of_the_moment_of_the_raise_and_has_the_trace_it_was_raised_in() -> (
    None
):
    """Though it is made later."""
    found = program("""
        import time
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
        remote = SpanContext(0xABC, 0xDEF, True, TraceFlags(TraceFlags.SAMPLED))
        with use_span(NonRecordingSpan(remote)):
            before = time.time_ns()
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                after = time.time_ns()
        inside.until(memory.get_finished_spans)
        inside.settle()
        (span,) = memory.get_finished_spans()
        (event,) = span.events
        us = 1000
        inside.report([
            before - us <= span.start_time <= span.end_time <= after + us,
            before - us <= event.timestamp <= after + us,
            span.context.trace_id == 0xABC, span.parent.span_id == 0xDEF,
        ])
    """)
    assert found == [True] * 4


def test_without_opentelemetry_in_the_program_it_is_not_imported() -> None:
    assert children.report("""
            import sys, types, inside
            # A tiny SDK, since the real ones may import OpenTelemetry themselves.
            import importlib.util, importlib.abc
            class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
                def find_spec(self, name, path, target=None):
                    if name in ("flyte", "flyte.errors"):
                        return importlib.util.spec_from_loader(name, self, is_package=True)
                def create_module(self, spec):
                    return None
                def exec_module(self, module):
                    if module.__name__ == "flyte.errors":
                        module.Oops = type("Oops", (Exception,), {"__module__": "flyte.errors"})
            sys.meta_path.insert(1, Finder())
            import flyte.errors
            try:
                raise flyte.errors.Oops
            except flyte.errors.Oops:
                pass
            inside.report(
                [inside.failures(), [m for m in sys.modules if m.startswith("opentelemetry")]]
            )
        """) == [{"flyte.errors.Oops|unknown|w": 1}, []]


def test_the_api_without_a_provider_is_no_reason_to_fail() -> None:
    assert children.report("""
            import flyte.errors, inside
            from opentelemetry import trace
            with trace.get_tracer("app").start_as_current_span("work"):
                try:
                    raise flyte.errors.OOMError("OOM", "m")
                except flyte.errors.OOMError:
                    pass
            inside.report(inside.failures())
        """) == {"flyte.errors.OOMError|user|w": 1}


@pytest.mark.parametrize("first", ["flyte.errors", "the provider"])
def test_the_failure_that_ends_the_program_reaches_the_program_s_provider(first: str) -> None:
    """Which ends at exit, too."""
    provider = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
"""
    sdk = "import flyte.errors\n"
    start = sdk + provider if first == "flyte.errors" else provider + sdk
    done = children.run(
        f"{start}\nraise flyte.errors.OOMError('OOM', 'm')", env=PATIENT, check=False
    )
    assert done.returncode == 1
    assert done.stdout.count('"exception.type": "flyte.errors.OOMError"') == 1


OWN_PROVIDER = """
    import flyte.errors, inside
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass
    from opentelemetry import trace
    inside.report([inside.failures(), type(trace.get_tracer_provider()).__name__])
"""


def test_in_a_program_without_tracing_spans_go_where_the_environment_says() -> None:
    done = children.run(OWN_PROVIDER, env={**PATIENT, "OTEL_TRACES_EXPORTER": "console"})
    assert '"name": "exception"' in done.stdout
    assert '"faultlens.kind": "user"' in done.stdout
    assert done.stdout.count('"exception.type"') == 1
    # The global provider is the program's to set.
    assert "ProxyTracerProvider" in done.stdout


def test_an_exporter_that_is_not_installed_is_one_line() -> None:
    done = children.run(OWN_PROVIDER, env={"OTEL_TRACES_EXPORTER": "nonesuch"})
    assert done.stderr.count("OTEL_TRACES_EXPORTER=nonesuch") == 1
    assert '"flyte.errors.OOMError|user|w": 1' in done.stdout


def test_otel_sdk_disabled_turns_spans_off_and_leaves_the_counters() -> None:
    done = children.run(
        OWN_PROVIDER, env={"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}
    )
    assert '"name": "exception"' not in done.stdout
    assert '"flyte.errors.OOMError|user|w": 1' in done.stdout


def test_disable_restores_record_exception() -> None:
    assert program("""
        import faultlens, opentelemetry.sdk.trace as sdk
        patched = sdk.Span.record_exception
        faultlens.disable()
        restored = sdk.Span.record_exception
        faultlens.enable()
        again = sdk.Span.record_exception
        inside.report([patched.__wrapped__ is restored, again.__wrapped__ is restored])
    """) == [True, True]
