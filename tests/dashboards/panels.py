"""A board as Grafana reads it: its queries with the variables filled in, and what they answer."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers import Prometheus, get

__all__ = [
    "ALL",
    "Answer",
    "Board",
    "Panel",
    "Sample",
    "Variable",
    "View",
    "ask",
    "board",
    "boards",
]

DIRECTORY = Path(__file__).parents[2] / "dashboards" / "grafana"

ALL = "$__all"
"""The value of a variable of which nothing was chosen."""

WIDTH = 1000
"""How many points a panel has, if it does not say."""

STEPS = (
    (1.5, 1),
    (3.5, 2),
    (7.5, 5),
    (12.5, 10),
    (17.5, 15),
    (25, 20),
    (45, 30),
    (90, 60),
    (210, 120),
    (450, 300),
    (750, 600),
)
"""How Grafana rounds an interval: below how many seconds to which."""


Rows = list[dict[str, Any]]
"""A table: for each row its cells, by the names of their columns."""


@dataclass(frozen=True)
class Sample:
    """A series of an answer, as much of it as the query asked for."""

    labels: Mapping[str, str]
    values: Sequence[tuple[float, float]]
    """Times and values, the last of them last."""

    @property
    def value(self) -> float:
        return self.values[-1][1]


class View(NamedTuple):
    """How somebody looks at a board.

    end: in seconds since 1970.
    chosen: what they chose of the variables; the rest is All.
    """

    end: float
    seconds: int = 3600
    chosen: Mapping[str, str | Sequence[str]] = {}
    scrape: int = 15
    """The data source's scrape interval."""

    @property
    def start(self) -> float:
        return self.end - self.seconds

    def step(self, points: int = WIDTH) -> int:
        """``$__interval`` in seconds, for so many points: a round number, no less than a scrape."""
        wanted = self.seconds / points
        rounded = next((step for below, step in STEPS if wanted < below), 1800)
        return max(self.scrape, rounded)


@dataclass(frozen=True)
class Variable:
    """One that is filled from a query, or by hand."""

    raw: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    @property
    def query(self) -> str:
        query = self.raw.get("query", "")
        return str(query["query"] if isinstance(query, dict) else query)

    @property
    def is_asked(self) -> bool:
        """Whether its values come from Prometheus."""
        return self.raw["type"] == "query"

    def text(self, value: str | Sequence[str], form: str) -> str:
        """A value as it comes into an expression, with ``:form`` after the variable's name.

        Without one Grafana escapes it for a string of PromQL.
        """
        if value == ALL:
            return str(self.raw.get("allValue") or ".*")
        values = [value] if isinstance(value, str) else value
        if form == "regex":
            escaped = [re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", one) for one in values]
        else:
            assert not form, form
            escaped = [
                re.sub(r"[$^*{}\[\]+?.()|]", r"\\\\\g<0>", one.replace("\\", "\\\\\\\\"))
                for one in values
            ]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    def options(self, server: Prometheus, board: Board, view: View) -> list[str]:
        """What there is to choose."""
        query = board.fill(self.query, view, view.step())
        found = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query, re.DOTALL)
        assert found, f"{self.name}: {query}"
        answer = ask(
            server,
            f"label/{found[2]}/values",
            {"match[]": found[1], "start": view.start, "end": view.end},
        )
        values = [str(value) for value in answer]
        if self.raw.get("regex"):
            values = [value for value in values if re.search(self.raw["regex"].strip("/"), value)]
        return values


@dataclass(frozen=True)
class Answer:
    """What one query of a panel gave."""

    target: Mapping[str, Any]
    samples: Sequence[Sample]

    @property
    def legend(self) -> str:
        return str(self.target.get("legendFormat") or "")

    def name(self, sample: Sample) -> str:
        """What the legend calls a series."""
        return re.sub(
            r"\{\{\s*(.+?)\s*\}\}", lambda label: sample.labels.get(label[1], ""), self.legend
        )


