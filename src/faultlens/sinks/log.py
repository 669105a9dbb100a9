"""The log of ``FAULTLENS_LOG``: one line for each raised SDK exception, on stderr or in a file.

``text`` says why a number is what it is::

    faultlens: failure flyte.errors.RuntimeUserError user: builtins.ValueError, converted by the
        SDK; raised at /app/report.py:17 in clean
    faultlens: propagated flyte.errors.RuntimeUserError user: a copy of a task's error; raised at
        .../flyte/_internal/controllers/_local_controller.py:294 in submit

(without the line breaks). ``json`` is for machines: the fields of the log records that
`faultlens.sinks.logs` emits, by their OpenTelemetry names, on one level. So what is collected from
stderr is asked for by the same names as what OTLP brought: Loki, for one, makes ``faultlens_kind``
and ``trace_id`` of either. The names of ECS would have no place for our own attributes.

What is not counted again has a line, too, with severity INFO. The lines are written to the
process's own stderr, past ``sys.stderr`` and `logging`: the program may redirect or silence those.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from faultlens import natives
from faultlens.failure import Role
from faultlens.scrub import Scrub
from faultlens.settings import LogPlace
from faultlens.sinks.record import Endings, Record, attributes

__all__ = ["Log"]

LINES_LIMIT = 2_000
"""The most lines that wait to be written."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NO_CALLER = "an unknown place"


class Log:
    """Notes records in the middle of a raise; `write`, in our own thread, makes lines of them.

    failed: is told why a line could not be written.
    """

    def __init__(
        self,
        place: LogPlace,
        scrub: Scrub,
        endings: Endings,
        failed: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._path = place.path
        self._line = _json if place.form == "json" else _text
        self._scrub = scrub
        self._endings = endings
        self._failed = failed
        self._waiting: deque[Record] = deque()

    def note(self, record: Record) -> bool:
        """Take what is to be written; returns False if there is no room for it."""
        if len(self._waiting) >= LINES_LIMIT:
            return False
        self._waiting.append(record)
        return True

    def write(self) -> None:
        """Write what has waited long enough. May wait: not for a raise."""
        self._write(lambda record: record.has_settled())

    def end(self) -> None:
        """Write what waits, for the last time."""
        self._endings.look()
        self._write(lambda record: True)

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's."""
        self._waiting.clear()

    def _write(self, is_due: Callable[[Record], bool]) -> None:
        if not (self._waiting and is_due(self._waiting[0])):
            return
        descriptor = None
        try:
            while self._waiting and is_due(self._waiting[0]):
                try:
                    if descriptor is None:
                        descriptor = self._open()
                    line = self._line(self._waiting[0], self._scrub)
                    _write(descriptor, line.encode("utf-8", "backslashreplace"))
                except Exception as error:
                    self._failed(error)
                self._waiting.popleft()
        finally:
            if descriptor is not None and self._path:
                os.close(descriptor)

    def _open(self) -> int:
        """The descriptor. A file is opened anew each time: it may have been moved away."""
        if self._path:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            return os.open(self._path, flags, 0o666)
        return natives.stderr()


def _write(descriptor: int, data: bytes) -> None:
    """In one piece, if the system takes it: other processes may write there, too."""
    while data:
        try:
            data = data[natives.write(descriptor, data) :]
        except BlockingIOError:  # the program has made it non-blocking
            if not natives.wait({descriptor: natives.POLLOUT}, 1.0):
                raise


def _text(record: Record, scrub: Scrub) -> str:
    failure = record.failure
    what = "failure" if failure.role is Role.ORIGIN else failure.role.value
    code = f" [{failure.code}]" if failure.code else ""
    site = _NO_CALLER
    for file, line, name in record.site:
        site = f"{scrub.short(file)}:{line} in {name}"
    said = f"{what} {failure.type}{code} {failure.kind.value}: {failure.why}; raised at {site}"
    said = " ".join(said.split())  # a code may have line breaks, or move a terminal's cursor
    return f"faultlens: {''.join(char if char.isprintable() else '?' for char in said)}\n"


def _json(record: Record, scrub: Scrub) -> str:
    moment = _EPOCH + timedelta(seconds=record.moment)
    fields: dict[str, Any] = {
        "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "severity_text": record.severity.text,
        "severity_number": record.severity.number,
        "event_name": "exception",
    }
    if record.context is not None:
        fields["trace_id"] = f"{record.context.trace_id:032x}"
        fields["span_id"] = f"{record.context.span_id:016x}"
    fields.update(attributes(record, scrub))
    if record.failure.role is not Role.ORIGIN:
        fields.pop("exception.stacktrace", None)  # the failure's own line has one
    fields["faultlens.why"] = record.failure.why
    fields["process.pid"] = os.getpid()
    return json.dumps(fields) + "\n"
