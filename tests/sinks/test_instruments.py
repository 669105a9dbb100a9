"""The counters by OpenTelemetry: each once, wherever the program's metrics go."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests import children
from tests.children import TIMEOUT
from tests.servers import Receiver, needs, until, victoria_metrics

PROGRAM = """
import os, sys
from opentelemetry import metrics
from faultlens import background
background._FORK_SECONDS = 1200  # a fork waits until the exporter is made, however slow that is

def fail(times=1):
    import flyte.errors
    for _ in range(times):
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass

def provide(*readers):
    from opentelemetry.sdk.metrics import MeterProvider
    metrics.set_meter_provider(MeterProvider(readers))

def in_memory():
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    return InMemoryMetricReader()

def seen(reader):
    # What a reader gets that is not 0: a line of name, labels and value each.
    data = reader.get_metrics_data()
    return sorted(
        f"{metric.name} {'|'.join(map(str, point.attributes.values()))} {point.value:g}"
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if point.value and metric.name.endswith("_total")
    )
"""
ONE = [
    "faultlens_failures_total flyte.errors.OOMError|user|w {}",
    "faultlens_issues_total flyte.errors.OOMError|OOM||user|oom| {}",
]


PATIENT = {"FAULTLENS_FLUSH_SECONDS": "60"}
"""Where something is sent: on a busy machine that may take longer than the default."""


def program(body: str, **env: str | None) -> Any:
    return children.report(f"{PROGRAM}\nimport inside\n{textwrap.dedent(body)}", env=env)


def times(number: int) -> list[str]:
    return [line.format(number) for line in ONE]


needs_otlp = pytest.mark.skipif(
    find_spec("opentelemetry.proto") is None,
    reason="OpenTelemetry 1.20's OTLP exporter wants another protobuf than Flyte",
)


# Through the program's own provider.


@pytest.mark.parametrize("when", ["before the import", "after it", "after a failure"])
def test_the_program_s_provider_gets_them_whenever_it_is_set(when: str) -> None:
    assert program(f"""
        when, reader = {when!r}, in_memory()
        if when == "before the import":
            provide(reader)
        fail(0)
        if when == "after it":
            provide(reader)
        fail(1)
        if when == "after a failure":
            provide(reader)
        fail(2)
        inside.report([seen(reader), seen(reader)])
    """) == [times(3), times(3)]


def test_every_known_class_is_there_with_0() -> None:
    zeros, classes = program("""
        reader = in_memory()
        provide(reader)
        fail(0)
        import flyte.errors
        points = [point for resource in reader.get_metrics_data().resource_metrics
                  for scope in resource.scope_metrics for metric in scope.metrics
                  if metric.name == "faultlens_failures_total" for point in metric.data.data_points]
        known = [name for name, value in vars(flyte.errors).items()
                 if isinstance(value, type) and value.__module__ == "flyte.errors"
                 and issubclass(value, BaseException)]
        inside.report([{p.attributes["class"]: p.value for p in points}, known])
    """)
    assert zeros == {f"flyte.errors.{name}": 0 for name in classes}


def test_disable_reports_nothing_more_and_enable_goes_on_without_doubling() -> None:
    assert program("""
        import faultlens
        reader = in_memory()
        provide(reader)
        fail()
        first = seen(reader)
        faultlens.disable()
        off = seen(reader)
        faultlens.enable()
        fail()
        inside.report([first, off, seen(reader)])
    """) == [times(1), [], times(2)]


def test_a_provider_that_a_forked_child_sets_gets_what_the_child_counts() -> None:
    found = program("""
        fail(2)
        ours, theirs = os.pipe()
        if os.fork() == 0:
            reader = in_memory()
            provide(reader)
            fail()
            os.write(theirs, repr(seen(reader)).encode())
            os._exit(0)
        os.wait()
        inside.report([os.read(ours, 1000).decode(), inside.total()])
    """)
    assert found == [repr(times(1)), 2]


def test_a_forked_child_starts_at_0_so_that_the_processes_add_up() -> None:
    found = program("""
        reader = in_memory()
        provide(reader)
        fail(2)
        seen(reader)
        ours, theirs = os.pipe()
        if os.fork() == 0:
            fail()
            os.write(theirs, repr(seen(reader)).encode())
            os._exit(0)
        os.wait()
        inside.report(os.read(ours, 1000).decode())
    """)
    assert found == repr(times(1))


def test_a_provider_that_does_nothing_is_no_reason_to_fail() -> None:
    assert program("""
        metrics.set_meter_provider(metrics.NoOpMeterProvider())
        import opentelemetry.sdk.metrics
        fail()
        inside.report(inside.failures())
    """) == {"flyte.errors.OOMError|user|w": 1}


# Beside OpenTelemetry's own Prometheus reader.

NAMES = """
import re
from prometheus_client import REGISTRY, generate_latest

