"""Programs in a terminal of their own, which is what a pseudo-terminal is to them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tests import children
from tests.children import TIMEOUT
from tests.servers import until

# As a shell does: a session with the terminal, and the program in the foreground.
_SHELL = """
import fcntl, os, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._ours = ours
        self._written: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def written(self) -> str:
        """All that the program has written."""
        return b"".join(self._written).decode(errors="replace").replace("\r\n", "\n")

    @property
    def picture(self) -> str:
        """What the program has drawn last, without its escape sequences.

        A picture begins at the top left and ends when it clears the rest of the screen. A program
        that draws none: all that it has written.
        """
        written = self.written
        if "\x1b[H" in written:
            written = written.rpartition("\x1b[J")[0].split("\x1b[H")[-1]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)

    def wait_for(self, wanted: str | Callable[[str], bool]) -> str:
        """Wait until the last picture has this text, or fulfils this; returns that picture."""

        def found() -> str | None:
            over, picture = not self._reader.is_alive(), self.picture
            if wanted(picture) if callable(wanted) else wanted in picture:
                return picture
            assert not over, self.written
            return None

        return until(found, repr(wanted))

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def is_raw(self) -> bool:
        """Whether what is typed goes to the program at once, without an echo."""
        local: int = termios.tcgetattr(self._ours)[3]
        return not local & (termios.ICANON | termios.ECHO)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def ends(self) -> int:
        """Wait for the program; returns its exit status."""
        status = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return status

    def _read(self) -> None:
        try:
            while chunk := os.read(self._ours, 65536):
                self._written.append(chunk)
        except OSError:  # Linux's way to say that the other end is closed
            pass


@contextmanager
def terminal(
    *arguments: str,
    env: Mapping[str, str | None],
    size: tuple[int, int] = (80, 24),
    shell: str | None = None,
) -> Iterator[Terminal]:
    """Run this Python in a terminal; afterwards the program is gone.

    size: columns and lines.
    shell: another program that runs this one.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    wanted = {"TERM": "xterm-256color", "COLUMNS": None, "LINES": None, "NO_COLOR": None, **env}
    with subprocess.Popen(
        [sys.executable, "-S", "-c", shell or _SHELL, sys.executable, *arguments],
        env=children.environment(wanted),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        found = Terminal(process, ours)
        try:
            yield found
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT)
            found._reader.join(TIMEOUT)
            os.close(ours)
