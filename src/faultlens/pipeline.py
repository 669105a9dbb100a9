"""Puts the parts together: hook → SDK adapter → `Failure` → counters, spans → /metrics.

There is one pipeline to a process. It starts when the first SDK's errors module has been imported
and ends with `faultlens.disable`; its counts outlive it, so that enabling again goes on from there.
"""

from __future__ import annotations

import atexit
import logging
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import util
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry, Metric

from faultlens import __version__, guard, imports, rules, settings
from faultlens.counts import Counts
from faultlens.exposition.families import Collector
from faultlens.exposition.server import MetricsServer
from faultlens.failure import Failure
from faultlens.hook import Hook
from faultlens.identity import IdentityMap
from faultlens.sdks import ERRORS_MODULES, Sdk, adapter_for
from faultlens.settings import Settings, StorePath
from faultlens.sinks import exporters
from faultlens.sinks.counters import Counters
from faultlens.sinks.instruments import Instruments
from faultlens.sinks.log import debug_log
from faultlens.sinks.spans import Spans

if TYPE_CHECKING:
    from faultlens.exposition.store import Store

__all__ = ["Pipeline", "imported", "running", "stop"]

_log = logging.getLogger("faultlens")

_lock = threading.RLock()
_running: Pipeline | None = None
_counters = Counters()
_instruments = Instruments(_counters, __version__)


def imported(module: ModuleType) -> None:
    """A module that `faultlens.imports` watches for has been imported."""
    global _running
    with _lock:
        if _running is None and module.__name__ in ERRORS_MODULES:
            _running = Pipeline(settings.load(), _counters, _instruments)
            for earlier in imports.already_imported():
                _running.adjust_to(earlier)
            _running.adjust_to(module)
            _running.serve()
        elif _running is not None:
            _running.adjust_to(module)


def running() -> Pipeline | None:
    """The process's pipeline, if one is running."""
    return _running


def stop() -> None:
    """End the process's pipeline; does nothing if there is none."""
    global _running
    with _lock:
        if _running is not None:
            _running.stop()
            _running = None


