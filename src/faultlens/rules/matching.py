"""Finds the rule for an exception. All of this runs inside a raise.

Everything that depends on a class alone is computed once per class and kept as bits, one per rule
of a file: the rules that may apply to an SDK class (`Candidates`), and to a native class (`Link`).
For an exception of known classes, one ``&`` combines the two. Its code and message are read only if
one of the remaining rules has a condition on them.
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
"""The maximum length of the name of a class of which only the name is known, in characters."""


class Decision(NamedTuple):
    """What rules say about a failure. The SDK decides the rest."""

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
    """The class, if the rule is in the short form."""

    @property
    def by_class_alone(self) -> bool:
        return self.causes is None and self.code is None and self.message is None

    def __str__(self) -> str:
        globs = {"class": self.classes, "cause": self.causes, "code": self.code}
        shown = [f"{key} {' | '.join(found.texts)}" for key, found in globs.items() if found]
        shown += [f"message {self.message.pattern}"] if self.message else []
        return ", ".join(shown) or self.name


class DeclaredSdk(NamedTuple):
    """An SDK without an adapter, declared by a table ``[sdk.name]``."""

    where: str
    """The variable, the file and the line."""
    name: str
    modules: tuple[str, ...]
    """The modules that declare its exceptions."""
    kind: Kind
    """The kind of each failure that no rule decides."""


class _Of(NamedTuple):
    """The rules of one file that apply to one class in a chain of causes."""

    bits: int
    """The rules whose `cause` the class matches."""
    nearest: Entry | None
    """The rule in the short form for the class, or for its nearest base that has one."""


class Link(NamedTuple):
    """One class in a chain of causes."""

    names: tuple[str, ...]
    """The class's name, then those of its bases, nearest first, as far as they are known."""
    files: tuple[_Of, ...]
    """One entry for each file of rules."""


class RuleFile:
    """The rules of one file.

    rules: the ``[[rule]]`` tables, in the file's order.
    short: the rules in the short form, by the full name of the class.
    shipped: whether the file is a profile.
    sdks: the SDKs that the file declares.
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
        """The rules that apply to a class in a chain of causes."""
        bits = sum(
            1 << number
            for number, rule in enumerate(self.rules)
            if rule.causes is not None and rule.causes.match(*names)
        )
        # Only native classes: a short rule for an SDK class applies to the raised exception itself.
        return _Of(bits, None if any(map(_of_an_sdk, names)) else self.nearest(names))


class _Part(NamedTuple):
    """The rules of one file that may apply to an SDK class."""

    number: int
    """The file's index in `Rules.files`."""
    file: RuleFile
    bits: int
    """The rules that may match, up to the first that always does."""
    last: Entry | None
    """The rule that applies if no other matches."""

    @property
    def settled(self) -> bool:
        """Whether the same rule applies to each exception of the class."""
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
                if not _of_an_sdk(name):  # an SDK's class is not looked up as a cause
                    yield rule
            if self.last is not None:
                yield self.last


class Candidates(NamedTuple):
    """The rules that may apply to the exceptions of one SDK class."""

    parts: tuple[_Part, ...]

    def decide(
        self, links: Sequence[Link], code: str | None, texts: Callable[[], Sequence[str]]
    ) -> Decision:
        """What the rules say about one exception.

        links: the native class and the classes of its causes.
        texts: returns the messages; called only if a rule has a condition on them.
        """
        decision = _NOTHING
        for rule in self.matching(links, code, texts):
            decision = decision.or_else(rule.gives)
        return decision

    def matching(
        self, links: Sequence[Link], code: str | None, texts: Callable[[], Sequence[str]]
    ) -> Iterator[Entry]:
        """The rule that decides in each file, if one does."""
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

        own: the kinds that it can get without rules.
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
    """The rules in force: the user's file first, then the profile."""

    def __init__(self, files: Sequence[RuleFile] = ()) -> None:
        self.files = tuple(files)
        self._links: dict[int, tuple[Callable[[], type | None], Link]] = {}
        self._named: dict[str, Link] = {}

    @property
    def sdks(self) -> tuple[DeclaredSdk, ...]:
        """The SDKs that the files declare."""
        return tuple(sdk for file in self.files for sdk in file.sdks)

    def for_class(self, names: tuple[str, ...]) -> Candidates | None:
        """The rules that may apply to an SDK class; None if there are none.

        names: the class's name, then those of its bases, nearest first.
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
        """The rules that apply to a class in a chain of causes."""
        known = self._links.get(id(cls))
        if known is None or known[0]() is not cls:
            known = weakref.ref(cls), self._link(tuple(map(guard.class_name, guard.mro(cls))))
            if len(self._links) >= CLASS_LIMIT:
                self._links = {}
            self._links[id(cls)] = known  # by id: a user's metaclass may break hashing
        return known[1]

    def named(self, name: str) -> Link:
        """As `link`, for a class of which only the name is known, as with a carrier."""
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
