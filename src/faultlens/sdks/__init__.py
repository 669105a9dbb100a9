"""The SDKs whose exceptions faultlens records: one module each, on the base class here.

An adapter says what an SDK's exception means: whose fault (`Kind`), who ran the code (worker), the
error's code, where it happened, and whether it is a failure's origin or only carries one on
(`Verdict`). It knows neither how the raise was seen nor what is counted.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import FrameType, ModuleType
from typing import Any, ClassVar, Protocol

from faultlens import guard
from faultlens.failure import Failure, Kind, Role
from faultlens.identity import IdentityMap
from faultlens.settings import WORKER_LIMIT

__all__ = [
    "ANY_KIND",
    "ERRORS_MODULES",
    "SYSTEM",
    "UNKNOWN",
    "USER",
    "PrivateHook",
    "Recorder",
    "Rule",
    "Sdk",
    "Verdict",
    "adapter_for",
    "replace",
]

_log = logging.getLogger("faultlens")

ERRORS_MODULES = ("flyte.errors", "durable_workflow.errors")
"""The modules whose import brings an SDK in."""

CODE_LIMIT = 64
CONTEXT_LIMIT = 256
"""The longest code and context value, in characters."""
CAUSE_LIMIT = 32
"""How many links of a chain of causes are followed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How the kind of a class's exceptions is decided."""

    kinds: tuple[Kind, ...]
    """Every kind that the rule can give."""
    why: str
    """The reason in words, for ``faultlens classes``."""
    decide: Callable[[Any], Kind] | None = None
    """Gives the kind of one exception; None where `kinds` is the only one there is."""

    def kind(self, exc: BaseException) -> Kind:
        return self.kinds[0] if self.decide is None else self.decide(exc)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a raised exception is to the failure behind it."""

    role: Role
    why: str
    """The reason in words, for the debug log."""
    carries: str | None = None
    """The class of what a carrier brings on, if it is known."""


class Recorder(Protocol):
    """What an adapter reports to, of what it learns from the functions it hooks."""

    def worker_seen(self, name: str) -> None:
        """A worker of this name has started."""
        ...

    def converted(
        self, native: BaseException, convert: Callable[[], BaseException]
    ) -> Callable[[], None]:
        """The SDK converts `native`, which ended something, without raising it.

        convert: makes the SDK exception that stands for it. Not called if `native` is one.

        Returns what is to be called when nobody else will write `native` on a span any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class PrivateHook:
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
            found = guard.attribute(found, part)
        try:
            names = tuple(inspect.signature(found).parameters)
        except (TypeError, ValueError):
            return None
        return found if names[: len(self.parameters)] == self.parameters else None


USER, SYSTEM, UNKNOWN = (Kind.USER,), (Kind.SYSTEM,), (Kind.UNKNOWN,)
ANY_KIND = (Kind.USER, Kind.SYSTEM, Kind.UNKNOWN)

# Names that say nothing, or are made for one run: Flyte's fillers ("user" is a mistaken third
# argument in up to 23 of its classes), its coroutine ids, Durable Workflow's default worker ids.
_NO_WORKER = re.compile(r"user|system|unknown|none|worker-\d+|py-worker-[0-9a-f]{8}", re.IGNORECASE)


# The causes that pools put on an exception which they bring back: from a process, an interpreter.
_REMOTE_CAUSES = (
    "concurrent.futures.process._RemoteTraceback",
    "multiprocessing.pool.RemoteTraceback",
    "concurrent.interpreters.ExecutionFailed",
)


