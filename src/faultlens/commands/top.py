"""``faultlens top``: what was counted, as a table: here, or on another host.

It only reads: the store of this host, or the ``/metrics`` of another. It needs no SDK.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from faultlens import settings
from faultlens.commands import endpoint, screen
from faultlens.commands.store import Refused, chosen_store
from faultlens.commands.table import ORDERS, View
from faultlens.exposition.ledgers import Ledgers
from faultlens.exposition.rows import KINDS, Counted, Recent, Row, counted, rest
from faultlens.settings import StorePath

__all__ = ["Filter", "printed", "top", "watch"]

_SDKS = ("flyte", "durable_workflow", "temporalio")
"""What the key goes through, beside the one of ``--sdk``, which can be any."""

_SECONDS = 1.0
"""Between two looks."""

_Foot = Callable[[View, Counted], Sequence[str]]
"""The lines below the table."""


class Filter(NamedTuple):
    """Which rows are shown; an empty string is for all."""

    kind: str = ""
    sdk: str = ""
    """By the package of the class: a user's own subclass is of no SDK."""

    def of(self, found: Counted) -> Counted:
        """The rows that pass. What has no row is left out with those that do not."""
        if not (self.kind or self.sdk):
            return found
        rows = [row for row in found.rows if self._passes(row)]
        return Counted(rows, Counter(), Counter())

    def _passes(self, row: Row) -> bool:
        of_sdk = not self.sdk or row.issue.cls.startswith(f"{self.sdk}.")
        return of_sdk and self.kind in ("", row.issue.kind)


_ALL = Filter()


class _Source(NamedTuple):
    """Where the counts are."""

    name: str
    read: Callable[[], Counted]
    """Raises Refused if they cannot be read."""
    nothing: str
    """What it means if there is nothing, and what to do."""
    problems: list[str]
    """What cannot be read."""

    def foot(self, view: View, found: Counted) -> list[str]:
        return [*rest(found), *self.problems]


def top(*, url: str, store: str | None, once: bool, as_json: bool, only: Filter) -> int:
    """Show the table until the user quits; returns the exit status.

    url: of another host's /metrics, instead of a store.
    store: the directory; None for that of the environment.
    once: once only. So it is where there is no terminal.
    """
    try:
        source = _of_url(url) if url else _of_store(chosen_store(settings.load(), store))
        if as_json:
            print(_as_json(source, only.of(source.read())))
        elif once or not sys.stdout.isatty():
            _print(source, only)
        else:
            with screen.ending_by_signals():
                watch(source.read, source.foot, source.nothing, only=only)
    except KeyboardInterrupt:  # that is how it ends
        return 0
    except Refused as error:
        print(f"faultlens: {error}", file=sys.stderr)
        return 1
    return 0


def watch(
    read: Callable[[], Counted],
    foot: _Foot,
    nothing: str,
    *,
    seconds: float = math.inf,
    only: Filter = _ALL,
) -> None:
    """Show the table until the user quits, or for some seconds.

    Raises what the first `read` raises. Later errors are shown, since they may pass.

    nothing: what to say as long as there are no counts.
    """
    found, recent, order, first, problem = read(), Recent(), "name", 0, ""
    sdks = tuple(dict.fromkeys(("", *_SDKS, only.sdk)))
    started = time.monotonic()
    latest, due, end = recent.look(found.rows, started), started + _SECONDS, started + seconds
    with screen.Screen() as window:
        while (now := time.monotonic()) < end:
            if now >= due:
                due = now + _SECONDS
                try:
                    found, problem = read(), ""
                except Refused as error:
                    problem = str(error)
                latest = recent.look(found.rows, now)
            width, height = screen.size()
            view = _view(width)._replace(recent=latest or {}, order=order)
            shown = only.of(found)
            below = [*foot(view, found), problem, _keys(window, only, order)]
            if not found.rows:
                below = [*textwrap.wrap(nothing, width, break_on_hyphens=False), *below]
            lines = [view.plain(line) for line in below if line]
            room = None if window.dumb else height
            picture, first = _picture(view, shown, lines, room, first)
            window.draw(picture, new=shown)
            key = window.key(min(due, end) - time.monotonic())
            if key == "q":
                return
            if key == "k":
                only = only._replace(kind=_next(("", *KINDS), only.kind))
            elif key == "s":
                only = only._replace(sdk=_next(sdks, only.sdk))
            elif key == "o":
                order = _next(tuple(ORDERS), order)
            first += {"up": -1, "down": 1, "page up": -10, "page down": 10}.get(key, 0)


