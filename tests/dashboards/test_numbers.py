"""The boards' numbers are the true ones: known histories in, exact numbers out."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dashboards import histories
from tests.dashboards.histories import (
    ATTEMPTS,
    COUNTERS_ONLY,
    DAY,
    DROPPED,
    FAILURES,
    HOUR,
    ISSUES,
    MINUTE,
    SUPPRESSED,
    History,
)
from tests.dashboards.panels import Board, Panel, View, board, boards
from tests.servers import Prometheus, needs, prometheus

pytestmark = [needs("prometheus"), needs("promtool")]

OOM = ("flyte.errors.OOMError", "user")
STORAGE = ("flyte.errors.RuntimeSystemError", "system")
LEASE = ("durable_workflow.errors.ServerError", "system")
LOST = ("durable_workflow.errors.WorkflowTimedOut", "unknown")
QUOTA = ("yourapp.QuotaExceeded", "user")
"""A class of the user's: its series is born with its first failure."""
NAMES = ('say "hi"', "C:\\temp\\new", "it's", "a+b(c)|d.*")
KNOWN = (OOM, STORAGE, LEASE, LOST)

# Each history is alone in its time, days away from the next; the boards look at its last hour.
LENGTH = 2 * HOUR
EDGE = LENGTH - HOUR
"""When the hour begins. A scrape at this moment is recorded later, and so within the hour."""
FIRST = 20_000 * DAY

Tell = Callable[[History], None]

HISTORIES: dict[str, History] = {}
EXPECTED: dict[str, Counter[str]] = {}
"""How many failures of each kind each history has in its last hour: counted by hand."""


def telling(zeros: bool = False, **expected: int) -> Callable[[Tell], Tell]:
    """Tells a history; how many failures it has of each kind.

    zeros: tells it also to a Prometheus that injects zeros.
    """

    def tell(function: Tell) -> Tell:
        for injects in [False, True] if zeros else [False]:
            name = function.__name__ + "_with_zeros" * injects
            start = FIRST + len(HISTORIES) * DAY
            history = HISTORIES[name] = History(start, LENGTH, injects_zeros=injects)
            function(history)
            EXPECTED[name] = Counter(expected)
        return function

    return tell


@telling(system=3, user=1)
def born_at_zero(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE + 5 * MINUTE, EDGE + 50 * MINUTE, EDGE + 50 * MINUTE, code="503")
    target.fails(*OOM, EDGE + 20 * MINUTE)


@telling(zeros=True, user=6, system=1)
def born_above_zero(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*QUOTA, EDGE + 10 * MINUTE, times=4, code="QUOTA")
    target.fails(*QUOTA, EDGE + 30 * MINUTE, times=2, code="QUOTA")
    target.fails(*STORAGE, EDGE + 40 * MINUTE, worker="gpu-node-7", code="503")
    target.suppresses(*QUOTA, EDGE + 10 * MINUTE, times=3)


@telling(user=2)
def risen_before(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*OOM, *range(0, EDGE, 10 * MINUTE), code="OOMKilled")
    target.fails(*QUOTA, EDGE - 30 * MINUTE, times=40)
    target.fails(*OOM, EDGE + 1 * MINUTE, EDGE + 59 * MINUTE, code="OOMKilled")


@telling(system=135, user=11)
def at_the_edges(history: History) -> None:
    """What is scraped at the end is recorded after the end."""
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE, times=100)
    target.fails(*STORAGE, EDGE + 1, times=5)
    target.fails(*STORAGE, LENGTH, times=2)
    target.fails(*LEASE, EDGE, times=30)
    target.fails(*QUOTA, EDGE, times=11)


@telling(system=8)
def reset_within(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE - 30 * MINUTE, times=50)
    target.fails(*STORAGE, EDGE + 10 * MINUTE, EDGE + 20 * MINUTE, times=2)
    target.restarts(EDGE + 30 * MINUTE)
    target.fails(*STORAGE, EDGE + 35 * MINUTE, EDGE + 40 * MINUTE, times=2)


