"""What the rules tell of which history: the cases of test_rules.py.

Each history is what its series were scraped with. Each case is right by what truly happened in it,
and near to what would be told if one place of a rule were another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INCREASE = "instance_class_kind_worker:faultlens_failures:increase1m"
FAILED = "instance_worker:faultlens_system_failed:bool1m"
RATIO = "job:faultlens_system_failed:ratio"
MAX = "job_class_kind:faultlens_failures:max2m"
BY_KIND = "job_kind:faultlens_failures:increase30m"
BY_WORKER = "job_worker:faultlens_failures:increase1h"

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


def info(values: Values, **other: str) -> dict[str, Values]:
    return series("faultlens_info", values, TARGET | {"version": "0.1.0"}, **other)


def up(values: Values, **other: str) -> dict[str, Values]:
    return series("up", values, TARGET, **other)


def dropped(values: Values, **other: str) -> dict[str, Values]:
    return series("faultlens_dropped_total", values, TARGET | {"reason": "store_error"}, **other)


def told(**other: str) -> str:
    """The labels of what is told of `failures`."""
    return labels(**FAILURE | {k.rstrip("_"): v for k, v in other.items()})


@dataclass(frozen=True)
class Case:
    """What a rule tells of a history.

    at: for each time the label sets, with their values; for an alert the label sets with which it
        fires, without its severity.
    every: the seconds between scrapes.
    """

    says: str
    history: Mapping[str, Values]
    at: Mapping[str, Mapping[str, float] | Sequence[str]]
    every: int = 60


# The increase of a minute. With a scrape each minute, what is scraped at 2m is told at 3m: rules
# look back 15 s. With one each 5 s, value 21 is that of 105 s, the last which is looked at at 2m.

INCREASE_CASES = [
    Case(
        "what came on top, once",
        failures([0, 0, 3, 3, 3]) | info([1] * 5),
        {"2m": {}, "3m": {told(): 3}, "4m": {}},
    ),
    Case(
        "a new series of a known target is new, all of it",
        failures([NONE, NONE, 2, 2], kind="user") | info([1] * 4),
        {"3m": {told(kind="user"): 2}, "4m": {}},
    ),
    Case(
        "a new target's counts are its past",
        failures([NONE, NONE, 2, 3]) | info([NONE, NONE, 1, 1]),
        {"3m": {}, "4m": {told(): 1}},
    ),
    Case(
        "a target is new whatever others are known",
        failures([NONE, NONE, 2, 2], instance="new")
        | failures([NONE, NONE, 2, 2], job="new")
        | info([NONE, NONE, 1, 1], instance="new")
        | info([NONE, NONE, 1, 1], job="new")
        | info([1] * 4),
        {"3m": {}, "4m": {}},
    ),
    Case(
        "after a reset all is new, and a reset alone is nothing",
        failures([5, 5, 2, 2, 3]) | failures([5, 5, 0, 0, 0], worker="v") | info([1] * 5),
        {"2m": {}, "3m": {told(): 2}, "4m": {}, "5m": {told(): 1}},
    ),
    Case(
        "workers of one store, classes and kinds each for themselves",
        failures([0, 1, 1])
        | failures([0, 0, 1], worker="v")
        | failures([0, 2, 2], class_=OOM)
        | failures([0, 4, 4], kind="unknown")
        | info([1] * 3),
        {
            "2m": {told(): 1, told(class_=OOM): 2, told(kind="unknown"): 4},
            "3m": {told(worker="v"): 1},
        },
    ),
    Case(
        "each minute joins the one before it, 15 s late",
        failures([0] * 21 + [1] + [2] * 12 + [3] * 3) | info([1] * 37),
        {"2m": {told(): 1}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "so with a new series",
        failures([NONE] * 20 + [2] * 2 + [3] * 15) | info([NONE] * 9 + [1] * 28),
        {"2m": {told(): 2}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "a target is known if it was there a minute ago",
        failures([NONE] * 20 + [2] * 17) | info([NONE] * 10 + [1] * 27),
        {"2m": {}, "3m": {}},
        every=5,
    ),
    Case(
        "a reset at the beginning of the minute, and as many failures again",
        failures([1] * 22 + [0] * 2 + [1] * 13) | info([1] * 37),
        {"2m": {}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "a reset of the minute before",
        failures([5] * 16 + [0] * 4 + [2] * 4 + [3] * 13) | info([1] * 37),
        {"2m": {told(): 2}, "3m": {told(): 1}},
        every=5,
    ),
    Case(
        "a reset at the end of the minute, and as many failures again",
        failures([1] * 31 + [0] + [1] * 5) | info([1] * 37),
        {"3m": {told(): 1}},
        every=5,
    ),
    Case(
        "resets of an hour and a half ago, of three quarters of an hour ago, and of now",
        failures([5] * 10 + [3] * 45 + [2] * 44 + [3, 1]) | info([1] * 101),
        {"11m": {told(): 3}, "56m": {told(): 2}, "100m": {told(): 1}, "101m": {told(): 1}},
    ),
    Case(
        "a reset that is still to come",
        failures([1] * 30 + [2] * 4 + [0] * 3) | info([1] * 37),
        {"3m": {told(): 1}},
        every=5,
    ),
    Case(
        "a reset that is still to come, and leaves less than there was",
        failures([5] * 21 + [6] + [0] * 15) | info([1] * 37),
        {"2m": {told(): 1}, "3m": {}},
        every=5,
    ),
    Case(
        "a worker that dies of its failure, and is back after half a minute",
        failures([5] * 10 + [GONE] * 10 + [6] * 5) | info([1] * 10 + [GONE] * 10 + [1] * 5),
        {"2m": {told(): 1}},
        every=5,
    ),
    Case(
        "back within the hour",
        failures([5, 5] + [GONE] * 45 + [7] * 3)
        | failures([NONE] * 47 + [3] * 3, class_="app.Broken")
        | info([1, 1] + [GONE] * 45 + [1] * 3),
        {"20m": {}, "48m": {told(): 2, told(class_="app.Broken"): 3}, "49m": {}},
    ),
    Case(
        "back after more than an hour it is as good as new",
        failures([5, 5] + [GONE] * 75 + [7] * 3)
        | failures([NONE] * 77 + [3] * 3, class_="app.Broken")
        | info([1, 1] + [GONE] * 75 + [1] * 3),
        {"78m": {}, "79m": {}},
    ),
]

# Worker-minutes.


def minute(**other: str) -> str:
    return labels(**TARGET | {"worker": "w"} | other)


FAILED_CASES = [
    Case(
        "a minute is bad once, however many failures of however many classes",
        failures([0, 0, 3, 3, 3]) | failures([0, 0, 1, 1, 1], class_=OOM) | info([1] * 5),
        {"1m": {minute(): 0}, "3m": {minute(): 1}, "4m": {minute(): 0}},
    ),
    Case(
        "by system failures only",
        failures([0, 0, 9, 9], kind="user")
        | failures([0, 0, 9, 9], kind="unknown", worker="v")
        | info([1] * 4),
        {"3m": {minute(): 0, minute(worker="v"): 0}},
    ),
    Case(
        "of each worker on each target of each job",
        failures([0, 1, 1])
        | failures([0, 0, 0], worker="v")
        | failures([0, 0, 0], instance="b")
        | failures([0, 0, 0], job="durable")
        | info([1] * 3),
        {
            "2m": {
                minute(): 1,
                minute(worker="v"): 0,
                minute(instance="b"): 0,
                minute(job="durable"): 0,
            }
        },
    ),
    Case(
        "a target that is gone has none",
        failures([0, 0, GONE]) | info([1, 1, GONE]),
        {"1m": {minute(): 0}, "2m": {}},
    ),
]


def fleet(failing: Sequence[int], of: int, job: str = "flyte") -> dict[str, Values]:
    """Workers, of which in each minute so many fail once, by the platform's fault."""
    history = info([1] * (len(failing) + 1), job=job)
    for worker in range(of):
        counts = [0]
        for number in failing:
            counts.append(counts[-1] + (worker < number))
        history |= failures(counts, job=job, worker=str(worker))
    return history


