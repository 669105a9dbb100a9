"""What a real log store makes of records and lines: VictoriaLogs, which takes both."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import children
from tests.servers import free_port, get, needs, until, victoria
from tests.sinks.test_instruments import PATIENT, needs_otlp

pytestmark = needs("victoria-logs")

PAGE = (Path(__file__).parents[2] / "docs/logs.md").read_text()

FAILS = """
import flyte.errors
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from faultlens.sinks import record

record.SETTLE_SECONDS = 3600  # the program may be slow to end
trace.set_tracer_provider(TracerProvider())
with trace.get_tracer("flows").start_as_current_span("clean") as span:
    try:
        raise flyte.errors.RuntimeSystemError("Handled", "again")
    except flyte.errors.RuntimeSystemError:
        pass
    context = span.get_span_context()
    print(f"{context.trace_id:032x} {context.span_id:016x}", flush=True)
    raise flyte.errors.RuntimeSystemError("Lost", "s3://b/a?X-Amz-Signature=5f3a\\ntwice")
"""


class Store:
    """A running VictoriaLogs."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"

    def query(self, query: str) -> list[dict[str, str]]:
        """The fields of each entry that is found."""
        page = get(f"{self.url}/select/logsql/query?{urllib.parse.urlencode({'query': query})}")
        return [json.loads(line) for line in page.splitlines()]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server = Store()
    with victoria("victoria-logs", tmp_path_factory.mktemp("victoria-logs"), server.url):
        yield server


def in_the_page(pattern: str) -> str:
    found = re.search(pattern, PAGE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("how", [pytest.param("records", marks=needs_otlp), "lines"])
def test_the_query_of_the_page_finds_what_ended_the_program(
    how: str, store: Store, tmp_path: Path
) -> None:
    lines = tmp_path / "faultlens.json"
    otlp = store.url + in_the_page(r"http://victorialogs:9428(/insert/opentelemetry\S+)")
    jsonline = store.url + in_the_page(r"http://victorialogs:9428(/insert/jsonline\S+)")
    asked = {
        "records": {
            "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs",
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp,
        },
        "lines": {"FAULTLENS_LOG": f"json:{lines}"},
    }[how]
    env = {**PATIENT, **asked, "FAULTLENS_WORKER": how}
    done = children.run(FAILS, env=env, check=False)
    if how == "lines":
        get(jsonline, lines.read_bytes(), **{"Content-Type": "application/stream+json"})

    until(lambda: len(store.query(f"faultlens.worker:={how}")) == 2, "both failures")
    query = in_the_page(r"```logsql\n(.*)\n```")
    (found,) = store.query(f"{query} faultlens.worker:={how}")
    expected = {
        "event_name": "exception",
        "exception.type": "flyte.errors.RuntimeSystemError",
        "faultlens.code": "Lost",
        "faultlens.kind": "system",
    }
    assert found.items() >= expected.items()
    assert [found["trace_id"], found["span_id"]] == done.stdout.split()[:2]
    assert "s3://b/a?[scrubbed]" in found["_msg"]
    assert "5f3a" not in str(found)
