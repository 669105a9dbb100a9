"""The line on the terminal that says where to see the counts of a program that has ended.

Its page at the port ends with it. The line is for a person who has started a program in a terminal,
and only the process that they have started writes it: no forked child, no worker of a pool, no
program that a counting program runs, no background job, nothing whose output goes elsewhere.
"""

from __future__ import annotations

import os
import sys
from os import getpid

__all__ = ["had_children", "is_wanted", "say"]

_STDERR = 2
_FORKED_WITHOUT_EXEC = 0x40
"""``PF_FORKNOEXEC``, among Linux's flags of a process."""


def is_wanted() -> bool:
    """Whether a person is there to read it, and this is the process that they have started."""
    return _is_in_the_foreground() and not _is_a_child()


def had_children() -> bool:
    """Whether this process has waited for the end of another."""
    try:
        from resource import RUSAGE_CHILDREN, getrusage
    except ImportError:  # Windows
        return False
    return getrusage(RUSAGE_CHILDREN).ru_maxrss > 0


def say(failures: int) -> None:
    """Write the line. Never raises an OSError.

    failures: how many were counted; 0 if only its children can know.
    """
    counted = f"{failures} failure{'' if failures == 1 else 's'}" if failures else "failures"
    see = f"see {'it' if failures == 1 else 'them'} with: faultlens top"
    try:
        # Not by sys.stderr, which the program may have replaced.
        os.write(_STDERR, f"faultlens: {counted} counted; {see}\n".encode())
    except OSError:  # the terminal has gone
        pass


def _is_in_the_foreground() -> bool:
    """Whether this process may write to its terminal.

    A terminal can be set to stop a background process that writes to it.
    """
    try:
        return os.isatty(_STDERR) and os.tcgetpgrp(_STDERR) == os.getpgrp()
    except (AttributeError, OSError):  # Windows; a terminal of another session
        return False


def _is_a_child() -> bool:
    """Whether this process was forked, or started by `multiprocessing`, to work for another."""
    processes = sys.modules.get("multiprocessing.process")
    parent = getattr(processes, "parent_process", None)
    return getpid() != _process or _was_forked() or (parent is not None and parent() is not None)


def _was_forked() -> bool:
    """Whether this process never executed a program of its own, as far as Linux tells."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        return bool(int(fields[6]) & _FORKED_WITHOUT_EXEC)
    except (OSError, ValueError, IndexError):
        return False


_process = getpid()