def ratio_cases(minutes: int) -> list[Case]:
    """Those of the ratio over so many minutes; Prometheus 2 has one value more in them than 3."""
    enough = minutes + minutes // 4 + 2
    return [
        Case(
            "the share of worker-minutes, by job",
            fleet([2] * enough, 3) | fleet([0] * enough, 1, job="durable"),
            {f"{enough}m": {labels(job="flyte"): 2 / 3, labels(job="durable"): 0}},
        ),
        Case(
            "of one worker's whole window at least",
            fleet([1, 1, 0], 1),
            {"3m": {labels(job="flyte"): 2 / minutes}},
        ),
    ]


# The alerts on it. 2 of 13 is 0.154, 3 of 23 is 0.130; 1 of 16 is 0.0625, 1 of 18 is 0.0556.

FLYTE = [labels(job="flyte")]

FAST_CASES = [
    Case(
        "15 % of a job's workers fail, of another job's 13 %",
        fleet([2] * 40, 13) | fleet([3] * 40, 23, job="durable"),
        {"40m": FLYTE},
    ),
    Case("it is over", fleet([23] * 10 + [3] * 8, 23), {"11m": FLYTE, "18m": []}),
    Case("it has only begun", fleet([3] * 63 + [8], 23), {"65m": []}),
    Case("one failure in the first minute of a job", fleet([0, 1, 0, 0], 1), {"3m": [], "4m": []}),
    Case(
        "classes that are born at 1, one each minute",
        {
            name: values
            for minute in range(1, 10)
            for name, values in failures([NONE] * minute + [1] * 12, class_=str(minute)).items()
        }
        | info([1] * 12),
        {"9m": [], "10m": FLYTE},
    ),
    Case(
        "a worker that fails at each start, and forgets",
        failures([0, 1] * 12) | info([1] * 24),
        {"10m": [], "20m": FLYTE},
    ),
    Case(
        "nobody is left to fail",
        {name: [*values, GONE] for name, values in fleet([13] * 8, 13).items()},
        {"8m": FLYTE, "20m": []},
    ),
]