@telling(system=3, user=60)
def reset_at_the_edge(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE - 30 * MINUTE, times=50)
    target.fails(*OOM, EDGE - 30 * MINUTE, times=50)
    target.restarts(EDGE - 5)
    target.fails(*STORAGE, EDGE - 3, times=2)
    target.fails(*STORAGE, EDGE + 30 * MINUTE)
    # More than there were before: only its least value tells that it began anew.
    target.fails(*OOM, EDGE + 30 * MINUTE, times=60)


@telling(system=2, unknown=4)
def vanished(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE - 10 * MINUTE, EDGE + 10 * MINUTE, EDGE + 12 * MINUTE)
    target.leaves(EDGE + 15 * MINUTE)
    other = history.target("10.0.0.2:9464")
    other.knows(*KNOWN, worker="v")
    other.fails(*LOST, EDGE + 45 * MINUTE, times=4, worker="v")


@telling(system=3)
def came_and_vanished(history: History) -> None:
    history.target().knows(*KNOWN)
    target = history.target("10.0.0.2:9464", since=EDGE + 10 * MINUTE)
    target.knows(*KNOWN, worker="v")
    target.fails(*STORAGE, EDGE + 15 * MINUTE, times=3, worker="v")
    target.leaves(EDGE + 20 * MINUTE)


@telling(zeros=True, user=3, system=2)
def new_with_a_past(history: History) -> None:
    target = history.target(since=EDGE + 20 * MINUTE)
    target.knows(*KNOWN)
    target.fails(*OOM, 0, times=500, code="OOMKilled")
    target.suppresses(*OOM, 0, times=500)
    target.fails(*OOM, EDGE + 30 * MINUTE, code="OOMKilled")
    # Born after their target, which had no such failure before.
    target.fails(*QUOTA, EDGE + 40 * MINUTE, times=2, code="QUOTA")
    target.fails(*STORAGE, EDGE + 40 * MINUTE, times=2, worker="gpu-node-7")


@telling(zeros=True, system=2, user=4)
def new_and_failing_at_once(history: History) -> None:
    history.target().knows(*KNOWN)
    target = history.target("10.0.0.2:9464", since=EDGE + 10 * MINUTE)
    target.knows(*KNOWN)
    # Both born in the hour: when a series was born, a target says.
    target.fails(*QUOTA, EDGE + 10 * MINUTE - 5, EDGE + 15 * MINUTE, times=2)
    target.fails(*STORAGE, EDGE + 10 * MINUTE - 5, times=2, worker="gpu-node-7")
    target.leaves(EDGE + 20 * MINUTE)


@telling(zeros=True, user=20, system=12)
def a_crash_loop_with_a_new_store_each_time(history: History) -> None:
    """Each life fails as often as the one before it: no counter is ever seen to fall."""
    target = history.target()
    for number in range(10):
        born = EDGE + (5 * number + 2) * MINUTE
        target.is_down(born - 3 * MINUTE, born)
        target.restarts(born)
        target.fails(*QUOTA, born + 2, times=2)
    # Its pods are new targets each time, and gone before the minute is over.
    for number in range(6):
        born = EDGE + (9 * number + 3) * MINUTE + 7 * number
        target = history.target(f"10.0.1.{number}:9464", since=born + 15)
        target.knows(*KNOWN[:1])
        target.fails(*STORAGE, born, times=2)
        target.leaves(born + 40)


@telling(zeros=True, system=4)
def new_beside_its_past(history: History) -> None:
    """A new target of which one series is as new as itself, and another is old."""
    target = history.target(since=EDGE + 20 * MINUTE)
    target.fails(*OOM, 0, times=500)
    target.fails(*STORAGE, EDGE + 18 * MINUTE + 31, times=4)


@telling(system=1)
def a_new_worker_of_a_new_target(history: History) -> None:
    target = history.target(since=EDGE + 10 * MINUTE)
    target.knows(*KNOWN)
    # Born at 0, but it has failed before it is first seen.
    target.knows(*KNOWN, worker="v", at=EDGE + 20 * MINUTE + 1)
    target.fails(*STORAGE, EDGE + 20 * MINUTE + 2, worker="v")


