"""``faultlens demo``, really run: the examples, their /metrics, and that nothing stays."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import children
from tests.children import TIMEOUT
from tests.scrape import Scrape, parse
from tests.servers import Receiver, get, until
from tests.test_cli import command, package

OFF = {"FAULTLENS": None, "FAULTLENS_WORKER": None, "COLUMNS": "200", "NO_COLOR": None}

pytest.importorskip("flyte")
pytest.importorskip("durable_workflow")


class Printed:
    """The table as text, read back."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.rows: list[tuple[str, str, str, int]] = []
        """Kind, class, worker and count."""
        kind = ""
        for line in self.lines:
            heading = re.match(r"(system|unknown|user): ", line)
            kind = heading[1] if heading else kind
            match line.split():
                case [name, *_, worker, count, "now"] | [name, *_, worker, count, _, _, "ago"]:
                    self.rows.append((kind, name, worker, int(count)))

    def total(self, kind: str) -> int:
        """As the headline says."""
        match = next(filter(None, (re.search(rf"(\d+) {kind}\b", line) for line in self.lines)))
        return int(match[1])


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """One demo for all tests that only look at it."""
    return command("demo", "--once", "--port", "0", env=OFF)


class TestOnce:
    def test_ends_well_and_says_nothing_else(self, done: subprocess.CompletedProcess[str]) -> None:
        assert (done.returncode, done.stderr) == (0, "")

    def test_has_failures_of_both_sdks_and_of_every_kind(
        self, done: subprocess.CompletedProcess[str]
    ) -> None:
        rows = Printed(done.stdout).rows

        assert {kind for kind, *_ in rows} == {"system", "user", "unknown"}
        assert ("user", "flyte.errors.OOMError", "cpu-node-3") in [row[:3] for row in rows]
        assert ("user", "durable_workflow.errors.NonRetryableError", "orders") in [
            row[:3] for row in rows
        ]

    @pytest.mark.parametrize("kind", ["system", "unknown", "user"])
    def test_the_headline_adds_up(self, done: subprocess.CompletedProcess[str], kind: str) -> None:
        printed = Printed(done.stdout)

        counts = [count for of, _, _, count in printed.rows if of == kind]

        assert printed.total(kind) == sum(counts)

    def test_is_plain_text_that_fits(self) -> None:
        done = command("demo", "--once", "--port", "0", env={**OFF, "COLUMNS": "80"})

        assert "\x1b" not in done.stdout
        for line in done.stdout.splitlines():
            assert len(line) <= 80
            assert line == line.rstrip()

    def test_ends_with_what_to_do_next(self, done: subprocess.CompletedProcess[str]) -> None:
        assert "your own  FAULTLENS=1 python your_program.py" in done.stdout
        assert "then      faultlens top" in done.stdout
        assert "http" not in done.stdout  # nothing is served any more

    def test_does_not_fill_the_disk(self, tmp_path: Path) -> None:
        """A demo may run for weeks: no run of a task leaves a directory of its own."""
        done = command("demo", "--once", "--port", "0", env={**OFF, "TMPDIR": str(tmp_path)})

        assert done.returncode == 0
        assert list(tmp_path.iterdir()) == []

    def test_where_there_is_no_utf_8_there_are_no_question_marks(self) -> None:
        env = {**OFF, "PYTHONIOENCODING": "ascii", "FORCE_COLOR": "1"}

        done = command("demo", "--once", "--port", "0", env=env)

        assert done.returncode == 0
        assert re.search(r"^#+=+\.+$", done.stdout, re.MULTILINE)
        assert "?" not in done.stdout
        assert "\x1b" not in done.stdout

    def test_a_taken_port_is_told_and_another_used(self) -> None:
        with socket.create_server(("localhost", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = command("demo", "--once", "--port", port, env=OFF)

        assert done.returncode == 0
        expected = f"localhost:{port} is taken; the demo serves /metrics on another port."
        assert done.stderr == f"faultlens: {expected}\n"
        assert Printed(done.stdout).rows


class TestTraces:
    """The examples trace themselves, if the environment asks for it."""

    @pytest.fixture(autouse=True)
    def _exporter(self) -> None:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

    def once(self, receiver: Receiver, **env: str) -> Printed:
        endpoint = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            # So that little is left to send at exit, where time is limited.
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        done = command("demo", "--once", "--port", "0", env={**OFF, **endpoint, **env})
        assert (done.returncode, done.stderr) == (0, "")
        return Printed(done.stdout)

    def test_every_failure_is_in_them(self) -> None:
        with Receiver() as receiver:
            printed = self.once(receiver)
            events = receiver.events()

        sent = Counter(
            (event["faultlens.kind"], event["exception.type"], event["faultlens.worker"])
            for event in events
            if event["faultlens.role"] == "origin"
        )
        shown: Counter[tuple[str, str, str]] = Counter()
        for kind, name, worker, count in printed.rows:
            shown[kind, name, worker] += count
        assert sent == shown

    def test_an_exporter_that_is_none(self) -> None:
        with Receiver() as receiver:
            printed = self.once(receiver, OTEL_TRACES_EXPORTER="none")

            assert printed.rows
            assert receiver.bodies == []

    def test_a_collector_that_does_not_answer_changes_nothing(
        self, done: subprocess.CompletedProcess[str]
    ) -> None:
        with Receiver(hang=True) as receiver:
            assert self.once(receiver).rows == Printed(done.stdout).rows


class TestNothingToShow:
    def test_a_package_that_is_missing(self) -> None:
        program = """
            import sys
            sys.modules["flyte"] = None
            from faultlens.commands import main
            sys.exit(main(["demo", "--once"]))
        """

        done = children.run(program, env=OFF, check=False)

        assert (done.returncode, done.stdout) == (1, "")
        expected = "faultlens: the demo needs flyte: pip install 'faultlens[demo]'\n"
        assert done.stderr == expected

    def test_an_sdk_that_cannot_be_imported(self, tmp_path: Path) -> None:
        package(tmp_path, "flyte", "raise OSError('libfoo.so is missing')")

        done = command("demo", "--once", env={**OFF, "PYTHONPATH": str(tmp_path)})

        assert (done.returncode, done.stdout) == (1, "")
        expected = "faultlens: the examples ended with 1: OSError: libfoo.so is missing\n"
        assert done.stderr == expected

    def test_a_host_that_there_is_not(self) -> None:
        # An address for documentation only: no machine has it, and no name server is asked.
        env = {**OFF, "OTEL_EXPORTER_PROMETHEUS_HOST": "203.0.113.1"}

        done = command("demo", "--once", "--port", "0", env=env)

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("faultlens: 203.0.113.1:0 cannot be served")
        assert len(done.stderr.splitlines()) == 1


class Demo:
    """A demo that runs in the background, and the child that it has started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.url = process.stdout.readline().split()[0]
        self.child = int(processes_of(process.pid).read_text())

    def wait_for_failures(self) -> None:
        until(lambda: bool(self.scrape().total), "a failure")

    def scrape(self) -> Scrape:
        return parse(get(self.url))

    def child_runs(self) -> bool:
        """Whether the child is there; a zombie, which waits for its parent only, is not."""
        try:
            os.kill(self.child, 0)
            stat = Path(f"/proc/{self.child}/stat")
            return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
        except (ProcessLookupError, FileNotFoundError):
            return False

    def ends(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, stdout, stderr


def processes_of(pid: int) -> Path:
    """The file that names the processes which a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children")


@contextmanager
def running(*args: str, env: Mapping[str, str | None] = OFF) -> Iterator[Demo]:
    with subprocess.Popen(
        [sys.executable, "-m", "faultlens", "demo", "--port", "0", *args],
        env=children.environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Demo(process)
        finally:
            process.kill()


@pytest.mark.skipif(not processes_of(os.getpid()).exists(), reason="no /proc that tells")
class TestEnding:
    @pytest.mark.parametrize("seconds", ["600", "0"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_with_the_table(self, number: int, seconds: str) -> None:
        with running("--seconds", seconds) as demo:
            demo.wait_for_failures()
            demo.process.send_signal(number)
            status, stdout, stderr = demo.ends()

        assert (status, stderr) == (0, "")
        assert Printed(stdout).rows
        assert not demo.child_runs()

    def test_its_time_is_over(self) -> None:
        with running("--seconds", "10") as demo:
            status, _, stderr = demo.ends()

        assert (status, stderr) == (0, "")
        assert not demo.child_runs()

    def test_the_child_ends_even_if_the_demo_is_killed(self) -> None:
        with running("--seconds", "600") as demo:
            assert demo.child_runs()
            demo.process.kill()
            demo.process.wait()
            until(lambda: not demo.child_runs(), "the child to end")

    def test_a_child_that_dies_ends_the_demo(self) -> None:
        with running("--seconds", "600") as demo:
            os.kill(demo.child, signal.SIGKILL)
            status, stdout, stderr = demo.ends()

        assert (status, stdout) == (1, "")
        assert stderr.startswith("faultlens: the examples ended with -9: ")

    def test_ctrl_c_while_the_examples_start(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "faultlens", "demo", "--once", "--port", "0"],
            env=children.environment(OFF),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            until(lambda: bool(processes_of(process.pid).read_text()), "the examples to start")
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=TIMEOUT)

        assert (process.returncode, stdout, stderr) == (130, "", "")


@pytest.mark.skipif(os.name == "nt", reason="has no pseudo-terminals")
class TestTerminal:
    def run(self) -> tuple[int, str]:
        """Run the demo in a terminal of 80 by 24, and end it when it has shown a failure.

        Returns its status and what it wrote.
        """
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        written: list[bytes] = []

        def read() -> None:
            try:
                while chunk := os.read(ours, 4096):
                    written.append(chunk)
            except OSError:  # Linux's way to say that the other end is closed
                pass

        def shows_a_failure() -> bool:
            return b"the platform's fault" in b"".join(written) or not reader.is_alive()

        reader = threading.Thread(target=read)
        with subprocess.Popen(
            [sys.executable, "-m", "faultlens", "demo", "--port", "0", "--seconds", "6000"],
            env=children.environment({**OFF, "TERM": "xterm-256color", "COLUMNS": None}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            reader.start()
            until(shows_a_failure, "a failure to be shown")
            process.send_signal(signal.SIGINT)
            status = process.wait(TIMEOUT)
        reader.join()
        os.close(ours)
        return status, b"".join(written).decode()

    def test_shows_a_live_view_and_then_the_table(self) -> None:
        status, text = self.run()

        live, _, final = text.partition("\x1b[?1049l")
        assert status == 0
        assert "\x1b[?1049h" in live
        assert "s left" in live
        assert "\x1b[1;31m" in final  # system is red, if the terminal has colours
        assert Printed(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", final)).rows
