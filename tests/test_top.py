"""``faultlens top``, as it is run: over a real store, over HTTP, in a terminal and without one."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from faultlens.commands.scrape import parse
from tests import children
from tests.servers import free_port, until
from tests.test_cli import command
from tests.test_serve import fail, serving

pytest.importorskip("flyte")

TWO_KINDS = """
import flyte.errors, pathlib
for error in (flyte.errors.OOMError("OOM", "m"), flyte.errors.RuntimeSystemError("Disk", "m")):
    for _ in range(2):
        try:
            raise type(error)(error.code, "m")
        except flyte.errors.OOMError:
            pass
        except flyte.errors.RuntimeSystemError:
            pass
"""


def make(store: Path) -> None:
    """Two failures of the user's and two of the platform's."""
    children.run(TWO_KINDS, env={"FAULTLENS_STORE": str(store)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that nobody counts in any more."""
    store = tmp_path_factory.mktemp("top") / "store"
    make(store)
    return store


def top(
    *args: str, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    return command("top", *args, env={"COLUMNS": "100", "NO_COLOR": None, **(env or {})})


def table(text: str) -> list[list[str]]:
    """The rows and headings, each by its words."""
    lines = text.splitlines()
    return [line.split() for line in lines[lines.index("") + 2 :] if line]


class TestOnce:
    def test_shows_what_a_program_that_has_ended_has_counted(self, store: Path) -> None:
        done = top("--once", "--store", str(store))

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("4 failures: 2 system, 0 unknown, 2 user\n")
        system, first, user, second = table(done.stdout)
        assert (system[0], user[0]) == ("system:", "user:")
        assert first[:6] == ["flyte.errors.RuntimeSystemError", "[Disk]", "-", "-", "w", "2"]
        assert second[:6] == ["flyte.errors.OOMError", "[OOM]", "oom", "-", "w", "2"]

    def test_of_the_environment_s_store(self, store: Path, tmp_path: Path) -> None:
        assert top("--once", env={"FAULTLENS_STORE": str(store)}).stdout.startswith("4 failures")
        nothing = top("--once", env={"FAULTLENS_STORE": None, "TMPDIR": str(tmp_path)})
        assert nothing.stdout.startswith(f"Nothing is counted in {tmp_path}/faultlens-")

    @pytest.mark.parametrize("environment", [{"TERM": None}, {"TERM": "dumb"}, {"NO_COLOR": "1"}])
    def test_a_pipe_gets_it_once_and_plain(
        self, environment: dict[str, str | None], store: Path
    ) -> None:
        done = top("--store", str(store), env=environment)

        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert all(len(line) <= 100 for line in done.stdout.splitlines())

    def test_where_there_is_no_utf_8(self, store: Path) -> None:
        done = top("--store", str(store), env={"PYTHONIOENCODING": "ascii"})

        assert done.stdout.splitlines()[1] == "#" * 50 + "." * 50
        assert "?" not in done.stdout

    def test_nothing_yet_is_one_line_that_says_what_to_do_and_makes_nothing(
        self, tmp_path: Path
    ) -> None:
        done = top("--once", "--store", str(tmp_path / "none"))

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            f"Nothing is counted in {tmp_path / 'none'} yet. Run your program with FAULTLENS=1.\n"
        )
        assert list(tmp_path.iterdir()) == []

    def test_reads_only(self, store: Path) -> None:
        before = {path: path.read_bytes() for path in store.iterdir()}

        top("--store", str(store))

        assert {path: path.read_bytes() for path in store.iterdir()} == before

    def test_needs_no_sdk_and_starts_nothing(self, store: Path) -> None:
        done = children.run(
            """
            import sys, threading
            sys.modules["flyte"] = sys.modules["durable_workflow"] = None
            from faultlens.commands import main
            main(["top", "--once", "--store", sys.argv[1]])
            print([name for name in ("prometheus_client", "opentelemetry", "faultlens.pipeline")
                   if name in sys.modules], threading.active_count())
            """,
            str(store),
        )

        assert done.stdout.startswith("4 failures")
        assert done.stdout.splitlines()[-1] == "[] 1"

    def test_filters(self, store: Path) -> None:
        system = top("--kind", "system", "--store", str(store)).stdout
        assert [line[0] for line in table(system)] == ["system:", "flyte.errors.RuntimeSystemError"]
        assert system.startswith("2 failures: 2 system, 0 unknown, 0 user\n")
        other = top("--sdk", "durable_workflow", "--store", str(store)).stdout
        assert other.startswith("0 failures: ")

    def test_as_json(self, store: Path) -> None:
        done = top("--json", "--kind", "user", "--store", str(store))

        content = json.loads(done.stdout)
        (failure,) = content.pop("failures")
        assert content == {"source": str(store), "suppressed": {}, "dropped": {}, "problems": []}
        first, last = failure.pop("first_seen"), failure.pop("last_seen")
        assert first <= last
        assert last.endswith("+00:00")
        assert failure == {
            "class": "flyte.errors.OOMError",
            "kind": "user",
            "code": "OOM",
            "reason": "oom",
            "task": "",
            "worker": "w",
            "owner": "",
            "count": 2,
        }

    def test_a_file_that_cannot_be_read_is_named(self, store: Path, tmp_path: Path) -> None:
        for path in store.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "broken.ledger").write_bytes(b"x")

        done = top("--store", str(tmp_path))

        assert done.stdout.startswith("4 failures")
        assert f"{tmp_path}/broken.ledger is 1 bytes long; expected" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--store", "here"], "--store here: expected an absolute path, or off"),
            ([], "FAULTLENS_STORE=off: there is no store. Name one with --store"),
            (["--url", "ftp://node"], "--url ftp://node: expected something like http://node:9464"),
            (["--url", "http://"], "--url http://: expected something like http://node:9464"),
            (["--url", "127.0.0.1:1"], "http://127.0.0.1:1/metrics cannot be read: "),
            (["--url", "http://[x"], "http://[x/metrics "),
        ],
    )
    def test_what_cannot_be_read_is_one_line(self, arguments: list[str], says: str) -> None:
        done = top("--once", *arguments)

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"faultlens: {says}")
        assert len(done.stderr.splitlines()) == 1

    def test_a_store_that_must_not_be_used_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)

        done = top("--once", "--store", str(tmp_path / "link"))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"faultlens: the store cannot be used: {tmp_path}/link is a symbolic link; expected a "
            "directory\n"
        )


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    with serving(store) as server:
        server.warm_up()
        yield server.url


