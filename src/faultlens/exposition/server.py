"""The ``/metrics`` endpoint: a small HTTP server in a daemon thread."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from faultlens import endpoint
from faultlens.counts import Unreadable
from faultlens.forks import at_fork, no_fork

__all__ = ["TAKE_OVER_SECONDS", "MetricsServer"]

_log = logging.getLogger("faultlens")

TAKE_OVER_SECONDS = 1.0
"""How often a process that has not got the port tries again."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>faultlens</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto }}
</style>
<h1>faultlens {version}</h1>
<p>Whose fault a failure is: every exception that Flyte or Durable Workflow raises {where},
counted by class, by kind (user, system or unknown) and by worker.</p>
<p><a href="/metrics">/metrics</a> is for Prometheus to scrape.</p>
</html>
"""

_CANNOT_BIND = (OSError, OverflowError, UnicodeError)
"""What comes of a port that is taken or too high, a host that is none."""

_WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer:
    """Serves a registry, in text or OpenMetrics as the scraper asks, until `stop`.

    port: 0 takes any free one; `port` tells which, once it serves.
    store: the identity of the store that is served; empty if it is this process's counts alone.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        version: str,
        store: Callable[[], str] = str,
    ) -> None:
        self.host = host
        self.port = port
        self._wanted = port
        self._store = store
        self._app = _app(make_wsgi_app(registry), version, store)
        self._server: WSGIServer | None = None
        self._stopped = threading.Event()
        self._forgotten = False

    def start(self) -> bool:
        """Serve; or log one warning that says what to do, and return False."""
        try:
            server = self._bind()
        except _CANNOT_BIND as error:
            _log.warning("%s", _explain(error, self.host, self.port))
            return False
        self._run(server.serve_forever)
        return True

    def start_or_stand_by(self) -> None:
        """Serve; if another process has the port, as soon as that ends.

        Logs one warning if that other process does not serve the same store.
        """
        try:
            server = self._bind()
        except _CANNOT_BIND as error:
            if _is_taken(error):
                self._run(self._stand_by)
            else:
                _log.warning("%s", _explain(error, self.host, self.port))
        else:
            self._run(server.serve_forever)

    def resume(self) -> None:
        """In a forked child: stand by as its parent did, or for its parent. Else nothing."""
        if self._forgotten:
            self._forgotten = False
            if self._wanted:  # any free port is one that nobody would look at
                self._run(self._stand_by)

    def stop(self) -> None:
        """Free the port."""
        _running.discard(self)
        with no_fork:  # as where the port is taken: either that comes before, or not at all
            self._stopped.set()
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _bind(self) -> WSGIServer:
        family, _, _, _, address = socket.getaddrinfo(
            self.host, self._wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server_class = type("_Server", (_Server,), {"address_family": family})
        server: WSGIServer
        with no_fork:  # a child would have a socket that nobody there knows of
            if self._stopped.is_set():
                raise OSError("stopped")
            self._server = server = server_class(address[:2], _Handler)
        server.set_app(self._app)
        self.port = server.server_port
        _log.info("faultlens serves http://%s/metrics", endpoint.address(self.host, self.port))
        return server

    def _run(self, target: Callable[[], None]) -> None:
        _running.add(self)
        try:
            threading.Thread(target=target, name="faultlens-metrics", daemon=True).start()
        except RuntimeError:  # at exit, or where the system gives no more threads
            self._forget()

    def _stand_by(self) -> None:
        stopped, asked = self._stopped, False
        while not stopped.wait(TAKE_OVER_SECONDS):
            try:
                server = self._bind()
            except OSError:
                if not asked and not stopped.is_set():
                    asked = True
                    self._ask_who_serves()
                continue
            server.serve_forever()
            return

    def _ask_who_serves(self) -> None:
        who = endpoint.stranger(self.host, self.port, self._store())
        if who is not None:
            _log.warning(
                "faultlens: %s is taken by %s. Failures are still counted; this process serves "
                "them there once the port is free. Set OTEL_EXPORTER_PROMETHEUS_PORT to another "
                "port.",
                endpoint.address(self.host, self.port),
                who,
            )

    def _forget(self) -> None:
        """In a forked child: the thread is not there, but the listening socket is; let it go.

        Scrapes that the kernel handed to the child would hang, and a restarted parent could not
        bind.
        """
        _running.discard(self)
        self._forgotten = True
        self._stopped = threading.Event()  # its lock may be held by a thread that is not there
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()


_running = at_fork(after_in_child=MetricsServer._forget)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service for the host's full name and may hang.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that hangs up is no news for the host's stderr."""
        _log.debug("a request to /metrics from %s failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = 30  # seconds; a silent client must not hold a thread for ever
    # Buffered: with the head in pieces, one that a SIGKILL cuts off passes for an empty page.
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line on the host's stderr per scrape."""


def _app(metrics: _WsgiApp, version: str, store: Callable[[], str]) -> _WsgiApp:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, (endpoint.STORE_HEADER, store())], *rest)

        path = environ["PATH_INFO"]
        start_text = [("Content-Type", "text/plain; charset=utf-8")]
        if path == "/metrics":
            try:
                return metrics(environ, start)
            except Unreadable as error:
                start("503 Service Unavailable", start_text)
                return [f"{error}\n".encode()]
        if path == "/":
            where = "on this host" if store() else f"in this process (pid {os.getpid()})"
            page = _PAGE.format(version=version, where=where).encode()
            start("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [page]
        if path == "/-/healthy":
            start("200 OK", start_text)
            return [b"faultlens is healthy.\n"]
        start("404 Not Found", start_text)
        return [b"Not found. The metrics are at /metrics.\n"]

    return app


def _is_taken(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


def _explain(error: Exception, host: str, port: int) -> str:
    what = "is taken by another process" if _is_taken(error) else f"cannot be served ({error})"
    return (
        f"faultlens: {endpoint.address(host, port)} {what}, so this process has no /metrics of its "
        "own; failures are still counted. Set OTEL_EXPORTER_PROMETHEUS_PORT to another port, or to "
        "0 for any free one."
    )
