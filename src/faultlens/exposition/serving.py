"""The ``/metrics`` server: HTTP in the background, without a thread for each request.

The first process that gets the port serves. The others try again each second, and so does a process
whose socket was closed by its program.
"""

from __future__ import annotations

import _socket
import errno
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from faultlens import natives
from faultlens.background import Job, log
from faultlens.exposition.answers import LONGEST_HEAD, STORE_HEADER, Answers, Page, is_complete
from faultlens.natives import POLLIN, POLLOUT, monotonic
from faultlens.sockets import Socket

__all__ = ["Server", "address"]

_MOST_CLIENTS = 256
_STORE_HEADER = re.compile(rf"(?im)^{STORE_HEADER}:[ \t]*(.*?)\r?$".encode())
_PATIENCE = 10.0
"""Seconds that a client has for its request, and then again for the answer."""
_SHORT_PATIENCE = 1.0
"""The same while there are as many clients as there may be."""


class Server(Job):
    """Serves metrics at every address that a host name has.

    pages: by their paths.
    port: 0 takes any free one. `port` tells which, after the first run.
    store: the identity of the store that is served; empty if these are this process's counts alone.
    """

    def __init__(
        self,
        pages: Mapping[str, Page],
        host: str,
        port: int,
        store: Callable[[], str] = str,
    ) -> None:
        self.host = host
        self.port = port
        self._answers = Answers(pages, store)
        self._store = store
        self._process = os.getpid()
        self._addresses: list[tuple[int, Any]] | None = None
        self._listeners: dict[str, Socket] = {}
        """By numeric address, without the port."""
        self._clients: list[_Connection] = []
        self._question: _Connection | None = None
        """To the server that has the port."""
        self._questions_left = 5
        self._warned = False
        self.served_elsewhere = False
        """Whether another process is known to serve these counts."""

    @property
    def listening(self) -> bool:
        """Whether this process serves, at one address at least."""
        return bool(self._listeners)

    def run(self) -> None:
        """Listen wherever nobody else does; hang up on clients that take too long."""
        for name, listener in list(self._listeners.items()):
            if not listener.is_ours():
                listener.close()
                del self._listeners[name]
        full = len(self._clients) >= _MOST_CLIENTS
        oldest = monotonic() - (_SHORT_PATIENCE if full else _PATIENCE)
        for client in list(self._clients):
            if client.since < oldest or not client.socket.is_ours():
                self._hang_up(client)
        question = self._question
        if question is not None and (
            question.since < monotonic() - _PATIENCE or not question.socket.is_ours()
        ):
            self._judge(question)
        self._listen()

    def sockets(self) -> dict[int, int]:
        connections = [*self._clients, *([self._question] if self._question else [])]
        watched = {one.socket.fileno(): one.events for one in connections}
        if len(self._clients) < _MOST_CLIENTS:
            watched |= {listener.fileno(): POLLIN for listener in self._listeners.values()}
        return watched

    def ready(self, events: Mapping[int, int]) -> None:
        question = self._question
        if question is not None and question.socket.fileno() in events:
            self._hear(question)
        for client in list(self._clients):
            if client.socket.fileno() in events:
                try:
                    goes_on = self._serve(client)
                except Exception:
                    log(logging.DEBUG, "a request to /metrics failed", exc_info=True)
                    goes_on = False
                if not goes_on:
                    self._hang_up(client)
        for name, listener in list(self._listeners.items()):
            if listener.fileno() in events:
                self._accept(name, listener)

    def end(self) -> None:
        """Free the port."""
        for client in list(self._clients):
            self._hang_up(client)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        if self._question is not None:
            self._question.socket.close()
            self._question = None

    # Listening.

    def _listen(self) -> None:
        if self._addresses is None:
            self._addresses = self._resolve()
        taken, problem = False, None
        for family, (name, _, *rest) in self._addresses:
            if name in self._listeners:
                continue
            where = (name, self.port, *rest)
            try:
                listener = _listener(family, where)
            except Exception as error:
                if getattr(error, "errno", None) == errno.EADDRINUSE:
                    taken = True
                    self._ask(family, where)
                else:
                    problem = error
                continue
            self.port = listener.getsockname()[1]
            if not self._listeners:
                log(
                    logging.INFO,
                    "faultlens serves http://%s/metrics",
                    address(self.host, self.port),
                )
            self._listeners[name] = listener
            self.served_elsewhere = False
        if problem is not None and not taken and not self._listeners:
            self._cannot_serve(problem)

    def _resolve(self) -> list[tuple[int, Any]]:
        try:
            # As bytes if possible: for a str Python imports its tables of international names.
            host = self.host.encode() if self.host.isascii() else self.host
            found = natives.getaddrinfo(
                host, self.port, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE
            )
        except Exception as error:
            self._cannot_serve(error)
            return []
        return list(dict.fromkeys((family, where) for family, _, _, _, where in found))

    def _accept(self, name: str, listener: Socket) -> None:
        try:
            while len(self._clients) < _MOST_CLIENTS:
                self._clients.append(_Connection(listener.accept()))
        except (BlockingIOError, ConnectionAbortedError):
            pass  # there is no other, or it has gone already
        except OSError:
            if listener.is_ours():
                raise  # out of descriptors: not before the next run
            listener.close()
            del self._listeners[name]

    # Serving.

    def _serve(self, client: _Connection) -> bool:
        """Receive or send what can be now; returns whether the client is to be kept."""
        if not client.answered:
            if not client.receive():
                return False
            if not is_complete(client.input):
                return True
            client.answered = True
            client.since = monotonic()
            client.output = memoryview(self._answers.to(client.input))
        if not client.output:
            return client.receive()  # what comes after the request, until the client has closed
        client.send()
        if not client.output:
            client.socket.shutdown(_socket.SHUT_WR)
        return True

    def _hang_up(self, client: _Connection) -> None:
        self._clients.remove(client)
        client.socket.close()

    # Who else serves?

    def _ask(self, family: int, where: tuple[Any, ...]) -> None:
        """Begin to ask the server that has the port whose counts it serves."""
        if self._question is not None or not self._questions_left:
            return
        self._questions_left -= 1
        request = f"GET /metrics HTTP/1.0\r\nHost: {address(self.host, self.port)}\r\n\r\n"
        self._question = _Connection(Socket.create(family), request.encode("latin-1", "replace"))
        self._question.socket.connect_ex(where)

    def _hear(self, question: _Connection) -> None:
        try:
            if question.output:
                question.send()
                return
            complete = not question.receive() or is_complete(question.input)
        except OSError:
            complete = True
        if complete:
            self._judge(question)

    def _judge(self, question: _Connection) -> None:
        """Warn, once, if the port serves other counts than this process's."""
        self._question = None
        question.socket.close()
        if not question.input and self._questions_left:
            return  # a server at its end, perhaps: asked again at the next run
        self._questions_left = 0
        found = _STORE_HEADER.search(question.input)
        served = found and found[1].decode("latin-1")
        if served is None:
            who = "something else"
        elif served != self._store():
            who = "faultlens for another store"
        elif served or os.getpid() != self._process:
            # The same counts; or a parent's, whose port a forked child takes over.
            self.served_elsewhere = True
            return
        else:
            who = "another process"
        self._warn(
            f"is taken by {who}. Failures are still counted; this process serves them there once "
            "the port is free. Set OTEL_EXPORTER_PROMETHEUS_PORT to another port."
        )

    def _cannot_serve(self, error: Exception) -> None:
        self._warn(
            f"cannot be served ({error}), so this process has no /metrics of its own; failures are "
            "still counted. Set OTEL_EXPORTER_PROMETHEUS_HOST to an address of this machine, "
            "and OTEL_EXPORTER_PROMETHEUS_PORT to a port that this user may open."
        )

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            log(logging.WARNING, "faultlens: %s %s", address(self.host, self.port), what)


class _Connection:
    """What has come in, and what is still to go out."""

    def __init__(self, socket: Socket, output: bytes = b"") -> None:
        self.socket = socket
        self.input = b""
        self.output = memoryview(output)
        self.answered = False
        self.since = monotonic()

    @property
    def events(self) -> int:
        return POLLOUT if self.output else POLLIN

    def receive(self) -> bool:
        """Receive what has come; returns False once the other side has closed."""
        try:
            data = self.socket.recv(LONGEST_HEAD)
        except BlockingIOError:
            return True
        self.input = (self.input + data)[: LONGEST_HEAD + 1]
        return bool(data)

    def send(self) -> None:
        """Send as much of the output as the system takes."""
        try:
            self.output = self.output[self.socket.send(self.output) :]
        except BlockingIOError:
            pass


def address(host: str, port: int) -> str:
    """``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listener(family: int, where: tuple[Any, ...]) -> Socket:
    listener = Socket.create(family)
    try:
        if os.name == "posix":  # elsewhere it would take a port from its owner
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener
