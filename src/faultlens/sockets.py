"""Sockets that cope with a program that closes their descriptors.

A program may close every descriptor that it did not open, and then get the same numbers for its own
files and sockets. So our sockets have high numbers, which the system does not use while lower ones
are free. Before each use, a socket checks that its number still means this socket; if not, it
forgets the number and never closes it. Sockets are created non-blocking where the system can do
that: a flag that is set later could hit a socket of the program, which has just taken the number.
Forked children close their parent's sockets.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
from typing import Any

from faultlens import natives

__all__ = ["Socket", "forget_the_parents"]

_BACKLOG = 1024
_NONBLOCK = getattr(_socket, "SOCK_NONBLOCK", 0)
_DONTWAIT = getattr(_socket, "MSG_DONTWAIT", 0)
_NOSIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
_STREAM = _socket.SOCK_STREAM | _NONBLOCK


class Socket(natives.socket):
    """A non-blocking stream socket. Made by `create`, `pair` or `accept`."""

    if sys.platform != "win32":
        import resource as _resource

        # On the class, since pyfakefs would replace them in a module.
        _fcntl = natives.pristine("fcntl")
        _posix = natives.pristine("posix")

    @classmethod
    def create(cls, family: int) -> Socket:
        """A new socket."""
        with _lock:
            return cls(natives.socket(family, _STREAM))

    @classmethod
    def pair(cls) -> tuple[Socket, Socket]:
        """Two connected sockets."""
        with _lock:
            made = _socket.socketpair(_socket.AF_UNIX, _STREAM)
            one = cls(made[0])
            try:
                return one, cls(made[1])
            except OSError:
                one.close()
                raise

    def __init__(self, made: natives.socket) -> None:
        """Take over a socket that was just created. The caller holds `_lock`."""
        family, protocol, number = made.family, made.proto, made.detach()
        self._identity = self._identify(number)
        super().__init__(family, _STREAM, protocol, self._moved_up(number))
        if not _NONBLOCK:
            self.setblocking(False)
        _open.add(self)

    def accept(self) -> Socket:
        """Accept a connection; raises BlockingIOError if none is waiting."""
        self._check()
        with _lock:
            number, _ = self._accept()  # type: ignore[attr-defined]
            return type(self)(natives.socket(self.family, _STREAM, self.proto, number))

    def setsockopt(self, level: int, option: int, value: int, /) -> None:  # type: ignore[override]
        self._check()
        super().setsockopt(level, option, value)

    def bind(self, where: Any, /) -> None:
        self._check()
        super().bind(where)

    def listen(self, backlog: int = _BACKLOG, /) -> None:
        self._check()
        super().listen(backlog)

    def connect_ex(self, where: Any, /) -> int:
        self._check()
        return super().connect_ex(where)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self._check()
        return super().recv(size, flags | _DONTWAIT)

    def send(self, data: Any, flags: int = 0, /) -> int:
        self._check()
        # If the program reset SIGPIPE, the signal would end it.
        return super().send(data, flags | _DONTWAIT | _NOSIGNAL)

    def shutdown(self, how: int, /) -> None:
        self._check()
        super().shutdown(how)

    def close(self) -> None:
        """Close the descriptor if it is still ours."""
        with _lock:
            _open.discard(self)
            if self.is_ours():
                super().close()
            else:
                self.detach()

    def is_ours(self) -> bool:
        """Whether the descriptor still belongs to this socket."""
        return self.fileno() != -1 and self._is_at(self.fileno())

    def _check(self) -> None:
        if not self.is_ours():
            raise _taken()

    def _is_at(self, number: int) -> bool:
        try:
            return self._identify(number) == self._identity
        except OSError:
            return False

    def _identify(self, number: int) -> object:
        if sys.platform == "win32":  # sockets have no descriptors there
            return None
        status = self._posix.fstat(number)
        return status.st_dev, status.st_ino

    def _moved_up(self, number: int) -> int:
        if sys.platform == "win32":
            return number
        limit, _ = self._resource.getrlimit(self._resource.RLIMIT_NOFILE)
        try:  # not too high: the kernel's table reaches up to the highest, and each fork copies it
            least = min(limit, 4096) * 3 // 4
            high: int = self._fcntl.fcntl(number, self._fcntl.F_DUPFD_CLOEXEC, least)
        except OSError:  # no number is free in that range
            return number
        if self._is_at(number):
            natives.close(number)
        elif not self._is_at(high):  # a copy of what the program has put at our number
            natives.close(high)
            raise _taken()
        return high


def _taken() -> OSError:
    return OSError(errno.EBADF, "the program has closed this descriptor")


# Held while a socket is created or closed: a child forked meanwhile would keep it open unnoticed.
_lock = natives.RLock()
_open: set[Socket] = set()  # keeps sockets alive: a freed one closes its number, ours or not
_owner = os.getpid()


def forget_the_parents() -> None:
    """In a forked child, close the parent's sockets; elsewhere do nothing.

    Called after a fork by Python. After a fork by C code, our own code must call it.
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
