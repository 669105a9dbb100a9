"""What the demo shows, drawn with rich for any width and height, with colours and without.

    41 failures: 9 system, 24 user, 8 unknown
    ████████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒░░░░░░░░░░

    system: the platform's fault        worker      count  last seen
    flyte.errors.RuntimeSystemError     gpu-node-7      2    3 s ago
    ...

The kinds are told apart by words and shades, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from faultlens.commands.demo.scrape import KINDS, Row, Scrape

__all__ = ["View"]

WIDEST = 100
"""In a wider window the eye would lose the line."""

_COLOUR = {"system": "red", "user": "bright_blue", "unknown": "yellow"}
_FAULT = {
    "system": "system: the platform's fault",
    "user": "user: the fault of the code or its caller",
    "unknown": "unknown: nothing tells whose fault",
}
_BAR = {"system": "█", "user": "▒", "unknown": "░"}
_IN_ASCII = str.maketrans("█▒░━─…", "#=.=-.")

_COUNT, _LAST, _GAPS = len("count"), len("last seen"), 3 * 2
# The usual widths of the others, so that a live table stays as it is when rows come in.
_CLASS = len("durable_workflow.errors.WorkflowAlreadyStarted")
_WORKER = 12


@dataclass(frozen=True, slots=True)
class View:
    """The window that is drawn for, and the moment."""

    width: int
    now: float
    """In seconds since 1970."""
    height: int | None = None
    """Rows are left out to keep to it, and it is said how many; None to show all."""
    ascii: bool = False
    """Whether the window has no other characters."""

    def report(self, scrape: Scrape, below: Iterable[str]) -> RenderableType:
        """Totals, the table, and some lines below it."""
        foot = [self._line(line) for line in below]
        if scrape.suppressed:
            foot.insert(0, self._line(_suppressed(scrape)))
        above = [self._line(_headline(scrape)), self._bar(scrape), Text()]
        room = None if self.height is None else self.height - len(above) - len(foot)
        return Group(*above, *self._sections(scrape, room), *foot)

    def progress(self, part: float, text: str) -> str:
        """A bar that is full when `part` is 1, and what is going on."""
        length = max(0, self._width - len(text) - 2)
        full = round(length * min(1.0, part))
        return f"{'━' * full}{'─' * (length - full)}  {text}"

    @property
    def _width(self) -> int:
        return min(self.width, WIDEST)

    def _line(self, line: str | Text) -> Text:
        text = Text(line) if isinstance(line, str) else line
        if self.ascii:
            text.plain = text.plain.translate(_IN_ASCII)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def _bar(self, scrape: Scrape) -> Text:
        """The shares of the kinds; each that there is shows at least a little."""
        counts = {kind: scrape.count(kind) for kind in KINDS if scrape.of(kind)}
        bar, left, total = Text(), self._width, scrape.total
        for kind, count in counts.items():
            length = max(1, round(left * count / total))
            bar.append(_BAR[kind] * length, _COLOUR[kind])
            left, total = left - length, total - count
        return self._line(bar)

    def _sections(self, scrape: Scrape, room: int | None) -> Iterator[RenderableType]:
        """A table for each kind that there is, with an empty line below it."""
        sections = {kind: scrape.of(kind) for kind in KINDS if scrape.of(kind)}
        shown = {kind: len(rows) for kind, rows in sections.items()}
        if room is not None:
            _leave_out(shown, room - 2 * len(sections))
        for kind, rows in sections.items():
            for_class, for_worker = self._widths(scrape)
            table = _columns(for_class, for_worker)
            titles = ("worker", "count", "last seen")
            table.add_row(_FAULT[kind], *titles, style=f"bold {_COLOUR[kind]}")
            for row in rows[: shown[kind]]:
                self._add(table, row, for_class)
            if shown[kind] < len(rows):
                hidden = rows[shown[kind] :]
                count = str(sum(row.count for row in hidden))
                table.add_row(f"and {len(hidden)} more", "", count, style="dim")
            yield table
            yield Text()

    def _widths(self, scrape: Scrape) -> tuple[int, int]:
        """Of the columns for the class and for the worker."""
        room = self._width - _COUNT - _LAST - _GAPS
        classes = max([_CLASS, *(len(row.type) for row in scrape.rows)])
        workers = max([_WORKER, *(len(row.worker) for row in scrape.rows)])
        for_class = max(1, min(classes, room - _WORKER))
        return for_class, max(1, min(workers, room - for_class))

    def _add(self, table: Table, row: Row, for_class: int) -> None:
        seconds = max(0.0, self.now - row.last)
        # What has just happened stands out for a moment.
        style = "bold" if seconds < 2 and self.height is not None else ""
        # The end of a long name tells more than its beginning.
        name = row.type if len(row.type) <= for_class else f"…{row.type[1 - for_class :]}"
        table.add_row(name, row.worker, str(row.count), _ago(seconds), style=style)


def _columns(for_class: int, for_worker: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in (for_class, for_worker):
        table.add_column(width=width, no_wrap=True, overflow="ellipsis")
    for width in (_COUNT, _LAST):
        table.add_column(width=width, justify="right", no_wrap=True)
    return table


def _headline(scrape: Scrape) -> Text:
    line = Text.assemble((f"{scrape.total} failures", "bold"), ": ")
    shares = (Text(f"{scrape.count(kind)} {kind}", f"bold {_COLOUR[kind]}") for kind in KINDS)
    return line.append_text(Text(", ").join(shares))


def _suppressed(scrape: Scrape) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in scrape.suppressed)
    count = sum(count for _, count in scrape.suppressed)
    return f"{count} more raises were no new failure: {reasons}"


def _leave_out(shown: dict[str, int], room: int) -> None:
    """Shorten the longest section until all fit; one that is cut needs a line that says so."""
    whole = dict(shown)
    while sum(shown.values()) + sum(shown[kind] < whole[kind] for kind in shown) > room:
        longest = max(shown, key=lambda kind: shown[kind])
        if shown[longest] <= 1:
            return
        shown[longest] -= 1


def _ago(seconds: float) -> str:
    if seconds < 1:
        return "just now"
    if seconds < 60:
        return f"{int(seconds)} s ago"
    return f"{int(seconds / 60)} min ago"
