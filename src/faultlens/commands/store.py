"""The store that a command is about."""

from __future__ import annotations

from faultlens.exposition import sheets
from faultlens.settings import Settings, StorePath, store_path

__all__ = ["Refused", "chosen_store"]


class Refused(Exception):
    """Why a command cannot do what it is asked; one line."""


def chosen_store(wanted: Settings, named: str | None, *, make: bool = False) -> StorePath:
    """The store that ``--store`` names, or the environment. Raises Refused if it cannot be used.

    make: whether to make one that is not there; else that is no error.
    """
    try:
        place = wanted.store if named is None else store_path(named)
    except ValueError as error:
        raise Refused(f"--store {named}: {error}") from error
    if place is None:
        raise Refused("FAULTLENS_STORE=off: there is no store. Name one with --store")
    try:
        if sheets.MISSING is not None:
            raise sheets.MISSING
        with sheets.opened(place, make=make):
            pass
    except Exception as error:
        if make or not isinstance(error, FileNotFoundError):
            raise Refused(f"the store cannot be used: {error}") from error
    return place
