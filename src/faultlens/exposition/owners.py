"""Finds out whether the owner of a ledger is gone.

A process id is not enough: ids are reused, and each container has its own. So an owner is
identified by its id, its start time, the pid namespace, and the boot of the machine.
"""

from __future__ import annotations

import os
import sys
from os import kill
from pathlib import Path
from typing import NamedTuple

from faultlens.exposition.layout import Cell
from faultlens.natives import monotonic

__all__ = ["Process", "boot", "is_gone"]

_SILENT_SECONDS = 3600.0
"""If the lock proves nothing, an owner in another container is gone after this much silence."""


class Process(NamedTuple):
    """Identifies a process among all processes that ever run on this machine."""

    pid: int
    start: int
    """The start time in ticks since boot; 0: unknown."""
    namespace: int
    """The pid namespace; 0: unknown."""
    boot: int
    """See `faultlens.exposition.owners.boot`."""

    @classmethod
    def current(cls) -> Process:
        """This process."""
        pid = os.getpid()
        if not sys.platform.startswith("linux"):
            return cls(pid, 0, 1, 1)
        try:
            if Path("/proc/self").readlink().name == str(pid):  # /proc is of this namespace
                return cls(pid, _start(pid), Path("/proc/self/ns/pid").stat().st_ino, boot())
        except (OSError, ValueError):
            pass
        return cls(pid, 0, 0, 0)


def boot() -> int:
    """Identifies this boot of this machine; 0: unknown."""
    try:
        return int(Path("/proc/sys/kernel/random/boot_id").read_text()[:8], 16)
    except (OSError, ValueError):
        return 0


def _start(pid: int) -> int:
    """When a process started, in ticks since boot; 0 if it is a zombie."""
    status = Path(f"/proc/{pid}/stat").read_bytes()
    fields = status[status.rindex(b")") + 2 :].split()
    state, threads = fields[0], int(fields[17])
    return 0 if state in (b"Z", b"X") and threads <= 1 else int(fields[19])


def _exists(pid: int, start: int) -> bool:
    """Whether a process of this namespace exists; True if it cannot be determined."""
    try:
        kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    try:
        return _start(pid) == start
    except (OSError, ValueError):
        return True


def is_gone(header: memoryview, here: Process) -> bool:
    """Whether the owner of a ledger is gone, given that the ledger's lock is free."""
    owner = Process(*header[Cell.PID : Cell.BOOT + 1])
    if owner.pid == 0:
        return True
    known = 0 not in (owner.namespace, here.namespace)
    if known and owner != here and owner[2:] == here[2:]:
        return not _exists(owner.pid, owner.start)
    # The owner is in another namespace, or it is this process before an exec.
    if header[Cell.HOLDS_LOCK] or not known or owner == here:
        return header[Cell.HOLDS_LOCK] == 1
    # On overlayfs, which two machines cannot share. Perhaps the container was restarted.
    return owner.boot != here.boot or monotonic() - header[Cell.BEAT] > _SILENT_SECONDS
