"""The boards on the real demo, which a real Prometheus scrapes: what they ask, they are told."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from faultlens.commands.demo import workload
from tests.dashboards.histories import RULES
from tests.dashboards.panels import Answer, Board, Panel, View, ask, board, boards
from tests.scrape import KINDS, Scrape
from tests.servers import Prometheus, Receiver, get, needs, prometheus, running, until

pytestmark = needs("prometheus")

CONFIG = """
global:
  scrape_interval: 5s
  scrape_timeout: 5s
rule_files: ["{rules}"]
scrape_configs:
  - job_name: demo
    static_configs:
      - targets: ["{target}"]
"""

# Prometheus sees its zeros before it begins, as it would of a worker that does not fail at once.
PROGRAM = f"""
import logging, os, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
import flyte.errors, durable_workflow
from faultlens.commands.demo import workload
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = sys.argv[1]
print("{workload.READY}", flush=True)
sys.stdin.readline()
workload.main(["--until-stdin-closes", "--rounds", "1", "--pause", "0"])
"""

MAY_BE_EMPTY = {
    "Dropped by reason": "faultlens drops nothing",
    "Previous range": "nothing ran then",
}
"""What shows nothing on the demo, and why."""


class Demo(NamedTuple):
    """The demo when it has ended: what its /metrics says, and Prometheus, which knows the same."""

    server: Prometheus
    scrape: Scrape
    issues: Counter[tuple[str, ...]]
    """How often each of `ISSUE` failed."""
    receiver: Receiver
    """What it sends its traces to."""
    view: View

    def failures(self, label: str) -> Counter[str]:
        """By a label of `tests.scrape.Row`."""
        found: Counter[str] = Counter()
        for row in self.scrape.rows:
            found[getattr(row, label)] += row.count
        return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    pytest.importorskip("flyte")
    pytest.importorskip("durable_workflow")
    directory = tmp_path_factory.mktemp("prometheus")
    with Receiver() as receiver, running("-c", PROGRAM, receiver.url) as program:
        program.line_with(workload.READY)
        config = CONFIG.format(target=program.target, rules=RULES)
        flag = "--enable-feature=exemplar-storage"
        began = time.time()
        with prometheus(directory, config, flag) as server:
            # Known for some steps already: what fails then is new.
            server.wait_for("count_over_time(faultlens_info[1m]) > 2")
            program.tell("begin")
            program.line_with(workload.DONE)
            server.wait_for_scrape()
            # The rules are evaluated each minute, and look back 15 s.
            recorded = time.time() + 15
            # The last of the records, which are made one after the other.
            last = "job_worker:faultlens_failures:increase1h"
            server.wait_for(f"timestamp({last}) > {recorded}")
            page = get(f"http://{program.target}/metrics")
            end = _end(server)
            view = View(end, seconds=max(300, math.ceil(end - began)), scrape=5)
            yield Demo(server, program.scrape(), _issues(page), receiver, view)


def _end(server: Prometheus) -> float:
    """The end of a minute, which is the end of a step, when the last scrape had succeeded."""
    called = time.time()

    def minute() -> float | None:
        end = time.time() // 60 * 60
        return end if end > called and server.query(f"up @ {end} == 1") else None

    return until(minute, "a scrape at the end of a minute")


ISSUE = ("class", "code", "task", "kind", "reason", "owner")


def _issues(page: str) -> Counter[tuple[str, ...]]:
    return Counter(
        {
            tuple(sample.labels[label] for label in ISSUE): int(sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "faultlens_issues_total"
        }
    )


def _trace_ids(receiver: Receiver) -> set[str]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return {
        span.trace_id.hex()
        for path, body in list(receiver.bodies)
        if path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


OVERVIEW, CLASS, WORKERS = board("overview"), board("class"), board("workers")

LABEL = re.compile(r"{{\s*(\w+)\s*}}")

every_board = pytest.mark.parametrize("of", boards(), ids=lambda of: of.name)
every_panel = pytest.mark.parametrize(
    "panel", [panel for of in boards() for panel in of.panels if panel.targets], ids=str
)


def seen(demo: Demo, panel: Panel) -> list[Answer]:
    """What a panel asks; on the board of one class, for each of those that failed."""
    choices: list[dict[str, str]] = [{}]
    if panel.board == CLASS:
        choices = [{"class": type_} for type_ in demo.failures("type")]
    return [
        answer
        for chosen in choices
        for answer in panel.ask(demo.server, demo.view._replace(chosen=chosen))
    ]


@every_panel
def test_every_query_has_something_to_show(panel: Panel, demo: Demo) -> None:
    values: dict[str, list[float]] = {target["refId"]: [] for target in panel.targets}
    for answer in seen(demo, panel):
        values[answer.target["refId"]] += [
            value for sample in answer.samples for _, value in sample.values
        ]

    if panel.title in MAY_BE_EMPTY:
        assert not any(values.values()), "it is not empty: take it off the list"
        return
    for found in values.values():
        assert any(found), "nothing, or nothing but 0"
        assert all(map(math.isfinite, found))


@every_panel
def test_legends_name_labels_that_there_are(panel: Panel, demo: Demo) -> None:
    for answer in seen(demo, panel):
        for sample in answer.samples:
            assert set(LABEL.findall(answer.legend)) <= set(sample.labels)


@every_board
def test_every_variable_has_something_to_choose(of: Board, demo: Demo) -> None:
    options = {
        variable.name: set(variable.options(demo.server, of, demo.view))
        for variable in of.variables
        if variable.is_asked
    }

    assert options["job"] == {"demo"}
    assert options["worker"] >= set(demo.failures("worker"))
    assert options["class"] >= set(demo.failures("type"))


@every_board
def test_every_annotation_marks_something(of: Board, demo: Demo) -> None:
    for annotation in of.annotations:
        marks = of.annotated(demo.server, annotation, demo.view)

        assert marks, annotation
        words = annotation["titleFormat"] + annotation["textFormat"]
        for mark in marks:
            of_other_sdks = {"temporalio"}  # the demo does not run it
            assert set(LABEL.findall(words)) - of_other_sdks <= set(mark.labels)


def test_every_class_is_new_once(demo: Demo) -> None:
    (annotation,) = [a for a in OVERVIEW.annotations if a["name"] == "New classes"]

    marks = OVERVIEW.annotated(demo.server, annotation, demo.view)

    found = {mark.labels["class"]: len(mark.values) for mark in marks}
    assert found == dict.fromkeys(demo.failures("type"), 1)


def test_stats_are_what_metrics_says(demo: Demo) -> None:
    expected = demo.failures("kind")

    for kind in KINDS:
        shown = OVERVIEW.panel(kind.capitalize()).values(demo.server, demo.view)
        assert list(shown.values()) == [expected[kind]]
    assert set(expected) == set(KINDS)


def test_issues_are_what_metrics_says(demo: Demo) -> None:
    rows = OVERVIEW.panel("Issues").rows(demo.server, demo.view)

    found = {
        tuple(row.get(label.capitalize(), "") for label in ISSUE): row["Failures"] for row in rows
    }
    assert found == demo.issues
    for row in rows:
        assert demo.view.start * 1000 < row["First seen"] <= row["Last seen"]


def test_workers_are_what_metrics_says(demo: Demo) -> None:
    by_worker = WORKERS.panel("Failures by worker").values(demo.server, demo.view)
    assert by_worker == demo.failures("worker")

    suppressed = WORKERS.panel("Suppressed by reason").values(demo.server, demo.view)
    assert suppressed == dict(demo.scrape.suppressed)


def test_details_are_what_metrics_says(demo: Demo) -> None:
    for type_ in demo.failures("type"):
        view = demo.view._replace(chosen={"class": type_})
        for title, label in (("Codes", "code"), ("Tasks", "task"), ("Reasons", "reason")):
            expected: Counter[str] = Counter()
            for issue, number in demo.issues.items():
                if issue[0] == type_ and issue[ISSUE.index(label)]:
                    expected[issue[ISSUE.index(label)]] += number

            assert CLASS.panel(title).values(demo.server, view) == expected


def test_what_runs_there(demo: Demo) -> None:
    (row,) = WORKERS.panel("Targets").rows(demo.server, demo.view)

    info = dict(demo.scrape.info)
    assert row["faultlens"] == info["version"]
    assert row["Detector"] == info["detector"]
    assert row["flyte"] == info["flyte"]
    assert row["State"] == 1


def test_exemplars_lead_to_traces_that_were_sent(demo: Demo) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    asked = [
        OVERVIEW.fill(target["expr"], demo.view, 60)
        for panel in OVERVIEW.panels
        for target in panel.raw.get("targets", ())
        if target.get("exemplar")
    ]
    assert asked

    times = {"start": demo.view.start, "end": demo.view.end}
    answers = [ask(demo.server, "query_exemplars", {"query": one, **times}) for one in asked]

    ids = {one["labels"]["trace_id"] for found in answers for s in found for one in s["exemplars"]}
    assert all(answers)
    until(lambda: ids <= _trace_ids(demo.receiver), "the traces")
