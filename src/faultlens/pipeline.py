"""Puts the parts together: hook → SDK adapter → `Failure` → counts, spans, log → /metrics.

There is one pipeline to a process. It starts when the first SDK's errors module has been imported
and ends with `faultlens.disable`; its counts outlive it, so that enabling again goes on from there.
"""

from __future__ import annotations

import atexit
import logging
import os
import platform
from collections import deque
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from faultlens import (
    __version__,
    farewell,
    guard,
    imports,
    interpreter,
    natives,
    rules,
    scrub,
    series,
    settings,
)
from faultlens.background import Background, Job, Patience, log, no_fork
from faultlens.exposition import sheets
from faultlens.exposition.answers import Page
from faultlens.exposition.claims import Claims
from faultlens.exposition.ledger import Ledger
from faultlens.exposition.ledgers import Ledgers, Reading
from faultlens.exposition.serving import Server
from faultlens.failure import OK, Failure, Kind, Role
from faultlens.hook import Hook
from faultlens.identity import IdentityMap
from faultlens.rules import checking
from faultlens.sdks import CAUSE_LIMIT, TASK_LIMIT, Converted, Sdk
from faultlens.sdks.adapters import adapter_of
from faultlens.settings import Settings
from faultlens.sinks import exporters
from faultlens.sinks.instruments import Instruments, Own
from faultlens.sinks.log import Log
from faultlens.sinks.logs import LogRecords
from faultlens.sinks.record import Endings, Record
from faultlens.sinks.spans import Spans

__all__ = ["Pipeline", "imported", "recordings", "running", "stop"]

_log = logging.getLogger("faultlens")

_lock = natives.RLock()
_running: Pipeline | None = None
_arrived: deque[ModuleType] = deque()
"""Imported, and not taken in."""
_ledgers: dict[object, Ledger] = {}
"""By place: what was counted outlives the pipeline."""
_instruments = Instruments(__version__)
recordings: list[list[Failure]] = []
"""Lists that get each record too, for `faultlens.testing`."""

_SEND_SECONDS = 0.1
"""How often spans of our own, log records and lines are looked for."""


def imported(module: ModuleType) -> None:
    """A module that `faultlens.imports` watches for has been imported.

    Never waits for another thread: this one holds the module's import lock, for which the other may
    wait, as an adapter imports its SDK. The other thread takes this module in then.
    """
    _arrived.append(module)
    while _arrived and _lock.acquire(blocking=False):
        try:
            if _arrived:
                _take_in(_arrived.popleft())
        finally:
            _lock.release()


def _take_in(module: ModuleType) -> None:
    """Whatever goes wrong here must not break an import."""
    try:
        _adjust_to(module)
    except Exception as error:
        if guard.of_a_signal(error):
            raise
        name = module.__name__
        _log.warning(
            "faultlens: %s could not be hooked; the program is not affected.",
            name,
            exc_info=True,
        )


