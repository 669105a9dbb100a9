"""Failures as Prometheus counters.

The counts are plain numbers here, and `Counters` is a prometheus_client collector that reads them
out when scraped. prometheus_client's own counters would not do on this path: their locks are not
re-entrant, so an SDK exception raised by a finalizer or signal handler in the middle of a scrape
would deadlock the host's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from prometheus_client import Metric

from faultlens import counts
from faultlens.counts import (
    CODES,
    DROPPED,
    FAILURES,
    SUPPRESSED,
    Count,
    Counts,
    Series,
    Trace,
    total,
)
from faultlens.exposition.families import families
from faultlens.failure import Failure, Kind, Role
from faultlens.forks import at_fork

__all__ = ["CLASS_LIMIT", "CODE_LIMIT", "OTHER", "WORKER_LIMIT", "Counters", "Keeper"]

CLASS_LIMIT = 300
"""Distinct classes; those of an imported SDK (52 and 47 at most) count too."""
WORKER_LIMIT = 100
"""Distinct workers."""
CODE_LIMIT = 500
"""Distinct pairs of class and code."""
OTHER = "_OTHER"
"""The label value for all beyond a limit."""
DROP_REASONS = (
    "class_limit",
    "code_limit",
    "internal_error",
    "reentrant",
    "span_error",
    "store_error",
    "worker_limit",
)
"""Why something is in ``faultlens_dropped_total``."""


class Keeper(Protocol):
    """Keeps what all processes of a host count; must not raise."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Re-entrant; held while `unsaved` is changed."""
        ...

    @property
    def unsaved(self) -> Counts:
        """What it is to keep of what this process has counted."""
        ...

    def admit(self, label: str, value: str, limit: int) -> bool | None:
        """Whether this is among the `limit` values of a label; None if there is no telling."""
        ...


class Counters:
    """Counts the failures of this process, for a `prometheus_client.CollectorRegistry`.

    info: labels of ``faultlens_info``.
    """

    def __init__(self, info: Mapping[str, str] | None = None) -> None:
        self.info = dict(info or {})
        self._keeper: Keeper | None = None
        self._counts: Counts = {}
        # Plain numbers, since at the recursion limit there is room for little more.
        self._dropped = dict.fromkeys(DROP_REASONS, 0)
        self.inherited: Counts = {}
        """What the process had counted that this one was forked from."""
        self._known: dict[str, set[str]] = {"class": set(), "worker": set(), "code": set()}
        # Serialises writers only; readers copy the dictionary, which is atomic. Re-entrant, since a
        # finalizer may count while this thread counts. Taken within the keeper's lock, never the
        # other way about: who holds that may be interrupted by a finalizer that counts.
        self._lock = threading.RLock()
        _instances.add(self)

    def keep_in(self, keeper: Keeper | None) -> None:
        """Have everything that is counted from now on kept there as well."""
        self._keeper = keeper
        with self._keeper_lock():
            counts.add(
                self._unsaved(),
                {Series(DROPPED, detail=reason): Count(0) for reason in DROP_REASONS},
            )

    def count(self, failure: Failure, trace: tuple[str, str] | None = None) -> BaseException | None:
        """Count one raised SDK exception: as a failure, or with its reason if it is no new one.

        trace: trace id and span id of the current span, for the exemplar.

        Raises only before anything is counted; returns what a signal handler of the program's
        raised when it was.
        """
        now = time.time()
        once = Count(1, now, now, Trace(*trace, now) if trace else None)
        counted = False
        try:
            with self._keeper_lock(), self._lock:
                own, unsaved = self._counts, self._unsaved()
                first, code = self._series(failure)
                own_first = total(own.get(first), once)
                unsaved_first = total(unsaved.get(first), once)
                if code is not None:
                    own_code = total(own.get(code), once)
                    unsaved_code = total(unsaved.get(code), once)
                # From here on nothing is called: no signal handler runs in between, and at the
                # recursion limit nothing fails.
                own[first] = own_first
                unsaved[first] = unsaved_first
                if code is not None:
                    own[code] = own_code
                    unsaved[code] = unsaved_code
                counted = True
        except BaseException as error:
            if counted:
                return error
            raise
        return None

    def expect(self, type: str, kinds: Iterable[Kind], worker: str) -> None:
        """Start the series of a class at 0: one born at 1 is invisible to rate() and increase()."""
        with self._keeper_lock(), self._lock:
            for kind in kinds:
                series = Series(FAILURES, *self._labels(type, kind.value, worker))
                counts.add(self._unsaved(), {series: Count(0)})
                counts.add(self._counts, {series: Count(0)})

    def drop(self, reason: str) -> None:
        """Count something that could not be recorded as it should."""
        # Without a call up to there, for at the recursion limit there is no room.
        keeper = self._keeper
        with self._lock if keeper is None else keeper.lock, self._lock:
            self._dropped[reason] += 1  # one step, which no signal handler interrupts
            try:
                counts.add(self._unsaved(), {Series(DROPPED, detail=reason): Count(1)})
            except RecursionError:
                pass  # here it is told

    def since(self, before: Counts) -> Counts:
        """What was counted after `before`."""
        dropped = {
            Series(DROPPED, detail=reason): Count(number)
            for reason, number in dict(self._dropped).items()
        }
        return counts.less({**self._counts, **dropped}, before)

    def _keeper_lock(self) -> AbstractContextManager[Any]:
        return self._lock if self._keeper is None else self._keeper.lock

    def _unsaved(self) -> Counts:
        return {} if self._keeper is None else self._keeper.unsaved

    def _series(self, failure: Failure) -> tuple[Series, Series | None]:
        """What to count, and what beside it."""
        labels = self._labels(failure.type, failure.kind.value, failure.worker)
        if failure.role is not Role.ORIGIN:
            return Series(SUPPRESSED, *labels, failure.role.value), None
        code = self._code(labels[0], failure.code) if failure.code else None
        return Series(FAILURES, *labels), code

    def _labels(self, type: str, kind: str, worker: str) -> tuple[str, str, str]:
        if Series(FAILURES, type, kind, worker) in self._counts:
            return type, kind, worker
        return (
            type if self._admits("class", type, CLASS_LIMIT) else OTHER,
            kind,
            worker if self._admits("worker", worker, WORKER_LIMIT) else OTHER,
        )

    def _code(self, type: str, code: str) -> Series:
        if self._admits("code", f"{type} {code}", CODE_LIMIT):
            return Series(CODES, type, detail=code)
        return Series(CODES, OTHER, detail=OTHER)

    def _admits(self, label: str, value: str, limit: int) -> bool:
        """Whether a value is among the first `limit` of its label; if not, that is a drop."""
        known = self._known[label]
        if value in known:
            return True
        admitted = len(known) < limit
        if admitted and self._keeper is not None:
            admitted = self._keeper.admit(label, value, limit) is not False
        if admitted:
            known.add(value)
        else:
            self.drop(f"{label}_limit")
        return admitted

    # The prometheus_client collector.

    def describe(self) -> list[Metric]:
        """The metrics without samples: what a registry checks for names that are taken."""
        return list(families({}, {}))

    def collect(self) -> Iterator[Metric]:
        """The metrics with the counts of this process as they are now."""
        return families(self.since(self.inherited), self.info)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()  # the thread that holds the old one may not be there
        self.inherited = self.since({})


_instances = at_fork(after_in_child=Counters._after_fork)