class Pipeline:
    """Records the exceptions of every SDK it is told of, until `stop`.

    counters: where the counts are kept; they stay there.
    instruments: what gives them to OpenTelemetry.
    """

    def __init__(self, settings: Settings, counters: Counters, instruments: Instruments) -> None:
        self.settings = settings
        self.counters = counters
        self.instruments = instruments
        self.overrides = rules.load(settings.rules)
        self.seen: IdentityMap[Failure] = IdentityMap()
        self.sdks: dict[str, Sdk] = {}
        self.flusher = exporters.Flusher(settings.flush_seconds, settings.metrics_seconds)
        self.spans = Spans(settings, __version__, self.flusher)
        self.log = debug_log() if settings.debug else _no_log
        self.hook = Hook(self._record, self._dropped)
        self.store = _open_store(settings.store, lambda: counters.drop("store_error"))
        counters.keep_in(self.store)
        self.server: MetricsServer | None = None
        self._registry = _register(self)
        self._served_elsewhere = settings.otel_serves
        self.instruments.start(self.hook.poll, exporters.load("metrics", settings), self.flusher)
        self._sdk_of_root: dict[int, Sdk] = {}  # by id: a metaclass of the user's may break hashing
        self._hooked: set[tuple[str, str]] = set()  # SDK and module
        self._undo: list[Callable[[], None]] = []
        self._warned: set[str] = set()
        self._warn_of_names(
            "the package {package} is not installed",
            lambda name: not _installed(name.partition(".")[0]),
        )
        atexit.register(self._finish)

    def adjust_to(self, module: ModuleType) -> None:
        """Take a newly imported module in: an SDK, or what the program uses beside it."""
        name = module.__name__
        if name in ERRORS_MODULES and name not in self.sdks:
            adapter = adapter_for(name)
            sdk = adapter(
                module,
                self.overrides,
                self.settings.suppress,
                self.seen,
                shared=self.store is not None,
            )
            self._add(sdk, name)
            for earlier in imports.already_imported():
                self._hook_into(sdk, earlier)
        elif name == "opentelemetry.sdk.trace":
            self.spans.hook_into(module)
        elif name == "opentelemetry.exporter.prometheus":
            # The app's own reader serves the registry that our counters are in, often on our port.
            self._served_elsewhere = True
            self._stop_serving()
        undo = self.instruments.adjust_to(module)
        if undo is not None:
            self._undo.append(undo)
        for sdk in self.sdks.values():
            self._hook_into(sdk, module)

    def _hook_into(self, sdk: Sdk, module: ModuleType) -> None:
        if (sdk.package, module.__name__) in self._hooked:
            return
        self._hooked.add((sdk.package, module.__name__))
        undo = sdk.hook_into(module, self)
        if undo is not None:
            self._undo.append(undo)

    def serve(self) -> None:
        """Serve /metrics, unless OpenTelemetry does: of the whole store, if there is one."""
        if self._served_elsewhere or self.server is not None:
            return
        address = self.settings.host, self.settings.port
        if self.store is None:
            server = MetricsServer(self._registry, *address, __version__)
            self.server = server if server.start() else None
            return
        registry, store = CollectorRegistry(), self.store
        registry.register(Collector(self._read_store, lambda: self.counters.info))
        self.server = MetricsServer(registry, *address, __version__, lambda: store.identity)
        self.server.start_or_stand_by()

    def stop(self) -> None:
        """Record nothing any more and restore everything that was patched."""
        self.hook.poll()
        self.hook.stop()
        for undo in reversed(self._undo):
            undo()
        self.spans.stop()
        self._stop_serving()
        self._registry.unregister(self)
        atexit.unregister(self._finish)
        self._finish()
        self.instruments.stop()
        self.counters.keep_in(None)

    # What the adapters report: see `faultlens.sdks.Recorder`.

    def worker_seen(self, name: str) -> None:
        """Start the series of every known class at 0 for this worker."""
        worker = self.settings.worker or name
        for sdk in self.sdks.values():
            for class_name, cls in sdk.classes.items():
                self.counters.expect(class_name, sdk.rule(cls).kinds, worker)
        if self.store is not None:
            self.store.save()

    def converted(
        self, native: BaseException, convert: Callable[[], BaseException]
    ) -> Callable[[], None]:
        """Record a failure that raised no SDK exception; never raises what is not the host's."""
        if self._sdk_of(native) is not None:
            return _nothing  # the hook has seen it
        try:
            exc = convert()  # not within `report`: it makes SDK exceptions, which the hook sees
        except Exception as error:
            if guard.of_a_signal(error):
                raise
            self._dropped("internal_error", error)
            return _nothing
        self.hook.report(lambda: self._record_converted(native, exc))
        return lambda: self.spans.forget(native)

    # The prometheus_client collector.

    def describe(self) -> list[Metric]:
        """The names, which a registry checks for being taken."""
        return self.counters.describe()

    def collect(self) -> Iterator[Metric]:
        """This process's metrics, after a look for raises that were not seen when they happened."""
        self.hook.poll()
        return self.counters.collect()

    def _read_store(self) -> Counts:
        """What all processes have counted, after the same look."""
        assert self.store is not None  # it is served
        self.hook.poll()
        return self.store.read()

    def _finish(self) -> None:
        """At the end, of the process too: write what was seen late, or could not be written."""
        self.hook.poll()
        self.flusher.shut_down()
        if self.store is not None:
            self.store.end()

    def _add(self, sdk: Sdk, errors_module: str) -> None:
        self.sdks[errors_module] = sdk
        self._sdk_of_root.update((id(root), sdk) for root in sdk.roots)
        self._warn_of_names(
            f"{sdk.distribution} {sdk.version} has no such class",
            lambda name: name.rpartition(".")[0] == errors_module and name not in sdk.classes,
        )
        self.hook.watch(sdk.roots)
        self.counters.info = {
            "version": __version__,
            "detector": self.hook.detector,
            "python": platform.python_version(),
            **{known.package: known.version for known in self.sdks.values()},
        }
        self.worker_seen(self.settings.worker or self.settings.fallback_worker)
        if self.store is not None:
            self.store.close()  # a program without failures holds no file open, nor do its forks

    def _sdk_of(self, exc: BaseException) -> Sdk | None:
        roots = self._sdk_of_root
        return next((roots[id(b)] for b in guard.mro(type(exc)) if id(b) in roots), None)

    def _record(self, exc: BaseException, frame: FrameType | None) -> BaseException | None:
        """The hook's handler: raises only before anything is recorded."""
        sdk = self._sdk_of(exc)
        assert sdk is not None  # the hook watches the roots of our SDKs
        settings = self.settings
        failure = sdk.describe(exc, frame, settings.worker, settings.fallback_worker)
        return self._give(failure, exc, frame)

    def _record_converted(self, native: BaseException, exc: BaseException) -> None:
        sdk = self._sdk_of(exc)
        assert sdk is not None  # it is the adapter's own
        settings = self.settings
        failure = sdk.describe_converted(exc, native, settings.worker, settings.fallback_worker)
        if failure is not None:
            interruption = self._give(failure, native, None, keep=True)
            if interruption is not None:
                raise interruption

    def _give(
        self, failure: Failure, exc: BaseException, frame: FrameType | None, keep: bool = False
    ) -> BaseException | None:
        """Hand a record to the sinks. Raises only before anything is recorded."""
        span, trace = self._current_span()
        if self._sdk_of(exc) is not None:
            self.seen.set(exc, failure)  # a second try says the same again
        interruption = self.counters.count(failure, trace)
        if interruption is not None:
            return interruption
        try:
            if self.store is not None:
                self.store.save()
            if self.server is not None:
                self.server.resume()
            self.log(failure, exc, frame)
            self.spans.record(failure, exc, frame, span, keep)
            self.flusher.flush()
        except BaseException as error:
            if guard.of_a_signal(error):
                return error
            self._dropped("span_error", error)
        return None

    def _current_span(self) -> tuple[Any, tuple[str, str] | None]:
        try:
            span = self.spans.current()
            return span, self.spans.sampled(span)
        except Exception as error:  # a context or span implementation that is not OpenTelemetry's
            if guard.of_a_signal(error):
                raise
            self._dropped("span_error", error)
            return None, None

    def _dropped(self, reason: str, error: BaseException | None) -> None:
        self.counters.drop(reason)
        if error is not None and reason not in self._warned:
            self._warned.add(reason)
            _log.warning(
                "faultlens could not record an exception in full (%s); the program is not "
                "affected. Said once; counted in faultlens_dropped_total.",
                reason,
                exc_info=error,
            )

    def _stop_serving(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def _warn_of_names(self, why: str, concerns: Callable[[str], bool]) -> None:
        """Say that a class which the user names for us cannot be meant."""
        settings = self.settings
        for name in filter(concerns, self.overrides):
            self._warn_of_name(f"FAULTLENS_RULES={settings.rules}: the rule for {name}", name, why)
        for name in filter(concerns, settings.suppress):
            self._warn_of_name(f"FAULTLENS_SUPPRESS: {name}", name, why)

    def _warn_of_name(self, what: str, name: str, why: str) -> None:
        _log.warning("%s changes nothing: %s.", what, why.format(package=name.partition(".")[0]))


def _nothing() -> None:
    """There is nothing to let go of."""


def _no_log(failure: Failure, exc: BaseException, frame: FrameType | None) -> None:
    """Without FAULTLENS_DEBUG."""


def _open_store(path: StorePath | None, failed: Callable[[], None]) -> Store | None:
    """The store, if there is to be one; nothing is opened yet."""
    if path is None:
        return None
    try:
        from faultlens.exposition.store import Store
    except ImportError as error:  # a Python that was built without SQLite
        _log.warning("faultlens: %s: counts live in the process's memory only.", error)
        return None
    return Store(path, failed)


def _register(pipeline: Pipeline) -> CollectorRegistry:
    """Put the counters where the program's own metrics are; where not, alone in a registry."""
    try:
        REGISTRY.register(pipeline)
        return REGISTRY
    except ValueError as error:
        _log.warning(
            "faultlens: prometheus_client's registry has metrics of our names already (%s): ours "
            "are served at /metrics alone, without the program's.",
            error,
        )
    registry = CollectorRegistry()
    registry.register(pipeline)
    return registry


def _installed(package: str) -> bool:
    try:
        return util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: __main__, which has no spec
        return package in sys.modules
