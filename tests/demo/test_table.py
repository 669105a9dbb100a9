"""The demo's table at sizes and with contents that the demo itself does not come to."""

from __future__ import annotations

import io

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from faultlens import series
from faultlens.commands.demo.scrape import Row, Scrape, parse
from faultlens.exposition.families import Collector
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.ledgers import Ledgers
from faultlens.failure import Failure, Kind, Role

rich_console = pytest.importorskip("rich.console")
View = pytest.importorskip("faultlens.commands.demo.table").View

NOW = 1_000_000.0
BELOW = ("one", "two", "three")


def row(kind: str, number: int, *, name: str = "flyte.errors.E", worker: str = "w") -> Row:
    return Row(kind, f"{name}{number}", worker, count=number + 1, last=NOW - 10 * number)


MANY = Scrape(
    tuple(row("system", n) for n in range(5))
    + tuple(row("user", n) for n in range(30))
    + tuple(row("unknown", n) for n in range(3))
)


def drawn(
    scrape: Scrape, *, width: int = 80, height: int | None = None, ascii: bool = False
) -> str:
    console = rich_console.Console(file=io.StringIO(), width=width, force_terminal=False)
    view = View(width=width, now=NOW, height=height, ascii=ascii)
    console.print(view.report(scrape, BELOW), soft_wrap=True)
    text: str = console.file.getvalue()
    return text


@pytest.mark.parametrize("height", [20, 24, 30, 40, 100])
def test_keeps_to_the_height(height: int) -> None:
    lines = drawn(MANY, height=height).splitlines()

    assert len(lines) <= height
    assert lines[-3:] == list(BELOW)


@pytest.mark.parametrize("height", [20, 24, 40])
def test_what_is_left_out_is_counted(height: int) -> None:
    lines = drawn(MANY, height=height).splitlines()

    user = lines[next(n for n, line in enumerate(lines) if line.startswith("user: ")) + 1 :]
    user = user[: user.index("")]
    *rows, more = user
    assert more.split()[:3] == ["and", str(30 - len(rows)), "more"]
    counts = [int(line.split()[2]) for line in rows]
    assert sum(counts) + int(more.split()[3]) == MANY.count("user")


def test_a_high_window_shows_all() -> None:
    assert "more" not in drawn(MANY, height=60)
    assert "more" not in drawn(MANY)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_keeps_to_the_width(width: int) -> None:
    long = Scrape((row("user", 1, name="a_package." * 9, worker="ip-10-0-0-1." * 9), *MANY.rows))

    for line in drawn(long, width=width).splitlines():
        assert len(line) <= max(width, 30)  # narrower, the numbers have no room


def test_of_a_long_name_the_end_is_shown() -> None:
    text = drawn(Scrape((row("user", 1, name="durable_workflow.errors.WorkflowFailed"),)), width=60)

    assert "…" in text
    assert "rrors.WorkflowFailed1" in text


def test_the_smallest_share_is_seen() -> None:
    scrape = Scrape((Row("system", "a.B", "w", 1, NOW), Row("user", "a.C", "w", 10_000, NOW)))

    bar = drawn(scrape).splitlines()[1]

    assert bar == "█" + "▒" * 79


def test_without_failures_there_is_nothing_but_zeros() -> None:
    assert drawn(Scrape()).splitlines()[0] == "0 failures: 0 system, 0 user, 0 unknown"


def test_ascii_is_ascii() -> None:
    long = Scrape((row("user", 1, name="a" * 300),))

    drawn(long, ascii=True).replace("…", "").encode("ascii")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (0.9, "just now"), (1, "1 s ago"), (59, "59 s ago"), (61, "1 min ago")],
)
def test_says_how_long_ago(seconds: float, text: str) -> None:
    scrape = Scrape((Row("user", "a.B", "w", 1, NOW - seconds),))

    assert text in drawn(scrape)


def test_reads_what_the_counters_write() -> None:
    worker = 'a "quoted" \\ name\n'
    ledger = Ledger(None, other=series.fewer)
    ledger.expect_class("a.Zero", ["user"])
    ledger.expect_worker("w")
    for failure in (
        Failure("sdk", "a.B", Kind.USER, worker),
        Failure("sdk", "a.B", Kind.SYSTEM, worker),
        Failure("sdk", "a.B", Kind.USER, worker, role=Role.PROPAGATED),
        Failure("sdk", "a.C", Kind.USER, worker, role=Role.PROPAGATED),
        Failure("sdk", "a.C", Kind.USER, worker, role=Role.REPLAYED),
    ):
        ledger.add(series.key_of(failure), NOW)
    registry = CollectorRegistry()
    registry.register(Collector(Ledgers(None, ledger, print).read, lambda: {"version": "1"}))

    scrape = parse(generate_latest(registry).decode())

    assert [(r.kind, r.type, r.worker, r.count) for r in scrape.rows] == [
        ("system", "a.B", worker, 1),
        ("user", "a.B", worker, 1),
    ]
    assert all(r.last > 0 for r in scrape.rows)
    assert scrape.suppressed == (("propagated", 2), ("replayed", 1))
    assert scrape.info == (("version", "1"),)
    assert "3 more raises were no new failure: 2 propagated, 1 replayed" in drawn(scrape)


def test_a_page_without_our_metrics_is_empty() -> None:
    assert parse("# HELP up x\n# TYPE up gauge\nup 1\n") == Scrape()