def printed(found: Counted, below: Sequence[str]) -> list[str]:
    """The table in full, for standard output."""
    view = _view(screen.size()[0])
    titles, rows = view.rows(found)
    table = [titles, *rows, ""] if rows else []
    return [*view.head(found), "", *table, *below]


def _picture(
    view: View, found: Counted, below: list[str], height: int | None, first: int
) -> tuple[list[str], int]:
    """The table in so many lines, and the first row that is shown.

    height: None for as many lines as it takes.
    """
    titles, rows = view.rows(found)
    above = [*view.head(found), "", titles]
    room = len(rows) if height is None else max(2, height - len(above) - len(below) - 1)
    if len(rows) <= room:
        return [*above, *rows, "", *below][:height], 0
    room -= 1
    first = max(0, min(first, len(rows) - room))
    left = len(rows) - room - first
    more = f"and {left} more below" if left else "the end"
    return [*above, *rows[first : first + room], more, "", *below][:height], first


def _view(width: int) -> View:
    return View(
        width,
        time.time(),
        colour=screen.colours(sys.stdout),
        ascii=screen.has_only_ascii(sys.stdout),
    )


def _keys(window: screen.Screen, only: Filter, order: str) -> str:
    if not window.has_keys:
        return "Ctrl-C quits"
    chosen = only.kind or "all", only.sdk or "all", order
    return "q quit  k kind: {}  s sdk: {}  o order: {}  arrows scroll".format(*chosen)


def _next(choices: Sequence[str], current: str) -> str:
    return choices[(choices.index(current) + 1) % len(choices)]


def _print(source: _Source, only: Filter) -> None:
    found = source.read()
    if not (found.rows or found.suppressed):
        print("\n".join((source.nothing, *source.problems)))
        return
    shown = only.of(found)
    print("\n".join(printed(shown, source.foot(_view(80), shown))).rstrip())


def _as_json(source: _Source, found: Counted) -> str:
    failures = [
        {
            "class": row.issue.cls,
            "kind": row.issue.kind,
            "code": row.issue.code,
            "reason": row.issue.reason,
            "task": row.issue.task,
            "worker": row.issue.worker,
            "owner": row.issue.owner,
            "count": row.number,
            "first_seen": _moment(row.first),
            "last_seen": _moment(row.last),
        }
        for row in found.rows
    ]
    content = {
        "source": source.name,
        "failures": failures,
        "suppressed": found.suppressed,
        "dropped": found.dropped,
        "problems": source.problems,
    }
    return json.dumps(content, indent=2)


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # so late that it has no date
        return None


# Where the counts are.


def _of_store(place: StorePath) -> _Source:
    problems: list[str] = []
    ledgers = Ledgers(place, None, problems.append)

    def read() -> Counted:
        try:
            return counted(ledgers.read().counts)
        except OSError as error:
            raise Refused(f"{place.directory} cannot be read: {error}") from error

    return _Source(
        str(place.directory),
        read,
        f"Nothing is counted in {place.directory} yet. Run your program with FAULTLENS=1.",
        problems,
    )


def _of_url(text: str) -> _Source:
    from faultlens.commands.scrape import parse  # prometheus_client takes its time

    url = text if "://" in text else f"http://{text}"
    scheme, _, rest_of_it = url.partition("://")
    if scheme not in ("http", "https") or not rest_of_it.strip("/"):
        raise Refused(f"--url {text}: expected something like http://node:9464")
    if "/" not in rest_of_it.rstrip("/"):
        url = f"{url.rstrip('/')}/metrics"

    def read() -> Counted:
        try:
            scrape = parse(endpoint.fetch(url))
        except ValueError as error:  # so says the parser, and urllib of a URL that it cannot take
            raise Refused(f"{url} is not a page of metrics: {error}") from error
        except OSError as error:
            why = getattr(error, "reason", error)
            raise Refused(f"{url} cannot be read: {why}") from error
        if not scrape.info:
            raise Refused(f"{url} has no metrics of faultlens")
        return scrape.counted

    return _Source(url, read, f"Nothing is counted at {url} yet.", [])