def _adjust_to(module: ModuleType) -> None:
    global _running
    if _running is None and adapter_of(module.__name__) is not None:
        _running = Pipeline(settings.load(), _instruments)
        for earlier in imports.already_imported():
            if earlier is not module:
                _running.adjust_to(earlier, anew=False)
        _running.adjust_to(module)
        _running.start()
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

    instruments: what gives the counts to OpenTelemetry.
    """

    def __init__(self, settings: Settings, instruments: Instruments) -> None:
        self.settings = settings
        self.instruments = instruments
        self.rules = rules.load(settings.rules, settings.profile)
        self.scrub = scrub.load(settings.scrub)
        self.seen: IdentityMap[Failure] = IdentityMap()
        self.sdks: dict[tuple[str, ...], Sdk] = {}
        """By errors modules: two SDKs may have one name."""
        self._problems: deque[str] = deque()
        self.ledger = _ledger(settings, self._problem, self._after_fork)
        self.ledgers = Ledgers(settings.store, self.ledger, self._problem)
        self.claims = Claims(settings.store)
        self.patience = Patience(settings.flush_seconds)
        self.endings = Endings()
        self.spans = Spans(
            settings,
            __version__,
            self.scrub,
            self.patience,
            lambda error: self._dropped("span_error", error),
        )
        self.logs = LogRecords(
            settings,
            __version__,
            self.scrub,
            self.endings,
            self.patience,
            lambda error: self._dropped("log_error", error),
        )
        self.log: Log | None = None
        if settings.log is not None:
            self.log = Log(
                settings.log,
                self.scrub,
                self.endings,
                lambda error: self._dropped("log_error", error),
            )
        self.hook = Hook(self._record, self._dropped, self._defined)
        self.background = Background()
        # A thread of its own: a collector that does not answer must not keep /metrics from it.
        self.sender = Background()
        # And one for the log: a reader of stderr that does not read must keep nothing from anyone.
        self.writer = Background()
        self.server: Server | None = None
        self._front: Page | None = None
        self._served_elsewhere = settings.otel_serves or not settings.serve
        self.instruments.start(self._own, exporters.load("metrics", settings))
        self._sdk_of_root: dict[int, Sdk] = {}  # by id: a metaclass of the user's may break hashing
        self._undo: list[tuple[Sdk, ModuleType, Callable[[], None]]] = []
        self._warned: set[str] = set()
        self._started = natives.time()
        self._warn_of_names(checking.why_unknown)
        for problem in checking.unreachable(self.rules):
            _log.warning("faultlens: %s", problem)
        atexit.register(self._end)

    # The parts.

    def adjust_to(self, module: ModuleType, anew: bool = True) -> None:
        """Take an imported module in: an SDK, or what the program uses beside it.

        anew: whether it was imported just now, perhaps a second time.
        """
        name = module.__name__
        adapter = adapter_of(name)
        if adapter is not None:
            self._add(adapter, module)
        elif name == "opentelemetry.sdk.trace":
            self.spans.hook_into(module)
            self.sender.start()  # the program's span processors may wait
        elif name == "opentelemetry.exporter.prometheus":
            # The program's own reader has our counters as instruments, often on our port.
            self._served_elsewhere = True
            self._stop_serving()
        self.instruments.adjust_to(module)
        for sdk in self.sdks.values():
            self._hook_into(sdk, module, anew)

    def start(self) -> None:
        """Start to count in a file, to serve, and to send."""
        self.ledger.open()
        self.background.add(_Every(1.0, self._keep))
        if self.log is not None:
            self.writer.add(_Every(_SEND_SECONDS, self.log.write, self.log.end))
            self.writer.start()
        if not self._served_elsewhere:
            address = self.settings.host, self.settings.port
            identity = (lambda: self.ledgers.identity) if self.settings.store else str
            pages = {"/metrics": self._page, "/": self._front_page}
            self.server = Server(pages, *address, identity)
            self.background.add(self.server)
        self.background.start()
        self.sender.add(_Every(_SEND_SECONDS, self.spans.send, self.spans.end))
        self.sender.add(_Every(_SEND_SECONDS, self.logs.send, self.logs.end))
        self.sender.add(
            _Every(self.settings.metrics_seconds, self.instruments.send, self.instruments.end)
        )
        if self.spans.sends or self.logs.on or self.instruments.sends:
            self.sender.start()

    def stop(self) -> None:
        """Record nothing any more and restore everything that was patched."""
        self.hook.poll()
        self.hook.stop()
        while self._undo:
            self._undo.pop()[2]()
        self.spans.stop()
        self.logs.stop()
        atexit.unregister(self._end)
        self._finish()
        self.instruments.stop()

    def _end(self) -> None:
        """The process ends."""
        self._finish()
        try:
            if self._may_say_where_to_look():
                own = self.ledger.own().items()
                failures = sum(count.number for key, count in own if key[0] == series.FAILURES)
                counted = failures or self._children_may_have_counted()
                if counted and not self._parent_will_say():
                    farewell.say(failures)
        except Exception:  # by what the program has put in the place of os or multiprocessing
            _log.debug("faultlens cannot say where to look", exc_info=True)

    def _may_say_where_to_look(self) -> bool:
        """Whether nothing shows the counts, and a person may want to know where they are."""
        return (
            self.settings.store is not None
            and not self.settings.quiet
            and self.server is not None
            and not self.server.served_elsewhere
            and not self.instruments.sends
            and interpreter.is_main()
            and farewell.is_wanted()
        )

    def _parent_will_say(self) -> bool:
        """Whether the process that has started this one counts in the same store."""
        place = self.settings.store
        try:
            return place is not None and sheets.counts_in(place, os.getppid())
        except OSError:
            return False

    def _children_may_have_counted(self) -> bool:
        """Whether there were children, and failures while this process ran."""
        if not farewell.had_children():
            return False
        try:
            counts = self.ledgers.read().counts.items()
        except OSError:
            return False
        return any(key[0] == series.FAILURES and c.last >= self._started for key, c in counts)

    def _finish(self) -> None:
        """Count what was seen late, and send what waits."""
        self.hook.poll()
        with self.patience:
            written = self.writer.stop(self.patience.seconds)
        if self.log is not None and written and self.patience.is_ours():
            self.log.end()  # what is left where no thread could be started
        for thread in (self.sender, self.background):
            with self.patience:
                thread.stop(self.patience.seconds)
        self._keep()
        if not interpreter.is_main():
            self.ledger.close()  # another interpreter of this process may take the file

    def _keep(self) -> None:
        """What is due each second."""
        self.hook.poll()
        self.ledger.check()
        self.claims.sweep()
        while self._problems:
            log(logging.WARNING, "faultlens: %s", self._problems.popleft())

    def _after_fork(self) -> None:
        """A forked child counts for the first time."""
        self.ledgers.start_anew()
        self.patience.after_fork()
        self.spans.after_fork()
        self.logs.after_fork()
        self.instruments.after_fork()
        if self.log is not None:
            self.log.after_fork()
        self.background.resume()
        self.sender.resume()
        self.writer.resume()

    def _add(self, adapter: type[Sdk], errors: ModuleType) -> None:
        """Take in an SDK, or another errors module of one, or one that was imported anew."""
        modules = tuple(adapter.errors_modules)
        known = self.sdks.get(modules)
        if known is not None:
            known.learn(errors)
            self._watch(known)
            return
        sdk = self.sdks[modules] = adapter(
            errors,
            self.rules,
            self.settings.suppress,
            self.seen,
            shared=self.settings.store is not None,
            worker=self.settings.worker,
            fallback_worker=self.settings.fallback_worker,
            claim=self.claims.claim,
        )
        self._warn_of_names(
            lambda named: checking.of_an_sdk(
                named.name, sdk.errors_modules, sdk.distribution, sdk.classes
            )
        )
        others = [module for module in imports.already_imported() if module is not errors]
        for module in others:
            if module.__name__ in sdk.errors_modules:
                sdk.learn(module)
        self._watch(sdk)
        self.worker_seen(self.settings.fallback_worker)
        for module in others:
            self._hook_into(sdk, module, anew=False)

    def _watch(self, sdk: Sdk) -> None:
        self._sdk_of_root.update((id(root), sdk) for root in sdk.roots)
        self.hook.watch(sdk.roots)
        for root in sdk.roots:
            self._defined(root)

    def _hook_into(self, sdk: Sdk, module: ModuleType, anew: bool) -> None:
        for step in self._undo:
            if step[0] is sdk and step[1] is module:
                if not anew:
                    return
                step[2]()
                self._undo.remove(step)
                break
        undo = sdk.hook_into(module, self)
        if undo is not None:
            self._undo.append((sdk, module, undo))

    def _stop_serving(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            self.background.remove(server)
            server.end()

    # What the adapters report: see `faultlens.sdks.Recorder`.

    def worker_seen(self, name: str) -> None:
        """Start the series of every known class at 0 for this worker."""
        self.ledger.expect_worker(self.scrub.short(self.settings.worker or name))

    def converted(self, native: BaseException, convert: Callable[[], BaseException]) -> Converted:
        """Record a failure that raised no SDK exception; never raises what is not the host's."""
        if self._sdk_of(type(native)) is not None:
            return Converted(self.outcome(native), _nothing)  # the hook has seen it
        try:
            exc = convert()  # not within `report`: it makes SDK exceptions, which the hook sees
        except Exception as error:
            if guard.of_a_signal(error):
                raise
            self._dropped("internal_error", error)
            return Converted(Kind.UNKNOWN.value, _nothing)
        outcomes: list[str] = []
        self.hook.report(lambda: outcomes.append(self._record_converted(native, exc)))
        outcome = outcomes[0] if outcomes else Kind.UNKNOWN.value
        return Converted(outcome, lambda: self.spans.forget(native))

    def attempted(self, sdk: Sdk, task: object, outcome: str) -> None:
        name = self.scrub.short(guard.text(task, TASK_LIMIT) or "")
        key = series.ATTEMPTS, sdk.package, name, outcome
        self.ledger.add(key, natives.time())

    def outcome(self, exc: BaseException) -> str:
        """The outcome of an attempt that this SDK exception ended."""
        self.hook.poll()
        self.endings.ended(exc)
        return self._known_outcome(exc) or Kind.UNKNOWN.value

    def _outcome_of(self, failure: Failure) -> str:
        if failure.role in (Role.ORIGIN, Role.PEER):
            return failure.kind.value
        if failure.role is Role.CONFIGURED:
            return OK  # FAULTLENS_SUPPRESS says that it is not a failure
        return Role.PROPAGATED.value

    def _known_outcome(self, exc: BaseException) -> str | None:
        """That of what was raised first, where others were raised from it."""
        for link in (exc, *guard.causes(exc, CAUSE_LIMIT)):
            failure = self.seen.get(link)
            if failure is None or failure.role is Role.WRAPPED:
                continue
            sdk = self._sdk_of(type(link))
            if sdk is not None and sdk.ended_unseen(link, failure) is not None:
                return Role.PROPAGATED.value  # another attempt's failure
            return self._outcome_of(failure)
        return None

    # What the metrics are read from.

    def read(self) -> Reading:
        """What all processes have counted, after a look for raises that were not seen in time.

        Raises OSError if that cannot be known now.
        """
        self.hook.poll()
        return self.ledgers.read()

    def info(self) -> dict[str, str]:
        """Labels of ``faultlens_info``."""
        with no_fork:
            versions = {sdk.package: sdk.version for sdk in self.sdks.values()}
        return {
            "version": __version__,
            "detector": self.hook.detector,
            "python": platform.python_version(),
            **versions,
        }

    def _page(self, accept: str) -> tuple[str, bytes]:
        with no_fork:
            from faultlens.exposition import families

        return families.page(families.Collector(self.read, self.info), accept)

    def _front_page(self, accept: str) -> tuple[str, bytes]:
        if self._front is None:
            with no_fork:
                from faultlens.exposition.front import FrontPage

            self._front = FrontPage(self.read, __version__, lambda: self.ledgers.identity)
        return self._front(accept)

    def _own(self) -> Own:
        """What this process has counted, for OpenTelemetry, which adds the processes up itself."""
        self.hook.poll()
        return Own(series.totals(self.ledger.own(), self.ledger.expected()), self.info())

    # What happens in a raise.

    def _sdk_of(self, cls: type) -> Sdk | None:
        roots = self._sdk_of_root
        for base in guard.mro(cls):
            sdk = roots.get(id(base))
            if sdk is not None:
                return sdk
        return None

    def _record(self, exc: BaseException, frame: FrameType | None, counted: list[bool]) -> None:
        """The hook's handler."""
        sdk = self._sdk_of(type(exc))
        assert sdk is not None  # the hook watches the roots of our SDKs
        if frame is None and not sdk.was_raised(exc):
            return
        where = self._where()
        failure = self._scrubbed(sdk.describe(exc, frame, where.wanted))
        self.seen.set(exc, failure)  # a second try says the same again
        self.ledger.add(series.key_of(failure), natives.time(), where.trace, counted)
        _hand_out(failure)
        unseen = sdk.ended_unseen(exc, failure)
        if unseen is not None:
            self.attempted(sdk, *unseen)
        if where.wanted:
            # What came from a native exception has ended something, wherever that was.
            ended = unseen is not None or bool(sdk.native_names(exc))
            self._write(failure, exc, frame, where, ended=ended)

    def _record_converted(self, native: BaseException, exc: BaseException) -> str:
        """Returns the outcome of the attempt that it ended."""
        sdk = self._sdk_of(type(exc))
        assert sdk is not None  # it is the adapter's own
        where = self._where()
        failure = sdk.describe_converted(exc, native, where.wanted)
        if failure is None:
            self.endings.ended(native)
            return self._known_outcome(native) or Role.PROPAGATED.value
        failure = self._scrubbed(failure)
        self.ledger.add(series.key_of(failure), natives.time(), where.trace)
        _hand_out(failure)
        if where.wanted:
            self._write(failure, native, None, where, ended=True, keep=True)
        return self._outcome_of(failure)

    def _scrubbed(self, failure: Failure) -> Failure:
        """The record without secrets in what becomes a label, or says where it happened."""
        short = self.scrub.short
        labels = failure.code or "", failure.task, failure.worker
        code, task, worker = left = short(labels[0]), short(labels[1]), short(labels[2])
        if left != labels:
            failure = failure._replace(code=code, task=task, worker=worker)
        if failure.context:
            context = {key: short(text) for key, text in failure.context.items()}
            failure = failure._replace(context=context)
        return failure

    def _where(self) -> _Where:
        """The current span, and whether anything is to be written about a failure there."""
        wanted = self.log is not None or self.logs.on
        span = context = None
        try:
            span = self.spans.current()
            if span is not None:
                context = span.get_span_context()
                wanted = wanted or self.spans.wants(span)
                if not context.is_valid:
                    context = None
            else:
                wanted = wanted or self.spans.sends
        except Exception as error:  # a context or span implementation that is not OpenTelemetry's
            if guard.of_a_signal(error):
                raise
            self._dropped("span_error", error)
            span = context = None
        if wanted and self.sender.is_current():
            wanted = False  # by a processor of the program's, which would be called again with it
        return _Where(span, context, wanted)

    def _write(
        self,
        failure: Failure,
        exc: BaseException,
        frame: FrameType | None,
        where: _Where,
        *,
        ended: bool,
        keep: bool = False,
    ) -> None:
        reason = "log_error"
        try:
            record = Record(failure, exc, frame, self.settings, context=where.context, ended=ended)
            is_failure = failure.role is Role.ORIGIN
            logs = self.logs if self.logs.on and is_failure else None
            if is_failure and not ended and (self.log or logs):
                self.endings.expect(exc, record)
            for sink in (self.log, logs):
                if sink is not None and not sink.note(record):
                    self._dropped("log_limit", None)
            reason = "span_error"
            if self.spans.wants(where.span):
                self.spans.record(record, exc, frame, where.span, keep)
            elif self.logs.on:
                self.spans.know(failure, exc, keep)
        except BaseException as error:
            if guard.of_a_signal(error):
                raise
            self._dropped(reason, error)

    def _defined(self, cls: type[BaseException]) -> None:
        """There is a class of an SDK's, or the user has defined a subclass of one."""
        sdk = self._sdk_of(cls)
        if sdk is not None:
            kinds = [kind.value for kind in sdk.rule(cls).kinds]
            self.ledger.expect_class(guard.class_name(cls), kinds)

    def _dropped(self, reason: str, error: BaseException | None) -> None:
        self.ledger.add((series.DROPPED, reason), natives.time())
        if error is not None and reason not in self._warned:
            self._warned.add(reason)
            why = self.scrub.text(_told(error))
            self._problems.append(
                f"an exception could not be recorded in full ({reason}: {why}); the program is not "
                "affected. Said once; counted in faultlens_dropped_total."
            )

    def _problem(self, reason: str) -> None:
        """The ledger cannot be used, or another cannot be read."""
        if reason in self._warned:  # both, for one reason
            return
        self._warned.add(reason)
        self.ledger.add((series.DROPPED, "store_error"), natives.time())
        self._problems.append(
            f"the store: {reason}. What this process counts is kept in memory, and is "
            "written as soon as that works. FAULTLENS_STORE names another directory."
        )

    def _warn_of_names(self, why_unknown: Callable[[checking.Named], str | None]) -> None:
        """Say that a class which the user names for us cannot be meant."""
        for named in checking.in_the_rules(self.rules, self.settings.suppress):
            why = why_unknown(named)
            if why is not None:
                end = "" if why[-1] == "?" else "."
                _log.warning("faultlens: %s changes nothing: %s%s", named.what, why, end)


