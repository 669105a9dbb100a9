"""Sockets that are ours only as long as their descriptors are.

A program may close every descriptor that it has not opened itself, and then gets the same numbers
for files and sockets of its own. So our sockets have high numbers, which the system does not give
away while lower ones are free. Before each use a socket checks that its number still means this
socket. A number that is lost is forgotten, never closed. Forked children close the sockets of their
parent.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
from typing import Any

from faultlens import natives

__all__ = ["Socket", "forget_the_parents"]


class Socket(natives.socket):
    """A stream socket that never blocks. Make one with `create`, `pair` or `accept`."""

    if sys.platform != "win32":
        import resource as _resource

        # Attributes of a class: in a module, pyfakefs would replace them.
        _fcntl = natives.pristine("fcntl")
        _posix = natives.pristine("posix")

    @classmethod
    def create(cls, family: int) -> Socket:
        """A new socket."""
        with _lock:
            return cls(natives.socket(family, _socket.SOCK_STREAM))

    @classmethod
    def pair(cls) -> tuple[Socket, Socket]:
        """Two sockets that are connected to each other."""
        with _lock:
            one, other = _socket.socketpair()
            return cls(one), cls(other)

    def __init__(self, made: natives.socket) -> None:
        """Take over a socket that has just been made, while `_lock` is held."""
        family, kind, protocol = made.family, made.type, made.proto
        super().__init__(family, kind, protocol, self._moved_up(made.detach()))
        self.setblocking(False)
        self._identity = self._identify()
        _open.add(self)

    def accept(self) -> Socket:
        """A connection that waits to be accepted; raises BlockingIOError if none does."""
        self._check()
        with _lock:
            number, _ = self._accept()  # type: ignore[attr-defined]
            return type(self)(natives.socket(self.family, self.type, self.proto, number))

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self._check()
        return super().recv(size, flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        self._check()
        # A program may have reset SIGPIPE, which would end it.
        return super().send(data, flags | getattr(_socket, "MSG_NOSIGNAL", 0))

    def shutdown(self, how: int, /) -> None:
        self._check()
        super().shutdown(how)

    def close(self) -> None:
        """Close it, if it is still ours."""
        with _lock:
            _open.discard(self)
            if self.is_ours():
                super().close()
            else:
                self.detach()

    def is_ours(self) -> bool:
        """Whether the number still means this socket."""
        try:
            return self.fileno() != -1 and self._identify() == self._identity
        except OSError:
            return False

    def _check(self) -> None:
        if not self.is_ours():
            raise OSError(errno.EBADF, "the program has closed this descriptor")

    def _identify(self) -> object:
        if sys.platform == "win32":  # where sockets have no descriptors
            return None
        status = self._posix.fstat(self.fileno())
        return status.st_dev, status.st_ino

    def _moved_up(self, number: int) -> int:
        if sys.platform == "win32":
            return number
        limit, _ = self._resource.getrlimit(self._resource.RLIMIT_NOFILE)
        try:  # not higher than need be: the kernel keeps, and forks copy, a table up to the highest
            least = min(limit, 4096) * 3 // 4
            high: int = self._fcntl.fcntl(number, self._fcntl.F_DUPFD_CLOEXEC, least)
        except OSError:  # no number is free there
            return number
        natives.close(number)
        return high


# Held while a socket is made or closed: a child forked meanwhile would keep it unknowingly.
_lock = natives.RLock()
_open: set[Socket] = set()  # keeps them alive: a freed one would close its number, ours or not
_owner = os.getpid()


def forget_the_parents() -> None:
    """In a forked child, close the sockets of the parent; elsewhere do nothing.

    Python's fork calls it. After a fork by C code, somebody else has to.
    """
    global _lock, _owner
    if _owner == os.getpid():
        return
    _owner = os.getpid()
    _lock = natives.RLock()
    while _open:
        _open.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _lock.acquire(),
        after_in_parent=lambda: _lock.release(),
        after_in_child=forget_the_parents,
    )
