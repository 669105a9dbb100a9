"""A ``/metrics`` endpoint as seen from outside: where it is, who is there, what it says."""

from __future__ import annotations

import os
import socket
import urllib.request
from email.message import Message
from http.client import HTTPException
from urllib.error import HTTPError

from faultlens.exposition.answers import STORE_HEADER
from faultlens.exposition.serving import address

__all__ = [
    "STORE_HEADER",
    "address",
    "bind_error",
    "fetch",
    "metrics_url",
    "store_served",
    "stranger",
]

_TIMEOUT = 5.0


def metrics_url(host: str, port: int) -> str:
    """Where to ask for what is served on `host`, which may be the address for all interfaces."""
    return f"http://{address({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}/metrics"


def bind_error(host: str, port: int) -> OSError | None:
    """What keeps a server from taking the port; None if it is free."""
    try:
        family, _, _, _, resolved = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # as servers do; elsewhere it would take a port from its owner
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(resolved)
            probe.listen(1)
    except UnicodeError as error:  # no name that could be looked up
        return OSError(f"{host!r} is no host name: {error}")
    except OSError as error:
        return error
    return None


def fetch(url: str, timeout: float = _TIMEOUT) -> str:
    """The page at `url`; raises OSError if there is none.

    timeout: how many seconds to wait for the connection, and for each part of the answer.
    """
    return _get(url, timeout)[1]


def store_served(url: str) -> str | None:
    """Which store faultlens serves at `url`, empty if none; None if it is not faultlens."""
    try:
        return _get(url)[0].get(STORE_HEADER)
    except HTTPError as error:  # faultlens answers 503 while it cannot read its store
        return error.headers.get(STORE_HEADER)
    except OSError:
        return None


def stranger(host: str, port: int, store: str) -> str | None:
    """Who has the port, in words; None if that is a server of this store, or nobody.

    store: the identity of the store.
    """
    served = store_served(metrics_url(host, port))
    if served is None:
        # The port is free if a server has just ended: it refuses a request, or breaks it off.
        return "something else" if bind_error(host, port) else None
    return None if served == store else "faultlens for another store"


def _get(url: str, timeout: float = _TIMEOUT) -> tuple[Message, str]:
    # Not through http_proxy: what is asked runs on this host. Made here and not at import: it loads
    # all certificates of the system, which takes 20 ms.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            page: bytes = response.read()
            return response.headers, page.decode(errors="replace")
    except HTTPError as error:
        error.close()  # it is an open response too
        raise
    except HTTPException as error:  # something else than HTTP is spoken there
        raise OSError(f"no HTTP answer: {error!r}") from error
