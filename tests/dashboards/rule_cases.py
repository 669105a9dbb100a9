"""What the rules tell of which history: the cases of test_rules.py.

Each history is what its series were scraped with. Each case is right by what truly happened in it,
and near to what would be told if one place of a rule were another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INCREASE = "faultlens:failures:increase1m"
BUDGET = "faultlens:error_budget:ratio"
BURN = "job:faultlens_burn_rate:"
BY_WORKER = "job_worker:faultlens_failures:increase1h"
WINDOWS = {"5m": 5, "30m": 30, "1h": 60, "2h": 120, "6h": 360, "1d": 1440, "3d": 4320}
"""Those of the burn rates, and how many minutes they are."""

SLOW = {
    "FaultlensNewFailureClass",
    "FaultlensDown",
    "FaultlensGone",
    "FaultlensDropping",
    *(f"{BURN}{window}" for window in ("2h", "6h", "1d", "3d")),
}
"""Those that are scraped and evaluated each five minutes: they look back for hours."""

Values = Sequence[float | str]
"""What a series was scraped with, at one interval: numbers, `NONE` and `GONE`."""
NONE = "_"
"""Not in this scrape, and not yet known to be gone."""
GONE = "stale"
"""Not in this scrape: it, or its target, is gone."""

OOM, DISK = "flyte.errors.OOMError", "flyte.errors.RuntimeSystemError"
TARGET = {"job": "flyte", "instance": "a"}
FAILURE = TARGET | {"class": DISK, "kind": "system", "worker": "w"}


def labels(**values: str) -> str:
    """Labels as Prometheus writes them; `class_` is the label ``class``."""
    return "{" + ",".join(f"{k.rstrip('_')}={json.dumps(v)}" for k, v in values.items()) + "}"


def series(metric: str, values: Values, of: dict[str, str], **other: str) -> dict[str, Values]:
    return {metric + labels(**of | {k.rstrip("_"): v for k, v in other.items()}): values}


def failures(values: Values, **other: str) -> dict[str, Values]:
    """A series of failures: of the class `DISK`, system, on one worker, unless told otherwise."""
    return series("faultlens_failures_total", values, FAILURE, **other)


def failed(values: Values, **other: str) -> dict[str, Values]:
    """How many failures each minute has, as it is recorded."""
    of = {k: v for k, v in FAILURE.items() if k != "instance"}
    return series(INCREASE, values, of, **other)


def issued(values: Values, **other: str) -> dict[str, Values]:
    """The same by what failed and where, instead of by worker."""
    of = {"job": "flyte", "class": DISK, "code": "c", "task": "t", "kind": "system"}
    return series("faultlens:issues:increase1m", values, of, **other)


def attempted(values: Values, **other: str) -> dict[str, Values]:
    """How many attempts end in each minute, as it is recorded: well, unless told otherwise."""
    of = {"job": "flyte", "sdk": "flyte", "task": "t", "outcome": "ok"}
    return series("faultlens:attempts:increase1m", values, of, **other)


def created(values: Values, **other: str) -> dict[str, Values]:
    """When a series of failures was created, in seconds since the beginning."""
    return series("faultlens_failures_created", values, FAILURE, **other)


def info(values: Values, **other: str) -> dict[str, Values]:
    return series("faultlens_info", values, TARGET | {"version": "0.1.0"}, **other)


def up(values: Values, **other: str) -> dict[str, Values]:
    return series("up", values, TARGET, **other)


def dropped(values: Values, **other: str) -> dict[str, Values]:
    return series("faultlens_dropped_total", values, TARGET | {"reason": "store_error"}, **other)


def told(**other: str) -> str:
    """The labels of what is told of `failures`."""
    return labels(
        **{k: v for k, v in FAILURE.items() if k != "instance"}
        | {k.rstrip("_"): v for k, v in other.items()}
    )


@dataclass(frozen=True)
class Case:
    """What a rule tells of a history.

    at: for each time the label sets, with their values; for an alert the label sets with which it
        fires, without those that are the same each time.
    every: the seconds between scrapes.
    """

    says: str
    history: Mapping[str, Values]
    at: Mapping[str, Mapping[str, float] | Sequence[str]]
    every: int = 60


# The increase of a minute. With a scrape each minute, what is scraped at 2m is told at 3m: rules
# look back 15 s. With one each 5 s, value 21 is that of 105 s, the last that is looked at at 2m,
# and value 9 that of 45 s, the last of the minute before.

INCREASE_CASES = [
    Case(
        "what came on top, once",
        failures([0, 0, 3, 3, 3]) | up([1] * 5),
        {"2m": {}, "3m": {told(): 3}, "4m": {}},
    ),
    Case(
        "of all targets together",
        failures([0, 0, 3, 3])
        | failures([1, 1, 3, 3], instance="b")
        | up([1] * 4)
        | up([1] * 4, instance="b"),
        {"3m": {told(): 5}},
    ),
    Case(
        "a new series of a known target is new, all of it",
        failures([NONE, NONE, 2, 2], kind="user") | up([1] * 4),
        {"3m": {told(kind="user"): 2}, "4m": {}},
    ),
    Case(
        "a new target's counts are its past",
        failures([NONE, NONE, 1, 2]) | up([NONE, NONE, 1, 1]),
        {"3m": {}, "4m": {told(): 1}},
    ),
    Case(
        "a target that could never be scraped is new",
        failures([NONE, NONE, 2, 3]) | up([0, 0, 1, 1]),
        {"3m": {}, "4m": {told(): 1}},
    ),
    Case(
        "a target is new whatever others are known",
        failures([NONE, NONE, 2, 2], instance="new")
        | failures([NONE, NONE, 2, 2], job="new")
        | up([NONE, NONE, 1, 1], instance="new")
        | up([NONE, NONE, 1, 1], job="new")
        | up([1] * 4),
        {"3m": {}, "4m": {}},
    ),
    Case(
        "what pushes has no past, whatever is scraped",
        failures([NONE, NONE, 2, 3], instance="p")
        | failures([NONE, NONE, 4, 4], job="p")
        | up([NONE, NONE, 1, 1]),
        {"3m": {told(): 2, told(job="p"): 4}, "4m": {told(): 1}},
    ),
    Case(
        "after a reset all is new, and a reset alone is nothing",
        failures([5, 5, 2, 2, 3]) | failures([5, 5, 0, 0, 0], worker="v") | up([1] * 5),
        {"2m": {}, "3m": {told(): 2}, "4m": {}, "5m": {told(): 1}},
    ),
    Case(
        "workers of one store, classes and kinds each for themselves",
        failures([0, 1, 1])
        | failures([0, 0, 1], worker="v")
        | failures([0, 2, 2], class_=OOM)
        | failures([0, 4, 4], kind="unknown")
        | up([1] * 3),
        {
            "2m": {told(): 1, told(class_=OOM): 2, told(kind="unknown"): 4},
            "3m": {told(worker="v"): 1},
        },
    ),
    Case(
        "each minute joins the one before it, 15 s late",
        failures([0] * 21 + [1] + [2] * 12 + [3] * 3) | up([1] * 37),
        {"2m": {told(): 1}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "so with a new series",
        failures([NONE] * 20 + [2] * 2 + [3] * 15) | up([NONE] * 9 + [1] * 28),
        {"2m": {told(): 2}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "a target is known if it was there a minute ago",
        failures([NONE] * 20 + [2] * 17) | up([NONE] * 10 + [1] * 27),
        {"2m": {}, "3m": {}},
        every=5,
    ),
    Case(
        "what came on top in a new target's first minute",
        failures([NONE] * 10 + [2] * 5 + [3] * 22)
        | failures([NONE] * 10 + [0] * 11 + [4] * 16, worker="v")
        | up([NONE] * 10 + [1] * 27),
        {"2m": {told(): 1, told(worker="v"): 4}, "3m": {}},
        every=5,
    ),
    Case(
        "a target that is gone before the minute is over",
        failures([0] * 12 + [1, GONE]) | up([1] * 13 + [GONE]),
        {"2m": {told(): 1}, "3m": {}},
        every=5,
    ),
    Case(
        "a new one, too",
        failures([NONE] * 11 + [5, 6, GONE]) | up([NONE] * 11 + [1, 1, GONE]),
        {"2m": {told(): 1}, "3m": {}},
        every=5,
    ),
    Case(
        "a reset at the beginning of the minute, and as many failures again",
        failures([1] * 10 + [0] * 2 + [1] * 25) | up([1] * 37),
        {"2m": {told(): 1}, "3m": {}},
        every=5,
    ),
    Case(
        "a reset in the middle of the minute",
        failures([5] * 12 + [2] * 25) | up([1] * 37),
        {"2m": {told(): 2}, "3m": {}},
        every=5,
    ),
    Case(
        "a reset of the minute before",
        failures([5] * 16 + [0] * 4 + [2] * 4 + [3] * 13) | up([1] * 37),
        {"2m": {told(): 2}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "a reset at the end of the minute, and as many failures again",
        failures([1] * 20 + [0] + [1] * 16) | up([1] * 37),
        {"2m": {told(): 1}, "3m": {}},
        every=5,
    ),
    Case(
        "a reset that is still to come",
        failures([1] * 18 + [2] * 4 + [0] * 3) | up([1] * 25),
        {"2m": {told(): 1}},
        every=5,
    ),
    Case(
        "a worker that dies of its failure, and is back after half a minute",
        failures([5] * 10 + [GONE] * 10 + [6] * 5) | up([1] * 10 + [0] * 10 + [1] * 5),
        {"2m": {told(): 1}},
        every=5,
    ),
    Case(
        "back within the hour",
        failures([5, 5] + [GONE] * 45 + [7] * 3)
        | failures([NONE] * 47 + [3] * 3, class_="app.Broken")
        | up([1, 1] + [0] * 45 + [1] * 3),
        {"20m": {}, "48m": {told(): 2, told(class_="app.Broken"): 3}, "49m": {}},
    ),
    Case(
        "back after more than an hour it is as good as new",
        failures([5, 5] + [GONE] * 75 + [7] * 3)
        | failures([NONE] * 77 + [3] * 3, class_="app.Broken")
        | up([1, 1] + [GONE] * 75 + [1] * 3),
        {"78m": {}, "79m": {}},
    ),
    Case(
        "a new target whose series is younger than an hour, and one whose is not",
        failures([NONE] * 98 + [2] * 3)
        | created([NONE] * 98 + [2341] * 3)
        | failures([NONE] * 98 + [3] * 3, worker="v")
        | created([NONE] * 98 + [2340] * 3, worker="v")
        | failures([NONE] * 98 + [4] * 3, worker="u")
        | up([NONE] * 98 + [1] * 3),
        {"99m": {told(): 2}, "100m": {}},
    ),
    Case(
        "a new target whose young series is gone at once",
        failures([NONE] * 12 + [5, GONE])
        | created([NONE] * 12 + [58, GONE])
        | up([NONE] * 12 + [1, GONE]),
        {"2m": {told(): 5}, "3m": {}},
        every=5,
    ),
    Case(
        "a life that fails as often as the one before it, or more often",
        failures([2] * 10 + [GONE] * 5 + [2, 2, GONE])
        | created([1] * 10 + [GONE] * 5 + [74, 74, GONE])
        | failures([2] * 10 + [GONE] * 5 + [3] * 22, worker="v")
        | created([1] * 10 + [GONE] * 5 + [74] * 22, worker="v")
        | failures([2] * 10 + [GONE] * 5 + [3] * 22, worker="same")
        | created([1] * 37, worker="same")
        | up([1] * 10 + [0] * 5 + [1] * 22),
        {"2m": {told(): 2, told(worker="v"): 3, told(worker="same"): 1}, "3m": {}},
        every=5,
    ),
    Case(
        "a life after three quarters of an hour",
        failures([2, 2] + [GONE] * 45 + [2] * 3)
        | created([1, 1] + [GONE] * 45 + [2800] * 3)
        | up([1, 1] + [GONE] * 45 + [1] * 3),
        {"48m": {told(): 2}, "49m": {}},
    ),
    Case(
        "a first failure, which is when the counter is created",
        failures([0] * 12 + [1] * 12 + [2] * 13) | created([NONE] * 12 + [58] * 25) | up([1] * 37),
        {"2m": {told(): 1}, "3m": {told(): 1}},
        every=5,
    ),
]

# How fast the platform uses up its error budget, of so many attempts in each minute.

FLYTE = [labels(job="flyte")]


def once(at: int, **outcomes: int) -> dict[str, Values]:
    """Attempts of one minute, by their outcome."""
    return {
        name: values
        for outcome, number in outcomes.items()
        for name, values in attempted([NONE] * at + [number], outcome=outcome).items()
    }


def burn_cases(window: str) -> list[Case]:
    """Steps of the histories are 5 minutes in those that are `SLOW`."""
    steps = WINDOWS[window] // (5 if f"{BURN}{window}" in SLOW else 1)
    step = WINDOWS[window] // steps
    end = 2 * steps
    now = f"{end * step}m"
    within, before = end - 3 * steps // 4, end - 3 * steps // 2
    return [
        Case(
            "twice as many as are allowed, of all that were attempted",
            attempted([NONE] * within + [1, 1], outcome="system")
            | attempted([NONE] * within + [40, 20])
            | attempted([NONE] * within + [38], outcome="user")
            | attempted([900] + [NONE] * within, task="long ago")
            | attempted([NONE] * within + [50], job="durable")
            | attempted([NONE] * within + [8], job="other", outcome="system")
            | attempted([NONE] * within + [42], job="other", outcome="system", task="u"),
            {now: {labels(job="flyte"): 2, labels(job="other"): 100}},
        ),
        Case(
            "before",
            once(before, system=2, ok=98) | attempted([NONE] * within + [9], task="u"),
            {now: {}},
        ),
        Case("of twenty at least", once(within, system=1, ok=1), {now: {labels(job="flyte"): 5}}),
    ]


def rates(long: str, its: float, short: str, other: float, job: str) -> dict[str, Values]:
    """How fast a job uses up its budget, in a long window and in a short one."""
    return {
        f"{BURN}{window}{labels(job=job)}": [rate] * 40
        for window, rate in ((long, its), (short, other))
    }


def alert_cases(*pairs: tuple[str, str, float]) -> list[Case]:
    """Those of an alert on these windows: it takes both, and more than so many times."""
    return [
        Case(
            f"more than {limit} times in {long} and {short}, and of other jobs nearly",
            rates(long, limit + 0.1, short, limit + 0.1, job="flyte")
            | rates(long, limit, short, 99, job="long")
            | rates(long, 99, short, limit, job="short")
            # What the alert looks up.
            | failed([NONE] * 6 + [39]),
            {"30m": FLYTE, "31m": FLYTE},
        )
        for long, short, limit in pairs
    ] + [
        Case("nothing failed", rates(long, 0, short, 0, job="flyte"), {"30m": []})
        for long, short, _ in pairs
    ]


FAST_CASES = alert_cases(("1h", "5m", 14.4), ("6h", "30m", 6))
SLOW_CASES = alert_cases(("1d", "2h", 3), ("3d", "6h", 1))

OUTSIDE_CASES = [
    Case(
        "five that end no attempt, of another job four",
        failed([NONE, 2, 1])
        | failed([NONE, 2], class_=OOM)
        | failed([*[NONE] * 69, 1], kind="user")
        | failed([NONE, 4], job="durable"),
        {"46m": FLYTE, "70m": []},
    ),
    Case(
        "nine of which four end an attempt, of another job five",
        failed([NONE, 9])
        | attempted([NONE, 2, 1], outcome="system")
        | attempted([NONE, 1], outcome="system", task="u")
        | attempted([NONE, 50], outcome="user")
        | attempted([NONE, 9], job="other", outcome="system")
        | failed([NONE, 9], job="durable")
        | attempted([NONE, 3, 1], job="durable", outcome="system")
        | attempted([NONE, 1], job="durable", outcome="system", task="u"),
        {"46m": FLYTE},
    ),
    Case(
        "attempts of an hour and a half ago",
        attempted([90] + [NONE] * 90, outcome="system") | failed([NONE] * 89 + [6]),
        {"90m": FLYTE},
    ),
    Case("users' failures", failed([NONE, 900], kind="user"), {"2m": []}),
]

# A new class. All that follows is scraped and evaluated each five minutes.

HOUR = 12


def seen(class_: str = DISK, kind: str = "system", job: str = "flyte", **owner: str) -> str:
    return labels(job=job, class_=class_, kind=kind, **owner)


def days(number: float) -> list[float | str]:
    return [NONE] * int(number * 24 * HOUR)


OLD = info([1] * 40 * HOUR)

NEW_CASES = [
    Case(
        "first failures, of two tasks",
        OLD | issued([*days(1.1), 1, *[NONE] * 4, 1]) | issued([*days(1.1), 2], task="u"),
        {"1575m": [], "1580m": [seen()], "1590m": [seen()], "1605m": []},
    ),
    Case(
        "as another class, as another kind, of another job",
        OLD
        | info([1] * 40 * HOUR, job="durable")
        | issued([*days(1), 1, *[NONE] * 27, 1])
        | issued([*days(1.1), 1], class_="app.Broken", kind="user")
        | issued([*days(1.1), 1], kind="unknown")
        | issued([*days(1.1), 1], job="durable")
        | issued([*days(1.1), 1], class_=OOM),
        {
            "1585m": [
                seen(OOM),
                seen("app.Broken", "user"),
                seen(kind="unknown"),
                seen(job="durable"),
            ]
        },
    ),
    Case(
        "known of another task, with another owner",
        OLD | issued([*days(0.9), 1], owner="b") | issued([*days(1.1), 1], task="u", owner="a"),
        {"1585m": []},
    ),
    Case(
        "each of its owners is told",
        OLD
        | issued([*days(1.1), 1], owner="a")
        | issued([*days(1.1), 1], owner="a", task="u")
        | issued([*days(1.1), 1], owner="b"),
        {"1585m": [seen(owner="a"), seen(owner="b")]},
    ),
    Case(
        "18 hours ago",
        OLD | issued([*days(0.5), 1, *days(0.75), 1]),
        {"1805m": []},
    ),
    Case(
        "36 hours ago",
        OLD | issued([1, *days(1.5), 1]),
        {"2165m": [seen()]},
    ),
    Case(
        "the job is new",
        info([*[NONE] * 7 * HOUR, *[1] * 20 * HOUR])
        | info([1] * 40 * HOUR, job="durable")
        | issued([*days(1.1), 1]),
        {"1585m": []},
    ),
]

# Whose fault nobody knows.


def kinds(job: str = "flyte", **numbers: int) -> dict[str, Values]:
    """So many failures of each kind, at once."""
    return {
        name: values
        for kind, number in numbers.items()
        for name, values in failed([NONE, number], kind=kind, job=job).items()
    }


UNKNOWN_CASES = [
    Case(
        "more than a tenth, for half an hour",
        kinds(unknown=5, user=25, system=18),
        {"1m": FLYTE, "25m": FLYTE, "45m": []},
    ),
    Case("nearly", kinds(unknown=5, user=25, system=20), {"2m": []}),
    Case("five are enough", kinds(unknown=5), {"2m": FLYTE}),
    Case(
        "of two classes, in three minutes",
        failed([2, 1], kind="unknown") | failed([NONE, 1, 1], kind="unknown", class_=OOM),
        {"3m": FLYTE},
    ),
    Case(
        "others in two minutes",
        failed([30, 30]) | failed([5], kind="unknown"),
        {"3m": []},
    ),
    Case(
        "three quarters of an hour ago",
        failed([5], kind="unknown") | failed([NONE] * 44 + [1]),
        {"46m": []},
    ),
    Case("four are not", kinds(unknown=4, user=10), {"2m": []}),
    Case("another job's", kinds(unknown=5) | kinds(job="durable", user=9), {"2m": FLYTE}),
    Case(
        "too few of one job, too small a share of another",
        kinds(unknown=4, user=4) | kinds(job="durable", unknown=5, user=50),
        {"2m": []},
    ),
    Case(
        "others failed an hour ago",
        failed([900] + [NONE] * 44 + [1]) | failed([NONE] * 45 + [5], kind="unknown"),
        {"46m": FLYTE},
    ),
    Case(
        "others failed 20 minutes ago",
        failed([900] + [NONE] * 19 + [1]) | failed([NONE] * 20 + [5], kind="unknown"),
        {"21m": []},
    ),
]

# Workers.


def worker(name: str, job: str = "flyte") -> str:
    return labels(job=job, worker=name)


BY_WORKER_CASES = [
    Case(
        "what failed in an hour, by job and worker, of any kind and class; zeros too",
        failed([NONE, 1, 2])
        | failed([NONE, 2], kind="user", class_=OOM)
        | failed([NONE, 8], job="durable")
        | failures([5] * 94)
        | failures([7] * 94, worker="v")
        | failures([7] * 94, worker="v", instance="b")
        | failures([7] * 94, job="durable"),
        {
            "48m": {worker("w"): 5, worker("v"): 0, worker("w", "durable"): 8},
            "92m": {worker("w"): 0, worker("v"): 0, worker("w", "durable"): 0},
        },
    ),
    Case(
        "what is beyond the limit is no worker",
        failed([NONE, 9], worker="_OTHER") | failures([9] * 4, worker="_OTHER") | failures([0] * 4),
        {"3m": {worker("w"): 0}},
    ),
]


def workers(*numbers: int, job: str = "flyte") -> dict[str, Values]:
    """Workers a, b, c ... that have failed so often."""
    history: dict[str, Values] = {}
    for name, number in zip("abcde", numbers, strict=False):
        history |= failures([number] * 3, worker=name, job=job)
        history |= failed([NONE, number], worker=name, job=job)
    return history


OUTLIER_CASES = [
    Case("more than three times as often", workers(31, 10, 10), {"2m": [worker("a")]}),
    Case("three times as often", workers(30, 10, 0), {"2m": []}),
    Case("ten times, where the others do not fail", workers(10, 0, 0), {"2m": [worker("a")]}),
    Case("nine times", workers(9, 0, 0), {"2m": []}),
    Case("one of two", workers(1000, 0), {"2m": []}),
    Case("the only one", workers(1000), {"2m": []}),
    Case(
        "each job has a median of its own",
        workers(31, 10, 10) | workers(99, 99, 99, job="durable"),
        {"2m": [worker("a")]},
    ),
]

# faultlens itself.


def target(job: str = "flyte", instance: str = "a") -> str:
    return labels(job=job, instance=instance)


DOWN_CASES = [
    Case(
        "it does not answer",
        info([1] * 6 + [GONE] * 310) | up([1] * 6 + [0] * 310),
        {"25m": [], "40m": [], "45m": [target()], "1110m": [target()], "1560m": []},
    ),
    Case(
        "it answers, and faultlens is not there",
        info([1] * 6 + [GONE] * 6) | up([1] * 12),
        {"45m": [target()]},
    ),
    Case(
        "back within ten minutes",
        info([1] * 6 + [GONE] * 2 + [1] * 6) | up([1] * 6 + [0] * 2 + [1] * 6),
        {"45m": [], "55m": []},
    ),
    Case(
        "taken off the list",
        info([1] * 6 + [GONE] * 6) | up([1] * 6 + [GONE] * 6),
        {"45m": []},
    ),
    Case(
        "while others are there",
        info([1] * 6 + [GONE] * 6)
        | up([1] * 6 + [0] * 6)
        | info([1] * 12, instance="b")
        | up([1] * 12, instance="b")
        | info([1] * 12, job="durable")
        | up([1] * 12, job="durable"),
        {"45m": [target()]},
    ),
    Case(
        "taken off the list, while others are there",
        info([1] * 6 + [GONE] * 6)
        | up([1] * 6 + [GONE] * 6)
        | info([1] * 12, instance="b")
        | up([1] * 12, instance="b")
        | info([1] * 12, job="durable")
        | up([1] * 12, job="durable"),
        {"45m": []},
    ),
    Case("it never had faultlens", up([1] * 6 + [0] * 6), {"45m": []}),
]

GONE_CASES = [
    Case(
        "no target is left",
        info([1] * 6 + [GONE] * 310) | up([1] * 6 + [GONE] * 310),
        {"25m": [], "40m": [], "45m": FLYTE, "1110m": FLYTE, "1560m": []},
    ),
    Case(
        "no target is left but other programs' and other jobs'",
        info([1] * 6 + [GONE] * 6)
        | up([1] * 6 + [GONE] * 6)
        | up([1] * 12, instance="b")
        | info([1] * 12, job="durable", instance="b")
        | up([1] * 12, job="durable", instance="b"),
        {"45m": FLYTE},
    ),
    Case(
        "one is left",
        info([1] * 6 + [GONE] * 6)
        | up([1] * 6 + [GONE] * 6)
        | info([1] * 12, instance="b")
        | up([1] * 12, instance="b"),
        {"45m": []},
    ),
    Case(
        "one is left, by OpenTelemetry: it has no `up`",
        info([1] * 6 + [GONE] * 6) | info([1] * 12, instance="b"),
        {"45m": []},
    ),
    Case(
        "one is listed, and has been down for 18 hours",
        info([1] * 6 + [GONE] * 220) | up([1] * 6 + [0] * 220),
        {"45m": [], "1110m": []},
    ),
]


def drop(reason: str = "store_error") -> list[str]:
    return [labels(**TARGET | {"reason": reason})]


DROPPING_CASES = [
    Case(
        "for a quarter of an hour, each time",
        dropped([0] * 12 + [1] * 12 + [2] * 6),
        {"55m": [], "60m": drop(), "70m": drop(), "85m": [], "120m": drop()},
    ),
    Case("from the start", dropped([NONE] * 3 + [1] * 3), {"15m": drop()}),
    Case("a new target that drops nothing", dropped([NONE] * 3 + [0] * 3), {"15m": []}),
    Case(
        "after a reset",
        dropped([5] * 12 + [2] * 12) | dropped([5] * 12 + [0] * 12, reason="reentrant"),
        {"60m": drop(), "85m": []},
    ),
    Case(
        "dropped long ago, and back after an hour",
        dropped([5] * 6 + [GONE] * 11 + [5] * 6),
        {"85m": []},
    ),
    Case(
        "dropped who knows when, and back after more",
        dropped([5] * 6 + [GONE] * 20 + [5] * 6),
        {"130m": drop()},
    ),
]

CASES: dict[str, list[Case]] = {
    BUDGET: [Case("one of a hundred", {}, {"1m": {"{}": 0.01}})],
    INCREASE: INCREASE_CASES,
    **{f"{BURN}{window}": burn_cases(window) for window in WINDOWS},
    "FaultlensPlatformFailsAttempts": FAST_CASES,
    "FaultlensPlatformFailsSomeAttempts": SLOW_CASES,
    "FaultlensPlatformFailsOutsideAttempts": OUTSIDE_CASES,
    "FaultlensNewFailureClass": NEW_CASES,
    "FaultlensUnknownFailures": UNKNOWN_CASES,
    BY_WORKER: BY_WORKER_CASES,
    "FaultlensWorkerOutlier": OUTLIER_CASES,
    "FaultlensDown": DOWN_CASES,
    "FaultlensGone": GONE_CASES,
    "FaultlensDropping": DROPPING_CASES,
}
