from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

import pytest
from prometheus_client import CollectorRegistry, Counter

from faultlens.counts import Counts, Unreadable
from faultlens.exposition import server as server_module
from faultlens.exposition.families import Collector
from faultlens.exposition.server import MetricsServer
from tests import children
from tests.children import TIMEOUT


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", registry=registry).inc(3)
    server = MetricsServer(registry, "127.0.0.1", 0, "1.2.3")
    assert server.start()
    yield server
    server.stop()


def get(server: MetricsServer, path: str, accept: str = "") -> tuple[str, str]:
    url = f"http://127.0.0.1:{server.port}{path}"
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_text_is_the_default(server: MetricsServer) -> None:
    content_type, text = get(server, "/metrics")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "jobs_total 3.0" in text


def test_openmetrics_is_for_who_asks(server: MetricsServer) -> None:
    content_type, text = get(server, "/metrics", "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_the_front_page_says_what_this_is_and_links_the_metrics(server: MetricsServer) -> None:
    content_type, page = get(server, "/")
    assert content_type.startswith("text/html")
    assert "faultlens 1.2.3" in page
    assert '<a href="/metrics">' in page


def test_any_other_path_is_not_found(server: MetricsServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server, "/admin")
    error.value.close()
    assert error.value.code == 404


def test_what_cannot_be_read_now_is_a_failed_scrape_and_no_empty_page() -> None:
    def read() -> Counts:
        raise Unreadable("it is locked")

    registry = CollectorRegistry()
    registry.register(Collector(read, dict))
    server = MetricsServer(registry, "127.0.0.1", 0, "1.2.3")
    assert server.start()
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server, "/metrics")
    with error.value as answer:
        assert (answer.code, answer.read()) == (503, b"it is locked\n")
    server.stop()


def test_a_host_that_can_be_no_name_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    server = MetricsServer(CollectorRegistry(), ".foo", 0, "1.2.3")
    assert not server.start()
    server.start_or_stand_by()
    assert ["cannot be served" in record.message for record in caplog.records] == [True, True]


def test_the_port_is_free_again_after_stop(server: MetricsServer) -> None:
    port = server.port
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


def test_who_stands_by_can_be_stopped_at_the_moment_it_gets_the_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "TAKE_OVER_SECONDS", 0.01)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = MetricsServer(CollectorRegistry(), "127.0.0.1", port, "1")
        bind, bound = server._bind, threading.Event()

        def bind_and_be_stopped() -> WSGIServer:
            bound_server = bind()
            bound.set()
            server._stopped.wait(TIMEOUT)
            return bound_server

        monkeypatch.setattr(server, "_bind", bind_and_be_stopped)
        server.start_or_stand_by()
    assert bound.wait(TIMEOUT)
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(TIMEOUT)
    assert not stopping.is_alive(), "stop() waits for a server that never started"
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_one_line_that_says_what_to_do(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1" if host == "localhost" else host, 0))
        other.listen()
        port = other.getsockname()[1]
        assert not MetricsServer(CollectorRegistry(), host, port, "1").start()
    (record,) = caplog.records
    assert f"{host}:{port} is taken by another process" in record.getMessage()
    assert "Set OTEL_EXPORTER_PROMETHEUS_PORT to another port, or to 0" in record.getMessage()


def test_a_host_that_is_not_ours_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert not MetricsServer(CollectorRegistry(), "203.0.113.1", 0, "1").start()
    assert len(caplog.records) == 1


RAISE = """
    import flyte.errors, inside, socket
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass
"""


def test_a_program_on_a_taken_port_goes_on_and_counts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = children.run(
            RAISE + "    inside.report(inside.failures())",
            env={"OTEL_EXPORTER_PROMETHEUS_PORT": port},
        )
    assert '{"flyte.errors.OOMError|user|w": 1}' in done.stdout
    assert done.stderr.count("is taken by another process") == 1


def test_every_known_class_is_served_from_0() -> None:
    found = children.report("""
        import flyte.errors, inside, urllib.request
        from faultlens import pipeline
        url = f"http://localhost:{pipeline.running().server.port}/metrics"
        text = urllib.request.urlopen(url).read().decode()
        classes = {n for n, c in vars(flyte.errors).items() if isinstance(c, type)
                   and issubclass(c, BaseException)}
        inside.report([n for n in classes
                       if f'faultlens_failures_total{{class="flyte.errors.{n}",' not in text])
    """)
    assert found == []


def test_no_port_is_opened_where_opentelemetry_serves_the_registry() -> None:
    opened = """
        import faultlens, flyte.errors, inside
        from faultlens import pipeline
        inside.report(pipeline.running().server is None)
    """
    assert children.report(opened, env={"OTEL_METRICS_EXPORTER": "otlp, prometheus"}) is True
    assert children.report(opened, env={"OTEL_METRICS_EXPORTER": "otlp"}) is False


@pytest.mark.parametrize("first", ["flyte.errors", "opentelemetry.exporter.prometheus"])
def test_the_program_s_own_opentelemetry_reader_gets_the_port(first: str) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus")
    other = {"flyte.errors": "opentelemetry.exporter.prometheus"}.get(first, "flyte.errors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = children.report(
        f"""
        import {first}
        import {other}
        import flyte.errors, inside, urllib.request
        import prometheus_client
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        reader = PrometheusMetricReader()
        prometheus_client.start_http_server({port}, "localhost")
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        text = urllib.request.urlopen("http://localhost:{port}/metrics").read().decode()
        inside.report([line for line in text.splitlines()
                       if line.startswith("faultlens_failures_total") and line.endswith("1.0")])
        """,
        env={"OTEL_EXPORTER_PROMETHEUS_PORT": str(port)},
    )
    assert len(found) == 1
    assert 'class="flyte.errors.OOMError"' in found[0]


def test_metric_names_that_are_taken_leave_the_program_its_own() -> None:
    done = children.run("""
        import inside, prometheus_client, urllib.request
        theirs = prometheus_client.Counter("faultlens_failures", "The program's own.")
        theirs.inc(7)
        import flyte.errors
        from faultlens import pipeline
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        url = f"http://localhost:{pipeline.running().server.port}/metrics"
        text = urllib.request.urlopen(url).read().decode()
        assert theirs._value.get() == 7
        inside.report('faultlens_failures_total{class="flyte.errors.OOMError",kind="user",'
                      'worker="w"} 1.0' in text)
    """)
    assert done.stdout.splitlines()[-1] == "true"
    assert done.stderr.count("has metrics of our names already") == 1
