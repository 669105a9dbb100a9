"""Our sockets, and a program that closes their numbers or takes them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from faultlens import natives
from faultlens.sockets import Socket
from tests.children import TIMEOUT


@pytest.fixture
def theirs() -> Iterator[socket.socket]:
    """A socket of the program's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


COPY = Socket._fcntl.fcntl


def copied_by(monkeypatch: pytest.MonkeyPatch, copy: Callable[[int, int, int], int]) -> None:
    """Have this function copy a low number to a high one."""
    fcntl = SimpleNamespace(fcntl=copy, F_DUPFD_CLOEXEC=Socket._fcntl.F_DUPFD_CLOEXEC)
    monkeypatch.setattr(Socket, "_fcntl", fcntl)


def test_none_of_them_waits() -> None:
    ends = Socket.pair()
    with closing(ends[0]), closing(ends[1]), pytest.raises(BlockingIOError):
        ends[0].recv(1)
    with closing(Socket.create(socket.AF_INET)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.create_connection(listener.getsockname(), TIMEOUT):
            assert natives.wait({listener.fileno(): natives.POLLIN}, TIMEOUT)
            accepted = listener.accept()
            with closing(accepted), pytest.raises(BlockingIOError):
                accepted.recv(1)


@pytest.mark.skipif(
    not hasattr(socket, "SOCK_NONBLOCK"), reason="the flag is set later on this system"
)
def test_a_number_that_the_program_has_just_taken_is_left_alone(
    theirs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_up = Socket._moved_up

    def taken(self: Socket, number: int) -> int:
        return os.dup2(theirs.fileno(), move_up(self, number))

    monkeypatch.setattr(Socket, "_moved_up", taken)
    ours = Socket.create(socket.AF_INET)
    number = ours.fileno()
    assert os.get_blocking(number)
    assert not ours.is_ours()
    ours.close()
    assert os.path.sameopenfile(number, theirs.fileno())
    os.close(number)


def test_a_low_number_that_the_program_has_just_taken_is_left_alone(
    theirs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each socket has a low number before it gets a high one."""
    low: list[int] = []

    def taken(number: int, command: int, least: int) -> int:
        high = COPY(number, command, least)
        low.append(os.dup2(theirs.fileno(), number))
        return high

    copied_by(monkeypatch, taken)
    with closing(Socket.create(socket.AF_INET)) as ours:
        assert ours.is_ours()
        assert ours.fileno() not in low
    (number,) = low
    assert os.path.sameopenfile(number, theirs.fileno())
    os.close(number)


def test_what_the_program_puts_at_our_number_while_we_copy_it_is_neither_kept_nor_bound(
    theirs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []

    def taken(number: int, command: int, least: int) -> int:
        os.dup2(theirs.fileno(), number)
        numbers.extend([number, COPY(number, command, least)])
        return numbers[-1]

    copied_by(monkeypatch, taken)
    with pytest.raises(OSError, match="has closed this descriptor"):
        Socket.create(socket.AF_INET)
    low, high = numbers
    assert os.path.sameopenfile(low, theirs.fileno())
    os.close(low)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(high)


@pytest.mark.parametrize(
    "use",
    [
        lambda ours: ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        lambda ours: ours.bind(("127.0.0.1", 0)),
        lambda ours: ours.listen(1),
        lambda ours: ours.connect_ex(("127.0.0.1", 9)),
        lambda ours: ours.accept(),
        lambda ours: ours.recv(1),
        lambda ours: ours.send(b"x"),
        lambda ours: ours.shutdown(socket.SHUT_RDWR),
    ],
    ids=["setsockopt", "bind", "listen", "connect_ex", "accept", "recv", "send", "shutdown"],
)
def test_no_call_reaches_the_program_s_socket(use: Callable[[Socket], object]) -> None:
    ours = Socket.create(socket.AF_INET)
    with socket.socket() as theirs:
        number = os.dup2(theirs.fileno(), ours.fileno())
        with pytest.raises(OSError, match="has closed this descriptor"):
            use(ours)
        assert theirs.getsockname()[1] == 0
    ours.close()
    os.close(number)