SLOW_CASES = [
    Case(
        "6.2 % of a job's workers fail, of another job's 5.6 %",
        fleet([1] * 60, 16) | fleet([1] * 60, 18, job="durable"),
        {"60m": FLYTE},
    ),
    Case("it is over", fleet([18] * 25 + [1] * 33, 18), {"26m": FLYTE, "58m": []}),
    Case("it has only begun", fleet([1] * 99 + [4], 18), {"101m": []}),
]

# A new class. All that follows is scraped and evaluated each five minutes.

HOUR = 12


def seen(class_: str = DISK, kind: str = "system", job: str = "flyte") -> str:
    return labels(job=job, class_=class_, kind=kind)


MAX_CASES = [
    Case(
        "the most that any worker on any target has; zeros too",
        failures([1]) | failures([4], worker="v") | failures([2], instance="b"),
        {"0m": {seen(): 4}},
    ),
    Case(
        "each job, class and kind",
        failures([0])
        | failures([1], job="durable")
        | failures([2], class_=OOM)
        | failures([3], kind="user"),
        {"0m": {seen(): 0, seen(job="durable"): 1, seen(OOM): 2, seen(kind="user"): 3}},
    ),
    Case("even before a reset", failures([5, 0]), {"1m": {seen(): 5}}),
    Case(
        "even if the target is gone by now",
        failures([0, 0, 1, GONE]),
        {"2m": {seen(): 1}, "3m": {}},
        every=15,
    ),
]

NEW_CASES = [
    Case(
        "first failure of a known class",
        failures([0] * 25 * HOUR + [1] * 12),
        {"1495m": [], "1500m": [seen()], "1510m": [seen()], "1525m": []},
    ),
    Case(
        "forgotten at once",
        failures([0] * 25 * HOUR + [1, 0, 0, 0, 0]),
        {"1500m": [seen()], "1510m": [seen()], "1520m": []},
    ),
    Case(
        "born at 3, a class of the user's",
        failures([0] * 26 * HOUR)
        | failures([NONE] * 25 * HOUR + [3] * 12, class_="app.Broken", kind="user"),
        {"1500m": [seen("app.Broken", "user")]},
    ),
    Case(
        "brought along by a new target",
        failures([0] * 26 * HOUR) | failures([NONE] * 25 * HOUR + [1] * 12, instance="b"),
        {"1500m": [seen()]},
    ),
    Case(
        "known of another target",
        failures([1] * 26 * HOUR) | failures([NONE] * 25 * HOUR + [1] * 12, instance="b"),
        {"1500m": []},
    ),
    Case(
        "known of another job, or as another kind",
        failures([1] * 26 * HOUR, job="durable")
        | failures([1] * 26 * HOUR, kind="unknown")
        | failures([0] * 25 * HOUR + [1] * 12),
        {"1500m": [seen()]},
    ),
    Case(
        "18 hours ago",
        failures([1] * 7 * HOUR + [0] * 18 * HOUR + [1] * 12),
        {"1500m": []},
    ),
    Case(
        "36 hours ago",
        failures([1] * 2 * HOUR + [0] * 36 * HOUR + [1] * 12),
        {"2280m": [seen()]},
    ),
    Case(
        "the job is new",
        failures([NONE] * 7 * HOUR + [0] * 18 * HOUR + [1] * 12)
        | failures([0] * 26 * HOUR, job="durable"),
        {"1500m": []},
    ),
]

# Whose fault nobody knows.

