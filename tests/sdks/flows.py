"""Tables of what can happen in an SDK, with how often it truly went wrong.

A `Flow` makes something happen through the real SDK and says what ought to be counted. A table of
them is a module, and a program that prints what was counted beside what is true::

    FAULTLENS=1 python -m tests.sdks.flyte_flows
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests import children, inside

__all__ = ["Flows", "Outcome", "outcomes"]

Counts = Mapping[str, int]
Truth = Counts | Callable[[], Counts]
"""A function where it is known only afterwards."""


@dataclass(frozen=True)
class Flow:
    """Something that happens, and the truth about it."""

    happen: Callable[[], object]
    """Makes it happen, and catches what its caller would catch."""
    failures: Truth
    """What goes wrong, by the class that it counts as."""
    suppressed: Truth
    """The raised SDK exceptions that are no new failure, by reason."""
    conversions: int | None
    """How many of the failures raise no SDK exception; None for all."""


@dataclass(frozen=True)
class Outcome:
    """What a flow came to: the truth, and what was counted."""

    failures: Counts
    suppressed: Counts
    conversions: int
    counted_failures: Counts
    counted_suppressed: Counts
    raised: int
    """The SDK exceptions that were raised, by another count than faultlens'."""

    @property
    def right(self) -> bool:
        """Whether what was counted is what is true, and every raise is in one of the counters."""
        counted = sum(self.counted_failures.values()) + sum(self.counted_suppressed.values())
        return (
            self.counted_failures == self.failures
            and self.counted_suppressed == self.suppressed
            and counted == self.raised + self.conversions
        )


class Flows(dict[str, Flow]):
    """A table of flows by name.

    roots: the SDK's root classes. Their instances are watched, and it is the traceback that tells
        which were raised, independently of faultlens.
    """

    def __init__(self, *roots: type[BaseException]) -> None:
        super().__init__()
        self._roots = roots

    def enter(
        self,
        name: str,
        failures: Truth | None = None,
        suppressed: Truth | None = None,
        conversions: int | None = 0,
    ) -> Callable[[Callable[[], object]], Callable[[], object]]:
        """Enter the decorated function into the table."""

        def enter(happen: Callable[[], object]) -> Callable[[], object]:
            assert name not in self
            self[name] = Flow(happen, failures or {}, suppressed or {}, conversions)
            return happen

        return enter

    def outcome(self, flow: Flow) -> Outcome:
        """Let it happen."""
        failures, suppressed = inside.failures(), inside.suppressed()
        with _constructed(self._roots) as constructed:
            flow.happen()
        true = _known(flow.failures)
        return Outcome(
            failures=true,
            suppressed=_known(flow.suppressed),
            conversions=sum(true.values()) if flow.conversions is None else flow.conversions,
            counted_failures=_sums(inside.more(inside.failures(), failures), _class),
            counted_suppressed=_sums(inside.more(inside.suppressed(), suppressed), _reason),
            raised=sum(exc.__traceback__ is not None for exc in constructed),
        )

    def main(self) -> None:
        """Let all happen, and print it as a table, or with ``--json`` for `outcomes`.

        With the table the exit status says whether all was counted right.
        """
        found = {name: self.outcome(flow) for name, flow in self.items()}
        if "--json" in sys.argv:
            inside.report({name: asdict(outcome) for name, outcome in found.items()})
            return
        _print(found)
        if not all(outcome.right for outcome in found.values()):
            sys.exit("The numbers of the cases marked ! are wrong.")


@functools.cache
def outcomes(module: str) -> dict[str, Outcome]:
    """What all flows of the table `module` come to, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.sdks.{module}", "--json"],
        cwd=Path(__file__).parents[2],
        env=children.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: Outcome(**outcome) for name, outcome in found.items()}


@contextlib.contextmanager
def _constructed(roots: Iterable[type[BaseException]]) -> Iterator[list[BaseException]]:
    """The instances of these classes that are made meanwhile; kept, so that none is missed."""
    constructed: list[BaseException] = []
    originals = {root: root.__dict__.get("__init__") for root in roots}

    def noting(original: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: BaseException, *args: Any, **kwargs: Any) -> None:
            constructed.append(self)
            original(self, *args, **kwargs)

        return __init__

    for root in roots:
        type.__setattr__(root, "__init__", noting(root.__init__))
    try:
        yield constructed
    finally:
        for root, original in originals.items():
            if original is None:
                type.__delattr__(root, "__init__")
            else:
                type.__setattr__(root, "__init__", original)


def _known(truth: Truth) -> dict[str, int]:
    return dict(truth() if callable(truth) else truth)


def _sums(counts: Mapping[str, float], key: Callable[[list[str]], str]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for series, count in sorted(counts.items()):
        sums[key(series.split("|"))] += int(count)
    return dict(sums)


def _class(series: list[str]) -> str:
    """The class without its SDK's module; a user's class whole."""
    module, _, short = series[0].rpartition(".")
    return short if module.endswith(".errors") else series[0]


def _reason(series: list[str]) -> str:
    return series[3]


def _print(found: Mapping[str, Outcome]) -> None:
    head = ("", "case", "true", "counted", "suppressed by reason", "raised")
    table = [head, *(_row(name, outcome) for name, outcome in found.items())]
    wide = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)).rstrip())


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    reasons = (f"{count} {reason}" for reason, count in outcome.counted_suppressed.items())
    return (
        " " if outcome.right else "!",
        name,
        str(sum(outcome.failures.values())),
        str(sum(outcome.counted_failures.values())),
        ", ".join(reasons) or "-",
        str(outcome.raised),
    )
