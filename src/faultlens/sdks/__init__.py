"""The SDKs whose exceptions faultlens records: one module or folder each, on the base class here.

An adapter says what an SDK's exception means: whose fault (`Kind`), who ran the code (worker), the
error's code, where it happened, and whether it is a failure's origin or only carries one on
(`Verdict`). It knows neither how the raise was seen nor what is counted.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from types import FrameType, ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

from faultlens import guard
from faultlens.failure import Failure, Kind, Role
from faultlens.identity import IdentityMap
from faultlens.rules import Candidates, Decision, Link, Rules
from faultlens.rules.patterns import MESSAGE_LIMIT, full_name
from faultlens.sdks.processes import came_back
from faultlens.settings import WORKER_LIMIT

__all__ = [
    "ANY_KIND",
    "INTERFACE",
    "SYSTEM",
    "UNKNOWN",
    "USER",
    "Converted",
    "PrivateHook",
    "Recorder",
    "Rule",
    "Sdk",
    "Verdict",
    "replace",
    "stable_worker",
]

_log = logging.getLogger("faultlens")

INTERFACE = 1
"""The version of the interface between faultlens and its adapters, `Sdk` and `Recorder`.

It changes when an adapter that is written for it would no longer work.
"""

KNOWN_LIMIT = 4096
"""How many classes are remembered with what depends on them alone."""
CODE_LIMIT = 64
TASK_LIMIT = 128
CONTEXT_LIMIT = 256
"""The longest code, task name and context value, in characters."""
CAUSE_LIMIT = 32
"""How many links of a chain of causes are followed."""
RULE_CAUSE_LIMIT = 8
"""How many of them the rules look at."""


class Rule(NamedTuple):
    """How the kind of a class's exceptions is decided."""

    kinds: tuple[Kind, ...]
    """Every kind that the rule can give."""
    why: str
    """The reason in words, for ``faultlens classes``."""
    decide: Callable[[Any], Kind] | None = None
    """Gives the kind of one exception; None where `kinds` is the only one there is."""
    reason: str = ""
    """What went wrong: a word of `faultlens.rules.REASONS`, or empty."""
    owner: str = ""
    """Who has to act, or empty."""

    def kind(self, exc: BaseException) -> Kind:
        return self.kinds[0] if self.decide is None else self.decide(exc)


class Verdict(NamedTuple):
    """What a raised exception is to the failure behind it."""

    role: Role
    why: str
    """The reason in words, for the log."""
    carries: str | None = None
    """The class of what a carrier brings on, if it is known."""


_FIRST_SIGHT = Verdict(Role.ORIGIN, "the first sight of it")


class Converted(NamedTuple):
    """What became of a native exception that ended something."""

    outcome: str
    """The outcome of the attempt that it ended, as `Recorder.attempted` takes it."""
    forget: Callable[[], None]
    """To be called when nobody else will write the exception on a span any more."""


class Recorder(Protocol):
    """What an adapter reports to, of what it learns from the functions it hooks."""

    def worker_seen(self, name: str) -> None:
        """A worker of this name has started."""
        ...

    def converted(self, native: BaseException, convert: Callable[[], BaseException]) -> Converted:
        """The SDK converts `native`, which ended something, without raising it.

        convert: makes the SDK exception that stands for it. Not called if `native` is one.
        """
        ...

    def attempted(self, sdk: Sdk, task: str, outcome: str) -> None:
        """An attempt of a task, an activity or a workflow run has ended.

        task: its stable name.
        outcome: ``ok``, the kind of the failure that ended it, ``propagated`` or ``cancelled``.
        """
        ...

    def outcome(self, exc: BaseException) -> str:
        """The outcome of an attempt that this SDK exception ended."""
        ...


class PrivateHook(NamedTuple):
    """A function of an SDK that is not of its public interface, and that an adapter hooks."""

    module: str
    name: str
    """Its name in the module; dotted for a method."""
    parameters: tuple[str, ...]
    """The names its parameters begin with; `find` refuses any other function."""
    without: str
    """What is lost without it, in words that follow "without it"."""
    since: tuple[int, ...] = ()
    """The version that brought it; an older one lacks nothing by not having it."""

    def find(self, module: ModuleType) -> Any:
        """The function in `module`; None if it is not there or takes other arguments."""
        found: Any = module
        for part in self.name.split("."):
            found = getattr(found, part, None)
        try:
            names = tuple(inspect.signature(found).parameters)
        except (TypeError, ValueError):
            return None
        return found if names[: len(self.parameters)] == self.parameters else None


