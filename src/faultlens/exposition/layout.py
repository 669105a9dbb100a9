"""The format of a ledger file.

Everything is in the machine's byte order. Values that change are in cells of 8 bytes, so that each
change is a single store to memory.

    0        header      the owner, and the sizes of the other parts
    4088     births      how many bytes of births are valid
    4096     count       for each slot: how often its key was counted
             last        the time of the last count, in seconds since 1970
             born        the time of the first count
             published   checksum and length of the key; 0 for a free slot
             trace       the last sampled trace; a checksum shows whether it is complete
             key         the labels
             births      text: the classes and workers whose series start at 0

A slot is free until its key is published. From then on its count and times change in place.
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

__all__ = [
    "BIRTHS_AT",
    "COLUMNS_AT",
    "FORMAT",
    "KEY_BYTES",
    "MAGIC",
    "OTHER",
    "TRACE_BYTES",
    "UUID",
    "Cell",
    "Count",
    "Key",
    "Layout",
    "LedgerError",
    "Trace",
    "birth",
    "checked",
    "counts",
    "decode",
    "encode",
    "expected",
    "key_size",
    "pack_trace",
    "published",
    "total",
]

Key = tuple[str, ...]
"""A metric's name and its label values. A ledger does not interpret them."""

OTHER = "_OTHER"
"""The label value for everything beyond a limit."""

MAGIC = int.from_bytes(b"faultlns", "big")
FORMAT = 1
HEADER_BYTES = 4096
COLUMNS_AT = HEADER_BYTES
BIRTHS_AT = HEADER_BYTES - 8
"""Directly before the counts, so that a reader can compare births and counts at once."""
TRACE_BYTES = 40
KEY_BYTES = 640
BIRTH_BYTES = 28 << 10

_END = "\x1f"
"""Ends each label of a key. Labels cannot contain it: `encode` removes it."""
_ELLIPSIS = "…".encode()
_MOST_LABELS = 16
_ROW = struct.Struct("=QQQd")
_CHECK = struct.Struct("=Q")
_64_BITS = (1 << 64) - 1
_MOST_SLOTS = 1 << 16


class Cell:
    """The cells of the header."""

    MAGIC = 0
    FORMAT = 1
    CAPACITY = 2
    KEY_BYTES = 3
    BIRTH_BYTES = 4
    # 5 and 6: UUID
    HOLDS_LOCK = 7
    """1: a mapping keeps the lock, so a free lock proves that the owner is gone."""
    TOKEN = 8
    """One byte; differs from the previous owner's."""
    PID = 9
    """0: the ledger has no owner."""
    START = 10
    NAMESPACE = 11
    BOOT = 12
    BEAT = 13
    """When the owner was last known to be alive, by the machine's monotonic clock."""


UUID = slice(5 * 8, 7 * 8)
"""The bytes that identify a ledger; its file's name does not."""


class LedgerError(OSError):
    """A ledger cannot be used. The message says what is wrong, where, and what was expected."""


class Trace(NamedTuple):
    """The span in which a failure happened, and when."""

    trace_id: str
    span_id: str
    moment: float
    """In seconds since 1970."""


class Count(NamedTuple):
    """How often something happened, and when."""

    number: int
    born: float
    """When it was first counted, in seconds since 1970."""
    last: float
    """When it was last counted."""
    trace: Trace | None = None
    """The last failure within a sampled span."""


class Layout:
    """The offsets in a ledger of these sizes; the ledger's header has the sizes."""

    __slots__ = (
        "birth_bytes",
        "births_at",
        "born",
        "capacity",
        "counts",
        "key_bytes",
        "keys_at",
        "last",
        "published",
        "size",
        "traces_at",
    )

    def __init__(
        self, capacity: int, key_bytes: int = KEY_BYTES, birth_bytes: int = BIRTH_BYTES
    ) -> None:
        self.capacity = capacity
        self.key_bytes = key_bytes
        self.birth_bytes = birth_bytes
        starts = [COLUMNS_AT + column * 8 * capacity for column in range(5)]
        self.counts, self.last, self.born, self.published = map(slice, starts, starts[1:])
        self.traces_at = starts[4]
        self.keys_at = self.traces_at + TRACE_BYTES * capacity
        self.births_at = self.keys_at + key_bytes * capacity
        self.size = self.births_at + birth_bytes

    def key(self, index: int) -> int:
        """The offset of a slot's key."""
        return self.keys_at + index * self.key_bytes


