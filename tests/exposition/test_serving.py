from __future__ import annotations

import contextlib
import gzip
import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from faultlens import natives
from faultlens.background import Background
from faultlens.exposition import serving
from faultlens.exposition.answers import STORE_HEADER
from faultlens.exposition.serving import Server
from tests import children
from tests.children import TIMEOUT
from tests.exposition.hosts import listeners, needs_proc
from tests.servers import free_port, until

Page = Callable[[str], tuple[str, bytes]]


def page(accept: str) -> tuple[str, bytes]:
    return f"text/plain; asked={accept}", b"jobs_total 3.0\n"


class Counted(Server):
    """Counts its runs."""

    runs = 0

    def run(self) -> None:
        super().run()
        self.runs += 1


class Serving:
    """The servers of one background thread, as in a process."""

    def __init__(self) -> None:
        self.background = Background()
        self.background.start()

    def start(
        self,
        page: Page = page,
        host: str = "127.0.0.1",
        port: int = 0,
        store: Callable[[], str] = lambda: "ours",
    ) -> Counted:
        server = Counted({"/metrics": page}, host, port, store)
        self.background.add(server)
        return server

    def serving(
        self,
        page: Page = page,
        host: str = "127.0.0.1",
        port: int = 0,
        store: Callable[[], str] = lambda: "ours",
    ) -> Counted:
        """Start a server and wait until it has its port."""
        server = self.start(page, host, port, store)
        until(lambda: server.listening, "it to serve")
        return server

    def stop(self) -> None:
        assert self.background.stop(TIMEOUT)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setattr(serving, "_PATIENCE", 10.0 * TIMEOUT)  # this machine may be slow
    process = Serving()
    yield process
    process.stop()


def runs_on(server: Counted) -> None:
    """Wait for a run that begins after this call."""
    before = server.runs
    until(lambda: server.runs > before + 1, "two runs")


def ask(
    server: Server, path: str = "/metrics", method: str = "GET", host: str = "", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(host or server.host, server.port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer, answer.read()


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), TIMEOUT)


def rest(connection: socket.socket) -> bytes:
    """Everything that is still received."""
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


# Requests and answers.


def test_the_page_has_the_format_that_the_scraper_accepts(process: Serving) -> None:
    answer, body = ask(process.serving(), "/metrics?x=1", Accept="a/b")
    assert (answer.status, body) == (200, b"jobs_total 3.0\n")
    assert answer.headers["Content-Type"] == "text/plain; asked=a/b"
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["Connection"] == "close"
    assert answer.headers[STORE_HEADER] == "ours"


def test_a_scraper_that_takes_gzip_gets_it(process: Serving) -> None:
    server = process.serving()
    answer, body = ask(server, Accept_Encoding="br, gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == b"jobs_total 3.0\n"
    answer, body = ask(server, Accept_Encoding="br")
    assert answer.headers["Content-Encoding"] is None
    assert body == b"jobs_total 3.0\n"


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "/admin"])
def test_head_is_get_without_a_body(process: Serving, path: str) -> None:
    server = process.serving()
    whole, body = ask(server, path)
    head, _ = ask(server, path, "HEAD")
    assert (head.status, head.getheaders()) == (whole.status, whole.getheaders())
    assert head.headers["Content-Length"] == str(len(body))
    with connect(server) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\n\r\n".encode())
        assert rest(connection).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "X"])
