"""Names that cannot be encoded: lone surrogates, as bytes that are not UTF-8 arrive in Python."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import children
from tests.children import TIMEOUT
from tests.servers import answers, free_port, get, until

pytest.importorskip("flyte")

END = "that is all\n"

PROGRAM = textwrap.dedent("""
    import sys
    import flyte.errors, prometheus_client, prometheus_client.openmetrics.exposition
    import faultlens, inside

    class Mine(flyte.errors.RuntimeUserError):
        __qualname__ = "Mine\\udcff"
        __module__ = "module\\ud800"

    exc = Mine("CODE\\udcff", "m\\udcff", "worker\\udcff")
    try:
        raise exc
    except Mine:
        pass

    prometheus_client.REGISTRY.register(faultlens.collector())
    for exposition in (prometheus_client, prometheus_client.openmetrics.exposition):
        sys.stdout.buffer.write(exposition.generate_latest(prometheus_client.REGISTRY))
    print("that is all", flush=True)
    sys.stdin.read()
""")


@pytest.mark.parametrize(
    ("variable", "value", "worker"),
    [
        ("FAULTLENS_WORKER", "node\udcff", "node?"),
        ("K8S_NODE_NAME", "node\udcff", "node?"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=node\udcff", "node?"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=node%FF", "node\ufffd"),
    ],
)
@pytest.mark.parametrize("store", ["on", "off"])
def test_no_page_fails(variable: str, value: str, worker: str, store: str, tmp_path: Path) -> None:
    port = free_port()
    env = {
        "FAULTLENS_WORKER": None,
        "FAULTLENS_STORE": str(tmp_path / "store") if store == "on" else "off",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        variable: value,
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=children.environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            hosts = "".join(itertools.takewhile(lambda line: line != END, process.stdout))
            url = f"http://127.0.0.1:{port}/metrics"
            until(lambda: answers(url), "the page")
            ours = get(url)
            process.stdin.close()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
    labels = f'class="module?.Mine?",kind="user",worker="{worker}"'
    line = f"faultlens_failures_total{{{labels}}} 1.0"
    assert line in ours
    assert hosts.count(line) == 2
    issue = 'class="module?.Mine?",code="CODE?",kind="user",owner="",reason="",task=""'
    assert f"faultlens_issues_total{{{issue}}} 1.0" in ours