@telling(user=1)
def first_down_then_new_with_a_past(history: History) -> None:
    target = history.target()
    target.is_down(0, EDGE + 20 * MINUTE)
    target.knows(*KNOWN)
    target.fails(*OOM, 0, times=500)
    target.fails(*OOM, EDGE + 30 * MINUTE)


@telling(user=3, system=1)
def not_scraped_at_the_edge(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*OOM, EDGE - 30 * MINUTE, times=20)
    target.is_down(EDGE - 90, EDGE + 90)
    target.fails(*OOM, EDGE + 20, EDGE + 30 * MINUTE)
    target.fails(*OOM, EDGE - 60)  # nobody sees it before the hour has begun
    target.fails(*STORAGE, EDGE + 30 * MINUTE)


@telling(unknown=9)
def only_one_kind(history: History) -> None:
    target = history.target()
    target.knows(LOST)
    target.fails(*LOST, EDGE + 30 * MINUTE, times=9)


@telling()
def nothing_failed(history: History) -> None:
    history.target().knows(*KNOWN)


@telling()
def no_faultlens(history: History) -> None:
    history.target(metrics=())


@telling()
def nothing_at_all(history: History) -> None:
    pass


@telling(system=2, user=5)
def counters_only(history: History) -> None:
    target = history.target(metrics=COUNTERS_ONLY)
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE + 10 * MINUTE, times=2, code="503")
    target.fails(*QUOTA, EDGE + 20 * MINUTE, times=5)
    target.suppresses(*QUOTA, EDGE + 20 * MINUTE, times=4)


@telling(user=4, system=1)
def without_up(history: History) -> None:
    # As by OTLP: each process is an instance of its own, which counts from 0.
    for number, failure in enumerate((QUOTA, STORAGE, QUOTA, QUOTA, QUOTA)):
        born = EDGE + (10 * number + 5) * MINUTE
        target = history.target(f"process-{number}", "workflows", born, COUNTERS_ONLY, pushes=True)
        target.fails(*failure, born, code="QUOTA")
        target.leaves(born + 30)


@telling(user=220, system=110)
def many_classes(history: History) -> None:
    history.every = 60
    target = history.target()
    for number in range(220):
        kind = ("user", "system")[number % 2]
        target.knows((f"yourapp.errors.Class{number:03}Error", kind))
        target.fails(
            f"yourapp.errors.Class{number:03}Error",
            kind,
            EDGE + 30 * MINUTE,
            times=2 - number % 2,
            code=f"C{number}",
        )


@telling(system=45450)
def many_workers(history: History) -> None:
    history.every = 60
    for number in range(300):
        target = history.target(f"10.0.{number // 250}.{number % 250}:9464")
        target.knows(*KNOWN, worker=f"node-{number:03}")
        target.fails(*STORAGE, EDGE + 30 * MINUTE, times=number + 1, worker=f"node-{number:03}")
        target.fails(*STORAGE, EDGE + 31 * MINUTE, worker=f"node-{number:03}")


