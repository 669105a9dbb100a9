"""The table of failures as lines of text, for any width and height, with colours and without.

    28 failures: 5 system, 3 unknown, 20 user
    ███████████████▒▒▒▒▒▒▒▒▒░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░

    class                        reason   task          worker      count  last seen
    system: the platform's fault
    RuntimeSystemError [disk]    storage  report.clean  gpu-node-7      2    3 s ago
    ...

The kinds are told apart by words and shades, never by colour alone. The colours are those that are
legible on white and on black.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from unicodedata import combining, east_asian_width

from faultlens.exposition.rows import FAULTS, KINDS, Counted, Issue, Row, ago, plural

__all__ = ["ORDERS", "View", "cells", "cut"]

_COLOURS = {"system": "1;31", "unknown": "1;35"}
"""Red and magenta; the others are bold."""
_BAR = {"system": "█", "unknown": "▒", "user": "░"}
_IN_ASCII = str.maketrans({"█": "#", "▒": "=", "░": ".", "…": "~", "━": "=", "─": "-"})
_GAP = "  "

ORDERS: dict[str, Callable[[Row, int], float]] = {
    "name": lambda row, recent: 0,
    "count": lambda row, recent: -row.number,
    "last minute": lambda row, recent: -recent,
    "last seen": lambda row, recent: -(row.last or 0),
}
"""How the rows of a kind are sorted, equals by name. By name a row keeps its place."""

_LEAST = {"class": 22, "reason": 7, "task": 9, "worker": 10}
"""The columns of text, each with its narrowest width."""
_LEFT_OUT = ("worker", "reason", "task")
"""Columns, in the order in which they are left out of a narrow window."""


class View(NamedTuple):
    """What the table is drawn for."""

    width: int
    now: float
    """In seconds since 1970."""
    recent: dict[Issue, int] | None = None
    """Failures of the last minute; None to leave them out."""
    order: str = "name"
    colour: bool = False
    ascii: bool = False
    """Whether there are no other characters."""

    def head(self, found: Counted) -> list[str]:
        """How many failures of which kind, in words and as a bar."""
        total = f"{plural(found.total, 'failure')}: "
        shares = {kind: f"{found.of(kind)} {kind}" for kind in KINDS}
        line = self.plain(total + ", ".join(shares.values()))
        if not line.endswith("…"):
            words = ", ".join(self._marked(kind, share) for kind, share in shares.items())
            line = self._marked("", total) + words
        return [line, self._bar(found)]

    def rows(self, found: Counted) -> tuple[str, list[str]]:
        """The line with the titles; the rows, with a line above those of a kind."""
        order, recent = ORDERS[self.order], self.recent or {}
        numbers = ["count", "1 min", "last seen"]
        if self.recent is None:
            numbers.remove("1 min")
        room = self.width - sum(len(name) + len(_GAP) for name in numbers)
        texts, widths = _fitted([row.issue for row in found.rows], room)

        def line(issue: dict[str, str], *figures: object) -> str:
            left = [_filled(issue[name], width, name) for name, width in widths.items()]
            right = [
                f"{figure:>{len(name)}}" for figure, name in zip(figures, numbers, strict=True)
            ]
            return self.plain(_GAP.join((*left, *right)))

        lines = []
        for kind in dict.fromkeys(row.issue.kind for row in found.rows):
            title = f"{kind}: {FAULTS[kind]}" if kind in FAULTS else _printable(kind)
            lines.append(self._marked(kind, self.plain(title)))
            of_kind = [row for row in found.rows if row.issue.kind == kind]
            of_kind.sort(key=lambda row: order(row, recent.get(row.issue, 0)))
            for row in of_kind:
                latest = [] if self.recent is None else [recent.get(row.issue, "")]
                seen = ago(row.last, self.now) or "-"
                lines.append(line(texts[row.issue], row.number, *latest, seen))
        return self._marked("", line({name: name for name in widths}, *numbers)), lines

    def plain(self, text: str) -> str:
        """A line as this window shows it."""
        shown = cut(text.rstrip(), self.width)
        return shown.translate(_IN_ASCII) if self.ascii else shown

    def progress(self, part: float, text: str) -> str:
        """A bar that is full when `part` is 1, and what is going on."""
        length = max(0, self.width - len(text) - 2)
        full = round(length * min(1.0, part))
        return self.plain(f"{'━' * full}{'─' * (length - full)}  {text}")

    def _bar(self, found: Counted) -> str:
        """The shares of the kinds; each that there is shows at least a little."""
        counts = {kind: found.of(kind) for kind in KINDS if found.of(kind)}
        bar, left, total = "", self.width, sum(counts.values())
        for kind, count in counts.items():
            length = min(left, max(1, round(left * count / total)))
            bar += self._marked(kind, self.plain(_BAR[kind] * length))
            left, total = left - length, total - count
        return bar

    def _marked(self, kind: str, text: str) -> str:
        return f"\x1b[{_COLOURS.get(kind, '1')}m{text}\x1b[0m" if self.colour else text


def _fitted(
    issues: Sequence[Issue], room: int
) -> tuple[dict[Issue, dict[str, str]], dict[str, int]]:
    """The texts of each row, and the width of each column that there is room for."""
    for short in (False, True):
        texts = {issue: _texts(issue, short) for issue in issues}
        widths = {
            name: max([least, *(cells(of[name]) for of in texts.values())])
            for name, least in _LEAST.items()
        }
        if _total(widths) <= room:
            return texts, widths
    for name in _LEFT_OUT:
        if _total({name: _LEAST[name] for name in widths}) > room:
            del widths[name]
    while _total(widths) > room:
        widest = max(widths, key=lambda name: widths[name] - _LEAST[name])
        if widths[widest] <= 1:
            break
        widths[widest] -= 1
    return texts, widths


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1)


def _texts(issue: Issue, short: bool) -> dict[str, str]:
    name = issue.cls.rpartition(".")[2] if short else issue.cls
    says_more = issue.code and not (short and issue.code in name)
    texts = {
        "class": f"{name} [{issue.code}]" if says_more else name,
        "reason": issue.reason,
        "task": issue.task,
        "worker": issue.worker,
    }
    return {column: _printable(text) or "-" for column, text in texts.items()}


def _filled(text: str, width: int, column: str) -> str:
    """Exactly so many cells."""
    if cells(text) > width:
        if column == "task":  # the end of its name tells more than the beginning
            text = cut(text[::-1], width)[::-1]
        elif column == "class" and "[" in text:  # and so does the code
            name, _, code = text.partition(" [")
            text = f"{cut(name, max(width - cells(code) - 2, width // 3))} [{code}"
    text = cut(text, width)
    return text + " " * (width - cells(text))


def cut(text: str, width: int) -> str:
    """The text in so many cells at most."""
    if cells(text) <= width:
        return text
    kept, left = "", width - 1
    for char in text:
        left -= cells(char)
        if left < 0:
            break
        kept += char
    return f"{kept}…"


def cells(text: str) -> int:
    """How many cells a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: a label can be anything."""
    return "".join(char if char.isprintable() else "?" for char in text)
