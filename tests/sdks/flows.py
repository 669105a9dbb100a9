"""Tables of what can happen in an SDK, with the true number of failures.

A `Flow` makes something happen through the real SDK and says what must be counted. A table of flows
is a module, and also a program that prints the counts beside the truth::

    FAULTLENS=1 python -m tests.sdks.flyte_flows
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests import children, inside

__all__ = ["Counted", "Flows", "Outcome", "Truth", "outcomes"]

Counts = Mapping[str, int]
Truth = Counts | Callable[[], Counts]
"""A function if the truth is known only afterwards."""


@dataclass(frozen=True)
class Flow:
    """Something that happens, and the truth about it."""

    happen: Callable[[], object]
    """Makes it happen, and catches what its caller would catch."""
    failures: Truth
    """The true failures, by the class that they count as."""
    suppressed: Truth
    """The raised SDK exceptions that are not counted again, by reason."""
    conversions: int | None
    """How many of the failures raise no SDK exception; None: all of them."""
    causes: Truth | None = None
    """The failures by kind and reason, e.g. ``user code``; None: not checked."""
    attempts: Truth | None = None
    """The attempts by task and outcome, e.g. ``report.clean ok``; None: not checked."""


@dataclass(frozen=True)
class Counted:
    """The counts that something caused."""

    failures: Counts
    """The failures by class."""
    suppressed: Counts
    """The suppressed exceptions by reason."""
    raised: int
    """The number of raised SDK exceptions, counted independently of faultlens."""
    causes: Counts
    """The failures by kind and reason."""
    attempts: Counts
    """The attempts by task and outcome."""

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            _sum(self.failures, other.failures),
            _sum(self.suppressed, other.suppressed),
            self.raised + other.raised,
            _sum(self.causes, other.causes),
            _sum(self.attempts, other.attempts),
        )


@dataclass(frozen=True)
class Outcome:
    """The outcome of a flow: the truth and the counts."""

    failures: Counts
    suppressed: Counts
    conversions: int
    counted: Counted
    causes: Counts | None = None
    attempts: Counts | None = None

    @property
    def right(self) -> bool:
        """Whether the counts are true, and every raise is in one of the counters."""
        counted = self.counted
        total = sum(counted.failures.values()) + sum(counted.suppressed.values())
        return (
            counted.failures == self.failures
            and counted.suppressed == self.suppressed
            and total == counted.raised + self.conversions
            and self.causes in (None, counted.causes)
            and self.attempts in (None, counted.attempts)
        )


class Flows(dict[str, Flow]):
    """A table of flows by name.

    roots: the SDK's root classes. Their instances are watched; their tracebacks show which were
        raised, independently of faultlens.
    alone: whether each flow runs in its own process.
    issues: whether failures are listed as ``ActivityFailed ValueError break user code``: class,
        code, task, kind and reason, with ``-`` for one that is empty.
    unless: says whether an instance that is being created will not be raised. The SDK gives such an
        instance a traceback all the same.
    """

    def __init__(
        self,
        *roots: type[BaseException],
        alone: bool = False,
        issues: bool = False,
        unless: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._unless = unless
        self._roots = roots
        self.alone = alone
        self._issues = issues

    def enter(
        self,
        name: str,
        failures: Truth | None = None,
        suppressed: Truth | None = None,
        conversions: int | None = 0,
        causes: Truth | None = None,
        attempts: Truth | None = None,
    ) -> Callable[[Callable[[], object]], Callable[[], object]]:
        """Add the decorated function to the table."""

        def enter(happen: Callable[[], object]) -> Callable[[], object]:
            assert name not in self
            self[name] = Flow(
                happen, failures or {}, suppressed or {}, conversions, causes, attempts
            )
            return happen

        return enter

    def count(self, happen: Callable[[], object]) -> Counted:
        """Make something happen. If it returns the `Counted` of another process, that is added."""
        before = _samples()
        with _constructed(self._roots, self._unless) as constructed:
            elsewhere = happen()
        failures, suppressed, issues, attempts = map(inside.more, _samples(), before)
        here = Counted(
            _sums(issues, _issue) if self._issues else _sums(failures, _class),
            _sums(suppressed, _reason),
            len({id(exc) for exc in constructed if exc.__traceback__ is not None}),
            _sums(issues, _cause),
            _sums(attempts, _attempt),
        )
        return here + elsewhere if isinstance(elsewhere, Counted) else here

    def outcome(self, flow: Flow) -> Outcome:
        """Make it happen."""
        counted = self.count(flow.happen)
        true = _known(flow.failures)
        conversions = sum(true.values()) if flow.conversions is None else flow.conversions
        causes, attempts = (
            None if truth is None else _known(truth) for truth in (flow.causes, flow.attempts)
        )
        return Outcome(true, _known(flow.suppressed), conversions, counted, causes, attempts)

    def main(self) -> None:
        """Run all flows, or those named as arguments, and print the outcomes.

        Prints a table, and sets the exit status by whether all counts are right. With ``--json``,
        prints the input of `outcomes`.
        """
        names = [name for name in sys.argv[1:] if name != "--json"] or list(self)
        found: dict[str, Outcome] = {}
        for name in names:
            if self.alone and len(names) > 1:
                found |= outcomes(Path(sys.argv[0]).stem, name)
            else:
                found[name] = self.outcome(self[name])
        if "--json" in sys.argv:
            inside.report({name: asdict(outcome) for name, outcome in found.items()})
            return
        _print(found)
        if not all(outcome.right for outcome in found.values()):
            sys.exit("The numbers of the cases marked ! are wrong.")


def outcomes(module: str, *names: str) -> dict[str, Outcome]:
    """The outcomes of all flows in the table `module`, or of those named, in another process."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.sdks.{module}", "--json", *names],
        cwd=Path(__file__).parents[2],
        env=children.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=10 * children.TIMEOUT,  # it may be a whole table
        check=False,
    )
    assert done.returncode == 0, f"{names}: {done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {
        name: Outcome(**{**outcome, "counted": Counted(**outcome["counted"])})
        for name, outcome in found.items()
    }