@telling(user=6, system=10)
def names_that_need_quoting(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    for number, name in enumerate(NAMES, 1):
        target.fails(name, "system", EDGE + 10 * MINUTE, times=number, worker=name, code=name)
    target.fails("a.b", "user", EDGE + 10 * MINUTE, times=4)
    target.fails("aXb", "user", EDGE + 10 * MINUTE, times=2)


@telling(user=6, system=8)
def two_jobs(history: History) -> None:
    for number, job in enumerate(("orders", "reports"), 1):
        # One instance in both jobs, which are two targets nevertheless.
        target = history.target(job=job)
        target.knows(*KNOWN, worker=f"{job}-worker")
        target.fails(*OOM, EDGE + 10 * MINUTE, times=2 * number, worker=f"{job}-worker")
        target.fails(*STORAGE, EDGE + 10 * MINUTE, times=4, worker=f"{job}-worker")
    # New in the range, with a past, whatever else its job has.
    history.target("10.0.0.2:9464", job="orders", since=EDGE + 15 * MINUTE).fails(
        *OOM, 0, times=77, worker="new"
    )


@telling(user=3)
def two_clusters(history: History) -> None:
    for number, cluster in enumerate(("east", "west"), 1):
        target = history.target("localhost:9464", cluster=cluster)
        target.knows(*KNOWN)
        target.fails(*OOM, MINUTE, EDGE + 10 * MINUTE, times=number)


@telling(system=1)
def suppressed_and_dropped(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*STORAGE, EDGE + 10 * MINUTE)
    target.suppresses(*STORAGE, 0, times=20)
    target.suppresses(*STORAGE, EDGE + 10 * MINUTE, times=3)
    target.suppresses(*QUOTA, EDGE + 20 * MINUTE, reason="configured")
    target.drops("internal_error")
    target.drops("worker_limit", EDGE - 10 * MINUTE, EDGE + 10 * MINUTE, times=2)


@telling(user=3)
def upgraded(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*OOM, 5 * MINUTE, EDGE + 10 * MINUTE)
    target.upgrades("0.2.0", EDGE + 30 * MINUTE)
    target.fails(*QUOTA, EDGE + 40 * MINUTE, EDGE + 50 * MINUTE)


@telling(system=12)
def two_of_ten_workers(history: History) -> None:
    target = history.target()
    for number in range(10):
        target.knows(*KNOWN, worker=f"w{number}")
    target.fails(*STORAGE, EDGE + 10 * MINUTE, times=6, worker="w0")
    target.fails(*STORAGE, EDGE + 20 * MINUTE, times=6, worker="w1")


@telling(zeros=True, system=3)
def attempted(history: History) -> None:
    target = history.target()
    target.knows(*KNOWN)
    target.attempts("ok", *range(0, LENGTH, 5 * MINUTE), times=50)
    target.attempts("ok", EDGE + 20 * MINUTE, task="u", times=83)
    target.attempts("user", EDGE + 10 * MINUTE, times=7)
    target.attempts("propagated", EDGE + 10 * MINUTE, times=7)
    for at in (EDGE + 12 * MINUTE, EDGE + 30 * MINUTE, EDGE + 31 * MINUTE):
        target.attempts("system", at)
        target.fails(*STORAGE, at, code="503", task="t", reason="storage", owner="data")
    target.attempts("system", EDGE - 10 * MINUTE, times=900)


@telling(user=4, system=2)
def failed_the_hour_before_too(history: History) -> None:
    history.length = 3 * HOUR
    target = history.target()
    target.knows(*KNOWN)
    target.fails(*OOM, HOUR - MINUTE, times=50)
    target.fails(*OOM, HOUR + MINUTE, times=3)
    target.fails(*STORAGE, HOUR + MINUTE, times=5)
    target.fails(*QUOTA, HOUR + MINUTE, times=6)
    target.fails(*OOM, 2 * HOUR + MINUTE, times=4)
    target.fails(*STORAGE, 2 * HOUR + MINUTE, times=2)


def at_random(seed: int, restarts: bool) -> History:
    """Some hundred series of which no two have the same class: each can be told from the others."""
    chance = random.Random(seed)
    history = History(FIRST + (100 + seed) * DAY, LENGTH)
    for number in range(50):
        since = chance.choice([0, 0, chance.randrange(LENGTH)])
        target = history.target(f"10.0.0.{number}:9464", chance.choice("abc"), since)
        for letter in "ABCDEFGH":
            failure = (f"{letter}{number}", chance.choice(["system", "user", "unknown"]))
            if restarts or chance.random() < 0.5:
                target.knows(failure, worker=f"w{number}")
            for _ in range(chance.choice([0, 1, 2, 5, 20])):
                at = chance.uniform(0, LENGTH)
                if not restarts and chance.random() < 0.3:
                    at = EDGE
                target.fails(
                    *failure,
                    at,
                    times=1 if restarts else chance.choice([1, 1, 3, 100]),
                    worker=f"w{number}",
                    code=chance.choice(["", f"{letter}{number}-X", f"{letter}{number}-Y"]),
                )
        if chance.random() < 0.3:
            target.leaves(chance.uniform(since, LENGTH))
        if chance.random() < 0.3:
            down = chance.choice([EDGE - 40, chance.uniform(0, LENGTH)])
            target.is_down(down, down + chance.uniform(0, 4 * MINUTE))
        for _ in range(chance.choice([0, 1, 1, 3]) if restarts else 0):
            target.restarts(chance.uniform(0, LENGTH))
    return history


RANDOM = [at_random(seed, restarts=False) for seed in range(2)]
RANDOM_RESTARTS = at_random(2, restarts=True)


FLAGS = (
    "--storage.tsdb.retention.time=100y",
    # No block is longer than those that are stored: merged ones know labels of no one time.
    "--storage.tsdb.min-block-duration=2h",
    "--storage.tsdb.max-block-duration=2h",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    histories.store([*HISTORIES.values(), *RANDOM, RANDOM_RESTARTS], directory)
    with prometheus(directory, "", *FLAGS) as server:
        yield server


@pytest.fixture
def without_rules(tmp_path: Path) -> Iterator[Prometheus]:
    histories.store([HISTORIES["born_at_zero"]], tmp_path, rules=False)
    with prometheus(tmp_path, "", *FLAGS) as server:
        yield server


every_history = pytest.mark.parametrize("name", HISTORIES)
every_board = pytest.mark.parametrize("of", boards(), ids=lambda of: of.name)

OVERVIEW, CLASS, WORKERS = board("overview"), board("class"), board("workers")
TITLES = {"system": "System", "unknown": "Unknown", "user": "User"}


def stat(panel: Panel, server: Prometheus, view: View) -> float:
    """The one number that it shows."""
    (number,) = panel.values(server, view).values()
    return number


def stats(of: Board, server: Prometheus, view: View) -> Counter[str]:
    """What a board's stats say of each kind."""
    found = {kind: stat(of.panel(title), server, view) for kind, title in TITLES.items()}
    assert all(number == int(number) for number in found.values()), found
    return +Counter({kind: int(number) for kind, number in found.items()})


def one(counted: Counter[tuple[str, ...]]) -> Counter[str]:
    """By one label."""
    return Counter({label: number for (label,), number in counted.items()})


@every_history
def test_the_telling_is_what_was_counted_by_hand(name: str) -> None:
    assert one(HISTORIES[name].counted(FAILURES, ["kind"])) == EXPECTED[name]


@every_history
def test_how_many_of_each_kind(name: str, server: Prometheus) -> None:
    assert stats(OVERVIEW, server, View(HISTORIES[name].end)) == EXPECTED[name]


@every_history
def test_how_many_in_an_hour_that_ends_between_two_scrapes(name: str, server: Prometheus) -> None:
    history = HISTORIES[name]
    end = history.end - 7

    expected = one(history.counted(FAILURES, ["kind"], ending=end))
    assert stats(OVERVIEW, server, View(end)) == expected


@every_history
def test_how_many_in_the_hour_before(name: str, server: Prometheus) -> None:
    history = HISTORIES[name]
    before = OVERVIEW.panel("Previous range").values(server, View(history.end))

    expected = one(history.counted(FAILURES, ["kind"], ending=history.end - HOUR))
    assert before == {kind: expected[kind] for kind in TITLES}


def test_there_is_no_hour_before_the_rules_were_loaded(server: Prometheus) -> None:
    history = HISTORIES["born_at_zero"]

    assert OVERVIEW.panel("Previous range").values(server, View(history.start + HOUR)) == {}


SHARE = OVERVIEW.panel("Platform failed")


@every_history
def test_which_share_of_attempts_the_platform_failed(name: str, server: Prometheus) -> None:
    attempts = one(HISTORIES[name].counted(ATTEMPTS, ["outcome"]))
    shown = list(SHARE.values(server, View(HISTORIES[name].end)).values())

    assert shown == ([pytest.approx(attempts["system"] / attempts.total())] if attempts else [])


def test_the_share_by_hand(server: Prometheus) -> None:
    """3 of 12 times 50, 83, 2 times 7, and 3."""
    assert stat(SHARE, server, View(HISTORIES["attempted"].end)) == pytest.approx(3 / 700)


ISSUE = {"Class": "class", "Code": "code", "Task": "task", "Kind": "kind", "Reason": "reason"} | {
    "Owner": "owner"
}


@every_history
def test_issues(name: str, server: Prometheus) -> None:
    history = HISTORIES[name]
    rows = OVERVIEW.panel("Issues").rows(server, View(history.end))
    found = {tuple(row.get(title, "") for title in ISSUE): row["Failures"] for row in rows}
    assert found == history.counted(ISSUES, list(ISSUE.values()))
    for row in rows:
        assert history.end - HOUR <= row["First seen"] / 1000 <= row["Last seen"] / 1000


@pytest.mark.parametrize(
    ("name", "failure", "first", "last"),
    [
        ("born_at_zero", STORAGE, 5 * MINUTE, 50 * MINUTE),
        ("born_at_zero", OOM, 20 * MINUTE, 20 * MINUTE),
        ("born_above_zero", QUOTA, 10 * MINUTE, 30 * MINUTE),
        ("risen_before", OOM, 1 * MINUTE, 59 * MINUTE),
        ("vanished", STORAGE, 10 * MINUTE, 12 * MINUTE),
        ("new_with_a_past", OOM, 30 * MINUTE, 30 * MINUTE),
    ],
)
def test_when(
    name: str, failure: tuple[str, str], first: int, last: int, server: Prometheus
) -> None:
    history = HISTORIES[name]
    view = View(history.end, chosen={"class": failure[0]})

    (row,) = [
        row
        for row in OVERVIEW.panel("Issues").rows(server, view)
        if (row["Class"], row["Kind"]) == failure
    ]

    for title, minute in (("First seen", first), ("Last seen", last)):
        # Recorded within a minute.
        expected = pytest.approx(1000 * (history.end - HOUR + minute + 30), abs=31_000)
        assert row[title] == expected
        assert stat(CLASS.panel(title), server, view) == expected


# What each bar graph counts, and by which label: its steps add up to what happened.
OVER_TIME = [
    (OVERVIEW.panel("Failures by kind"), FAILURES, "kind"),
    (CLASS.panel("Failures by worker over time"), FAILURES, "worker"),
    (WORKERS.panel("Failures by worker over time"), FAILURES, "worker"),
    (WORKERS.panel("Suppressed over time"), SUPPRESSED, "reason"),
]


@every_history
@pytest.mark.parametrize(("panel", "metric", "label"), OVER_TIME, ids=str)
def test_the_steps_add_up(
    panel: Panel, metric: str, label: str, name: str, server: Prometheus
) -> None:
    history = HISTORIES[name]
    (answer,) = panel.ask(server, View(history.end, scrape=history.every))

    found = {
        answer.name(sample): sum(n for at, n in sample.values if at > history.end - HOUR)
        for sample in answer.samples
    }
    expected = one(history.counted(metric, [label]))
    if label == "worker":
        expected = Counter(dict(expected.most_common(10)))
    assert {name: number for name, number in found.items() if number} == expected


@every_history
def test_a_class(name: str, server: Prometheus) -> None:
    history = HISTORIES[name]
    classes = {key[0] for key in history.counted(FAILURES, ["class"])}
    for type_ in sorted(classes)[:3] or ["nobody.knows.this"]:
        view = View(history.end, chosen={"class": type_})
        of_it = one(history.counted(FAILURES, ["kind"], class_=type_))
        workers = history.counted(FAILURES, ["worker"], class_=type_)

        assert stats(CLASS, server, view) == of_it
        assert stat(CLASS.panel("Workers affected"), server, view) == len(workers)
        for title, label in (("Codes", "code"), ("Tasks", "task"), ("Reasons", "reason")):
            details = one(history.counted(ISSUES, [label], class_=type_))
            details.pop("", None)
            assert CLASS.panel(title).values(server, view) == dict(details.most_common(20))


@every_history
def test_workers(name: str, server: Prometheus) -> None:
    history = HISTORIES[name]
    found = WORKERS.panel("Failures by worker").values(server, View(history.end))

    expected = one(history.counted(FAILURES, ["worker"]))
    assert found == dict(expected.most_common(30))
    assert list(found.values()) == sorted(found.values(), reverse=True)


@every_history
def test_suppressed_and_dropped(name: str, server: Prometheus) -> None:
    history = HISTORIES[name]
    view = View(history.end)

    for title, metric in (("Suppressed by reason", SUPPRESSED), ("Dropped by reason", DROPPED)):
        expected = one(history.counted(metric, ["reason"]))
        assert WORKERS.panel(title).values(server, view) == expected


RATIO = WORKERS.panel("Out of line")


def test_ratio_to_the_median(server: Prometheus) -> None:
    """The workers failed 2 to 301 times."""
    found = RATIO.values(server, View(HISTORIES["many_workers"].end))

    assert len(found) == 30
    assert found["node-299 (workflows)"] == pytest.approx(301 / 151.5)


def test_who_is_chosen_does_not_change_the_median(server: Prometheus) -> None:
    view = View(HISTORIES["many_workers"].end, chosen={"worker": "node-299"})

    assert RATIO.values(server, view) == {"node-299 (workflows)": pytest.approx(301 / 151.5)}


def test_ratio_where_most_workers_did_not_fail(server: Prometheus) -> None:
    """Those count too: the median is 0, and the ratio is to 1 then."""
    found = RATIO.values(server, View(HISTORIES["two_of_ten_workers"].end))

    assert found == {"w0 (workflows)": 6, "w1 (workflows)": 6}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upgraded", [("0.2.0", 1)]),
        ("vanished", [("0.1.0", 0), ("0.1.0", 1)]),
        ("no_faultlens", []),
    ],
)
def test_which_targets_are_there_and_what_they_run(
    name: str, expected: list[tuple[str, int]], server: Prometheus
) -> None:
    rows = WORKERS.panel("Targets").rows(server, View(HISTORIES[name].end))

    assert sorted((row["faultlens"], row["State"]) for row in rows) == expected


