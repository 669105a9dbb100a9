"""Claims decide which process counts a failure that several processes see.

A claim is a dangling symbolic link in the store's folder `FOLDER`; its target is the holder's name.
One system call creates it, so there is exactly one winner, no open descriptor, and no half-written
file.
"""

from __future__ import annotations

import contextlib
import os
from itertools import islice
from os import mkdir, readlink, symlink  # the originals: the host may replace them in `os`

from faultlens import guard, natives
from faultlens.exposition import sheets
from faultlens.settings import StorePath

__all__ = ["Claims"]

FOLDER = "peers"
ANSWERS_LIMIT = 256
"""How many answers a process remembers."""
STALE_SECONDS = 7 * 86_400.0
"""Claims older than this are removed: nobody will ask for them."""
SWEEP_LIMIT = 1000
"""How many claims a sweep checks at most."""


class Claims:
    """The claims of a store.

    place: the store; None if there is none, and then every claim succeeds.
    """

    def __init__(self, place: StorePath | None) -> None:
        self._place = place if sheets.MISSING is None else None
        self._answers: dict[tuple[str, str], bool] = {}
        self._swept = True

    def claim(self, name: str, holder: str) -> bool:
        """Whether `holder` is the first to claim `name`. True also if the store cannot be used.

        name: a valid file name.
        """
        known = self._answers.get((name, holder))
        if known is None:
            known = self._ask(name, holder)
            if len(self._answers) >= ANSWERS_LIMIT:
                self._answers = {}
            self._answers[name, holder] = known
        return known

    def sweep(self) -> None:
        """Remove old claims, if this process made one. Does I/O: not to be called in a raise."""
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
                with contextlib.suppress(FileNotFoundError):  # another process removed it
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
