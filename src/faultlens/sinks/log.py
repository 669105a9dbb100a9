"""The debug log of ``FAULTLENS_DEBUG=1``: why a number is what it is.

One line on stderr for each raised SDK exception, and for each failure that raised none::

    faultlens: failure flyte.errors.RuntimeUserError user: builtins.ValueError, converted by the
        SDK; raised at /app/report.py:17 in clean
    faultlens: propagated flyte.errors.RuntimeUserError user: a copy of a task's error; raised at
        .../flyte/_internal/controllers/_local_controller.py:294 in submit

(without the line breaks).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import FrameType

from faultlens import guard
from faultlens.failure import Failure, Role

__all__ = ["debug_log"]


def debug_log() -> Callable[[Failure, BaseException, FrameType | None], None]:
    """The sink. Its logger is its own, so that a host which sets logging up changes nothing."""
    log = logging.getLogger("faultlens.raises")
    log.propagate = False
    log.setLevel(logging.DEBUG)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("faultlens: %(message)s"))
        log.addHandler(handler)

    def write(failure: Failure, exc: BaseException, frame: FrameType | None) -> None:
        what = "failure" if failure.role is Role.ORIGIN else failure.role.value
        code = f" [{failure.code}]" if failure.code else ""
        log.debug(
            "%s %s%s %s: %s; raised at %s",
            what,
            failure.type,
            code,
            failure.kind.value,
            failure.why,
            _site(exc, frame),
        )

    return write


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