@dataclass(frozen=True)
class Panel:
    board: Board
    raw: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.board.name}: {self.title}"

    @property
    def title(self) -> str:
        return str(self.raw.get("title", ""))

    @property
    def type(self) -> str:
        return str(self.raw["type"])

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What holds for its fields, if nothing overrides it."""
        defaults: Mapping[str, Any] = self.raw.get("fieldConfig", {}).get("defaults", {})
        return defaults

    @property
    def targets(self) -> list[Mapping[str, Any]]:
        """Its queries to Prometheus, without those that look for nothing but exemplars."""
        targets = self.raw.get("targets", ())
        asked = [one for one in targets if one["datasource"]["type"] == "prometheus"]
        return [target for target in asked if not target.get("exemplar")]

    def ask(self, server: Prometheus, view: View) -> list[Answer]:
        """Ask all its queries, each as an instant or over the range, as it says."""
        assert not self.targets or self.raw["interval"] == "1m", self
        step = max(60, view.step(self.raw.get("maxDataPoints") or WIDTH))
        answers = []
        for target in self.targets:
            expression = self.board.fill(target["expr"], view, step)
            if target.get("instant"):
                found = ask(server, "query", {"query": expression, "time": view.end})
            else:
                found = ask_range(server, expression, view, step)
            answers.append(Answer(target, [_sample(one) for one in found["result"]]))
        return answers

    def values(self, server: Prometheus, view: View) -> dict[str, float]:
        """What it shows of each series, by the name in its legend: the last value.

        What has no series is not in it: there the panel shows its words for nothing.
        """
        named = [
            (answer.name(sample), sample.value)
            for answer in self.ask(server, view)
            for sample in answer.samples
        ]
        assert len(dict(named)) == len(named), f"{self}: one name for two series: {named}"
        return dict(named)

    def rows(self, server: Prometheus, view: View) -> Rows:
        """What it shows as a table, after its transformations."""
        answers = self.ask(server, view)
        rows: Rows = []
        for answer in answers:
            value = f"Value #{answer.target['refId']}" if len(answers) > 1 else "Value"
            # A column for each label that any series has.
            blank = dict.fromkeys((name for one in answer.samples for name in one.labels), "")
            rows += [blank | {**sample.labels, value: sample.value} for sample in answer.samples]
        for transformation in self.raw.get("transformations", ()):
            rows = TRANSFORMATIONS[transformation["id"]](rows, transformation["options"])
        return rows


@dataclass(frozen=True)
class Board:
    raw: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw["uid"])

    @property
    def panels(self) -> list[Panel]:
        """All of them, those in collapsed rows too."""
        return [Panel(self, raw) for raw in _flat(self.raw["panels"]) if raw["type"] != "row"]

    def panel(self, title: str) -> Panel:
        (found,) = [panel for panel in self.panels if panel.title == title]
        return found

    @property
    def variables(self) -> list[Variable]:
        return [Variable(raw) for raw in self.raw["templating"]["list"]]

    @property
    def annotations(self) -> list[Mapping[str, Any]]:
        """Those that ask Prometheus."""
        return [one for one in self.raw["annotations"]["list"] if one.get("expr")]

    def annotated(
        self, server: Prometheus, annotation: Mapping[str, Any], view: View, step: int = 60
    ) -> list[Sample]:
        """What an annotation marks, and when: it is asked for each minute."""
        found = ask_range(server, self.fill(annotation["expr"], view, step), view, step)
        return [_sample(one) for one in found["result"]]

    def fill(self, text: str, view: View, step: int) -> str:
        """A query as it is sent: no variable is left in it.

        step: what ``$__interval`` is, in seconds.
        """
        values = {
            "__range": f"{view.seconds}s",
            "__interval": f"{step}s",
            "__rate_interval": f"{max(step + view.scrape, 4 * view.scrape)}s",
            "__from:date:seconds": f"{view.start:.0f}",
        }
        variables = {one.name: one for one in self.variables}

        def value(found: re.Match[str]) -> str:
            name, _, form = (found[1] or found[2]).partition(":")
            if name in variables:
                return variables[name].text(view.chosen.get(name, ALL), form)
            return values[found[1] or found[2]]

        return re.sub(r"\$\{([\w:]+)\}|\$(\w+)", value, text)


def boards() -> list[Board]:
    """The committed ones."""
    return [Board(json.loads(file.read_text())) for file in sorted(DIRECTORY.glob("*.json"))]


def board(name: str) -> Board:
    return Board(json.loads((DIRECTORY / f"{name}.json").read_text()))


def ask(server: Prometheus, what: str, parameters: Mapping[str, Any]) -> Any:
    """Ask Prometheus' HTTP interface; fails with its own words if it does not like the question."""
    # In the body, where it may be: an expression can be longer than an address.
    encoded = urllib.parse.urlencode(parameters)
    url = f"{server.url}/api/v1/{what}"
    body: bytes | None = None
    if what.startswith("label/"):
        url += f"?{encoded}"
    else:
        body = encoded.encode()
    try:
        answer = json.loads(get(url, body))
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{error.read().decode()}\n{parameters}") from error
    assert not answer.get("warnings"), answer["warnings"]
    return answer["data"]


def ask_range(server: Prometheus, expression: str, view: View, step: int) -> Any:
    """Ask for the values at each step, which are at multiples of it, as Grafana's are."""
    times = {"start": view.start // step * step, "end": view.end // step * step, "step": step}
    return ask(server, "query_range", {"query": expression, **times})


def _merge(rows: Rows, options: Mapping[str, Any]) -> Rows:
    """Rows that have the same in the columns that all of them have become one."""
    common = set(rows[0]).intersection(*rows) if rows else set()
    merged: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(sorted((name, row[name]) for name in common))
        merged.setdefault(key, {}).update(row)
    return list(merged.values())


def _organize(rows: Rows, options: Mapping[str, Any]) -> Rows:
    hidden = {name for name, hide in options["excludeByName"].items() if hide}
    names = options["renameByName"]
    return [
        {names.get(name) or name: value for name, value in row.items() if name not in hidden}
        for row in rows
    ]


TRANSFORMATIONS = {"merge": _merge, "organize": _organize}


def _sample(found: Mapping[str, Any]) -> Sample:
    pairs = found["values"] if "values" in found else [found["value"]]
    return Sample(found["metric"], [(float(at), float(value)) for at, value in pairs])


def _flat(panels: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for panel in panels:
        yield panel
        yield from _flat(panel.get("panels", ()))
