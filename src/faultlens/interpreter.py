"""Which interpreter of the process this is, and whether it was told about its forks."""

from __future__ import annotations

import importlib
import os
import sys
from os import getpid

__all__ = ["forked_by_c_code", "is_main", "is_master_of_uwsgi"]

_MODULES = ("_interpreters", "_xxsubinterpreters")
"""The module behind concurrent.interpreters (3.14): its names since 3.13 and before."""


def is_main() -> bool:
    """Whether this is the process's main interpreter.

    Our threads must not start in another one: they would abort the process when it ends.
    """
    for name in _MODULES:
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # this Python was built without sub-interpreters


def forked_by_c_code() -> bool:
    """Whether this process was forked without Python's fork hooks.

    If so, its interpreter still lists the parent's threads, and its interpreter lock may count them
    as waiting.
    """
    return getpid() != _process


def is_master_of_uwsgi() -> bool:
    """Whether uWSGI loads the program in this process and then forks the workers by C code."""
    uwsgi = sys.modules.get("uwsgi")
    try:
        forks = uwsgi.masterpid() or uwsgi.numproc > 1  # type: ignore[union-attr]
        return bool(forks and uwsgi.worker_id() == 0)  # type: ignore[union-attr]
    except Exception:  # there is no uwsgi, or it is another module of that name
        return False


_process = getpid()


def _forked() -> None:
    global _process
    _process = getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