class TestUrl:
    def test_shows_what_another_host_serves(self, url: str, store: Path) -> None:
        for address in (url, url.removesuffix("/metrics"), url.removeprefix("http://")):
            done = top("--url", address)
            assert (done.returncode, done.stderr) == (0, "")
            assert timeless(done.stdout) == timeless(top("--store", str(store)).stdout)

    def test_as_json(self, url: str) -> None:
        content = json.loads(top("--url", url, "--json").stdout)

        assert content["source"] == url
        assert [failure["count"] for failure in content["failures"]] == [2, 2]

    def test_a_page_of_somebody_else(self) -> None:
        no_number = 'faultlens_info{version="1"} 1\nfaultlens_failures_total{} +Inf\n'
        for body in ("up 1\n", "<html>", "faultlens_failures_total{", no_number):
            with page(body) as url:
                done = top("--url", url)
            assert (done.returncode, done.stdout) == (1, "")
            assert len(done.stderr.splitlines()) == 1
            assert done.stderr.startswith(f"faultlens: {url}/metrics ")

    def test_no_page_moves_the_cursor_or_has_too_late_a_time(self) -> None:
        labels = 'class="a.B",kind="user",worker="\x1b[2Jw"'
        body = f"""faultlens_info{{version="1"}} 1
faultlens_failures_total{{{labels}}} 1
faultlens_last_failure_timestamp_seconds{{{labels}}} 1e30
faultlens_suppressed_total{{{labels},reason="\x1b[2Jx"}} 3
"""
        with page(body) as url:
            table, content = top("--url", url), top("--url", url, "--json")
        assert "3 raises not counted again: 3 ?[2Jx" in table.stdout
        assert "\x1b" not in table.stdout + content.stdout
        assert json.loads(content.stdout)["failures"][0]["last_seen"] is None


def timeless(text: str) -> str:
    """A table without its last column."""
    return re.sub(r" +(now|\d+ \w+ ago)$", "", text, flags=re.MULTILINE)