class Sdk:
    """One SDK: reads its errors module and describes its exceptions.

    errors: the SDK's errors module, as imported. Its classes are found by walking it, since they
        differ from version to version.
    overrides: the user's kinds by full class name; each holds for the subclasses too.
    suppress: full names of the classes that the user does not count; likewise.
    seen: the SDK exceptions that were raised so far, those of the other SDKs too.
    shared: whether the processes and interpreters that this one starts count in the same store.
    """

    package: ClassVar[str]
    """The import name; also the value of ``faultlens.sdk``."""
    distribution: ClassVar[str]
    """The name on the package index."""

    private_hooks: ClassVar[tuple[PrivateHook, ...]] = ()
    """What `hook_into` hooks that a version of the SDK may lack."""

    def __init__(
        self,
        errors: ModuleType,
        overrides: Mapping[str, Kind] | None = None,
        suppress: Collection[str] = (),
        seen: IdentityMap[Failure] | None = None,
        shared: bool = False,
    ) -> None:
        self.classes: dict[str, type[BaseException]] = {
            guard.class_name(value): value
            for value in vars(errors).values()
            if isinstance(value, type)
            and issubclass(value, BaseException)
            and value.__module__ == errors.__name__
        }
        self.overrides = dict(overrides or {})
        self.suppress = frozenset(suppress)
        self.shared = shared
        self.seen = seen if seen is not None else IdentityMap[Failure]()
        # By id, which stays theirs: `classes` holds them. A user's subclasses come and go.
        self._known = {id(cls): (name, self._find_rule(cls)) for name, cls in self.classes.items()}

    @property
    def roots(self) -> list[type[BaseException]]:
        """The classes with no other class of this SDK above them; there may be several."""
        declared = set(self.classes.values())
        return [cls for cls in declared if not declared.intersection(guard.mro(cls)[1:])]

    @property
    def version(self) -> str:
        """The installed version, or ``unknown``."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "unknown"

    def rule(self, cls: type) -> Rule:
        """The rule for a class: the user's, else the SDK's; of the nearest base that has one."""
        return self._name_and_rule(cls)[1]

    def _name_and_rule(self, cls: type) -> tuple[str, Rule]:
        return self._known.get(id(cls)) or (guard.class_name(cls), self._find_rule(cls))

    def _find_rule(self, cls: type) -> Rule:
        if self.overrides:
            for base in guard.mro(cls):
                name = guard.class_name(base)
                if name in self.overrides:
                    return Rule((self.overrides[name],), f"FAULTLENS_RULES, {name}")
        return self.own_rule(cls)

    def describe(
        self, exc: BaseException, frame: FrameType | None, worker: str, fallback_worker: str
    ) -> Failure:
        """The record of one raised exception. Reads `exc` only behind guards.

        frame: the raising frame; None if it is gone.
        worker: the name that the user chose for the process, or empty.
        fallback_worker: the name where neither the exception nor the SDK has one.
        """
        return self._describe(exc, self._verdict(exc, frame), worker, fallback_worker)

    def describe_converted(
        self, exc: BaseException, native: BaseException, worker: str, fallback_worker: str
    ) -> Failure | None:
        """The record of a failure that raised no SDK exception.

        exc: what the SDK made of `native`. None if `native` is no new failure.
        """
        if self._wrapped(native) is not None:
            return None
        name = guard.class_name(type(native))
        verdict = Verdict(Role.ORIGIN, f"{name}, converted by the SDK", carries=name)
        return self._describe(exc, verdict, worker, fallback_worker)

    def _describe(
        self, exc: BaseException, verdict: Verdict, worker: str, fallback_worker: str
    ) -> Failure:
        name, rule = self._name_and_rule(type(exc))
        return Failure(
            sdk=self.package,
            type=name,
            kind=rule.kind(exc),
            worker=worker
            or stable_worker(guard.attribute(exc, "worker"))
            or stable_worker(self.identity())
            or fallback_worker,
            role=verdict.role,
            why=verdict.why,
            carries=verdict.carries,
            code=_code(self.code(exc)),
            context={
                key: value
                for key, raw in self.context(exc).items()
                if raw is not None and (value := guard.text(raw, CONTEXT_LIMIT))
            },
        )

    def _verdict(self, exc: BaseException, frame: FrameType | None) -> Verdict:
        return (
            self._configured(exc)
            or self._from_a_pool(exc)
            or self.verdict(exc, frame)
            or self._wrapped(exc)
            or Verdict(Role.ORIGIN, "the first sight of it")
        )

    def _configured(self, exc: BaseException) -> Verdict | None:
        if self.suppress:
            for base in guard.mro(type(exc)):
                if (name := guard.class_name(base)) in self.suppress:
                    return Verdict(Role.CONFIGURED, f"FAULTLENS_SUPPRESS has {name}")
        return None

    def _from_a_pool(self, exc: BaseException) -> Verdict | None:
        """The verdict on an exception that came back from a pool's worker, which has counted it."""
        if self.shared:
            for cause in guard.causes(exc, 1):
                if guard.class_name(type(cause)) in _REMOTE_CAUSES:
                    return Verdict(Role.PROPAGATED, "raised in a worker of a pool")
        return None

    def _wrapped(self, exc: BaseException) -> Verdict | None:
        """The verdict on an exception that was raised from an SDK exception which was recorded.

        Only ``__cause__`` tells: ``__context__`` is what was being handled, and a handler may fail
        for reasons of its own.
        """
        for cause in guard.causes(exc, CAUSE_LIMIT):
            known = self.seen.get(cause)
            if known is not None and known.role is not Role.CONTROL_FLOW:
                return Verdict(Role.WRAPPED, f"raised from {known.type}", carries=known.type)
            if known is None and self._is_raised(cause):
                name = guard.class_name(type(cause))
                return Verdict(Role.WRAPPED, f"raised from {name}", carries=name)
        return None

    def _is_raised(self, exc: BaseException) -> bool:
        """Whether it is one of the SDK's that was raised, though nobody has seen it yet.

        On Python 3.10 and 3.11 it may be recorded as late as when it is freed.
        """
        ours = any(id(base) in self._known for base in guard.mro(type(exc)))
        return ours and guard.traceback_of(exc) is not None

    def find(self, hook: PrivateHook, module: ModuleType) -> Any:
        """The function to be hooked; None, after one warning, if the installed version lacks it."""
        found = hook.find(module)
        if found is None and not self._is_before(hook.since):
            self.warn_of(hook)
        return found

    def warn_of(self, hook: PrivateHook) -> None:
        """Say that the installed version lacks what was to be hooked."""
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

    # What an SDK's module fills in.

    def own_rule(self, cls: type) -> Rule:
        """The SDK's own rule for a class."""
        raise NotImplementedError

    def identity(self) -> object:
        """The worker that runs the current code, where the SDK knows; anything that is no
        name is ignored."""
        return None

    def code(self, exc: BaseException) -> object:
        """The exception's short code; None if it has none."""
        return guard.attribute(exc, "code")

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

    def verdict(self, exc: BaseException, frame: FrameType | None) -> Verdict | None:
        """What this exception is to the failure behind it; None if nothing makes it a carrier.

        Asked again for the same exception if recording it was interrupted: says the same then.
        """
        return None