def names(registry):
    # How often each of our series that are not 0 is on the page.
    lines = [line for line in generate_latest(registry).decode().splitlines()
             if line.startswith("faultlens_failures_total") and not line.endswith(" 0.0")]
    return [re.sub('otel_scope_[a-z_]+="[^"]*",', "", line) for line in lines]  # newer versions'
"""
PAGE = 'faultlens_failures_total{class="flyte.errors.OOMError",kind="user",worker="w"} 1.0'


@pytest.mark.parametrize("first", ["flyte", "reader"])
@pytest.mark.parametrize("beside", [False, True])
def test_no_name_is_twice_on_the_page_of_opentelemetry_s_reader(first: str, beside: bool) -> None:
    lines, others = program(f"""
        {textwrap.indent(NAMES, " " * 8).strip()}
        if {first!r} == "flyte":
            fail(0)
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        reader = in_memory()
        provide(PrometheusMetricReader(), *([reader] if {beside} else []))
        metrics.get_meter("app").create_counter("app.requests").add(1)
        fail()
        page = names(REGISTRY)
        app = [line for line in generate_latest(REGISTRY).decode().splitlines()
               if line.startswith("app_requests_total")]
        assert app and app[0].endswith(" 1.0"), app
        inside.report([page, seen(reader) if {beside} else None])
    """)
    assert lines == [PAGE]
    if beside:
        assert [line for line in others if line.startswith("faultlens")] == times(1)


@pytest.mark.parametrize("disabled", ["false", "true"])
def test_faultlens_serves_where_the_reader_that_is_named_is_disabled(disabled: str) -> None:
    serves = program(
        """
        import flyte.errors
        from faultlens import pipeline
        inside.report(pipeline.running().server is not None)
        """,
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_SDK_DISABLED=disabled,
    )
    assert serves == (disabled == "true")


def test_a_reader_of_another_registry_gets_them() -> None:
    found = program(f"""
        {textwrap.indent(NAMES, " " * 8).strip()}
        import inspect
        from prometheus_client import CollectorRegistry
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        if "registry" not in inspect.signature(PrometheusMetricReader).parameters:
            inside.report(None)
            sys.exit()
        registry = CollectorRegistry()
        provide(PrometheusMetricReader(registry=registry))
        fail()
        inside.report([len(names(registry)), names(REGISTRY)])
    """)
    if found is None:
        pytest.skip("this version knows one registry only")
    assert found == [1, []]


# In a program without a provider.


def test_they_go_where_the_environment_says() -> None:
    done = children.run(
        f"{PROGRAM}\nfail(2)\nprint(type(metrics.get_meter_provider()).__name__)",
        env={**PATIENT, "OTEL_METRICS_EXPORTER": "console"},
    )
    assert '"faultlens_failures_total"' in done.stdout
    assert '"service.instance.id"' in done.stdout
    # The global provider is the program's to set.
    assert "_ProxyMeterProvider" in done.stdout


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_METRICS_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},  # it may be meant for traces
    ],
)
def test_nothing_is_sent_that_nobody_asked_for(env: dict[str, str]) -> None:
    body = "fail(1)\nimport inside\ninside.report(inside.failures())"
    done = children.run(f"{PROGRAM}\n{body}", env={**env, "OTEL_TRACES_EXPORTER": "none"})
    assert done.stdout == '{"flyte.errors.OOMError|user|w": 1}\n'
    assert done.stderr == ""


@needs_otlp
def test_a_provider_that_the_program_sets_later_takes_over() -> None:
    with Receiver() as receiver:
        done = children.run(
            f"{PROGRAM}\nimport inside\nfrom faultlens import pipeline\n"
            "fail(0)\nreader = in_memory()\n"
            # What is being sent just now may still have the failure.
            "inside.until(lambda: pipeline.running().sender._thread._turns)\n"
            "provide(reader)\nfail()\nprint(seen(reader))",
            env=otlp(receiver.url),
        )
    assert done.stdout.splitlines() == [str(times(1))]
    assert not any(receiver.counted("faultlens_failures_total").values())


def test_an_exporter_that_is_not_installed_is_one_line() -> None:
    done = children.run(f"{PROGRAM}\nfail()", env={"OTEL_METRICS_EXPORTER": "nonesuch"})
    assert done.stderr.count("OTEL_METRICS_EXPORTER=nonesuch: no installed package provides") == 1
    assert len(done.stderr.splitlines()) == 1


def test_an_exporter_that_cannot_be_made_is_one_line_and_all_else_goes_on() -> None:
    done = children.run(
        f"""{PROGRAM}
