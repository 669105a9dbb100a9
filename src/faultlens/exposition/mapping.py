"""Maps files without keeping a descriptor, and reads mapped memory without the risk of SIGBUS.

Python's own mmap (up to 3.12) keeps a copy of the descriptor and closes that number at the end. If
the program has closed all descriptors in between, the number may be one of its own files or sockets
by then.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["Snapshots", "map_file"]

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap = _libc.mmap, _libc.munmap
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_mmap.restype = ctypes.c_void_p
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value

_AT_ONCE = 1024  # UIO_MAXIOV


def map_file(handle: int, size: int, *, write: bool) -> memoryview:
    """Map the first `size` bytes of an open file, shared. Unmapped when the last view is freed."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    address = _mmap(None, size, access, mmap.MAP_SHARED, handle, 0)
    if address == _FAILED:
        raise _error()
    memory = (ctypes.c_char * size).from_address(address)
    weakref.finalize(memory, _munmap, address, size).atexit = False
    return memoryview(memory).cast("B")


class _Piece(ctypes.Structure):
    """A ``struct iovec``."""

    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Snapshots:
    """Copies pieces of many mapped files, a thousand per system call.

    The kernel copies them: if a file was truncated, it reports an error, where reading the memory
    here would be a SIGBUS.

    pieces: memory that `map_file` returned, and the offset at which the piece begins.

    Raises OSError if the system has no such call, or a sandbox refuses it.
    """

    def __init__(self, pieces: Sequence[tuple[memoryview, int]]) -> None:
        try:
            self._read = _libc.process_vm_readv
        except AttributeError:  # only Linux has it
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        self._read.restype = ctypes.c_ssize_t
        self._memory = [memory for memory, _ in pieces]  # stays mapped
        self._pieces = (_Piece * len(pieces))(
            *(_Piece(_address(memory) + start, len(memory) - start) for memory, start in pieces)
        )
        self._ends = list(accumulate(len(memory) - start for memory, start in pieces))
        self._buffer = (ctypes.c_char * (self._ends[-1] if pieces else 0))()

    def take(self) -> tuple[list[bytes], list[int]]:
        """A copy of each piece, and the indexes of those that cannot be read."""
        done, broken = 0, []
        while done < len(self._ends):
            start = self._ends[done - 1] if done else 0
            whole = bisect_right(self._ends, start + self._copy(done, start))
            if whole == done:
                broken.append(done)
                whole += 1
            done = whole
        copy = self._buffer.raw
        starts = (0, *self._ends)
        return [copy[start:end] for start, end in zip(starts, self._ends, strict=False)], broken

    def _copy(self, first: int, start: int) -> int:
        """Copy pieces, beginning with this one; returns how many bytes were copied."""
        target = _Piece(ctypes.addressof(self._buffer) + start, len(self._buffer) - start)
        size: int = self._read(
            ctypes.c_int(os.getpid()),
            ctypes.byref(target),
            ctypes.c_ulong(1),
            ctypes.byref(self._pieces, first * ctypes.sizeof(_Piece)),
            ctypes.c_ulong(min(_AT_ONCE, len(self._ends) - first)),
            ctypes.c_ulong(0),
        )
        if size >= 0:
            return size
        error = _error()
        if error.errno != errno.EFAULT:
            raise error
        return 0


def _address(memory: memoryview) -> int:
    return ctypes.addressof(memory.obj)  # type: ignore[arg-type]


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