def test_the_objective_is_shown_where_there_are_attempts(server: Prometheus) -> None:
    share = OVERVIEW.panel("Share of attempts the platform failed")

    failed, objective = share.ask(server, View(HISTORIES["attempted"].end))

    assert failed.samples
    (line,) = objective.samples
    assert {value for _, value in line.values} == {0.01}
    for answer in share.ask(server, View(HISTORIES["born_at_zero"].end)):
        assert not answer.samples


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("nothing_failed", 1),
        ("vanished", 1),
        ("many_workers", 300),
        ("counters_only", 1),
        ("no_faultlens", 0),
        ("nothing_at_all", 0),
    ],
)
def test_how_many_report(name: str, targets: int, server: Prometheus) -> None:
    assert stat(OVERVIEW.panel("Reporting"), server, View(HISTORIES[name].end)) == targets


@every_board
def test_what_is_marked_as_new(of: Board, server: Prometheus) -> None:
    history = HISTORIES["upgraded"]
    view = View(history.end)

    marks = {
        (annotation["name"], sample.labels.get("class") or sample.labels["version"]): [
            (at - history.start - EDGE) / MINUTE for at, _ in sample.values
        ]
        for annotation in of.annotations
        for sample in of.annotated(server, annotation, view)
    }

    # Of a failure there is a record within a minute.
    assert marks == {("New classes", QUOTA[0]): [41], ("New versions", "0.2.0"): [30]}


