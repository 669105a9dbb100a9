"""What is written about one raised SDK exception, on a span, in a log record or in a line.

It is taken in the raise, without running the host's code, and made into text when it leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from types import FrameType
from typing import Any, NamedTuple

from faultlens import guard, natives
from faultlens.failure import Failure, Role
from faultlens.identity import IdentityMap
from faultlens.scrub import Scrub
from faultlens.settings import Settings

__all__ = ["MESSAGE_LIMIT", "Endings", "Record", "attributes", "headline", "ours"]

MESSAGE_LIMIT = 4096
"""The longest exception.message, in characters."""
FRAME_LIMIT = 64
"""How many frames of a stack are looked at: the innermost."""
STACK_LIMIT = 2048
"""The longest exception.stacktrace, in bytes. By default Tempo keeps that much of an attribute, and
cuts the end, which tells most: where it was raised, and the message."""
_HEADER = "Traceback (most recent call last):\n"
CAUSE_LIMIT = 32
"""How many links of a chain of causes are followed."""
SETTLE_SECONDS = 0.1
"""How long it takes an exception, usually, to end what it ends."""


Place = tuple[str, "int | None", str]
"""Of a frame: its file, line and function."""


class Severity(NamedTuple):
    """A severity of OpenTelemetry's log data model."""

    number: int
    text: str


INFO, WARN, ERROR = Severity(9, "INFO"), Severity(13, "WARN"), Severity(17, "ERROR")


class Record:
    """One raised SDK exception, or one failure that raised none. Secrets are still in it."""

    __slots__ = ("_since", "context", "ended", "failure", "message", "moment", "site", "stack")

    def __init__(
        self,
        failure: Failure,
        exc: BaseException,
        frame: FrameType | None,
        settings: Settings,
        *,
        context: Any = None,
        ended: bool = False,
    ) -> None:
        self.failure = failure
        self.moment = natives.time()
        """Seconds since 1970."""
        self.message = guard.message(exc, MESSAGE_LIMIT) if settings.messages else None
        """None if messages are turned off."""
        depth = FRAME_LIMIT if settings.stacktraces else 1 if settings.log is not None else 0
        stack = _stack(exc, frame, depth)
        self.stack = stack if settings.stacktraces else None
        """The raising frame last; None if stack traces are turned off."""
        self.site = stack[-1:]
        """The raising frame; empty if it is unknown, or of no interest."""
        self.context = context
        """The ids of the span that was current, an ``opentelemetry.trace.SpanContext``, if any."""
        self.ended = ended
        """Whether it has ended something."""
        self._since = natives.monotonic()

    @property
    def severity(self) -> Severity:
        if self.failure.role is not Role.ORIGIN:
            return INFO
        return ERROR if self.ended else WARN

    def has_settled(self) -> bool:
        """Whether it has had the time to end something."""
        return natives.monotonic() - self._since >= SETTLE_SECONDS


class Endings:
    """Learns which exceptions end something, after they were raised."""

    def __init__(self) -> None:
        self._records: IdentityMap[Record] = IdentityMap()

    def expect(self, exc: BaseException, record: Record) -> None:
        """Let `record` know if the exception ends something."""
        self._records.set(exc, record)

    def ended(self, exc: BaseException) -> None:
        """An exception has ended something: it, or the failure that it came from."""
        for link in (exc, *guard.causes(exc, CAUSE_LIMIT)):
            record = self._records.get(link)
            if record is not None:
                record.ended = True

    def look(self) -> None:
        """At exit: see whether an exception has ended the program."""
        last = getattr(sys, "last_value", None)
        if isinstance(last, BaseException):
            self.ended(last)


def attributes(record: Record, scrub: Scrub) -> dict[str, str]:
    """Those of the semantic conventions for exceptions, and ours. Without secrets."""
    failure = record.failure
    found = {"exception.type": failure.type, **ours(failure)}
    last = failure.type
    if record.message is not None:
        found["exception.message"] = message = scrub.text(record.message)
        last = f"{last}: {message}"
    if record.stack is not None:
        found["exception.stacktrace"] = _traceback(record.stack, last, scrub)
    return found


def _traceback(stack: Sequence[Place], last: str, scrub: Scrub) -> str:
    """Without source lines: reading files in a raise is too much.

    Of a long one the outer frames are left out. `last` is its last line.
    """
    last = last.encode(errors="replace")[: STACK_LIMIT // 2].decode(errors="ignore") + "\n"
    lines, room = [last], STACK_LIMIT - len(_HEADER) - len(last.encode())
    for file, line, name in reversed(stack):
        text = f'  File "{scrub.short(file)}", line {line}, in {name}\n'
        room -= len(text.encode(errors="replace"))
        if room < 0:
            break
        lines.append(text)
    return "".join((_HEADER, *reversed(lines)))


def headline(record: Record, scrub: Scrub) -> str:
    """The exception in a line, without secrets."""
    lines = scrub.text(record.message or "").splitlines()
    return f"{record.failure.type}: {lines[0]}" if lines else record.failure.type


def ours(failure: Failure) -> dict[str, str]:
    """Our own attributes."""
    found = {
        "error.type": failure.type,
        "faultlens.kind": failure.kind._value_,
        "faultlens.worker": failure.worker,
        "faultlens.sdk": failure.sdk,
        "faultlens.role": failure.role._value_,
    }
    if failure.code:
        found["faultlens.code"] = failure.code
    if failure.reason:
        found["faultlens.reason"] = failure.reason
    if failure.owner:
        found["faultlens.owner"] = failure.owner
    if failure.carries:
        found["faultlens.carries"] = failure.carries
    if failure.context:
        found.update(failure.context)
    return found


def _stack(exc: BaseException, frame: FrameType | None, limit: int) -> list[Place]:
    """The innermost frames of the call stack, `limit` at most.

    At a raise the exception's own traceback has one entry, so it is the raising frame's callers
    that tell; where that frame is gone, the traceback is whole.
    """
    places: list[Place] = []
    if frame is not None:
        callers: FrameType | None = frame
        while callers is not None and len(places) < limit:
            code = callers.f_code
            places.append((code.co_filename, callers.f_lineno, code.co_name))
            callers = callers.f_back
        places.reverse()
        return places
    entry = guard.traceback_of(exc)
    while entry is not None:
        code = entry.tb_frame.f_code
        places.append((code.co_filename, entry.tb_lineno, code.co_name))
        entry = entry.tb_next
    return list(islice(places, max(0, len(places) - limit), None))