BY_KIND_CASES = [
    Case(
        "what failed in half an hour, by job and kind",
        failures([0, 0, 1, 3, *[3] * 50])
        | failures([0, 0, 2, *[2] * 51], class_=OOM)
        | failures([0, 0, 4, *[4] * 51], kind="user")
        | failures([0, 0, 8, *[8] * 51], job="durable")
        | info([1] * 54)
        | info([1] * 54, job="durable"),
        {
            "22m": {
                labels(job="flyte", kind="system"): 5,
                labels(job="flyte", kind="user"): 4,
                labels(job="durable", kind="system"): 8,
            },
            "44m": {},
        },
    ),
]


def kinds(job: str = "flyte", **numbers: int) -> dict[str, Values]:
    """So many failures of each kind, at once."""
    history = info([1] * 5, job=job)
    for kind, number in numbers.items():
        history |= failures([0, 0, number, number, number], kind=kind, job=job)
    return history


UNKNOWN_CASES = [
    Case("more than a tenth", kinds(unknown=5, user=25, system=18), {"4m": FLYTE}),
    Case("nearly", kinds(unknown=5, user=25, system=20), {"4m": []}),
    Case("five are enough", kinds(unknown=5), {"4m": FLYTE}),
    Case("four are not", kinds(unknown=4, user=10), {"4m": []}),
    Case("another job's", kinds(unknown=5) | kinds(job="durable", user=9), {"4m": FLYTE}),
    Case(
        "too few of one job, too small a share of another",
        kinds(unknown=4, user=4) | kinds(job="durable", unknown=5, user=50),
        {"4m": []},
    ),
]

# Workers.


def worker(name: str, job: str = "flyte") -> str:
    return labels(job=job, worker=name)


BY_WORKER_CASES = [
    Case(
        "what failed in an hour, by job and worker, of any kind and class, on any target",
        failures([0, 0, 1, 3, *[3] * 90])
        | failures([0, 0, 2, *[2] * 91], kind="user", class_=OOM)
        | failures([0, 0, 4, *[4] * 91], instance="b")
        | failures([0] * 94, worker="v")
        | failures([0, 0, 8, *[8] * 91], job="durable")
        | info([1] * 94),
        {
            "48m": {worker("w"): 9, worker("v"): 0, worker("w", "durable"): 8},
            "92m": {worker("w"): 0, worker("v"): 0, worker("w", "durable"): 0},
        },
    ),
    Case(
        "what is beyond the limit is no worker",
        failures([0, 0, 9, 9], worker="_OTHER") | failures([0] * 4) | info([1] * 4),
        {"3m": {worker("w"): 0}},
    ),
]


def workers(*numbers: int, job: str = "flyte") -> dict[str, Values]:
    """Workers a, b, c ... that have failed so often."""
    history = info([1] * 5, job=job)
    for name, number in zip("abcde", numbers, strict=False):
        history |= failures([0, 0, number, number, number], worker=name, job=job)
    return history


OUTLIER_CASES = [
    Case("more than three times as often", workers(31, 10, 10), {"4m": [worker("a")]}),
    Case("three times as often", workers(30, 10, 0), {"4m": []}),
    Case("ten times, where the others do not fail", workers(10, 0, 0), {"4m": [worker("a")]}),
    Case("nine times", workers(9, 0, 0), {"4m": []}),
    Case("one of two", workers(1000, 0), {"4m": []}),
    Case("the only one", workers(1000), {"4m": []}),
    Case(
        "each job has a median of its own",
        workers(31, 10, 10) | workers(99, 99, 99, job="durable"),
        {"4m": [worker("a")]},
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
    INCREASE: INCREASE_CASES,
    FAILED: FAILED_CASES,
    f"{RATIO}5m": ratio_cases(5),
    f"{RATIO}30m": ratio_cases(30),
    f"{RATIO}1h": ratio_cases(60),
    f"{RATIO}6h": ratio_cases(360),
    "FaultlensSystemFailuresFast": FAST_CASES,
    "FaultlensSystemFailuresSlow": SLOW_CASES,
    MAX: MAX_CASES,
    BY_KIND: BY_KIND_CASES,
    "FaultlensUnknownFailures": UNKNOWN_CASES,
    BY_WORKER: BY_WORKER_CASES,
    "FaultlensWorkerOutlier": OUTLIER_CASES,
    "FaultlensNewFailureClass": NEW_CASES,
    "FaultlensDown": DOWN_CASES,
    "FaultlensGone": GONE_CASES,
    "FaultlensDropping": DROPPING_CASES,
}
SLOW = {"FaultlensNewFailureClass", "FaultlensDown", "FaultlensGone", "FaultlensDropping"}
"""Those that are scraped and evaluated each five minutes: they look back for a day."""
