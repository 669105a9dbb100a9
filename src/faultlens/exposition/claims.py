"""Claims: of several processes that see one failure, which counts it.

A claim is a symbolic link in the store's folder `FOLDER`, which leads nowhere and whose text is the
holder. To make one is a single call of the system, so there is always one winner, no descriptor,
and nothing half written.
"""

from __future__ import annotations

import contextlib
import os
from itertools import islice
from os import mkdir, readlink, symlink  # the host may put others in their place

from faultlens import guard, natives
from faultlens.exposition import sheets
from faultlens.settings import StorePath

__all__ = ["Claims"]

FOLDER = "peers"
ANSWERS_LIMIT = 256
"""How many answers a process remembers."""
STALE_SECONDS = 7 * 86_400.0
"""A claim of this age is removed: nobody will ask for it."""
SWEEP_LIMIT = 1000
"""How many claims are looked at to find those."""


class Claims:
    """The claims of a store.

    place: None: there is none, and everybody counts.
    """

    def __init__(self, place: StorePath | None) -> None:
        self._place = place if sheets.MISSING is None else None
        self._answers: dict[tuple[str, str], bool] = {}
        self._swept = True

    def claim(self, name: str, holder: str) -> bool:
        """Whether `holder` is the first to claim `name`, or nobody can know. Raises no OSError.

        name: a file name.
        """
        known = self._answers.get((name, holder))
        if known is None:
            known = self._ask(name, holder)
            if len(self._answers) >= ANSWERS_LIMIT:
                self._answers = {}
            self._answers[name, holder] = known
        return known

    def sweep(self) -> None:
        """Remove old claims, if this process made one. Not for a raise."""
        if self._swept or self._place is None:
            return
        self._swept = True
        oldest = natives.time() - STALE_SECONDS
        with (
            contextlib.suppress(OSError),
            sheets.opened(self._place, make=False) as directory,
            contextlib.closing(os.scandir(f"{self._place.directory}/{FOLDER}")) as entries,
        ):
            for entry in islice(entries, SWEEP_LIMIT):
                with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(f"{FOLDER}/{entry.name}", dir_fd=directory)

    def _ask(self, name: str, holder: str) -> bool:
        if self._place is None:
            return True
        try:
            with sheets.opened(self._place, make=True) as directory:
                with contextlib.suppress(FileExistsError):
                    mkdir(FOLDER, 0o700, dir_fd=directory)
                try:
                    symlink(holder, f"{FOLDER}/{name}", dir_fd=directory)
                except FileExistsError:
                    return readlink(f"{FOLDER}/{name}", dir_fd=directory) == holder
                self._swept = False
                return True
        except OSError as error:
            if guard.of_a_signal(error):
                raise
            return True
