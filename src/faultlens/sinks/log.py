"""The debug log of ``FAULTLENS_DEBUG=1``: why a number is what it is.

One line on stderr for each raised SDK exception, and for each failure that raised none::

    faultlens: failure flyte.errors.RuntimeUserError user: builtins.ValueError, converted by the
        SDK; raised at /app/report.py:17 in clean
    faultlens: propagated flyte.errors.RuntimeUserError user: a copy of a task's error; raised at
        .../flyte/_internal/controllers/_local_controller.py:294 in submit

(without the line breaks).
"""

from __future__ import annotations

import sys
from collections import deque
from types import FrameType

from faultlens import guard
from faultlens.failure import Failure, Role

__all__ = ["DebugLog"]

LINES_LIMIT = 10_000
"""The most lines that wait to be written; the oldest are left out."""


class DebugLog:
    """Notes lines in the middle of a raise; `write`, in our own thread, puts them on stderr."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_LIMIT)

    def note(self, failure: Failure, exc: BaseException, frame: FrameType | None) -> None:
        """Say what one raised SDK exception counted as, and why."""
        what = "failure" if failure.role is Role.ORIGIN else failure.role._value_
        code = f" [{failure.code}]" if failure.code else ""
        self._lines.append(
            f"faultlens: {what} {failure.type}{code} {failure.kind._value_}: {failure.why}; "
            f"raised at {_site(exc, frame)}\n"
        )

    def write(self) -> None:
        """Write the lines. Not by `logging`: the host's configuration would silence it."""
        while self._lines:
            line = self._lines.popleft()
            if sys.stderr is not None:
                sys.stderr.write(line)
        if sys.stderr is not None:
            sys.stderr.flush()

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's."""
        self._lines.clear()


def _site(exc: BaseException, frame: FrameType | None) -> str:
    """Where it was raised; of a raise that is over the traceback's end tells."""
    if frame is not None:
        return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    entry = guard.traceback_of(exc)
    if entry is None:
        return "an unknown place"
    while entry.tb_next is not None:
        entry = entry.tb_next
    code = entry.tb_frame.f_code
    return f"{code.co_filename}:{entry.tb_lineno} in {code.co_name}"
