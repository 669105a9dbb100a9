"""What is written about one raised SDK exception, on a span, in a log record or in a line.

It is taken in the raise, without running the host's code, and made into text when it leaves.
"""

from __future__ import annotations

from itertools import islice
from types import FrameType
from typing import NamedTuple

from faultlens import guard, natives
from faultlens.failure import Failure
from faultlens.scrub import Scrub
from faultlens.settings import Settings

__all__ = ["MESSAGE_LIMIT", "Record", "attributes", "ours", "take"]

MESSAGE_LIMIT = 4096
"""The longest exception.message, in characters."""
FRAME_LIMIT = 64
"""The most frames of an exception.stacktrace: the innermost."""


Place = tuple[str, "int | None", str]
"""Of a frame: its file, line and function."""


class Record(NamedTuple):
    """One raised SDK exception, or one failure that raised none. Secrets are still in it."""

    failure: Failure
    moment: float
    """Seconds since 1970."""
    message: str | None
    """None if messages are turned off."""
    stack: list[Place] | None
    """The raising frame last; None if stack traces are turned off."""


def take(
    failure: Failure, exc: BaseException, frame: FrameType | None, settings: Settings
) -> Record:
    """Take what is to be written about an exception.

    frame: the raising frame; None if it is gone.
    """
    return Record(
        failure,
        natives.time(),
        guard.message(exc, MESSAGE_LIMIT) if settings.messages else None,
        _stack(exc, frame) if settings.stacktraces else None,
    )


def attributes(record: Record, scrub: Scrub) -> dict[str, str]:
    """Those of the semantic conventions for exceptions, and ours. Without secrets."""
    failure = record.failure
    found = {"exception.type": failure.type, **ours(failure)}
    last = failure.type
    if record.message is not None:
        found["exception.message"] = message = scrub.text(record.message)
        last = f"{last}: {message}"
    if record.stack is not None:
        # Without source lines: reading files in a raise is too much.
        lines = [
            f'  File "{scrub.short(file)}", line {line}, in {name}\n'
            for file, line, name in record.stack
        ]
        text = "".join(("Traceback (most recent call last):\n", *lines, last, "\n"))
        found["exception.stacktrace"] = text
    return found


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


def _stack(exc: BaseException, frame: FrameType | None) -> list[Place]:
    """The call stack.

    At a raise the exception's own traceback has one entry, so it is the raising frame's callers
    that tell; where that frame is gone, the traceback is whole.
    """
    places: list[Place] = []
    if frame is not None:
        callers: FrameType | None = frame
        while callers is not None and len(places) < FRAME_LIMIT:
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
    return list(islice(places, max(0, len(places) - FRAME_LIMIT), None))
