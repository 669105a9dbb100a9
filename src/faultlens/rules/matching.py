"""Finds the rule of an exception. All of this runs inside a raise.

What depends on a class alone is worked out once for each class and remembered as bits, one for
each rule of a file: which rules can concern an SDK class (`Candidates`), and which a native class
(`Link`). An exception of classes that were seen before costs one ``&``. Its code and message are
looked at only if a rule that is left asks for them.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from faultlens import guard, imports
from faultlens.failure import Kind
from faultlens.rules.patterns import Globs, full_name, loaded_class

__all__ = ["Candidates", "Decision", "DeclaredSdk", "Entry", "Link", "RuleFile", "Rules"]

CLASS_LIMIT = 4096
"""How many classes are remembered."""
NAME_LIMIT = 256
"""The longest name of a class that is known by its name only, in characters."""


class Decision(NamedTuple):
    """What rules say of a failure; the SDK's own word fills the rest."""

    kind: Kind | None = None
    reason: str = ""
    owner: str = ""

    def or_else(self, other: Decision) -> Decision:
        return Decision(
            self.kind or other.kind, self.reason or other.reason, self.owner or other.owner
        )


_NOTHING = Decision()


class Entry(NamedTuple):
    """One rule."""

    where: str
    """The variable, the file and the line."""
    gives: Decision
    classes: Globs | None = None
    causes: Globs | None = None
    code: Globs | None = None
    message: re.Pattern[str] | None = None
    name: str = ""
    """The class of the short form."""

    @property
    def by_class_alone(self) -> bool:
        return self.causes is None and self.code is None and self.message is None

    def __str__(self) -> str:
        globs = {"class": self.classes, "cause": self.causes, "code": self.code}
        shown = [f"{key} {' | '.join(found.texts)}" for key, found in globs.items() if found]
        shown += [f"message {self.message.pattern}"] if self.message else []
        return ", ".join(shown) or self.name


class DeclaredSdk(NamedTuple):
    """An SDK that needs no adapter: a table ``[sdk.name]``."""

    where: str
    """The variable, the file and the line."""
    name: str
    modules: tuple[str, ...]
    """Those that declare its exceptions."""
    kind: Kind
    """Of each failure that no rule decides."""


class _Of(NamedTuple):
    """What a file's rules say of one class in a chain of causes."""

    bits: int
    """The rules whose `cause` it matches."""
    nearest: Entry | None
    """The rule in the short form for it, or for its nearest base that has one."""


class Link(NamedTuple):
    """One class in a chain of causes."""

    names: tuple[str, ...]
    """Its own and its bases', the nearest first; without the bases where they are not known."""
    files: tuple[_Of, ...]
    """For each file of rules."""


class RuleFile:
    """The rules of one file.

    rules: in their order.
    short: those in the short form, by the full name of the class.
    shipped: whether it is a profile.
    sdks: those that the file declares.
    """

    def __init__(
        self,
        rules: Sequence[Entry] = (),
        short: Mapping[str, Entry] | None = None,
        shipped: bool = False,
        sdks: Sequence[DeclaredSdk] = (),
    ) -> None:
        self.rules = tuple(rules)
        self.short = dict(short or {})
        self.shipped = shipped
        self.sdks = tuple(sdks)
        self.any_cause = sum(1 << n for n, rule in enumerate(rules) if rule.causes is None)

    def __iter__(self) -> Iterator[Entry]:
        yield from self.rules
        yield from self.short.values()

    def nearest(self, names: Iterable[str]) -> Entry | None:
        """The rule in the short form for the first of the names that has one."""
        return next((self.short[name] for name in names if name in self.short), None)

    def of(self, names: tuple[str, ...]) -> _Of:
        """What it says of a class in a chain of causes."""
        bits = sum(
            1 << number
            for number, rule in enumerate(self.rules)
            if rule.causes is not None and rule.causes.match(*names)
        )
        # The short form is for native classes here: one of an SDK's decides as the failure's own.
        return _Of(bits, None if any(map(_of_an_sdk, names)) else self.nearest(names))


