"""``faultlens serve``, as it is run: over a real store, with other processes that count."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import children
from tests.children import TIMEOUT
from tests.servers import answers, free_port, get, until

FAIL = """
    import sys
    import flyte.errors
    for _ in range(int(sys.argv[1])):
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
"""
LINE = 'faultlens_failures_total{class="flyte.errors.OOMError",kind="user",worker="w"}'


class Serving:
    """A running ``faultlens serve``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.said = process.stdout.readline().strip()
        found = re.search(r"http://\S+/metrics", self.said)
        assert found, self.said or (process.stderr and process.stderr.read())
        self.url = found[0]

    def page(self, path: str = "/metrics") -> str:
        return get(self.url.removesuffix("/metrics") + path)

    def warm_up(self) -> None:
        """On a slow machine, the first page can take longer than our commands wait for it."""
        self.page()

    def failures(self) -> float:
        lines = [line for line in self.page().splitlines() if line.startswith(LINE)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "faultlens", "serve", *args]


@contextlib.contextmanager
def serving(store: Path, *args: str, program: str | None = None) -> Iterator[Serving]:
    """A running ``faultlens serve``, or a program that does the same."""
    serves = command("--store", str(store), *args)
    process = subprocess.Popen(
        [sys.executable, "-c", program] if program else serves,
        env=children.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Serving(process)
        finally:
            process.kill()


def fail(store: Path, times: int) -> None:
    children.run(FAIL, str(times), env={"FAULTLENS_STORE": str(store)})


def refused(*args: str, store: str = "off") -> str:
    done = subprocess.run(
        command(*args),
        env=children.environment({"FAULTLENS_STORE": store}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_what_processes_counted_before_and_what_they_count_meanwhile(store: Path) -> None:
    fail(store, 2)
    with serving(store) as server:
        assert server.failures() == 2
        fail(store, 3)
        assert server.failures() == 5


def test_every_known_class_is_at_0_once_a_process_has_imported_the_sdk(store: Path) -> None:
    fail(store, 0)
    with serving(store) as server:
        assert f"{LINE} 0.0" in server.page()


def test_it_imports_no_sdk_and_says_so(store: Path) -> None:
    program = f"""
import sys
from faultlens import commands
assert commands.main(["serve", "--store", {str(store)!r}]) == 0
print(sorted({{"flyte", "durable_workflow", "opentelemetry"}} & set(sys.modules)))
"""
    with serving(store, program=program) as server:
        assert f"has the counts in {store}; Ctrl-C ends it." in server.said
        assert 'faultlens_info{detector="none"' in server.page()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=TIMEOUT) == ("[]\n", "")
        assert server.process.returncode == 0


def test_a_health_check_and_a_front_page(store: Path) -> None:
    with serving(store) as server:
        assert server.page("/-/healthy") == "faultlens is healthy.\n"
        assert "Counted on this host" in server.page("/")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_a_word(store: Path, number: int) -> None:
    with serving(store) as server:
        server.process.send_signal(number)
        assert server.process.wait(TIMEOUT) == 0
        assert server.process.communicate() == ("", "")


def test_a_signal_that_does_not_wake_the_main_thread_ends_it_too() -> None:
    """A signal just before the thread sleeps does the same. Here another thread gets it."""
    children.run("""
        import signal, threading, time
        from faultlens.commands.serve import _end_by_signal

        def send():
            time.sleep(0.1)  # lets the main thread fall asleep first
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

        wait = _end_by_signal()
        threading.Thread(target=send).start()
        wait()
    """)


def test_a_second_one_stands_by_and_takes_over(store: Path) -> None:
    port = str(free_port())
    with serving(store, "--port", port) as first:
        fail(store, 2)
        first.warm_up()
        with serving(store, "--port", port) as second:
            assert "has them already, by another process" in second.said
            assert first.failures() == 2
            first.process.kill()
            first.process.wait()
            until(lambda: answers(second.url), "the second one to serve")
            assert second.failures() == 2
            fail(store, 1)
            assert second.failures() == 3


def test_what_could_not_be_recorded_starts_at_0_too(store: Path) -> None:
    with serving(store) as server:
        assert 'faultlens_dropped_total{reason="store_error"} 0.0' in server.page()


def test_what_cannot_be_served_is_one_line(tmp_path: Path, store: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = refused("--store", str(store), "--host", "127.0.0.1", "--port", port)
        assert f"127.0.0.1:{port} is taken by something else. Choose another with --port" in said
    assert "FAULTLENS_STORE=off: there is no store. Name one with --store" in refused()
    assert "--store here: expected an absolute path, or off" in refused("--store", "here")
    assert "203.0.113.1:0 cannot be served" in refused(
        "--store", str(store), "--host", "203.0.113.1"
    )
    (tmp_path / "file").write_text("")
    said = refused("--store", str(tmp_path / "file"))
    assert "the store cannot be used: " in said
    assert "is not a directory; expected a directory" in said


def test_another_store_s_server_is_not_taken_for_ours(tmp_path: Path) -> None:
    with serving(tmp_path / "a") as server:
        server.warm_up()
        port = server.url.split(":")[-1].removesuffix("/metrics")
        said = refused("--store", str(tmp_path / "b"), "--port", port)
        assert "is taken by faultlens for another store" in said


def test_a_program_whose_port_another_store_has_says_so_and_counts_on(tmp_path: Path) -> None:
    said = "is taken by faultlens for another store"
    with serving(tmp_path / "a") as server:
        port = server.url.split(":")[-1].removesuffix("/metrics")
        env = {"FAULTLENS_STORE": str(tmp_path / "b"), "OTEL_EXPORTER_PROMETHEUS_PORT": port}
        log = tmp_path / "log"
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-c", f"{textwrap.dedent(FAIL)}\nsys.stdin.read()", "1"],
                env=children.environment(env),
                stdin=subprocess.PIPE,
                stderr=stderr,
            ) as program,
        ):
            until(lambda: said in log.read_text(), said)
            program.communicate(timeout=TIMEOUT)
    assert log.read_text().count(said) == 1
    with serving(tmp_path / "b") as server:
        assert server.failures() == 1
