"""Known histories: what Prometheus would have scraped, and how many failures that truly were.

A history is told as what happened to its targets; what /metrics would have said at each scrape is
written into a Prometheus' storage, and the true counts come from the telling alone, without PromQL.
"""

from __future__ import annotations

import bisect
import json
import math
import subprocess
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.children import TIMEOUT
from tests.servers import Prometheus, get, prometheus

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "History",
    "Target",
    "recorded",
    "rules_in_order",
    "store",
]

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR

FAILURES = "faultlens_failures_total"
SUPPRESSED = "faultlens_suppressed_total"
ISSUES = "faultlens_issues_total"
ATTEMPTS = "faultlens_attempts_total"
DROPPED = "faultlens_dropped_total"
LAST = "faultlens_last_failure_timestamp_seconds"
INFO = "faultlens_info"
CREATED = "_created"
"""For all counters when their series were born, if above 0."""
COUNTERS_ONLY = frozenset({FAILURES, SUPPRESSED, ISSUES, ATTEMPTS})
"""What a faultlens without the gauges and without its own health has."""

ROOT = Path(__file__).parents[2]
RULES = ROOT / "dashboards" / "prometheus" / "faultlens.rules.yml"
LATE = 15
"""How long ago the minute ends that the rules record, in seconds."""
PHASE = 15
"""When in each minute they are evaluated. So their minutes begin and end with a scrape."""

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name, and its labels without the target's own."""


def series(metric: str, **labels: str) -> Series:
    """`class_` is the label ``class``."""
    return metric, tuple((name.rstrip("_"), value) for name, value in labels.items())