def checked(header: bytes, size: int) -> Layout:
    """The layout of a ledger with this header and size. Raises LedgerError if it is not valid."""
    if len(header) < HEADER_BYTES:
        raise LedgerError(f"is {size} bytes long; expected a whole ledger")
    cells = memoryview(header).cast("Q")
    if cells[Cell.MAGIC] != MAGIC:
        raise LedgerError("is not a ledger, or has another byte order")
    if cells[Cell.FORMAT] != FORMAT:
        raise LedgerError(f"has format {cells[Cell.FORMAT]}; expected {FORMAT}")
    layout = Layout(cells[Cell.CAPACITY], cells[Cell.KEY_BYTES], cells[Cell.BIRTH_BYTES])
    if layout.capacity > _MOST_SLOTS or layout.size != size:
        raise LedgerError(f"is {size} bytes long; expected {layout.size}")
    return layout


def encode(key: Key, limit: int = KEY_BYTES) -> bytes:
    """A key as bytes. If it is too long, its longest labels are cut with an ellipsis."""
    if not 0 < len(key) <= _MOST_LABELS:
        raise ValueError(f"a key has {len(key)} labels; expected 1 to {_MOST_LABELS}")
    # Lone surrogates cannot be encoded; they become question marks.
    labels = [label.replace(_END, "").encode("utf-8", "replace") for label in key]
    while (excess := sum(map(len, labels)) + len(labels) - limit) > 0:
        longest = max(range(len(labels)), key=lambda index: len(labels[index]))
        size = len(labels[longest])
        kept = max(size - excess, size // 2) - len(_ELLIPSIS)
        labels[longest] = labels[longest][:kept].decode("utf-8", "ignore").encode() + _ELLIPSIS
    return b"".join(label + _END.encode() for label in labels)


@lru_cache(4096)  # there may be thousands of ledgers with the same keys
def decode(raw: bytes) -> Key:
    """The key from which `encode` made these bytes."""
    return tuple(raw.decode("utf-8", "replace").split(_END)[:-1])


def published(raw: bytes) -> int:
    """The cell that publishes a key: its checksum lets a reader see all of the key or nothing."""
    return crc32(raw) << 32 | len(raw)


def key_size(cell: int) -> int:
    """The length of the key that this cell publishes."""
    return cell & 0xFFFF


def pack_trace(trace: tuple[int, int], now: float) -> bytes:
    """A row of the trace column: trace id, span id, time, checksum."""
    trace_id, span_id = trace
    row = _ROW.pack(trace_id >> 64, trace_id & _64_BITS, span_id, now)
    return row + _CHECK.pack(crc32(row) + 1)  # never 0, which means no trace


def counts(layout: Layout, content: bytes, before: Sequence[int]) -> Iterator[tuple[int, Count]]:
    """The slots whose numbers have grown, each with a Count of what was added.

    content: the ledger up to the keys.
    before: the earlier number of each slot.
    """
    view = memoryview(content)
    numbers = view[layout.counts].cast("Q").tolist()
    last = view[layout.last].cast("d")
    born = view[layout.born].cast("d")
    for index, (now, then) in enumerate(zip(numbers, before, strict=True)):
        if now > then:
            at = layout.traces_at + index * TRACE_BYTES
            trace = _trace(content[at : at + TRACE_BYTES])
            yield index, Count(now - then, born[index], last[index], trace)


def total(count: Count | None, more: Count) -> Count:
    """The sum of two counts; the first may be missing."""
    if count is None:
        return more
    trace = count.trace
    if trace is None or (more.trace is not None and more.trace.moment > trace.moment):
        trace = more.trace
    return Count(
        count.number + more.number,
        min(count.born, more.born),
        max(count.last, more.last),
        trace,
    )


def birth(label: Literal["class", "worker"], name: str, kinds: Iterable[str] = ()) -> str:
    """A line of births: a class with all its possible kinds, or a worker."""
    return _END.join(text.replace(_END, "").replace("\n", "") for text in (label, name, *kinds))


def expected(births: Iterable[str]) -> set[tuple[str, str, str]]:
    """Class, kind and worker of each series that starts at 0, from lines of births."""
    lines = [line.split(_END) for line in births]
    workers = [name for label, *names in lines if label == "worker" for name in names[:1]]
    return {
        (name, kind, worker)
        for label, *names in lines
        if label == "class"
        for name in names[:1]
        for kind in names[1:]
        for worker in workers
    }


def _trace(row: bytes) -> Trace | None:
    high, low, span_id, moment = _ROW.unpack_from(row)
    (check,) = _CHECK.unpack_from(row, _ROW.size)
    if check != crc32(row[: _ROW.size]) + 1:
        return None  # there is no trace, or it is being written
    return Trace(f"{high << 64 | low:032x}", f"{span_id:016x}", moment)
