"""Which interpreter of the process this is."""

from __future__ import annotations

import importlib

__all__ = ["is_main"]

_MODULES = ("_interpreters", "_xxsubinterpreters")
"""What concurrent.interpreters (3.14) is made of, by its name from 3.13 on and before."""


def is_main() -> bool:
    """Whether this is the process's main interpreter.

    No thread of ours may start in another: it would abort the process when that interpreter ends.
    """
    for name in _MODULES:
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # a Python that was built without sub-interpreters
