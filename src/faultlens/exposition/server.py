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

__all__ = ["MetricsServer"]

_log = logging.getLogger("faultlens")

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>faultlens</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto }}
</style>
<h1>faultlens {version}</h1>
<p>Whose fault a failure is: every exception that Flyte or Durable Workflow raises in this process
(pid {pid}), counted by class, by kind (user, system or unknown) and by worker.</p>
<p><a href="/metrics">/metrics</a> is for Prometheus to scrape.</p>
</html>
"""

_WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer:
    """Serves a registry, in text or OpenMetrics as the scraper asks, until `stop`.

    port: 0 takes any free one; `port` tells which after `start`.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int, version: str) -> None:
        self.host = host
        self.port = port
        self._app = _app(make_wsgi_app(registry), version)
        self._server: WSGIServer | None = None

    def start(self) -> bool:
        """Serve; or log one warning that says what to do, and return False."""
        try:
            self._server = _bind(self.host, self.port, self._app)
        except (OSError, OverflowError) as error:
            _log.warning("%s", _explain(error, self.host, self.port))
            return False
        self.port = self._server.server_port
        _serving.add(self)
        threading.Thread(
            target=self._server.serve_forever, name="faultlens-metrics", daemon=True
        ).start()
        _log.info("faultlens serves http://%s:%d/metrics", self.host, self.port)
        return True

    def stop(self) -> None:
        """Free the port."""
        _serving.discard(self)
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _forget(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()


_serving: set[MetricsServer] = set()


def _forget_all() -> None:
    """In a forked child: the thread is not there, but the listening socket is; let it go.

    Scrapes that the kernel handed to the child would hang, and a restarted parent could not bind.
    """
    while _serving:
        _serving.pop()._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _bind(host: str, port: int, app: _WsgiApp) -> WSGIServer:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    server_class = type("_Server", (_Server,), {"address_family": family})
    server: WSGIServer = server_class(address[:2], _Handler)
    server.set_app(app)
    return server


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

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line on the host's stderr per scrape."""


def _app(metrics: _WsgiApp, version: str) -> _WsgiApp:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/":
            page = _PAGE.format(version=version, pid=os.getpid()).encode()
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [page]
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"Not found. The metrics are at /metrics.\n"]

    return app


def _explain(error: OSError | OverflowError, host: str, port: int) -> str:
    what = (
        "is taken by another process"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        else f"cannot be served ({error})"
    )
    return (
        f"faultlens: {host}:{port} {what}, so this process has no /metrics of its own; failures "
        "are still counted. Set OTEL_EXPORTER_PROMETHEUS_PORT to another port, or to 0 for any "
        "free one."
    )