@contextlib.contextmanager
def page(body: str) -> Iterator[str]:
    """A server of a page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class TestScrape:
    """Issues and workers, which a page has apart."""

    def rows(self, *samples: str) -> list[tuple[str, str, int, float | None]]:
        """Code, worker, count and last moment."""
        found = parse("\n".join(("faultlens_info 1", *samples, ""))).counted
        return [(r.issue.code, r.issue.worker, r.number, r.last) for r in found.rows]

    def failure(self, worker: str, number: int) -> str:
        return f'faultlens_failures_total{{class="a.B",kind="user",worker="{worker}"}} {number}'

    def issue(self, code: str, number: int, cls: str = "a.B") -> str:
        return f'faultlens_issues_total{{class="{cls}",kind="user",code="{code}"}} {number}'

    def last(self, worker: str, moment: int) -> str:
        name = "faultlens_last_failure_timestamp_seconds"
        return f'{name}{{class="a.B",kind="user",worker="{worker}"}} {moment}'

    def test_one_issue_is_that_of_each_worker(self) -> None:
        samples = (self.failure("w1", 2), self.failure("w2", 1), self.issue("X", 3))
        last = (self.last("w1", 7), self.last("w2", 9))
        assert self.rows(*samples, *last) == [("X", "w1", 2, 7), ("X", "w2", 1, 9)]

    def test_one_worker_has_each_issue(self) -> None:
        samples = (
            self.failure("w1", 3),
            self.issue("X", 1),
            self.issue("Y", 2),
            self.last("w1", 7),
        )
        found = self.rows(*samples, self.last("w1", 7))
        assert found == [("X", "w1", 1, None), ("Y", "w1", 2, None)]

    def test_else_nothing_is_invented(self) -> None:
        samples = (self.failure("w1", 2), self.failure("w2", 2), self.issue("X", 3))
        assert self.rows(*samples, self.issue("Y", 1)) == [("X", "", 3, None), ("Y", "", 1, None)]

    def test_issues_beyond_the_limit_are_apart(self) -> None:
        samples = (self.failure("w1", 3), self.issue("X", 1), self.issue("_OTHER", 2, "_OTHER"))
        assert self.rows(*samples) == [("_OTHER", "", 2, None), ("X", "", 1, None)]

    def test_what_several_instances_say_is_summed(self) -> None:
        samples = [
            f'faultlens_{name}_total{{class="a.B",kind="user",instance="{instance}"}} 2'
            for name in ("failures", "issues")
            for instance in "xy"
        ]
        assert self.rows(*samples) == [("", "", 4, None)]

    def test_zeros_are_no_rows(self) -> None:
        assert self.rows(self.failure("w1", 0)) == []
        assert self.rows(self.failure("w1", 1)) == [("", "w1", 1, None)]


# A shell that runs one job. Once it has stopped, it goes on at the first line that is typed.
JOB_CONTROL = """
import fcntl, os, signal, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[1:], preexec_fn=os.setpgrp)
os.tcsetpgrp(0, job.pid)
os.waitpid(job.pid, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
raw = not termios.tcgetattr(0)[3] & termios.ICANON
print("it stopped, and the terminal is", "raw" if raw else "cooked", flush=True)
sys.stdin.readline()
os.tcsetpgrp(0, job.pid)
os.kill(job.pid, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(job.pid, 0)[1]))
"""


class TestTerminal:
    @pytest.fixture(autouse=True)
    def _terminals(self) -> None:
        pytest.importorskip("tests.terminal", reason="has no pseudo-terminals")

    @contextlib.contextmanager
    def run(
        self,
        *args: str,
        size: tuple[int, int] = (80, 24),
        shell: str | None = None,
        **env: str,
    ) -> Iterator[Any]:
        from tests.terminal import terminal

        with terminal("-m", "faultlens", "top", *args, env=env, size=size, shell=shell) as run:
            yield run

    def test_shows_what_is_counted_while_it_runs_and_gives_the_terminal_back(
        self, tmp_path: Path
    ) -> None:
        store = tmp_path / "store"
        with self.run("--store", str(store)) as run:
            run.wait_for("FAULTLENS=1.")
            assert not store.exists()
            fail(store, 2)
            run.wait_for("2 failures: 0 system, 0 unknown, 2 user")
            lines = run.picture.splitlines()
            assert len(lines) <= 24
            assert all(len(line) <= 80 for line in lines)
            assert run.is_raw()
            run.press("q")
            assert run.ends() == 0
            assert not run.is_raw()
            assert run.written.startswith("\x1b[?1049h\x1b[?25l")
            assert run.written.endswith("\x1b[?25h\x1b[?1049l")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_without_a_word(self, number: int, store: Path) -> None:
        with self.run("--store", str(store)) as run:
            run.wait_for("4 failures")
            run.process.send_signal(number)
            assert run.ends() == 0
            assert not run.is_raw()
            assert run.written.endswith("\x1b[?25h\x1b[?1049l")

    def test_keys(self, store: Path) -> None:
        with self.run("--store", str(store)) as run:
            run.wait_for("k kind: all  s sdk: all  o order: name")
            run.press("k")
            run.wait_for("k kind: system")
            assert "OOMError" not in run.picture
            assert "2 failures: 2 system" in run.picture
            run.press("kk")
            run.wait_for("k kind: user")
            assert "RuntimeSystemError" not in run.picture
            run.press("kss")
            run.wait_for("k kind: all  s sdk: durable_workflow")
            assert "0 failures" in run.picture
            run.press("s")
            run.wait_for("s sdk: temporalio")
            run.press("so")
            run.wait_for("s sdk: all  o order: count")

    def test_the_key_goes_on_from_any_sdk(self, store: Path) -> None:
        with self.run("--store", str(store), "--sdk", "acme") as run:
            run.wait_for("s sdk: acme")
            run.press("s")
            run.wait_for("4 failures")
            run.press("ssss")
            run.wait_for("s sdk: acme")
            run.press("q")
            assert run.ends() == 0

    def test_scrolls(self, store: Path) -> None:
        with self.run("--store", str(store), size=(80, 9)) as run:
            run.wait_for("and 2 more below")
            assert "OOMError" not in run.picture
            run.press("\x1b[B\x1b[B")
            run.wait_for("OOMError")
            run.press("\x1b[A")
            run.wait_for("and 1 more below")
            run.press(" ")
            run.wait_for("the end")
            run.resize(80, 24)
            run.wait_for("system: ")
            run.wait_for("user: ")

    def test_ctrl_z_gives_the_terminal_back_meanwhile(self, store: Path) -> None:
        with self.run("--store", str(store), shell=JOB_CONTROL) as run:
            run.wait_for("4 failures")
            run.press("\x1a")
            until(lambda: "it stopped" in run.written, "it to stop")
            assert "\x1b[?25h\x1b[?1049lit stopped, and the terminal is cooked" in run.written
            run.press("\n")  # as fg
            until(lambda: "4 failures" in run.written.partition("it stopped")[2], "it to go on")
            assert run.is_raw()
            run.press("q")
            assert run.ends() == 0

    @pytest.mark.parametrize("term", ["dumb", ""])
    def test_a_dumb_terminal_gets_each_new_table_below_the_last(
        self, term: str, tmp_path: Path
    ) -> None:
        fail(tmp_path / "store", 1)
        with self.run("--store", str(tmp_path / "store"), TERM=term) as run:
            run.wait_for("1 failure: 0 system")
            fail(tmp_path / "store", 1)
            run.wait_for("2 failures: 0 system")
            run.process.send_signal(signal.SIGINT)
            assert run.ends() == 0
            assert "\x1b" not in run.written
            assert run.written.count("1 failure: ") == 1
            assert "Ctrl-C quits" in run.written

    def test_no_color_has_no_colours(self, store: Path) -> None:
        with self.run("--store", str(store), NO_COLOR="1") as run:
            run.wait_for("4 failures")
            assert "m" not in [sequence[-1] for sequence in sequences(run.written)]
        with self.run("--store", str(store)) as run:
            run.wait_for("4 failures")
            assert "m" in [sequence[-1] for sequence in sequences(run.written)]

    def test_a_terminal_that_does_not_say_its_size(self, store: Path) -> None:
        with self.run("--store", str(store), size=(0, 0)) as run:
            assert max(map(len, run.wait_for("4 failures").splitlines())) == 80

    def test_a_server_that_goes_and_comes_back(self, store: Path) -> None:
        port = str(free_port())
        with serving(store, "--port", port) as server:
            server.warm_up()
            with self.run("--url", server.url, size=(140, 24)) as run:
                run.wait_for("4 failures")
                server.process.kill()
                assert "4 failures" in run.wait_for("cannot be read")
                with serving(store, "--port", port):
                    assert "4 failures" in run.wait_for(lambda text: "cannot be read" not in text)


def sequences(written: str) -> list[str]:
    return re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]", written)