class _Part(NamedTuple):
    """The rules of one file that can concern an SDK class."""

    number: int
    """The file's, in `Rules.files`."""
    file: RuleFile
    bits: int
    """The rules that may match, up to the first that always does."""
    last: Entry | None
    """What matches if nothing before it does."""

    @property
    def settled(self) -> bool:
        """Whether it is the same rule for each exception of the class."""
        return self.last is not None and not self.last.name and self.bits & (self.bits - 1) == 0

    def find(
        self, links: Sequence[Link], code: str | None, texts: Callable[[], Sequence[str]]
    ) -> Entry | None:
        file, causes = self.file, self.file.any_cause
        short = None
        for link in links:
            of = link.files[self.number]
            causes |= of.bits
            short = short or of.nearest
        bits = self.bits & causes
        while bits:
            lowest = bits & -bits
            rule = file.rules[lowest.bit_length() - 1]
            if (rule.code is None or (code and rule.code.match(code))) and (
                rule.message is None or any(map(rule.message.search, texts()))
            ):
                return rule
            bits ^= lowest
        return short or self.last

    def may_match(self) -> Iterator[Entry]:
        """Every rule that can decide, the last one last."""
        for number, rule in enumerate(self.file.rules):
            if self.bits >> number & 1:
                yield rule
        if self.last is None or self.last.name:
            for name, rule in self.file.short.items():
                if not _of_an_sdk(name):  # an SDK's own class causes no failure
                    yield rule
            if self.last is not None:
                yield self.last


class Candidates(NamedTuple):
    """The rules that can concern the exceptions of one SDK class."""

    parts: tuple[_Part, ...]

    def decide(
        self, links: Sequence[Link], code: str | None, texts: Callable[[], Sequence[str]]
    ) -> Decision:
        """What the rules say of one exception.

        links: the native class and those that caused it.
        texts: makes the messages; called only if a rule asks for them.
        """
        decision = _NOTHING
        for rule in self.matching(links, code, texts):
            decision = decision.or_else(rule.gives)
        return decision

    def matching(
        self, links: Sequence[Link], code: str | None, texts: Callable[[], Sequence[str]]
    ) -> Iterator[Entry]:
        """The rule that decides, of each file."""
        for part in self.parts:
            rule = part.find(links, code, texts)
            if rule is not None:
                yield rule

    def settled(self) -> Decision | None:
        """The decision, if it is the same for each exception of the class."""
        if not all(part.settled for part in self.parts):
            return None
        return self.decide((), None, tuple)

    def kinds(self, own: Sequence[Kind]) -> tuple[Kind, ...]:
        """Every kind that an exception of the class can get.

        own: those that it can get without rules.
        """
        found: set[Kind | None] = set()
        for part in self.parts:
            given = {rule.gives.kind for rule in part.may_match()}
            found |= given
            if part.last is not None and None not in given:
                break
        else:
            found.update(own)
        return tuple(kind for kind in Kind if kind in found)


class Rules:
    """The rules in force: of the user's file, then of the profile."""

    def __init__(self, files: Sequence[RuleFile] = ()) -> None:
        self.files = tuple(files)
        self._links: dict[int, tuple[Callable[[], type | None], Link]] = {}
        self._named: dict[str, Link] = {}

    @property
    def sdks(self) -> tuple[DeclaredSdk, ...]:
        """The SDKs that the files declare."""
        return tuple(sdk for file in self.files for sdk in file.sdks)

    def for_class(self, names: tuple[str, ...]) -> Candidates | None:
        """What can concern an SDK class; None if no rule does.

        names: the class's own and its bases', the nearest first.
        """
        parts = []
        for number, file in enumerate(self.files):
            bits, last = 0, None
            for bit, rule in enumerate(file.rules):
                if rule.classes is None or rule.classes.match(*names):
                    bits |= 1 << bit
                    if rule.by_class_alone:
                        last = rule
                        break
            if bits or file.short:
                parts.append(_Part(number, file, bits, last or file.nearest(names)))
        return Candidates(tuple(parts)) if parts else None

    def link(self, cls: type) -> Link:
        """What the rules say of a class in a chain of causes."""
        known = self._links.get(id(cls))
        if known is None or known[0]() is not cls:
            known = weakref.ref(cls), self._link(tuple(map(guard.class_name, guard.mro(cls))))
            if len(self._links) >= CLASS_LIMIT:
                self._links = {}
            self._links[id(cls)] = known  # by id: a metaclass of the user's may break hashing
        return known[1]

    def named(self, name: str) -> Link:
        """The same for a class of which only the name is known, as a carrier's is."""
        name = name[:NAME_LIMIT]
        cls = loaded_class(name)
        if cls is not None:
            return self.link(cls)
        link = self._named.get(name)
        if link is None:
            link = self._link((full_name(name),))
            if len(self._named) >= CLASS_LIMIT:
                self._named = {}
            self._named[name] = link
        return link

    def _link(self, names: tuple[str, ...]) -> Link:
        return Link(names, tuple(file.of(names) for file in self.files))


def _of_an_sdk(name: str) -> bool:
    return imports.of_an_sdk(name.rpartition(".")[0])