def test_other_methods_are_not_allowed(process: Serving, method: str) -> None:
    answer, _ = ask(process.serving(), method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_other_paths(process: Serving) -> None:
    server = process.serving()
    assert ask(server, "/-/healthy")[0].status == 200
    assert ask(server, "/admin")[0].status == 404


def test_counts_that_cannot_be_read_are_a_failed_scrape_not_an_empty_page(
    process: Serving,
) -> None:
    def unreadable(accept: str) -> tuple[str, bytes]:
        raise OSError("it is locked")

    answer, body = ask(process.serving(unreadable))
    assert (answer.status, body) == (503, b"it is locked\n")


def test_a_page_that_cannot_be_made_is_a_failed_scrape_and_the_next_one_is_answered(
    process: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    texts = iter(["a label \udcff that cannot be encoded", "jobs_total 3.0\n"])
    server = process.serving(lambda accept: ("text/plain", next(texts).encode()))
    answer, body = ask(server)
    assert answer.status == 500
    assert b"surrogates not allowed" in body
    assert ask(server)[1] == b"jobs_total 3.0\n"
    assert not caplog.records  # it is logged only at level DEBUG


def test_a_store_whose_identity_cannot_be_encoded_is_served(process: Serving) -> None:
    assert ask(process.serving(store=lambda: "\udcff"))[1] == b"jobs_total 3.0\n"


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_request_may_come_in_pieces_and_with_a_body(process: Serving, end: str) -> None:
    server = process.serving()
    for line in ("GET /metrics HTTP/1.0", "POST /metrics HTTP/1.1"):
        with connect(server) as connection:
            for byte in f"{line}{end}Content-Length: 4{end}{end}body".encode():
                connection.sendall(bytes([byte]))
            answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")


@pytest.mark.parametrize(
    "request_", [b"\n\n", b"\0\xff\n\n", b"GET\r\n\r\n", b"GET /x y z\r\n\r\n"]
)
def test_an_invalid_request_gets_an_answer(process: Serving, request_: bytes) -> None:
    with connect(process.serving()) as connection:
        connection.sendall(request_)
        assert rest(connection).startswith(b"HTTP/1.1 40")


def test_an_answer_arrives_although_nobody_reads_the_body_of_its_request(process: Serving) -> None:
    with connect(process.serving()) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n\r\n" + b"a" * 1_000_000)
        assert rest(connection).startswith(b"HTTP/1.1 405 ")


def test_a_head_that_never_ends_is_refused(process: Serving) -> None:
    with connect(process.serving()) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + b"a" * 70_000)
        assert rest(connection).startswith(b"HTTP/1.1 431 ")


def test_a_slow_scraper_gets_a_large_page_completely(process: Serving) -> None:
    large = os.urandom(8_000_000)
    server = process.serving(lambda accept: ("text/plain", large))
    with connect(server) as slow:
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert slow.recv(10) == b"HTTP/1.1 2"
        assert ask(server)[1] == large  # others do not wait for it
        assert rest(slow).endswith(b"\r\n\r\n" + large)


# Many clients.


def test_a_hundred_scrapers_at_once_while_a_hundred_others_say_nothing(process: Serving) -> None:
    server = process.serving()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(100)]
        for one in silent[::2]:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost")
        together = threading.Barrier(100)
        bodies = []

        def scrape() -> None:
            together.wait(TIMEOUT)
            bodies.append(ask(server)[1])

        scrapers = [threading.Thread(target=scrape) for _ in range(100)]
        for scraper in scrapers:
            scraper.start()
        for scraper in scrapers:
            scraper.join()
        assert bodies == [b"jobs_total 3.0\n"] * 100