class _Where(NamedTuple):
    """Where something was raised."""

    span: Any
    """The current span, if any."""
    context: Any
    """Its ids, if it has some."""
    wanted: bool
    """Whether a span or a log wants to know more."""

    @property
    def trace(self) -> tuple[int, int] | None:
        """Trace and span id if the span is sampled, so that a link to it leads somewhere."""
        if self.context is None or not self.context.trace_flags.sampled:
            return None
        return self.context.trace_id, self.context.span_id


class _Every(Job):
    """Something to do each so many seconds."""

    def __init__(
        self, seconds: float, act: Callable[[], None], end: Callable[[], None] | None = None
    ) -> None:
        self.interval = seconds
        self._act = act
        self._end = end or act

    def run(self) -> None:
        self._act()

    def end(self) -> None:
        self._end()


def _ledger(
    settings: Settings, problem: Callable[[str], None], resume: Callable[[], None]
) -> Ledger:
    ledger = _ledgers.get(settings.store)
    if ledger is None:
        ledger = _ledgers[settings.store] = Ledger(settings.store, other=series.fewer)
    ledger.problem, ledger.resume = problem, resume
    return ledger


def _hand_out(failure: Failure) -> None:
    for recording in recordings:
        recording.append(failure)


def _told(error: BaseException) -> str:
    """An error of our own in a line."""
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    where = ""
    if entry is not None:
        code = entry.tb_frame.f_code
        where = f" at {code.co_filename}:{entry.tb_lineno} in {code.co_name}"
    return f"{guard.short_name(type(error))}: {guard.message(error, 200)}{where}"


def _nothing() -> None:
    """There is nothing to let go of."""
