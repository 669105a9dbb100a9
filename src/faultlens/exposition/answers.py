"""What the ``/metrics`` server answers: HTTP without a socket, from bytes to bytes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping

from faultlens.background import log

__all__ = ["LONGEST_HEAD", "STORE_HEADER", "Answers", "Page", "is_complete"]

Page = Callable[[str], tuple[str, bytes]]
"""Makes a page: from the Accept header of a request to a content type and a body."""

STORE_HEADER = "Faultlens-Store"
"""The header that says whose counts an answer has: the identity of a store, or empty."""

LONGEST_HEAD = 65536
"""How many bytes of a request are looked at."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")


def is_complete(request: bytes) -> bool:
    """Whether there is an answer: the head is there, or is longer than it may be."""
    return len(request) > LONGEST_HEAD or _END_OF_HEAD.search(request) is not None


class Answers:
    """Answers requests.

    pages: by their paths.
    store: the identity of the store whose counts these are; empty if they are this process's alone.
    """

    def __init__(self, pages: Mapping[str, Page], store: Callable[[], str]) -> None:
        self._pages = pages
        self._store = store

    def to(self, request: bytes) -> bytes:
        """Head and body of the answer. The head has the length, so no part passes for the whole."""
        from http import HTTPStatus  # when it is needed: every program would wait for the import

        head: bytes = _END_OF_HEAD.split(request, 1)[0]
        first, *lines = head.decode("latin-1").split("\n")
        method, target, *_ = [*first.split(), "", ""]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if len(head) > LONGEST_HEAD:
            status, kind, body = _text(431, "The request is too long.")
        elif method not in ("GET", "HEAD"):
            status, kind, body = _text(405, "GET and HEAD are allowed.")
        else:
            status, kind, body = self._at(target.partition("?")[0], headers.get("accept", ""))
        answer = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Type: {kind}",
            f"{STORE_HEADER}: {self._store()}",
            "Allow: GET, HEAD",
            "Connection: close",
        ]
        if "gzip" in headers.get("accept-encoding", ""):
            import gzip

            answer.append("Content-Encoding: gzip")
            body = gzip.compress(body, 1, mtime=0)  # a time would come from the program's clock
        answer += [f"Content-Length: {len(body)}", "", ""]
        encoded = "\r\n".join(answer).encode("latin-1", "replace")
        return encoded if method == "HEAD" else encoded + body

    def _at(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        page = self._pages.get(path)
        if page is not None:
            try:
                return 200, *page(accept)
            except OSError as error:  # the counts cannot be read now
                return _text(503, str(error))
            except Exception as error:
                log(logging.DEBUG, "faultlens cannot make the page", exc_info=True)
                return _text(500, f"The page cannot be made: {error!r}")
        if path == "/-/healthy":
            return _text(200, "faultlens is healthy.")
        return _text(404, "Not found. The metrics are at /metrics.")


def _text(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode(errors="replace")