USER, SYSTEM, UNKNOWN = (Kind.USER,), (Kind.SYSTEM,), (Kind.UNKNOWN,)
ANY_KIND = tuple(Kind)

# Names that say nothing, or are made for one run: Flyte's fillers ("user" is a mistaken third
# argument in up to 23 of its classes), its coroutine ids, Durable Workflow's default worker ids.
_NO_WORKER = re.compile(r"user|system|unknown|none|worker-\d+|py-worker-[0-9a-f]{8}", re.IGNORECASE)


class _Known(NamedTuple):
    """What depends on an exception's class alone, worked out once for each class."""

    name: str
    names: tuple[str, ...]
    """The short names of the SDK's classes among its bases and itself, the nearest first."""
    own: Rule
    """The SDK's rule."""
    rule: Rule
    """The same after the user's rules."""
    decision: Decision
    """What the user's rules say of each exception of the class."""
    candidates: Candidates | None
    """The rules that are to be asked for each exception instead."""
    configured: Verdict | None
    cls: Callable[[], type | None]
    """A weak reference: a user's classes come and go, and their ids are given anew."""


class Sdk:
    """One SDK: reads its errors modules and describes its exceptions. The base class of adapters.

    An adapter says what it is for in the class variables, gives `own_rule`, and overrides those of
    the methods below `own_rule` for which the SDK has something to say. ``docs/adapters.md`` builds
    one from nothing.

    `describe` and what it calls run inside a raise, once for each exception object, in the
    program's thread. So `own_rule`, `reason`, `identity`, `code`, `task`, `native_names`,
    `context`, `verdict` and `ended_unseen` never wait, do no I/O, and read attributes of exceptions
    with `faultlens.guard.attribute`, which runs no code of the program's. What they raise is
    counted in ``faultlens_dropped_total`` and never reaches the program.

    errors: one of the SDK's errors modules, as imported. The classes are found by walking it, since
        they differ from version to version.
    rules: the user's and the shipped ones, which come before the SDK's own word.
    suppress: full names of the classes that the user does not count, with their subclasses; SDK
        classes, and native ones that a failure came from.
    seen: the SDK exceptions that were raised so far, those of the other SDKs too.
    shared: whether the processes and interpreters that this one starts count in the same store.
    worker: the name that the user chose for the process, or empty.
    fallback_worker: the name where neither the exception nor the SDK has one.
    claim: gets the name of something that several processes see, and which of them this one is;
        says whether this one counts it.
    """

    interface: ClassVar[int] = 0
    """The version of the interface that the adapter is written for: see `INTERFACE`."""
    package: ClassVar[str]
    """The import name; also the value of ``faultlens.sdk``."""
    distribution: ClassVar[str]
    """The name on the package index."""
    errors_modules: ClassVar[tuple[str, ...]]
    """The modules that declare the SDK's exceptions.

    The entry point names one of them. A version of the SDK may lack others.
    """
    hooked_modules: ClassVar[tuple[str, ...]] = ()
    """What `hook_into` is called with when it is imported, beside `errors_modules`."""

    private_hooks: ClassVar[tuple[PrivateHook, ...]] = ()
    """What `hook_into` hooks that a version of the SDK may lack."""

    def __init__(
        self,
        errors: ModuleType,
        rules: Rules | None = None,
        suppress: Collection[str] = (),
        seen: IdentityMap[Failure] | None = None,
        shared: bool = False,
        worker: str = "",
        fallback_worker: str = "",
        claim: Callable[[str, str], bool] = lambda name, holder: True,
    ) -> None:
        self.classes: dict[str, type[BaseException]] = {}
        """The SDK's exceptions by full name."""
        self.learn(errors)
        self.rules = rules or Rules()
        self.suppress = frozenset(map(full_name, suppress))
        self.shared = shared
        self.worker = worker
        self.fallback_worker = fallback_worker
        self.claim = claim
        self.seen = seen if seen is not None else IdentityMap[Failure]()
        self._warned: set[PrivateHook] = set()
        self._known: dict[int, _Known] = {}  # by id: a metaclass of the user's may break hashing

    def learn(self, errors: ModuleType) -> None:
        """Know the classes of an errors module, which the program may have imported anew.

        The earlier classes have the same names, and may still be raised.
        """
        self.classes.update(
            (guard.class_name(value), value)
            for value in vars(errors).values()
            if isinstance(value, type)
            and issubclass(value, BaseException)
            and value.__module__ == errors.__name__
        )

    @property
    def roots(self) -> list[type[BaseException]]:
        """The classes with no other class of this SDK above them; there may be several."""
        declared = set(self.classes.values())
        return [cls for cls in declared if not declared.intersection(guard.mro(cls)[1:])]

    @cached_property
    def version(self) -> str:
        """The installed version, or ``unknown``."""
        from importlib import metadata  # it is slow to import

        try:
            return metadata.version(self.distribution)
        except Exception:  # not installed, or an entry of sys.path that importlib cannot read
            return "unknown"

    def rule(self, cls: type) -> Rule:
        """How the exceptions of a class are judged: the user's rules come before the SDK's own."""
        return self._look_up(cls).rule

    def _look_up(self, cls: type) -> _Known:
        known = self._known.get(id(cls))
        if known is None or known.cls() is not cls:
            bases = tuple(map(guard.class_name, guard.mro(cls)))
            own, candidates = self.own_rule(cls), self.rules.for_class(bases)
            rule, decision = _judge(own, candidates)
            names = tuple(guard.short_name(base) for base in guard.mro(cls) if self._has(base))
            configured = self._configured(bases)
            known = _Known(
                bases[0],
                names,
                own,
                rule,
                decision or Decision(),
                candidates if decision is None else None,
                configured,
                weakref.ref(cls),
            )
            if len(self._known) >= KNOWN_LIMIT:
                self._known = {}
            self._known[id(cls)] = known
        return known

    def _has(self, cls: type) -> bool:
        """Whether a class is one that the SDK declares."""
        return guard.class_name(cls) in self.classes

    def describe(
        self, exc: BaseException, frame: FrameType | None, with_context: bool = True
    ) -> Failure:
        """The record of one raised exception. Runs no code of the host's.

        frame: the raising frame; None if it is gone.
        with_context: whether the record is to say where it happened.
        """
        known = self._look_up(type(exc))
        links = self._links(exc) if known.candidates is not None or self.suppress else ()
        verdict = self._verdict(exc, frame, known)
        return self._describe(exc, known, verdict, with_context, exc, links)

    def describe_converted(
        self, exc: BaseException, native: BaseException, with_context: bool = True
    ) -> Failure | None:
        """The record of a failure that raised no SDK exception.

        exc: what the SDK made of `native`. None if `native` is not counted again.
        """
        if self._wrapped(native) is not None:
            return None
        name = guard.class_name(type(native))
        verdict = Verdict(Role.ORIGIN, f"{name}, converted by the SDK", carries=name)
        known = self._look_up(type(exc))
        links: tuple[Link, ...] = ()
        if known.candidates is not None or self.suppress:
            links = (self.rules.link(type(native)), *self._links_of_causes(native))
        return self._describe(exc, known, verdict, with_context, native, links)

    def _links(self, exc: BaseException) -> tuple[Link, ...]:
        """What a raised SDK exception came from: the class that it names, and its causes."""
        named = self.native_names(exc)
        found = self._links_of_causes(exc) if guard.cause_of(exc) is not None else ()
        return (*map(self.rules.named, named), *found) if named else found

    def _links_of_causes(self, exc: BaseException) -> tuple[Link, ...]:
        causes = guard.causes(exc, RULE_CAUSE_LIMIT)
        return tuple([self.rules.link(type(cause)) for cause in causes])

    def _describe(
        self,
        exc: BaseException,
        known: _Known,
        verdict: Verdict,
        with_context: bool,
        first: BaseException,
        links: tuple[Link, ...],
    ) -> Failure:
        """The record of `exc`.

        first: what was raised: it has the message, and the causes.
        links: the classes that it came from.
        """
        code = _short(self.code(exc), CODE_LIMIT)
        decision = known.decision
        if known.candidates is not None:
            decision = known.candidates.decide(links, code, _Messages(first))
        if self.suppress and links and verdict.role is Role.ORIGIN:
            verdict = self._configured_by(links) or verdict
        failure = Failure(
            self.package,
            known.name,
            decision.kind or known.own.kind(exc),
            self.worker
            or stable_worker(guard.attribute(exc, "worker"))
            or stable_worker(self.identity())
            or self.fallback_worker,
            verdict.role,
            verdict.why,
            verdict.carries,
            code,
            task=_short(self.task(exc), TASK_LIMIT) or "",
            reason=decision.reason or self.reason(exc, known.own) or known.own.reason,
            owner=decision.owner,
        )
        found = self.context(exc) if with_context else None
        if not found:
            return failure
        texts = {
            key: guard.text(raw, CONTEXT_LIMIT) for key, raw in found.items() if raw is not None
        }
        return failure._replace(context={key: text for key, text in texts.items() if text})

    def _verdict(self, exc: BaseException, frame: FrameType | None, known: _Known) -> Verdict:
        has_cause = guard.cause_of(exc) is not None
        return (
            known.configured
            or (self._came_back(exc, frame) if self.shared else None)
            or self.verdict(exc, frame, known.names)
            or (self._wrapped(exc) if has_cause else None)
            or _FIRST_SIGHT
        )

    def _configured(self, names: Sequence[str]) -> Verdict | None:
        for name in names:
            if name in self.suppress:
                return Verdict(Role.CONFIGURED, f"FAULTLENS_SUPPRESS has {name}")
        return None

    def _configured_by(self, links: tuple[Link, ...]) -> Verdict | None:
        """The verdict on a failure that came from a class which the user does not count."""
        for link in links:
            verdict = self._configured(link.names)
            if verdict is not None:
                return verdict._replace(carries=link.names[0])
        return None

    def _came_back(self, exc: BaseException, frame: FrameType | None) -> Verdict | None:
        """The verdict on an exception that another process has raised, and counted in our store."""
        why = came_back(exc, frame)
        return None if why is None else Verdict(Role.PROPAGATED, why)

    def _wrapped(self, exc: BaseException) -> Verdict | None:
        """The verdict on an exception that was raised from an SDK exception which was recorded.

        Only ``__cause__`` tells: ``__context__`` is what was being handled, and a handler may fail
        for reasons of its own.
        """
        for cause in guard.causes(exc, CAUSE_LIMIT):
            if cause is exc:  # a ring: ``raise exc from exc``
                break
            known = self.seen.get(cause)
            if known is not None and known.role is not Role.CONTROL_FLOW:
                return Verdict(Role.WRAPPED, f"raised from {known.type}", carries=known.type)
            if known is None and self._is_raised(cause):
                name = guard.class_name(type(cause))
                return Verdict(Role.WRAPPED, f"raised from {name}", carries=name)
        return None

    def _is_raised(self, exc: BaseException) -> bool:
        """Whether it is one of the SDK's that was raised, though nobody has seen it yet.

        On Python 3.10 and 3.11 it may be recorded as late as when it is freed. One that came back
        from another process need not be raised here at all.
        """
        if not any(map(self._has, guard.mro(type(exc)))):
            return False
        return guard.traceback_of(exc) is not None or (
            self.shared and came_back(exc, None) is not None
        )

    def find(self, hook: PrivateHook, module: ModuleType) -> Any:
        """The function to be hooked; None, after one warning, if the installed version lacks it."""
        found = hook.find(module)
        if found is None and not self._is_before(hook.since):
            self.warn_of(hook)
        return found

    def warn_of(self, hook: PrivateHook) -> None:
        """Say, once, that the installed version lacks what was to be hooked."""
        if hook in self._warned:
            return
        self._warned.add(hook)
        _log.warning(
            "faultlens: %s %s has no %s.%s as it is known; without it %s.",
            self.distribution,
            self.version,
            hook.module,
            hook.name,
            hook.without,
        )

    def _is_before(self, since: tuple[int, ...]) -> bool:
        parts = re.match(r"\d+(\.\d+)*", self.version)
        return parts is not None and tuple(map(int, parts[0].split("."))) < since

    # What an adapter fills in.

    def trial(self) -> BaseException:
        """An exception of the SDK for ``faultlens doctor`` to raise and catch."""
        return min(self.roots, key=guard.class_name)("a test failure")

    def was_raised(self, exc: BaseException) -> bool:
        """Whether an exception with a traceback was raised, where only the traceback tells.

        False if the SDK has put another exception's traceback on it.
        """
        return True

    def own_rule(self, cls: type) -> Rule:
        """The SDK's own rule for a class."""
        raise NotImplementedError

    def reason(self, exc: BaseException, rule: Rule) -> str:
        """What went wrong, where the exception says more than its class; else empty.

        rule: the SDK's own for the class.
        """
        return ""

    def identity(self) -> object:
        """The worker that runs the current code, where the SDK knows; anything that is no
        name is ignored."""
        return None

    def code(self, exc: BaseException) -> object:
        """The exception's short code; None if it has none."""
        return guard.attribute(exc, "code")

    def task(self, exc: BaseException) -> object:
        """The stable name of the running task, activity or workflow; None outside of one."""
        return None

    def ended_unseen(self, exc: BaseException, failure: Failure) -> tuple[object, str] | None:
        """Task and outcome of an attempt whose end no process saw, if `exc` is the sign of it."""
        return None

    def native_names(self, exc: BaseException) -> tuple[str, ...]:
        """The full names of the native classes that a carrier says it came from, if any."""
        return ()

    def context(self, exc: BaseException) -> Mapping[str, object]:
        """Where it happened, as span event attributes; None values are left out."""
        return {}

    def hook_into(self, module: ModuleType, recorder: Recorder) -> Callable[[], None] | None:
        """Hook another module when it is imported; returns what undoes it, or None if untouched."""
        return None

    def lacking(self) -> Iterator[PrivateHook]:
        """The private hooks that the installed version has no place for. Imports the SDK."""
        for hook in self.private_hooks:
            found = hook.find(importlib.import_module(hook.module))
            if found is None and not self._is_before(hook.since):
                yield hook

    def verdict(
        self, exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
    ) -> Verdict | None:
        """What this exception is to the failure behind it; None if nothing makes it a carrier.

        Asked again for the same exception if recording it was interrupted: says the same then.

        frame: the raising frame; None if it is gone.
        names: the short names of the SDK's classes that it is an instance of, the nearest first.
        """
        return None