@every_history
@every_board
def test_whatever_happened_panels_have_numbers_or_words(
    of: Board, name: str, server: Prometheus
) -> None:
    history = HISTORIES[name]
    for panel in of.panels:
        for answer in panel.ask(server, View(history.end)):
            values = [value for sample in answer.samples for _, value in sample.values]
            assert all(map(math.isfinite, values)), f"{panel}: {answer}"
            if panel.defaults.get("unit") == "locale":
                assert panel.defaults["decimals"] == 0
                assert all(value == int(value) for value in values), f"{panel}: {answer}"
            assert values or panel.defaults.get("noValue"), f"{panel} says nothing"


def issues(server: Prometheus, view: View) -> Counter[tuple[str, ...]]:
    """How many failures of each class and kind the table of issues has."""
    found: Counter[tuple[str, ...]] = Counter()
    for row in OVERVIEW.panel("Issues").rows(server, view):
        found[str(row["Class"]), str(row["Kind"])] += int(row["Failures"])
    return found


@pytest.mark.parametrize("history", RANDOM, ids=["one", "another"])
@pytest.mark.parametrize("seconds", [HOUR, 20 * MINUTE, 100 * MINUTE])
@pytest.mark.parametrize("ago", [0, 7])
def test_at_random(history: History, seconds: int, ago: int, server: Prometheus) -> None:
    end = history.end - ago
    expected = history.counted(ISSUES, ["class", "kind"], seconds, end)

    assert len(expected) > 50
    assert issues(server, View(end, seconds)) == expected


