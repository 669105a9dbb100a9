"""VictoriaMetrics evaluates the rules and the boards' queries as Prometheus does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from tests.dashboards.histories import (
    ATTEMPTS,
    FAILURES,
    ISSUES,
    SUPPRESSED,
    History,
    recorded,
    rules_in_order,
)
from tests.dashboards.panels import Board, View, boards
from tests.dashboards.test_numbers import (
    CLASS,
    EXPECTED,
    HISTORIES,
    OVERVIEW,
    SHARE,
    WORKERS,
    issues,
    one,
    stats,
)
from tests.servers import Prometheus, get, needs, victoria_metrics

pytestmark = needs("victoria-metrics")

NAMES = (
    "born_above_zero",
    "at_the_edges",
    "reset_at_the_edge",
    "vanished",
    "new_with_a_past",
    "a_crash_loop_with_a_new_store_each_time",
    "without_up",
    "names_that_need_quoting",
    "suppressed_and_dropped",
    "upgraded",
    "attempted",
)
"""Those in which something happens that another reading of PromQL would count otherwise."""

each = pytest.mark.parametrize("history", [HISTORIES[name] for name in NAMES], ids=NAMES)


def write(server: Prometheus, lines: Iterable[str]) -> None:
    """Import OpenMetrics text, whose times are in seconds."""
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    text = "".join(f"{sample} {round(float(at) * 1000)}\n" for sample, _, at in samples)
    get(f"{server.url}/api/v1/import/prometheus", text.encode())
    get(f"{server.url}/internal/force_flush")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    histories = [HISTORIES[name] for name in NAMES]
    with victoria_metrics(tmp_path_factory.mktemp("victoria")) as server:
        for history in histories:
            write(server, history.lines())
        for ready in rules_in_order():
            for history in histories:
                write(server, list(recorded(server, ready, history)))
        yield server


@each
def test_the_numbers_are_the_true_ones(history: History, server: Prometheus) -> None:
    (name,) = [name for name in NAMES if HISTORIES[name] is history]
    view = View(history.end)

    assert stats(OVERVIEW, server, view) == EXPECTED[name]
    assert issues(server, view) == history.counted(ISSUES, ["class", "kind"])
    workers = WORKERS.panel("Failures by worker").values(server, view)
    assert workers == one(history.counted(FAILURES, ["worker"]))
    (over_time,) = CLASS.panel("Failures by worker over time").ask(server, view)
    steps = [n for sample in over_time.samples for at, n in sample.values if at > view.start]
    assert sum(steps) == sum(workers.values())
    suppressed = WORKERS.panel("Suppressed by reason").values(server, view)
    assert suppressed == one(history.counted(SUPPRESSED, ["reason"]))
    attempts = one(history.counted(ATTEMPTS, ["outcome"]))
    share = list(SHARE.values(server, view).values())
    assert share == ([pytest.approx(attempts["system"] / attempts.total())] if attempts else [])


@pytest.mark.parametrize("of", boards(), ids=lambda of: of.name)
def test_every_query_is_taken(of: Board, server: Prometheus) -> None:
    view = View(HISTORIES["upgraded"].end)
    for panel in of.panels:
        panel.ask(server, view)
    for variable in of.variables:
        assert not variable.is_asked or variable.options(server, of, view)
    for annotation in of.annotations:
        assert of.annotated(server, annotation, view)