class _Messages:
    """The messages of an exception and of its causes, made when a rule first asks for them."""

    __slots__ = ("_exc", "_texts")

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc
        self._texts: tuple[str, ...] | None = None

    def __call__(self) -> tuple[str, ...]:
        if self._texts is None:
            chain = (self._exc, *guard.causes(self._exc, RULE_CAUSE_LIMIT))
            self._texts = tuple([guard.message(exc, MESSAGE_LIMIT) for exc in chain])
        return self._texts


def _judge(own: Rule, candidates: Candidates | None) -> tuple[Rule, Decision | None]:
    """The rule for a class, after the user's rules; and what these say if it is always the same."""
    if candidates is None:
        return own, Decision()
    last = [part.last for part in candidates.parts if part.last and part.last.gives.kind]
    why = f"{last[0].where}: {last[0]}" if last else own.why
    decision = candidates.settled()
    if decision is None:
        why = f"{why}, unless a rule matches"
        return own._replace(kinds=candidates.kinds(own.kinds), why=why, decide=own.kind), None
    rule = own._replace(
        why=why, reason=decision.reason or own.reason, owner=decision.owner or own.owner
    )
    if decision.kind is not None:
        rule = rule._replace(kinds=(decision.kind,), decide=None)
    return rule, decision


def replace(owner: Any, name: str, replacement: Any) -> Callable[[], None]:
    """Set an attribute of a module or class; returns what restores it, if it still is ours."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)

    def restore() -> None:
        if vars(owner).get(name) is replacement:
            setattr(owner, name, original)

    return restore


@lru_cache(maxsize=1024)
def _is_stable(name: str) -> bool:
    if not name or len(name) > WORKER_LIMIT or _NO_WORKER.fullmatch(name):
        return False
    return not any(char.isspace() or not char.isprintable() for char in name)


def stable_worker(value: object) -> str | None:
    """`value` if it can be the name of a worker, else None.

    A sentence's tail, a filler and an id that is made anew for each run are not.
    """
    if type(value) is not str:
        return None
    return value if _is_stable(value) else None


def _short(value: Any, limit: int) -> str | None:
    """A code or a name as text of at most `limit` characters; None if it is empty."""
    if type(value) is str and len(value) <= limit and value.isascii():
        return value or None
    if value is None:
        return None
    if type(value) in (tuple, list):
        value = " ".join(filter(None, (guard.text(part, limit) for part in value[:4])))
    return guard.text(value, limit) or None