@pytest.mark.parametrize("seconds", [HOUR, 20 * MINUTE, 100 * MINUTE])
def test_at_random_with_restarts(seconds: int, server: Prometheus) -> None:
    """What was counted between the last record and a restart is lost."""
    history = RANDOM_RESTARTS
    expected = history.counted(ISSUES, ["class", "kind"], seconds)

    found = issues(server, View(history.end, seconds))

    wrong = {key for key in {*found, *expected} if found[key] != expected[key]}
    assert len(wrong) <= len(expected) // 50
    assert all(abs(found[key] - expected[key]) == 1 for key in wrong)


@every_board
def test_a_board_without_the_rules_says_so(of: Board, without_rules: Prometheus) -> None:
    view = View(HISTORIES["born_at_zero"].end)
    for panel in of.panels:
        if "faultlens:" not in json.dumps(panel.targets):
            continue
        assert all(not answer.samples for answer in panel.ask(without_rules, view)), panel
        said = panel.defaults["noValue"]
        if panel.type in ("stat", "bargauge"):  # there the words must be short
            said += panel.raw["description"]
        assert "rule_files" in said, panel
        assert "faultlens.rules.yml" in said, panel


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"job": "orders"}, {"system": 4, "user": 2}),
        ({"job": ["reports"]}, {"system": 4, "user": 4}),
        ({"job": ["orders", "reports"]}, {"system": 8, "user": 6}),
        ({"worker": "reports-worker"}, {"system": 4, "user": 4}),
        ({"job": "orders", "worker": "reports-worker"}, {}),
        ({"class": OOM[0]}, {"user": 6}),
        ({"class": [OOM[0], STORAGE[0]], "job": "orders"}, {"system": 4, "user": 2}),
    ],
)
def test_what_was_chosen(
    chosen: dict[str, str], expected: dict[str, int], server: Prometheus
) -> None:
    view = View(HISTORIES["two_jobs"].end, chosen=chosen)

    assert stats(OVERVIEW, server, view) == expected
    by_worker = WORKERS.panel("Failures by worker").values(server, view)
    assert sum(by_worker.values()) == sum(expected.values())
    (over_time,) = WORKERS.panel("Failures by worker over time").ask(server, view)
    steps = [n for sample in over_time.samples for at, n in sample.values if at > view.start]
    assert sum(steps) == sum(expected.values())


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names_that_need_quoting(number: int, server: Prometheus) -> None:
    history = HISTORIES["names_that_need_quoting"]
    name = NAMES[number]
    view = View(history.end, chosen={"class": name, "worker": name})

    assert stats(CLASS, server, view) == {"system": number + 1}
    assert CLASS.panel("Codes").values(server, view) == {name: number + 1}


def test_a_dot_in_a_name_is_a_dot(server: Prometheus) -> None:
    history = HISTORIES["names_that_need_quoting"]

    assert stats(CLASS, server, View(history.end, chosen={"class": "a.b"})) == {"user": 4}


@every_board
def test_what_there_is_to_choose(of: Board, server: Prometheus) -> None:
    history = HISTORIES["two_jobs"]
    options = {
        variable.name: variable.options(server, of, View(history.end, chosen={"job": "orders"}))
        for variable in of.variables
        if variable.is_asked
    }

    assert options["job"] == ["orders", "reports"]
    assert options["worker"] == ["new", "orders-worker"]
    assert options["class"] == sorted(type_ for type_, _ in KNOWN)


@every_board
def test_where_there_is_no_faultlens_there_is_nothing_to_choose(
    of: Board, server: Prometheus
) -> None:
    view = View(HISTORIES["no_faultlens"].end)

    for variable in of.variables:
        assert not variable.is_asked or variable.options(server, of, view) == []