import opentelemetry.sdk.metrics.export as export

def broken(*args, **kwargs):
    raise ValueError("10s is no number")

export.ConsoleMetricExporter.__init__ = broken
fail()
fail()
import inside
inside.report(inside.failures())
""",
        env={**PATIENT, "OTEL_METRICS_EXPORTER": "console"},
    )
    assert done.stdout == '{"flyte.errors.OOMError|user|w": 2}\n'
    assert done.stderr == (
        "faultlens: OTEL_METRICS_EXPORTER: 10s is no number; faultlens itself sends no metrics.\n"
    )


def test_a_process_is_one_stream_however_often_it_is_enabled() -> None:
    done = children.run(
        f"""{PROGRAM}
import faultlens
fail(1)
faultlens.disable()
faultlens.enable()
fail(1)
""",
        env={**PATIENT, "OTEL_METRICS_EXPORTER": "console"},
    )
    ids = re.findall(r'"service.instance.id": "([^"]+)"', done.stdout)
    assert len(ids) > 1
    assert len(set(ids)) == 1


def otlp(url: str, **env: str) -> dict[str, str | None]:
    return {
        **PATIENT,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_TIMEOUT": str(TIMEOUT),
        **env,
    }


FORKS = f"""{PROGRAM}
def wait():
    os.read(0, 1)  # until the test closes it
fail(2)
if os.fork() == 0:
    fail(3)
    if os.fork() == 0:
        fail(1)
        wait()
        os._exit(0)
    wait()
    os.wait()
    os._exit(0)
fail(1)
wait()
os.wait()
os._exit(0)
"""
"""Three processes, which count 3, 3 and 1, and none of which ends in an orderly way."""


@contextlib.contextmanager
def forks(env: Mapping[str, str | None]) -> Iterator[None]:
    """Run FORKS; its processes die at the end."""
    often = {"OTEL_METRIC_EXPORT_INTERVAL": "100", **env}
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(
        command, env=children.environment(often), stdin=subprocess.PIPE
    ) as process:
        try:
            yield
            assert process.poll() is None
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(TIMEOUT)


@needs_otlp
def test_what_dying_processes_counted_adds_up() -> None:
    with Receiver() as receiver, forks(otlp(receiver.url)):
        until(
            lambda: sorted(receiver.counted("faultlens_failures_total").values()) == [1, 3, 3],
            "the counts of each process",
        )
        until(lambda: len(receiver.events()) >= 7, "the spans")
        assert len(receiver.events()) == 7


@needs_otlp
def test_what_processes_counted_that_end_at_once_adds_up() -> None:
    """Each sends at its exit."""
    source = f"""{PROGRAM}
fail(2)
pid = os.fork()
fail(1 if pid else 3)
if pid:
    os.waitpid(pid, 0)
"""
    with Receiver() as receiver:
        children.run(source, env=otlp(receiver.url))
    assert sorted(receiver.counted("faultlens_failures_total").values()) == [3, 3]
    assert len(receiver.events()) == 6


@needs_otlp
@needs("victoria-metrics")
def test_a_real_receiver_adds_dying_processes_up(tmp_path: Path) -> None:
    with victoria_metrics(tmp_path) as server:
        env = otlp(
            "http://127.0.0.1:9",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{server.url}/opentelemetry/v1/metrics",
            OTEL_TRACES_EXPORTER="none",
        )
        labels = ["class", "kind", "worker"]
        for failures in (7, 14):
            expected = {("flyte.errors.OOMError", "user", "w"): failures}
            with forks(env):
                until(
                    lambda expected=expected: (  # type: ignore[misc]
                        server.by(labels, "faultlens_failures_total > 0") == expected
                    ),
                    "the sum",
                )
        assert server.by(labels, "increase(faultlens_failures_total[1h]) > 0") == expected
