from __future__ import annotations

import gzip

from hypothesis import example, given
from hypothesis import strategies as st

from faultlens.exposition.answers import LONGEST_HEAD, Answers, is_complete

answers = Answers({"/metrics": lambda accept: ("text/plain", accept.encode())}, lambda: "ours")


@given(st.binary() | st.binary().map(lambda some: b"GET " + some) | st.binary(min_size=65535))
@example(b"")
@example(b"\r\n\r\n")
@example(b"GET /metrics HTTP/1.1\r\nAccept: \xff\r\nAccept-Encoding: gzip\r\n\r\n")
def test_any_request_gets_a_complete_answer(request: bytes) -> None:
    head, _, body = answers.to(request).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    assert status.startswith("HTTP/1.1 ")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    if "Content-Encoding" in headers:
        gzip.decompress(body)


@given(st.binary())
def test_an_answer_does_not_depend_on_the_rest_of_the_request(rest: bytes) -> None:
    request = b"GET /metrics HTTP/1.1\r\naccept:a/b\r\n\r\n"
    assert answers.to(request + rest) == answers.to(request)
    assert answers.to(request).endswith(b"\r\n\r\na/b")


def test_a_request_is_complete_with_its_head_or_once_it_is_too_long() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert [is_complete(request[:size]) for size in range(len(request))] == [False] * len(request)
    assert is_complete(request)
    assert is_complete(b"GET / HTTP/1.1\n\n")
    assert not is_complete(b"a" * LONGEST_HEAD)
    assert is_complete(b"a" * (LONGEST_HEAD + 1))
