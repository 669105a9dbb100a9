"""The page at ``/``: what was counted as a table, for a browser.

Plain HTML without scripts. A browser loads it again every few seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from faultlens.exposition.ledgers import Reading
from faultlens.exposition.rows import (
    FAULTS,
    Counted,
    Issue,
    Recent,
    Row,
    ago,
    counted,
    plural,
    rest,
)
from faultlens.natives import monotonic, time

__all__ = ["ROWS", "FrontPage"]

ROWS = 1000
"""How many rows a page has at most."""

_REFRESH_SECONDS = 5

_STYLE = """
:root { color-scheme: light dark; --system: #b00020; --unknown: #8a5000; --line: #8884 }
@media (prefers-color-scheme: dark) { :root { --system: #ff8a80; --unknown: #ffb74d } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.25rem; margin: 0 }
table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .25rem 1rem .25rem 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere }
th { white-space: nowrap }
.n { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap }
tbody th { padding-top: 1rem }
.system th { color: var(--system) }
.unknown th { color: var(--unknown) }
"""

_COLUMNS = ("class", "reason", "task", "worker")
_NUMBERS = ("count", "last minute", "last seen")


class FrontPage:
    """Makes the page.

    read: the counts as they are now; may raise OSError.
    store: the identity of their store; empty if they are this process's alone.
    """

    def __init__(self, read: Callable[[], Reading], version: str, store: Callable[[], str]) -> None:
        self._read = read
        self._version = version
        self._store = store
        self._recent = Recent()

    def __call__(self, accept: str) -> tuple[str, bytes]:
        """Content type and body."""
        found = counted(self._read().counts)
        recent = self._recent.look(found.rows, monotonic())
        where = "on this host" if self._store() else f"in this process (pid {os.getpid()})"
        page = _page(found, recent, time(), self._version, where)
        return "text/html; charset=utf-8", page.encode("utf-8", "replace")


def _page(
    found: Counted, recent: dict[Issue, int] | None, now: float, version: str, where: str
) -> str:
    kinds = ", ".join(f"{found.of(kind)} {kind}" for kind in FAULTS)
    below = rest(found)
    if len(found.rows) > ROWS:
        below.insert(0, f"and {len(found.rows) - ROWS} more: faultlens top shows all")
    body = "".join(
        _section(kind, [row for row in found.rows[:ROWS] if row.issue.kind == kind], recent, now)
        for kind in dict.fromkeys(row.issue.kind for row in found.rows[:ROWS])
    )
    heads = "".join(
        f'<th scope="col"{css}>{name}</th>'
        for names, css in ((_COLUMNS, ""), (_NUMBERS, ' class="n"'))
        for name in names
    )
    table = f"<table>\n<thead><tr>{heads}</tr></thead>\n{body}</table>" if body else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{plural(found.total, "failure")} - faultlens</title>
<style>{_STYLE}</style>
<h1>{plural(found.total, "failure")}: {kinds}</h1>
<p>Counted {where} from the exceptions that workflow SDKs raise, by faultlens
{_text(version)}. Prometheus scrapes <a href="/metrics">/metrics</a>.</p>
{table}
{"".join(f"<p>{_text(line)}</p>" for line in below)}
</html>
"""


def _section(kind: str, rows: list[Row], recent: dict[Issue, int] | None, now: float) -> str:
    title = f"{kind}: {FAULTS[kind]}" if kind in FAULTS else kind
    columns = len(_COLUMNS) + len(_NUMBERS)
    css = _text(kind) if kind in FAULTS else ""
    return (
        f'<tbody class="{css}">\n'
        f'<tr><th scope="rowgroup" colspan="{columns}">{_text(title)}</th></tr>\n'
        f"{''.join(_row(row, recent, now) for row in rows)}</tbody>\n"
    )


def _row(row: Row, recent: dict[Issue, int] | None, now: float) -> str:
    issue = row.issue
    name = f"{issue.cls} [{issue.code}]" if issue.code else issue.cls
    cells = (name, issue.reason, issue.task, issue.worker)
    latest = "" if recent is None else recent.get(issue, "")
    numbers = (row.number, latest, ago(row.last, now))
    return (
        f"<tr>{''.join(f'<td>{_breakable(cell)}</td>' for cell in cells)}"
        f"{''.join(f'<td class=n>{cell}</td>' for cell in numbers)}</tr>\n"
    )


def _breakable(text: str) -> str:
    """Escaped, and broken across lines where a name has its joints."""
    return re.sub(r"([._])", r"\1<wbr>", _text(text))


def _text(text: str) -> str:
    """Escaped: a label can be anything."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        shown = shown.replace(char, entity)
    return shown