@contextlib.contextmanager
def _constructed(
    roots: Iterable[type[BaseException]], unless: Callable[[], bool]
) -> Iterator[list[BaseException]]:
    """Collects the instances of these classes that are created within the block."""
    constructed: list[BaseException] = []
    originals = {root: root.__dict__.get("__init__") for root in roots}

    def noting(original: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: BaseException, *args: Any, **kwargs: Any) -> None:
            if not unless():
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


def _samples() -> list[dict[str, float]]:
    names = ("failures", "suppressed", "issues", "attempts")
    return [inside.samples(f"faultlens_{name}_total") for name in names]


def _sum(one: Counts, other: Counts) -> Counts:
    return dict(Counter(one) + Counter(other))


def _known(truth: Truth) -> dict[str, int]:
    return dict(truth() if callable(truth) else truth)


def _sums(counts: Mapping[str, float], key: Callable[[list[str]], str]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for series, count in sorted(counts.items()):
        sums[key(series.split("|"))] += int(count)
    return dict(sums)


def _class(series: list[str]) -> str:
    return series[0].rpartition(".")[2]


def _reason(series: list[str]) -> str:
    return series[3]


def _issue(series: list[str]) -> str:
    _, code, task, kind, reason, _ = series
    return " ".join((_class(series), code or "-", task or "-", kind, reason or "-"))


def _cause(series: list[str]) -> str:
    *_, kind, reason, _ = series
    return f"{kind} {reason}".strip()


def _attempt(series: list[str]) -> str:
    _, task, outcome = series
    return f"{task} {outcome}"


def _print(found: Mapping[str, Outcome]) -> None:
    head = ("", "case", "true", "counted", "kind, reason", "suppressed by", "raised", "attempts")
    table = [head, *(_row(name, outcome) for name, outcome in found.items())]
    wide = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)).rstrip())


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    counted = outcome.counted
    return (
        " " if outcome.right else "!",
        name,
        str(sum(outcome.failures.values())),
        str(sum(counted.failures.values())),
        _listed(counted.causes),
        _listed(counted.suppressed),
        str(counted.raised),
        _listed(counted.attempts),
    )


def _listed(counts: Counts) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "-"