@dataclass
class History:
    """What happened to some targets from `start` on; all times in it are seconds after that.

    every: the scrape interval.
    injects_zeros: Prometheus has the feature created-timestamp-zero-ingestion: it knows no
        ``_created``, but for each series a 0 when it was created, unless that is over an hour ago.
    """

    start: int
    length: int
    every: int = 15
    injects_zeros: bool = False
    targets: list[Target] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The time of the last scrape, in seconds since 1970."""
        return self.start + self.length

    def target(
        self,
        instance: str = "10.0.0.1:9464",
        job: str = "workflows",
        since: float = 0,
        metrics: Iterable[str] | None = None,
        pushes: bool = False,
        **labels: str,
    ) -> Target:
        """A new target, scraped from `since` on; `metrics` are those that it has, if not all."""
        only = None if metrics is None else frozenset(metrics)
        every = {"job": job, "instance": instance, **labels}
        target = Target(self, every, since, only, pushes)
        self.targets.append(target)
        return target

    def counted(
        self,
        metric: str,
        by: Sequence[str] = (),
        seconds: int = HOUR,
        ending: int | None = None,
        **where: str,
    ) -> Counter[tuple[str, ...]]:
        """How often it truly happened in the minutes whose records are in a range.

        By labels, those with none left out. What nobody saw within an hour is not counted.

        ending: when the range ends, in seconds since 1970; if not given, with the history.
        where: only series with this value of the label.
        """
        until = (self.end if ending is None else ending) - self.start
        wanted = {label.rstrip("_"): value for label, value in where.items()}
        found: Counter[tuple[str, ...]] = Counter()
        for target in self.targets:
            for (name, labels), at, number, earliest in target.seen():
                every = {**target.labels, **dict(labels)}
                moment = -(-(at + LATE - PHASE) // MINUTE) * MINUTE + PHASE
                within = until - seconds < moment <= until and moment - HOUR < earliest
                if name == metric and within and wanted.items() <= every.items():
                    found[tuple(every[label] for label in by)] += number
        return +found

    def lines(self) -> Iterator[str]:
        """The history as OpenMetrics text."""
        for target in self.targets:
            yield from target.lines()
        yield "# EOF\n"


@dataclass
class Target:
    """One that Prometheus scrapes: what happens to it, told in any order.

    labels: its own: job, instance and what else Prometheus gives it.
    since: its first scrape.
    metrics: the names of those that it has; None for all.
    pushes: it is not scraped, but one process which sends what itself has counted.
    """

    history: History
    labels: dict[str, str]
    since: float = 0
    metrics: frozenset[str] | None = None
    pushes: bool = False
    until: float = math.inf
    """It is not looked at after that: what Prometheus knows no more has no ``up``."""
    _events: list[tuple[float, Series, int]] = field(default_factory=list)
    _restarts: list[float] = field(default_factory=list)
    _down: list[tuple[float, float]] = field(default_factory=list)
    _versions: list[tuple[float, str]] = field(default_factory=lambda: [(0, "0.1.0")])

    def knows(self, *classes: tuple[str, str], worker: str = "w", at: float = 0) -> None:
        """Has these classes, each with its kind, at 0."""
        for type_, kind in classes:
            self._add(series(FAILURES, class_=type_, kind=kind, worker=worker), at, 0)

    def fails(
        self,
        type_: str,
        kind: str,
        *moments: float,
        worker: str = "w",
        code: str = "",
        task: str = "",
        reason: str = "",
        owner: str = "",
        times: int = 1,
    ) -> None:
        """At each of these moments something goes wrong, `times` times."""
        issue = {"class": type_, "code": code, "task": task, "kind": kind}
        for at in moments:
            self._add(series(FAILURES, class_=type_, kind=kind, worker=worker), at, times)
            self._add(series(ISSUES, **issue, reason=reason, owner=owner), at, times)

    def attempts(self, outcome: str, *moments: float, task: str = "t", times: int = 1) -> None:
        """At each of these moments so many attempts end so."""
        for at in moments:
            self._add(series(ATTEMPTS, sdk="flyte", task=task, outcome=outcome), at, times)

    def suppresses(
        self,
        type_: str,
        kind: str,
        *moments: float,
        worker: str = "w",
        reason: str = "propagated",
        times: int = 1,
    ) -> None:
        for at in moments:
            labels = {"class": type_, "kind": kind, "worker": worker, "reason": reason}
            self._add(series(SUPPRESSED, **labels), at, times)

    def drops(self, reason: str, *moments: float, times: int = 1) -> None:
        self._add(series(DROPPED, reason=reason), 0, 0)
        for at in moments:
            self._add(series(DROPPED, reason=reason), at, times)

    def restarts(self, at: float) -> None:
        """Loses all that it has counted, and begins anew with what it knows."""
        self._restarts.append(at)

    def is_down(self, since: float, until: float) -> None:
        """Cannot be scraped, but goes on counting."""
        self._down.append((since, until))

    def upgrades(self, version: str, at: float) -> None:
        """Runs another version of faultlens from then on."""
        self._versions.append((at, version))

    def leaves(self, at: float) -> None:
        """Is scraped for the last time before `at`."""
        self.until = at

    def seen(self) -> Iterator[tuple[Series, float, int, float]]:
        """What Prometheus could see of each event: series, when, how many, and since when at most.

        What a restart lost before a scrape, nobody has seen. What a target had counted before its
        first scrape may be of any time since its series was born.
        """
        scrapes = [at for at, up in self._scrapes() if up]
        zeros = {name for _, name, number in self._events if not number}
        born: dict[Series, float] = {}
        for at, name, number in sorted(self._events, key=lambda event: event[0]):
            index = bisect.bisect_left(scrapes, at)
            if not self._has(name) or index == len(scrapes):
                continue
            moment = scrapes[index]
            if any(at < restart <= moment for restart in self._restarts):
                continue
            if index or self.pushes:
                yield name, moment, number, moment
            else:
                born.setdefault(name, -math.inf if name in zeros else at)
                yield name, moment, number, born[name]

    def lines(self) -> Iterator[str]:
        target = _text(self.labels.items())
        events = sorted(self._events, key=lambda event: event[0])
        zeros = [name for _, name, number in events if not number]
        restarts = sorted(self._restarts)
        counts: dict[Series, int] = {}
        last: dict[Series, float] = {}
        born: dict[Series, float] = {}
        texts: dict[Series, str] = {}
        done = 0
        for at, up in self._scrapes():
            moment = self.history.start + at
            if not self.pushes:
                yield f"up{{{target}}} {int(up)} {moment}\n"
            while done < len(events) and events[done][0] <= at:
                happened, name, number = events[done]
                while restarts and restarts[0] <= happened:
                    del restarts[0]
                    counts, last, born = dict.fromkeys(zeros, 0), {}, {}
                if number and name not in counts:
                    born[name] = self.history.start + happened
                counts[name] = counts.get(name, 0) + number
                if number:
                    last[name] = self.history.start + happened
                done += 1
            while restarts and restarts[0] <= at:
                del restarts[0]
                counts, last, born = dict.fromkeys(zeros, 0), {}, {}
            if not up:
                continue
            if self._has((INFO, ())):
                (*_, version) = (version for since, version in self._versions if since <= at)
                yield f'{INFO}{{{target},version="{version}",detector="monitoring"}} 1 {moment}\n'
            for name, number in counts.items():
                if name not in texts:
                    texts[name] = f"{{{target},{_text(name[1])}}}"
                if self._has(name):
                    if name in born and self.history.injects_zeros:
                        zero = born.pop(name)
                        if moment - HOUR < zero < moment:
                            yield f"{name[0]}{texts[name]} 0 {zero}\n"
                    yield f"{name[0]}{texts[name]} {number} {moment}\n"
                    if name in born and self._has((CREATED, ())) and not self.history.injects_zeros:
                        created = f"{name[0].removesuffix('_total')}_created"
                        yield f"{created}{texts[name]} {born[name]} {moment}\n"
                if name[0] == FAILURES and name in last and self._has((LAST, ())):
                    yield f"{LAST}{texts[name]} {last[name]} {moment}\n"

    def _add(self, name: Series, at: float, number: int) -> None:
        self._events.append((at, name, number))

    def _has(self, name: Series) -> bool:
        return self.metrics is None or name[0] in self.metrics

    def _scrapes(self) -> Iterator[tuple[int, bool]]:
        for at in range(0, self.history.length + 1, self.history.every):
            if self.since <= at < self.until:
                yield at, not any(since <= at < until for since, until in self._down)


def _text(labels: Iterable[tuple[str, str]]) -> str:
    return ",".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in labels
    )


def store(histories: Sequence[History], directory: Path, rules: bool = True) -> None:
    """Write histories, and what the rules record of them, into the storage of a Prometheus.

    directory: that of `tests.servers.prometheus`.
    rules: whether they are loaded.
    """
    for history in histories:
        _write(history.lines(), directory)
    for ready in rules_in_order() if rules else []:
        with prometheus(directory, "", "--storage.tsdb.retention.time=100y") as server:
            records = ["".join(recorded(server, ready, history)) for history in histories]
        for record in records:
            _write([record, "# EOF\n"], directory)


def rules_in_order() -> Iterator[Mapping[str, str]]:
    """The expressions of the records, by their names: first those that read no other record."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rest = {rule["record"]: rule["expr"] for rule in group["rules"] if "record" in rule}
    while rest:
        ready = {name: of for name, of in rest.items() if not any(n in of for n in rest)}
        yield ready
        rest = {name: of for name, of in rest.items() if name not in ready}


def recorded(server: Prometheus, rules: Mapping[str, str], history: History) -> Iterator[str]:
    """What rules record of a history, as OpenMetrics text."""
    times = {"start": history.start + PHASE, "end": history.end, "step": MINUTE}
    times["nocache"] = 1  # else VictoriaMetrics moves them to whole minutes
    for name, expression in rules.items():
        query = urllib.parse.urlencode({"query": expression, **times})
        answer: Any = json.loads(get(f"{server.url}/api/v1/query_range", query.encode()))
        for found in answer["data"]["result"]:
            found["metric"].pop("__name__", None)
            labels = _text(found["metric"].items())
            for at, value in found["values"]:
                yield f"{name}{{{labels}}} {value} {at}\n"


def _write(lines: Iterable[str], directory: Path) -> None:
    """Add OpenMetrics text to the storage."""
    file = directory / "history.txt"
    with file.open("w") as text:
        text.writelines(lines)
    # One run each: promtool reads the text again for each two hours between first and last.
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    subprocess.run([*command, str(file), str(directory / "data")], check=True, timeout=TIMEOUT)
    file.unlink()
