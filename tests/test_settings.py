from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens import settings


def test_the_defaults_are_what_opentelemetry_specifies() -> None:
    defaults = settings.load({})
    assert (defaults.host, defaults.port) == ("localhost", 9464)
    assert defaults.messages
    assert defaults.stacktraces
    assert defaults.traces_exporters == ()


@pytest.mark.parametrize("value", ["banana", "-1", "65536", "9464.0", "94 64", "1e3"])
def test_a_bad_port_is_one_warning_and_the_default(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert settings.load({"OTEL_EXPORTER_PROMETHEUS_PORT": value}).port == 9464
    (record,) = caplog.records
    assert record.getMessage() == (
        f"faultlens: OTEL_EXPORTER_PROMETHEUS_PORT={value!r}: expected a number from 0 (any free "
        "port) to 65535; 9464 is used."
    )


def test_port_0_means_any_free_port() -> None:
    assert settings.load({"OTEL_EXPORTER_PROMETHEUS_PORT": "0"}).port == 0


@pytest.mark.parametrize("value", ["0", "false", "NO", " off "])
def test_messages_can_be_turned_off(value: str) -> None:
    assert not settings.load({"FAULTLENS_MESSAGES": value}).messages


def test_a_flag_that_is_neither_keeps_its_default(caplog: pytest.LogCaptureFixture) -> None:
    assert settings.load({"FAULTLENS_STACKTRACES": "banana"}).stacktraces
    assert "FAULTLENS_STACKTRACES='banana': expected 1 or 0; 1 is used." in caplog.text


def test_the_worker_is_the_first_name_there_is() -> None:
    names = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=checkout%201,k8s.node.name=n1",
        "K8S_NODE_NAME": "n2",
        "NODE_NAME": "n3",
    }
    assert settings.load(names).fallback_worker == "checkout 1"
    names["OTEL_RESOURCE_ATTRIBUTES"] = "service.name=x,k8s.node.name=n1"
    assert settings.load(names).fallback_worker == "n1"
    del names["OTEL_RESOURCE_ATTRIBUTES"]
    assert settings.load(names).fallback_worker == "n2"
    del names["K8S_NODE_NAME"]
    assert settings.load(names).fallback_worker == "n3"
    assert settings.load({}).fallback_worker == socket.gethostname()


def test_a_worker_of_several_lines_becomes_one() -> None:
    assert settings.load({"FAULTLENS_WORKER": ' gpu\n"7" \t x'}).worker == 'gpu "7" x'


def test_a_worker_of_10_kb_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert settings.load({"FAULTLENS_WORKER": "w" * 10_000}).worker == ""
    (record,) = caplog.records
    assert len(record.getMessage()) < 200
    assert "expected at most 128 characters" in record.getMessage()


def test_an_otlp_endpoint_alone_asks_for_spans() -> None:
    found = settings.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert found.traces_exporters == ("otlp",)
    assert settings.load({"OTEL_TRACES_EXPORTER": "none"}).traces_exporters == ("none",)


@given(
    st.dictionaries(st.sampled_from([v.name for v in settings.VARIABLES]), st.text(max_size=300))
)
def test_no_environment_makes_it_raise(environ: dict[str, str]) -> None:
    found = settings.load(environ)
    assert 0 <= found.port <= 65535
    assert "\n" not in found.worker
    assert len(found.fallback_worker) <= settings.WORKER_LIMIT
