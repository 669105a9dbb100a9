"""Failures as Prometheus counters.

The counts are plain numbers here, and `Counters` is a prometheus_client collector that reads them
out when scraped. prometheus_client's own counters would not do on this path: their locks are not
re-entrant, so an SDK exception raised by a finalizer or signal handler in the middle of a scrape
would deadlock the host's thread.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily

from faultlens.failure import Failure, Kind, Role

__all__ = ["CLASS_LIMIT", "CODE_LIMIT", "OTHER", "WORKER_LIMIT", "Counters"]

CLASS_LIMIT = 300
"""Distinct classes; those of an imported SDK (52 and 47 at most) count too."""
WORKER_LIMIT = 100
"""Distinct workers of one process."""
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
    "worker_limit",
)
"""Why something is in ``faultlens_dropped_total``."""


_Series = tuple[str, str, str]
"""Class, kind and worker."""


class Counters:
    """Counts failures, and gives the counts to a `prometheus_client.CollectorRegistry`.

    info: labels of ``faultlens_info``.
    """

    def __init__(self, info: Mapping[str, str] | None = None) -> None:
        self.info = dict(info or {})
        self._failures: dict[_Series, int] = {}
        self._suppressed: dict[tuple[_Series, str], int] = {}
        self._codes: dict[tuple[str, str], int] = {}
        self._dropped: dict[str, int] = dict.fromkeys(DROP_REASONS, 0)
        self._last: dict[_Series, float] = {}
        self._born: dict[object, float] = {}  # of the series that did not start at 0
        self._exemplars: dict[_Series, Exemplar] = {}
        self._types: set[str] = set()
        self._workers: set[str] = set()
        # Serialises writers only; readers copy a dictionary, which is atomic. Re-entrant, since a
        # finalizer may count a drop while this thread counts.
        self._lock = threading.RLock()
        _instances.add(self)

    def count(self, failure: Failure, trace: tuple[str, str] | None = None) -> None:
        """Count one raised SDK exception: as a failure, or with its reason if it is no new one.

        trace: trace id and span id of the current span, for the exemplar.

        Raises only before anything is counted.
        """
        now = time.time()
        exemplar = (
            Exemplar({"trace_id": trace[0], "span_id": trace[1]}, 1.0, now) if trace else None
        )
        with self._lock:
            series = self._series(failure.type, failure.kind.value, failure.worker)
            code = self._code(series[0], failure.code) if failure.code else None
            if failure.role is Role.ORIGIN:
                if series not in self._failures:
                    self._born[series] = now
                self._failures[series] = self._failures.get(series, 0) + 1
                self._last[series] = now
                if exemplar is not None:
                    self._exemplars[series] = exemplar
                if code is not None:
                    self._codes[code] = self._codes.get(code, 0) + 1
                    self._born.setdefault(code, now)
            else:
                reason = (series, failure.role.value)
                self._suppressed[reason] = self._suppressed.get(reason, 0) + 1
                self._born.setdefault(reason, now)

    def expect(self, type: str, kinds: Iterable[Kind], worker: str) -> None:
        """Start the series of a class at 0: one born at 1 is invisible to rate() and increase()."""
        with self._lock:
            for kind in kinds:
                self._failures.setdefault(self._series(type, kind.value, worker), 0)

    def drop(self, reason: str) -> None:
        """Count something that could not be recorded as it should."""
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def _series(self, type: str, kind: str, worker: str) -> _Series:
        if (type, kind, worker) in self._failures:
            return type, kind, worker
        return (
            self._capped(self._types, type, CLASS_LIMIT, "class_limit"),
            kind,
            self._capped(self._workers, worker, WORKER_LIMIT, "worker_limit"),
        )

    def _code(self, type: str, code: str) -> tuple[str, str]:
        if (type, code) not in self._codes and len(self._codes) >= CODE_LIMIT:
            self.drop("code_limit")
            return OTHER, OTHER
        return type, code

    def _capped(self, known: set[str], value: str, limit: int, reason: str) -> str:
        if value in known:
            return value
        if len(known) >= limit:
            self.drop(reason)
            return OTHER
        known.add(value)
        return value

    # The prometheus_client collector.

    def describe(self) -> list[Metric]:
        """The metrics without samples: what a registry checks for names that are taken."""
        return list(self._families())

    def collect(self) -> Iterator[Metric]:
        """The metrics with the counts as they are now."""
        failures, suppressed, codes, dropped, last, info = self._families()
        born = self._born
        for series, count in sorted(dict(self._failures).items()):
            _add(failures, series, count, born.get(series), self._exemplars.get(series))
        for reason, count in sorted(dict(self._suppressed).items()):
            series, why = reason
            _add(suppressed, (*series, why), count, born[reason])
        for code, count in sorted(dict(self._codes).items()):
            _add(codes, code, count, born[code])
        for why, count in sorted(dict(self._dropped).items()):
            _add(dropped, (why,), count)
        for series, moment in sorted(dict(self._last).items()):
            last.add_metric(series, moment)
        info.add_metric(tuple(self.info.values()), 1)
        yield from (failures, suppressed, codes, dropped, last, info)

    def _families(
        self,
    ) -> tuple[
        CounterMetricFamily,
        CounterMetricFamily,
        CounterMetricFamily,
        CounterMetricFamily,
        GaugeMetricFamily,
        GaugeMetricFamily,
    ]:
        labels = ("class", "kind", "worker")
        return (
            CounterMetricFamily(
                "faultlens_failures",
                "Failures, each once, by SDK exception class, whose fault it was and who ran it. "
                "Page the platform team for kind=system.",
                labels=labels,
            ),
            CounterMetricFamily(
                "faultlens_suppressed",
                "Raised SDK exceptions that are no new failure, and the reason why.",
                labels=(*labels, "reason"),
            ),
            CounterMetricFamily(
                "faultlens_failure_codes",
                "Failures by the code their exception carries.",
                labels=("class", "code"),
            ),
            CounterMetricFamily(
                "faultlens_dropped",
                "What faultlens could not record as it should; above 0, look at the reason.",
                labels=("reason",),
            ),
            GaugeMetricFamily(
                "faultlens_last_failure_timestamp_seconds",
                "When the last such failure was, in seconds since 1970.",
                labels=labels,
            ),
            GaugeMetricFamily(
                "faultlens_info", "What runs here; always 1.", labels=tuple(self.info)
            ),
        )


def _add(
    family: CounterMetricFamily,
    values: Iterable[str],
    count: int,
    created: float | None = None,
    exemplar: Exemplar | None = None,
) -> None:
    # Not family.add_metric, which took an exemplar in late versions of prometheus_client only.
    labels = dict(zip(family._labelnames, values, strict=True))
    family.add_sample(f"{family.name}_total", labels, count, exemplar=exemplar)
    if created is not None:
        family.add_sample(f"{family.name}_created", labels, created)


_instances: weakref.WeakSet[Counters] = weakref.WeakSet()


def _new_locks() -> None:
    """In a forked child: the thread that holds a lock may not exist there."""
    for counters in _instances:
        counters._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_locks)