def test_clients_that_take_too_long_are_hung_up_on(
    process: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, begun = process.serving(), b"GET /metrics HTTP/1.1\r\n"
    with connect(server) as silent, connect(server) as slow:
        slow.sendall(begun)
        until(lambda: sorted(client.input for client in server._clients) == [b"", begun], "both")
        monkeypatch.setattr(serving, "_PATIENCE", 1.0)
        assert rest(silent) == rest(slow) == b""
    assert not server._clients


def test_the_maximum_number_of_clients_keeps_others_waiting_only_briefly(
    process: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_MOST_CLIENTS", 10)
    server = process.serving()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(30)]

        def is_answered() -> bool:
            with contextlib.suppress(ConnectionError):  # a slow machine's thread hangs up on it too
                return ask(server)[1] == b"jobs_total 3.0\n"
            return False

        until(is_answered, "an answer")
        assert rest(silent[0]) == b""


def test_clients_that_hang_up(process: Serving) -> None:
    server = process.serving(lambda accept: ("text/plain", b"x" * 8_000_000))
    for sent in (b"", b"GET", b"GET /metrics HTTP/1.0\r\n\r\n"):
        with connect(server) as connection:
            connection.sendall(sent)
    until(lambda: not server._clients, "their end")
    assert ask(server, "/-/healthy")[0].status == 200


# Addresses and ports.


def resolve(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make every host name resolve to these addresses."""
    real = natives.getaddrinfo

    def getaddrinfo(host: str, *rest: int) -> list[object]:
        return [found for name in names for found in real(name, *rest)]

    monkeypatch.setattr(natives, "getaddrinfo", getaddrinfo)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 on this machine")


@needs_ipv6
def test_every_address_of_the_host_is_served_at_the_same_port(
    process: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, "::1", "127.0.0.1", "127.0.0.1")
    server = process.serving(host="localhost", port=free_port())
    until(lambda: len(server._listeners) == 2, "both addresses")
    for address in ("127.0.0.1", "::1"):
        assert ask(server, host=address)[1] == b"jobs_total 3.0\n"


@needs_ipv6
def test_ipv6_only(process: Serving) -> None:
    assert ask(process.serving(host="::1"))[1] == b"jobs_total 3.0\n"


def test_an_address_that_this_machine_does_not_have_is_left_out(
    process: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolve(monkeypatch, "2001:db8::1", "203.0.113.1", "127.0.0.1")
    server = process.serving(host="localhost")
    assert ask(server, host="127.0.0.1")[1] == b"jobs_total 3.0\n"
    assert not caplog.records


@pytest.mark.parametrize("host", [".foo", "a" * 300, "203.0.113.1", "nosuch.invalid"])
def test_a_host_that_cannot_be_served_is_one_warning(
    process: Serving,
    host: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Server, "interval", 0.05)
    server = process.start(host=host)
    runs_on(server)
    (record,) = caplog.records
    assert "cannot be served" in record.getMessage()
    assert record.levelno == logging.WARNING
    assert not server.listening


def test_an_impossible_port_is_a_warning(
    process: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    process.start(port=70_000)
    until(lambda: "cannot be served" in caplog.text, "a warning")


def test_the_port_is_free_again_at_the_end(process: Serving) -> None:
    server = process.serving(port=free_port())
    with connect(server):
        process.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


# Which process serves.


def test_the_first_one_serves_and_when_it_ends_another_does(
    process: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "faultlens")
    first, other = Serving(), process
    server = first.serving(port=free_port())
    waiting = other.start(lambda accept: ("text/plain", b"the other"), port=server.port)
    until(lambda: waiting._questions_left == 0, "it to ask who serves")
    assert ask(server)[1] == b"jobs_total 3.0\n"
    first.stop()
    until(lambda: waiting.listening, "the other to serve")
    assert ask(waiting)[1] == b"the other"
    url = f"faultlens serves http://127.0.0.1:{server.port}/metrics"
    assert [record.getMessage() for record in caplog.records] == [url, url]


@needs_ipv6
def test_an_address_that_is_taken_is_taken_over_while_the_others_are_served(
    process: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Serving()
    server = first.serving(port=free_port())
    resolve(monkeypatch, "::1", "127.0.0.1")
    other = process.start(lambda accept: ("text/plain", b"the other"), "localhost", server.port)
    until(lambda: other.listening, "the other to serve")
    assert ask(server)[1] == b"jobs_total 3.0\n"
    assert ask(other, host="::1")[1] == b"the other"
    first.stop()
    until(lambda: len(other._listeners) == 2, "the other to serve both")
    assert ask(server)[1] == b"the other"


@pytest.mark.parametrize(
    ("theirs", "ours", "who"),
    [
        ("a", "a", None),
        ("a", "b", "faultlens for another store"),
        ("a", "", "faultlens for another store"),
        ("", "", "another process"),
    ],
)
def test_one_warning_if_a_faultlens_with_another_store_has_the_port(
    process: Serving,
    theirs: str,
    ours: str,
    who: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Server, "interval", 0.05)
    server = process.serving(store=lambda: theirs)
    waiting = process.start(port=server.port, store=lambda: ours)
    until(lambda: waiting._questions_left == 0, "an answer")
    runs_on(waiting)
    assert waiting._question is None
    messages = [record.getMessage() for record in caplog.records]
    if who is None:
        assert not messages
    else:
        (message,) = messages
        assert f"127.0.0.1:{server.port} is taken by {who}." in message
        assert "Set OTEL_EXPORTER_PROMETHEUS_PORT to another port" in message


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 404 Not Found\r\n\r\n", b"-ERR unknown command\r\n", b"", None]
)
def test_one_warning_if_something_else_has_the_port(
    process: Serving,
    answer: bytes | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it answers. None: it neither answers nor closes the connection."""
    monkeypatch.setattr(serving, "_PATIENCE", 1.0)
    monkeypatch.setattr(Server, "interval", 0.05)
    with contextlib.ExitStack() as connections, socket.create_server(("127.0.0.1", 0)) as stranger:

        def answers() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = stranger.accept()
                    connections.enter_context(connection)
                    if answer is not None:
                        connection.recv(1000)
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=answers)
        thread.start()
        server = process.start(port=stranger.getsockname()[1])
        until(lambda: bool(caplog.records), "a warning")
        runs_on(server)
        stranger.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)
    (record,) = caplog.records
    assert "is taken by something else" in record.getMessage()


