"""A ``/metrics`` endpoint as seen from outside."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from faultlens.commands import endpoint
from tests.servers import free_port


@contextlib.contextmanager
def answering(status: int, store: str | None) -> Iterator[int]:
    """A server that gives each request this answer; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if store is not None:
                self.send_header(endpoint.STORE_HEADER, store)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "store", "who"),
    [
        (200, "ours", None),
        (503, "ours", None),
        (200, "theirs", "faultlens for another store"),
        (503, "theirs", "faultlens for another store"),
        (200, None, "something else"),
        (404, None, "something else"),
    ],
)
def test_who_has_the_port(status: int, store: str | None, who: str | None) -> None:
    with answering(status, store) as port:
        assert endpoint.stranger("127.0.0.1", port, "ours") == who


def test_a_port_that_nobody_has_any_more_is_no_stranger_s() -> None:
    assert endpoint.stranger("127.0.0.1", free_port(), "ours") is None
