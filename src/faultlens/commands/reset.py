"""``faultlens reset``: forgets what was counted in a store."""

from __future__ import annotations

import sys
import time

from faultlens import settings
from faultlens.commands.store import Refused, chosen_store
from faultlens.exposition import sheets
from faultlens.exposition.ledgers import Ledgers
from faultlens.exposition.rows import KINDS, Counted, ago, counted, plural
from faultlens.settings import StorePath

__all__ = ["reset"]


def reset(*, store: str | None, yes: bool) -> int:
    """Forget the counts of a store, after a question; returns the exit status.

    store: the directory; None for that of the environment.
    yes: do not ask.
    """
    try:
        return _reset(chosen_store(settings.load(), store), yes)
    except (Refused, OSError) as error:
        print(f"faultlens: {error}", file=sys.stderr)
        return 1


def _reset(place: StorePath, yes: bool) -> int:
    problems: list[str] = []
    counts = Ledgers(place, None, problems.append).read().counts
    if not counts:
        print(f"Nothing is counted in {place.directory}.")
        return 0
    print(_told(place, counted(counts)))
    if not yes:
        if not sys.stdin.isatty():
            raise Refused("reset asks before it forgets, and nobody can answer here: give --yes")
        try:
            answer = input("Forget all this? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was forgotten.")
            return 1
    owners = sheets.clear(place)
    if owners:
        processes = ", ".join(map(str, sorted(owners)))
        what = plural(len(owners), "process")
        raise Refused(
            f"{what} still {'counts' if len(owners) == 1 else 'count'} in {place.directory}: "
            f"{processes}. Nothing was forgotten; end what runs, then reset."
        )
    print("Forgotten. Prometheus takes it for a restart.")
    return 0


def _told(place: StorePath, found: Counted) -> str:
    """What is about to be forgotten."""
    kinds = ", ".join(f"{found.of(kind)} {kind}" for kind in KINDS)
    last = max((row.last or 0.0 for row in found.rows), default=None)
    seen = f"; the last one was {ago(last, time.time())}" if last else ""
    raises = plural(sum(found.suppressed.values()), "raise")
    return (
        f"{place.directory}: {plural(found.total, 'failure')} ({kinds}){seen}.\n"
        f"Also {raises} not counted again, and all attempts."
    )