def test_a_port_on_which_nobody_listens_is_tried_again_without_a_warning(
    process: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens while the other process is ending."""
    monkeypatch.setattr(Server, "interval", 0.05)
    port = free_port()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", port))  # but does not listen
        server = Counted({"/metrics": page}, "127.0.0.1", port, lambda: "ours")
        server._questions_left = 10**6  # this test may take any time
        process.background.add(server)
        until(lambda: server._questions_left < 10**6, "a question")
        assert not server.listening
    until(lambda: server.listening, "it to serve")
    assert not caplog.records
    assert ask(server)[1] == b"jobs_total 3.0\n"


# Things that programs do.

SERVES = """
import os, signal, sys, threading, time, urllib.request
from faultlens.background import Background
from faultlens.exposition.serving import Server

def page(accept):
    return "text/plain", b"pid %d\\n" % os.getpid()

def scrape(timeout=600):
    url = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()

def wait_for(condition):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def ours():
    return {listener.fileno() for listener in server._listeners.values()}

port = int(sys.argv[1])
server, background = Server({"/metrics": page}, "127.0.0.1", port, lambda: "ours"), Background()
background.add(server)
assert background.start()
"""
WAITS = """
wait_for(lambda: server.listening)
assert scrape() == page("")[1]
"""


def run(source: str) -> None:
    """Run a program. It can get its port again, since the system gives that to nobody else."""
    children.run(source, str(free_port()))


def test_the_program_gets_every_connection_of_a_listener_that_reuses_our_number() -> None:
    """The program closes all descriptors, as daemons do, and gets the same numbers again."""
    run(f"""{SERVES}{WAITS}
import select, socket
numbers = {{*ours(), *(end.fileno() for end in background._thread._bell._ends)}}
assert len(numbers) == 3 and all(number > 100 for number in numbers)
os.closerange(3, 4096)

listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
for number in numbers:
    os.dup2(listener.fileno(), number)
file = os.open(sys.executable, os.O_RDONLY)
answered = 0

def answers():
    # By one of the numbers that were ours.
    with socket.socket(fileno=os.dup(min(numbers))) as theirs:
        for _ in range(300):
            connection, _ = theirs.accept()
            with connection:
                assert connection.recv(100) == b"their client"
                connection.sendall(b"the host")

thread = threading.Thread(target=answers)
thread.start()
for _ in range(300):
    with socket.create_connection(listener.getsockname(), 600) as client:
        client.sendall(b"their client")
        assert client.recv(100) == b"the host"
thread.join()

# Served again, by another socket.
wait_for(lambda: ours() and not ours() & numbers)
assert scrape() == page("")[1]
for number in numbers:
    assert os.path.sameopenfile(number, listener.fileno())
assert background.stop(600)
for number in numbers:
    assert os.path.sameopenfile(number, listener.fileno())
""")


def test_a_connection_whose_number_the_program_now_uses_is_not_read() -> None:
    run(f"""{SERVES}{WAITS}
import socket
from faultlens.exposition import serving
serving._PATIENCE = 600
client = socket.create_connection(("127.0.0.1", server.port))
begin = b"GET /metrics HTTP/1.0\\r\\n"
client.sendall(begin)
wait_for(lambda: [one.input for one in server._clients] == [begin])
number = server._clients[0].socket.fileno()
one, other = socket.socketpair()
os.dup2(one.fileno(), number)
other.sendall(b"\\r\\n")  # would complete the request
wait_for(lambda: not server._clients)
assert one.recv(10) == b"\\r\\n"
assert os.path.sameopenfile(number, one.fileno())
assert scrape() == page("")[1]
assert background.stop(600)
""")


def test_a_connection_whose_number_the_program_now_uses_is_not_written_to() -> None:
    run(f"""{SERVES}{WAITS}
import socket
from faultlens.exposition import serving
serving._PATIENCE = 600
server._answers._pages["/metrics"] = lambda accept: ("text/plain", bytes(20_000_000))
client = socket.create_connection(("127.0.0.1", server.port))
client.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")

def is_stuck():
    # The thread has sent what the socket takes, and waits until it takes more.
    before, turns = [len(one.output) for one in server._clients], background._thread._turns
    wait_for(lambda: background._thread._turns > turns + 1)
    now = [len(one.output) for one in server._clients]
    return now == before and [1_000_000 < length < 20_000_000 for length in now] == [True]

wait_for(is_stuck)
number = server._clients[0].socket.fileno()
one, other = socket.socketpair()
os.dup2(one.fileno(), number)
while client.recv(1_000_000):  # so that more could be sent
    pass
wait_for(lambda: not server._clients)
one.close()
os.close(number)
assert not other.recv(10)
assert background.stop(600)
""")


@pytest.mark.parametrize("descriptors", ["os.closerange(3, 4096)", "use_all()"])
def test_it_does_not_spin_when_descriptors_are_gone_or_used_up(descriptors: str) -> None:
    run(f"""{SERVES}{WAITS}
import resource, socket
from faultlens import natives

def counting(watched, seconds):
    global turns
    turns += 1
    return wait(watched, seconds)

def use_all():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    clients.append(socket.socket())
    while True:
        try:
            clients.append(os.dup(0))
        except OSError:
            break
    clients[0].connect(("127.0.0.1", server.port))  # nobody can accept it

clients, turns, runs = [], 0, 0
wait, natives.wait = natives.wait, counting
run = server.run

def counted():
    global runs
    runs += 1
    run()

server.run = counted
{descriptors}
turns = runs = 0
wait_for(lambda: runs > 3)
assert turns < 10 * runs, (turns, runs)
for number in clients[1:]:
    os.close(number)
wait_for(ours)
assert scrape() == page("")[1]
assert background.stop(600)
""")


FORKS = (
    SERVES
    + children.ENDED
    + """
def forks(child):
    pid = fork()
    if pid:
        return pid
    try:
        child()
        os._exit(0)
    finally:
        import traceback
        traceback.print_exc()
        os._exit(1)
"""
)


@needs_proc
def test_a_forked_child_releases_the_port_and_later_takes_it_over_from_its_parent() -> None:
    source = f"""import os; fork = os.fork{FORKS}{WAITS}
def child():
    assert not any(map(os.path.exists, (f"/proc/self/fd/{{number}}" for number in numbers)))
    background.resume()
    wait_for(lambda: not server.listening)
    print(os.getpid(), flush=True)
    wait_for(lambda: server.listening)
    sys.stdin.read()

numbers = ours()
sys.exit(ended(forks(child)))
"""
    port = free_port()
    with process_of(source, str(port)) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert listeners(port) == {parent.pid}
        parent.kill()
        until(lambda: listeners(port) == {child}, "the child to serve")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/metrics")
            assert connection.getresponse().read() == b"pid %d\n" % child


@needs_proc
def test_a_child_that_c_code_forked_releases_the_port_once_it_resumes() -> None:
    # At the fork the thread is in poll() and not waiting for the interpreter's lock.
    source = f"""import ctypes; fork = ctypes.PyDLL(None).fork{FORKS}
sys.setswitchinterval(1000)
{WAITS}
wait_for(lambda: not server._clients)

def child():
    background.resume()
    print("resumed", flush=True)
    sys.stdin.read()

sys.exit(ended(forks(child)))
"""
    port = free_port()
    with process_of(source, str(port)) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "resumed\n"
        assert listeners(port) == {parent.pid}


@contextlib.contextmanager
def process_of(source: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program within the block; then end it and its children."""
    with subprocess.Popen(
        [sys.executable, "-c", source, *args],
        env=children.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            with children.limited(process.kill):
                yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.kill()
            assert process.stdout is not None
            process.stdout.read()  # waits until its children have ended


@needs_proc
def test_forks_while_scraped_keep_neither_the_port_nor_a_connection() -> None:
    run(f"""import os; fork = os.fork{FORKS}{WAITS}
def sockets():
    return [f for f in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{{f}}")
            and os.readlink(f"/proc/self/fd/{{f}}").startswith("socket:") and int(f) > 100]

def child():
    assert not sockets(), sockets()

def scrape_on():
    while not done:
        scrape()

done = []
threads = [threading.Thread(target=scrape_on) for _ in range(4)]
for thread in threads:
    thread.start()
pids = [forks(child) for _ in range(100)]
assert [ended(pid) for pid in pids] == [0] * 100
done.append(True)
for thread in threads:
    thread.join()
assert background.stop(600)
""")


def test_an_answer_cut_off_by_the_death_of_the_process_is_not_a_page() -> None:
    source = f"""{SERVES}
from faultlens.sockets import Socket

def is_killed(socket, data):
    send(socket, data[:-1])
    os.kill(os.getpid(), signal.SIGKILL)

send, Socket.send = Socket.send, is_killed
{WAITS}"""
    port = free_port()
    with process_of(source, str(port)) as process:
        assert process.wait(TIMEOUT) == -signal.SIGKILL


CLOCKS = {
    "time.time of the test": "patch('time.time', side_effect=[1.0, 2.0]).start()",
    "a mocked time.time": "patch('time.time').start()",
    "a frozen monotonic": "patch('time.monotonic', return_value=1.0).start()",
    "no time": "patch('time.time', side_effect=AssertionError('not ours')).start()",
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_clocks_that_a_test_has_patched_are_not_used(clock: str) -> None:
    """The scraper is another process, since in this one it would use the patched clocks."""
    source = f"""{SERVES}
import select
from unittest.mock import patch
wait_for(lambda: server.listening)
{CLOCKS[clock]}
print("ready", flush=True)
sys.stdin.readline()
if "side_effect=[" in {CLOCKS[clock]!r}:
    assert [time.time(), time.time()] == [1.0, 2.0]
print("done", flush=True)
sys.stdin.readline()
"""
    port = free_port()
    with process_of(source, str(port)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        for gzip_ in ("", "gzip"):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", "/metrics", headers={"Accept-Encoding": gzip_})
                assert connection.getresponse().read()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"


def test_a_test_that_forbids_sockets_and_warnings_is_left_alone() -> None:
    """As under pytest-socket, while another process has the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = children.run(
            f"""
import socket, urllib.request, warnings
warnings.simplefilter("error")

class SocketBlockedError(RuntimeError):
    pass

def blocked(*args, **kwargs):
    raise SocketBlockedError

socket.socket = socket.getaddrinfo = socket.create_connection = blocked
{SERVES}
wait_for(lambda: server._question is not None)
assert background.stop(600)
""",
            str(other.getsockname()[1]),
        )
    assert done.stderr == ""


@pytest.mark.parametrize("first", ["patch", "import"])
@pytest.mark.parametrize(
    ("package", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_greenlets(package: str, patch: str, first: str) -> None:
    """The native thread serves while the main thread, with all greenlets, is blocked."""
    pytest.importorskip(package)
    start, wait = SERVES.split("port = ", 1)
    source = f"{patch}\n{SERVES}" if first == "patch" else f"{start}\n{patch}\nport = {wait}"
    source += """
from faultlens import natives
while not server.listening:
    natives.sleep(0.01)
print("ready", flush=True)
natives.wait({0: natives.POLLIN}, 600)
assert background.stop(600)
print("done", flush=True)
"""
    port = free_port()
    with process_of(source, str(port)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/metrics")
            assert connection.getresponse().read() == b"pid %d\n" % process.pid
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"


def test_nothing_heavy_is_imported_to_serve() -> None:
    run(f"""
import sys
before = set(sys.modules)
{SERVES.replace(", urllib.request", "")}
new = set(sys.modules) - before
for heavy in ("prometheus_client", "http.server", "http.client", "email", "ssl", "urllib.request"):
    assert heavy not in new, heavy
assert background.stop(600)
""")