def replace(owner: Any, name: str, replacement: Any) -> Callable[[], None]:
    """Set an attribute of a module or class; returns what restores it, if it still is ours."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)

    def restore() -> None:
        if vars(owner).get(name) is replacement:
            setattr(owner, name, original)

    return restore


def adapter_for(errors_module: str) -> type[Sdk]:
    """The adapter of the SDK whose errors module has this name, one of `ERRORS_MODULES`."""
    if errors_module == "flyte.errors":
        from faultlens.sdks.flyte import Flyte

        return Flyte
    from faultlens.sdks.durable_workflow import DurableWorkflow

    return DurableWorkflow


def stable_worker(value: object) -> str | None:
    """`value` if it can be the name of a worker, else None.

    A sentence's tail, a filler and an id that is made anew for each run are not.
    """
    if not isinstance(value, str):
        return None
    name = guard.text(value, WORKER_LIMIT + 1)
    if not name or len(name) > WORKER_LIMIT or _NO_WORKER.fullmatch(name):
        return None
    return None if any(char.isspace() or not char.isprintable() for char in name) else name


def _code(value: object) -> str | None:
    if isinstance(value, (tuple, list)):
        value = " ".join(filter(None, (guard.text(part, CODE_LIMIT) for part in value[:4])))
    return guard.text(value, CODE_LIMIT) or None if value is not None else None
