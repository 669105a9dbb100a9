"""What a program shows on ``/metrics``, on its own page, and when it shows nothing."""

from __future__ import annotations

import socket

import pytest

from tests import children
from tests.servers import free_port

COMMON = """
import sys, time, urllib.error, urllib.request
import flyte.errors, inside
from faultlens import pipeline
from faultlens.commands import endpoint

def fail():
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass

def page():
    # Waits until it is served.
    server = pipeline.running().server
    while True:
        try:
            return endpoint.fetch(endpoint.metrics_url(server.host, server.port), 1200)
        except OSError:
            time.sleep(0.01)

def failures(page):
    return [line for line in page.splitlines()
            if line.startswith("faultlens_failures_total{") and not line.endswith(" 0.0")]
"""
FAILURE = 'faultlens_failures_total{class="flyte.errors.OOMError",kind="user",worker="w"} 1.0'


def program(source: str) -> str:
    return COMMON + "\n".join(line[4:] for line in source.splitlines())


def test_every_known_class_is_served_from_0() -> None:
    found = children.report(
        program("""
    text = page()
    classes = {n for n, c in vars(flyte.errors).items() if isinstance(c, type)
               and issubclass(c, BaseException)}
    inside.report([n for n in classes
                   if f'faultlens_failures_total{{class="flyte.errors.{n}",' not in text])
    """)
    )
    assert found == []


def test_the_page_for_a_browser_has_the_failures_and_links_the_metrics() -> None:
    own, pid = children.report(
        program("""
    import os
    fail()
    page()
    server = pipeline.running().server
    url = endpoint.metrics_url(server.host, server.port).removesuffix("metrics")
    inside.report([endpoint.fetch(url, 1200), os.getpid()])
    """)
    )
    assert "<h1>1 failure: 0 system, 0 unknown, 1 user</h1>" in own
    assert '<a href="/metrics">' in own
    assert f"in this process (pid {pid})" in own


def test_a_program_whose_port_is_taken_keeps_counting_and_is_warned_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        env = {
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(other.getsockname()[1]),
            "FAULTLENS_FLUSH_SECONDS": "1200",
        }
        done = children.run(
            program("""
    import logging
    warned = []
    logging.getLogger("faultlens").addFilter(lambda record: not warned.append(record))
    fail()
    while not warned:
        time.sleep(0.01)
    inside.report(inside.failures())
    """),
            env=env,
        )
    assert done.stdout.splitlines()[-1] == '{"flyte.errors.OOMError|user|w": 1}'
    assert done.stderr.count("is taken by something else") == 1, done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"FAULTLENS_SERVE": "0"},
        {"OTEL_METRICS_EXPORTER": "otlp, prometheus"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_no_port_is_opened_where_something_else_serves(env: dict[str, str]) -> None:
    source = "inside.report(pipeline.running().server is None)"
    assert children.report(program(f"    {source}"), env=env) is True
    assert children.report(program(f"    {source}")) is False


def test_the_program_s_registry_has_our_metrics_only_if_it_takes_them() -> None:
    """Otherwise, scraping both pages would count each failure twice."""
    before, after, ours = children.report(
        program("""
    import faultlens
    from prometheus_client import REGISTRY, generate_latest
    fail()
    before = generate_latest(REGISTRY).decode()
    REGISTRY.register(faultlens.collector())
    fail_page = generate_latest(REGISTRY).decode()
    inside.report([before.count("faultlens"), failures(fail_page), failures(page())])
    """)
    )
    assert (before, after, ours) == (0, [FAILURE], [FAILURE])


def test_the_program_s_metrics_with_our_names_stay_in_its_registry() -> None:
    own, ours = children.report(
        program("""
    import prometheus_client
    own = prometheus_client.Counter("faultlens_failures", "The program's own.")
    own.inc(7)
    fail()
    text = prometheus_client.generate_latest().decode()
    inside.report([[line for line in text.splitlines() if line.startswith("faultlens_failures_t")],
                   failures(page())])
    """)
    )
    assert own == ["faultlens_failures_total 7.0"]
    assert ours == [FAILURE]


@pytest.mark.parametrize("first", ["flyte.errors", "opentelemetry.exporter.prometheus"])
def test_the_program_s_own_opentelemetry_reader_gets_the_port(first: str) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus")
    port = free_port()
    found = children.report(
        f"import {first}\nimport opentelemetry.exporter.prometheus"
        + program(f"""
    import prometheus_client
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    prometheus_client.start_http_server({port}, "localhost")
    fail()
    inside.report(failures(endpoint.fetch("http://localhost:{port}/metrics", 1200)))
    """),
        env={"OTEL_EXPORTER_PROMETHEUS_PORT": str(port)},
    )
    (line,) = found
    assert 'class="flyte.errors.OOMError"' in line
    assert line.endswith(" 1.0")
