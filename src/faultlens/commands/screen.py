"""The terminal: what it can show, and a window in it that is drawn again and again."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, TextIO

try:
    import termios
    import tty
except ImportError:  # Windows: no keys
    termios = tty = None  # type: ignore[assignment]

__all__ = ["Screen", "colours", "ending_by_signals", "has_only_ascii", "is_dumb", "size"]

_OPEN, _CLOSE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    " ": "page down",
}
# In its application mode, a terminal sends O instead of [.
_KEY = re.compile(r"\x1b[\[O][\d;]*.|.", re.DOTALL)


def is_dumb() -> bool:
    """Whether the terminal cannot move its cursor, as far as is known."""
    return os.environ.get("TERM", "") in ("", "dumb")


def colours(stream: TextIO) -> bool:
    """Whether what is written there may have colours."""
    return stream.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")


def has_only_ascii(stream: TextIO) -> bool:
    """Whether there are no characters for bars."""
    try:
        "█▒░…━─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def size() -> tuple[int, int]:
    """Columns and lines of the terminal; 80 by 24 where it does not say."""
    columns, lines = shutil.get_terminal_size((80, 24))
    return columns or 80, lines or 24  # Python 3.10 takes 0 for an answer


class Screen:
    """A window of the terminal's own, between enter and exit.

    A dumb terminal gets each picture below the last one.
    """

    def __init__(self) -> None:
        self.dumb = is_dumb()
        self.has_keys = termios is not None and not self.dumb and sys.stdin.isatty()
        self._before: list[Any] = []
        self._suspends = False
        self._last: object = None
        self._pressed: list[str] = []

    def __enter__(self) -> Screen:
        self._open()
        if not self.dumb and hasattr(signal, "SIGTSTP"):
            self._suspends = signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
        if self._suspends:
            signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._suspends:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        self._close()

    def draw(self, lines: Sequence[str], new: object) -> None:
        """Show these lines, the first on top.

        new: what is worth a new picture on a dumb terminal, if it is another.
        """
        if not self.dumb:
            picture = "\r\n".join(f"{line}{_END_OF_LINE}" for line in lines)
            self._write(f"{_HOME}{picture}{_END_OF_SCREEN}")
        elif new != self._last:
            self._write("\n".join((*lines, "", "")))
        self._last = new

    def _write(self, text: str) -> None:
        # Ctrl-Z waits until this is written, because `_suspend` writes, too.
        if self._suspends:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        finally:
            if self._suspends:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})

    def key(self, seconds: float) -> str:
        """The key that is pressed within some seconds; empty if there is none."""
        if not self.has_keys:
            time.sleep(max(0.0, seconds))
            return ""
        if not self._pressed:
            ready, _, _ = select.select([sys.stdin], [], [], max(0.0, seconds))
            if not ready:
                return ""
            pressed = os.read(sys.stdin.fileno(), 1024)
            if not pressed:  # the terminal has gone
                raise KeyboardInterrupt
            self._pressed += _KEY.findall(pressed.decode("utf-8", "replace"))
        key = self._pressed.pop(0).replace("\x1bO", "\x1b[")
        return _KEYS.get(key, key)

    def _open(self) -> None:
        if self.has_keys:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        if not self.dumb:
            sys.stdout.write(_OPEN)

    def _close(self) -> None:
        if not self.dumb:
            sys.stdout.write(_CLOSE)
            sys.stdout.flush()
        if self.has_keys:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: give the terminal back until the process goes on."""
        self._close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspend)
        self._open()


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt as Ctrl-C does; afterwards both are what they were."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
