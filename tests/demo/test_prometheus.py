"""A real Prometheus scrapes faultlens: what PromQL gives is what was counted, to the number."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from faultlens.commands.demo import workload
from tests.scrape import Scrape
from tests.servers import Prometheus, needs, prometheus, running

pytestmark = needs("prometheus")

CONFIG = """
global:
  scrape_interval: 2s
  scrape_timeout: 2s
scrape_configs:
  - job_name: workflows
    static_configs:
      - targets: ["{target}"]
        labels: {{cluster: test}}
"""

# What goes wrong in a round of the Flyte example; its scenarios are in `demo.flyte_tasks`.
FLYTE_FAILURES = {
    "flyte.errors.RuntimeUserError": 5,
    "flyte.errors.RuntimeSystemError": 2,
    "flyte.errors.RuntimeUnknownError": 1,
    "flyte.errors.OOMError": 1,
    "flyte.errors.RuntimeDataValidationError": 1,
    "flyte.errors.InitializationError": 1,
    "flyte.errors.DeploymentError": 1,
}
# What carries them on: a copy for each level of nesting, and one for the caller of the run.
FLYTE_CARRIERS = {
    "flyte.errors.RuntimeUserError": 9,
    "flyte.errors.RuntimeSystemError": 4,
    "flyte.errors.RuntimeUnknownError": 1,
    "flyte.errors.OOMError": 1,
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Scrape]]:
    """Prometheus after one round of both examples, and what their /metrics says itself."""
    pytest.importorskip("flyte")
    pytest.importorskip("durable_workflow")
    args = ("-m", "faultlens.commands.demo.workload", "--until-stdin-closes", "--rounds", "1")
    directory = tmp_path_factory.mktemp("prometheus")
    with (
        running(*args, "--pause", "0") as program,
        prometheus(directory, CONFIG.format(target=program.target)) as server,
    ):
        program.line_with(workload.DONE)
        server.moment = server.wait_for_scrape()
        yield server, program.scrape()


def test_failures_by_kind(examples: tuple[Prometheus, Scrape]) -> None:
    server, scrape = examples
    expected: Counter[tuple[str, ...]] = Counter()
    for row in scrape.rows:
        expected[(row.kind,)] += row.count

    assert set(expected) == {("user",), ("system",), ("unknown",)}
    assert server.by(["kind"], "faultlens_failures_total") == expected


def test_every_series(examples: tuple[Prometheus, Scrape]) -> None:
    server, scrape = examples
    expected = {(row.kind, row.type, row.worker): row.count for row in scrape.rows}

    labels = ["kind", "class", "worker"]
    assert server.by(labels, "faultlens_failures_total > 0") == expected


def test_what_was_suppressed(examples: tuple[Prometheus, Scrape]) -> None:
    server, scrape = examples
    expected = {(reason,): count for reason, count in scrape.suppressed}

    assert server.by(["reason"], "faultlens_suppressed_total") == expected


def test_what_goes_wrong_in_the_flyte_example_counts_once(
    examples: tuple[Prometheus, Scrape],
) -> None:
    server, _ = examples

    for metric, expected in (("failures", FLYTE_FAILURES), ("suppressed", FLYTE_CARRIERS)):
        counted = server.by(["class"], f'faultlens_{metric}_total{{class=~"flyte.*"}} > 0')
        assert counted == {(name,): count for name, count in expected.items()}


def test_nothing_was_dropped(examples: tuple[Prometheus, Scrape]) -> None:
    server, _ = examples

    assert set(server.by(["reason"], "faultlens_dropped_total").values()) == {0}


def test_the_targets_labels_and_ours_do_not_collide(examples: tuple[Prometheus, Scrape]) -> None:
    server, scrape = examples

    assert server.query("up")[0][1] == 1
    jobs = server.by(["job", "cluster"], "faultlens_failures_total")
    assert jobs == {("workflows", "test"): scrape.total}
    assert not server.query('{__name__=~"faultlens_.*", exported_job!=""}')
    assert not server.query('{__name__=~"faultlens_.*", exported_instance!=""}')


def test_says_what_runs_there(examples: tuple[Prometheus, Scrape]) -> None:
    server, scrape = examples

    ((labels, value),) = server.query("faultlens_info")

    assert value == 1
    assert dict(scrape.info).items() <= labels.items()


def test_the_last_failure_was_a_moment_ago(examples: tuple[Prometheus, Scrape]) -> None:
    server, scrape = examples

    moments = server.by(["kind", "class", "worker"], "faultlens_last_failure_timestamp_seconds")

    assert moments == {
        (row.kind, row.type, row.worker): pytest.approx(row.last) for row in scrape.rows
    }


def test_the_first_failure_is_an_increase(tmp_path: Path) -> None:
    """A counter that is born at 1 would never have increased."""
    pytest.importorskip("flyte")
    program = """
        import logging, sys
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        import flyte.errors
        print("imported", flush=True)
        for line in sys.stdin:
            try:
                raise flyte.errors.RuntimeSystemError(line.strip(), "a message")
            except flyte.errors.RuntimeSystemError:
                print("raised", flush=True)
    """
    series = 'faultlens_failures_total{class="flyte.errors.RuntimeSystemError"}'
    with running("-c", textwrap.dedent(program)) as flyte:
        flyte.line_with("imported")
        with prometheus(tmp_path, CONFIG.format(target=flyte.target)) as server:
            server.wait_for(f"{series} == 0")
            for _ in range(3):
                flyte.tell("Unavailable")
                flyte.line_with("raised")
            server.moment = server.wait_for_scrape()

            assert [value for _, value in server.query(series)] == [3]
            assert [value for _, value in server.query(f"min_over_time({series}[1h])")] == [0]
            increase = server.by(["kind"], "increase(faultlens_failures_total[1h]) > 0")
            assert set(increase) == {("system",)}
            assert increase["system",] >= 3  # Prometheus extrapolates to the ends of the hour
            codes = server.by(["class", "code"], "faultlens_issues_total")
            assert codes == {("flyte.errors.RuntimeSystemError", "Unavailable"): 3}
