"""Measures what the boards and rules cost Prometheus: ``python -m benchmarks.boards``.

It needs prometheus and promtool, and takes some minutes. There are 17,400 series: 300 workers, each
with 58 classes, some of which fail. Each query is run over an hour, as Grafana would run it, and
compared with a plain increase() over the same hour. Then each rule is evaluated, as Prometheus does
every minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from tests.dashboards import histories
from tests.dashboards.histories import DAY, HOUR, MINUTE, RULES, History
from tests.dashboards.panels import View, ask, boards
from tests.servers import Prometheus, prometheus

WORKERS, CLASSES, KINDS = 300, 58, ("user", "system", "unknown")
INCREASE = "sum by (kind) (increase(faultlens_failures_total[{}]))"
TIMES = 5


def main() -> None:
    history = failing()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        histories.store([history], directory)
        with prometheus(directory, "", "--storage.tsdb.retention.time=100y") as server:
            measure(server, View(history.end))


def failing() -> History:
    """Each worker fails three times in its own quarter of an hour."""
    history = History(20_000 * DAY, 80 * MINUTE)
    target = history.target()
    known = [(f"yourapp.errors.Class{n:02}Error", KINDS[n % 3]) for n in range(CLASSES)]
    for number in range(WORKERS):
        worker = f"node-{number:03}"
        target.knows(*known, worker=worker)
        for at in range(3):
            minute = 20 + number % 55 + at
            target.fails(*known[(number + at) % CLASSES], minute * MINUTE, worker=worker)
            target.attempts("ok", minute * MINUTE, task=f"task-{number}")
    return history


def measure(server: Prometheus, view: View) -> None:
    """Print how long each query takes, in seconds and as a multiple of a plain increase()."""
    step = max(60, view.step(60))
    instant = seconds(server, INCREASE.format("1h"), view, None)
    steps = seconds(server, INCREASE.format("1m"), view, step)
    print(f"increase(), an instant {instant:.2f} s, {HOUR // step} steps {steps:.2f} s")
    for board in boards():
        for panel in board.panels:
            for target in panel.raw.get("targets", ()):
                if "expr" not in target:
                    continue
                every = None if target.get("instant") else step
                took = seconds(server, board.fill(target["expr"], view, step), view, every)
                times = took / (steps if every else instant)
                print(f"{times:6.2f} times {took:6.2f} s  {panel} {target['refId']}")
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules = [(seconds(server, rule["expr"], view, None), rule) for rule in group["rules"]]
    for one, rule in rules:
        print(f"{one:19.2f} s  {rule.get('record') or rule['alert']}")
    print(f"{sum(one for one, _ in rules):19.2f} s  all rules together")


def seconds(server: Prometheus, expression: str, view: View, step: int | None) -> float:
    """How long Prometheus reports for evaluating an expression, once or at each step.

    The shortest time of `TIMES` runs.
    """
    if step is None:
        what, times = "query", {"time": view.end}
    else:
        what, times = "query_range", {"start": view.start, "end": view.end, "step": step}
    asked = {"query": expression, "stats": "all", **times}
    answers = [ask(server, what, asked) for _ in range(TIMES)]
    return min(float(answer["stats"]["timings"]["evalTotalTime"]) for answer in answers)


if __name__ == "__main__":
    main()
