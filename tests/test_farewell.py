"""The line that a program leaves on its terminal when it ends."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import children
from tests.test_serve import serving

pytest.importorskip("flyte")
terminal = pytest.importorskip("tests.terminal", reason="has no pseudo-terminals")

FAILS = """
import os, sys
import flyte.errors
def fail(times):
    for _ in range(int(times)):
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
"""


def said(
    source: str, store: Path, env: Mapping[str, str | None] | None = None, **options: object
) -> list[str]:
    """What a program leaves in a terminal, by lines."""
    program = FAILS + textwrap.dedent(source)
    wanted = {"FAULTLENS_STORE": str(store), **(env or {})}
    with terminal.terminal("-c", program, env=wanted, **options) as run:
        assert run.ends() == 0, run.written
        lines: list[str] = run.written.splitlines()
    return lines


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("times", "line"),
    [
        (1, "faultlens: 1 failure counted; see it with: faultlens top"),
        (3, "faultlens: 3 failures counted; see them with: faultlens top"),
    ],
)
def test_says_how_many_and_where_to_look(times: int, line: str, store: Path) -> None:
    assert said(f"fail({times}); print('done')", store) == ["done", line]


def test_says_nothing_if_nothing_was_counted(store: Path) -> None:
    assert said("fail(3)", store) != []
    assert said("print('done')", store) == ["done"]


@pytest.mark.parametrize(
    "env",
    [
        {"FAULTLENS_QUIET": "1"},
        {"FAULTLENS_STORE": "off"},  # there is nothing to see afterwards
        {"FAULTLENS_SERVE": "0"},  # something else shows the counts
    ],
    ids=lambda env: next(iter(env)),
)
def test_is_silent_where_it_would_not_help(env: dict[str, str], store: Path) -> None:
    assert said("fail(1)", store, env) == []


def test_is_silent_if_another_process_serves_the_counts(store: Path) -> None:
    waits = """
        from faultlens import pipeline
        import time
        fail(1)
        while not pipeline.running().server.served_elsewhere:
            time.sleep(0.01)
    """
    with serving(store) as server:
        port = server.url.split(":")[-1].removesuffix("/metrics")
        assert said(waits, store, {"OTEL_EXPORTER_PROMETHEUS_PORT": port}) == []


def test_is_silent_without_a_terminal(store: Path) -> None:
    done = children.run(f"{FAILS}\nfail(3)", env={"FAULTLENS_STORE": str(store)})
    assert (done.stdout, done.stderr) == ("", "")


def test_is_silent_if_stderr_goes_elsewhere(store: Path) -> None:
    source = "fail(1); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)"
    assert said(source, store) == []


def test_is_silent_if_the_program_turns_it_off(store: Path) -> None:
    assert said("fail(1); import faultlens; faultlens.disable()", store) == []


def test_a_background_job_is_silent(store: Path) -> None:
    """A terminal can be set to stop a background process that writes to it."""
    background = """
import fcntl, os, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
tty = termios.tcgetattr(1)
tty[3] |= termios.TOSTOP
termios.tcsetattr(1, termios.TCSANOW, tty)
sys.exit(subprocess.run(sys.argv[1:], preexec_fn=os.setpgrp).returncode)
"""
    assert said("fail(1)", store, shell=background) == []


# One line, however many processes have the terminal.

ONE = ["faultlens: 1 failure counted; see it with: faultlens top"]
SOME = ["faultlens: failures counted; see them with: faultlens top"]


def test_a_forked_child_is_silent(store: Path) -> None:
    source = """
        if os.fork() == 0:
            fail(5)
            sys.exit()
        os.wait()
        fail(1)
    """
    assert said(source, store, {"PYTHONWARNINGS": "ignore"}) == ONE


def test_the_workers_of_a_server_are_silent(store: Path) -> None:
    """The master forks before it knows of any SDK, and counts nothing, as gunicorn's."""
    program = """
import os, sys
for _ in range(3):
    if os.fork() == 0:
        import flyte.errors
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            sys.exit()
for _ in range(3):
    assert os.wait()[1] == 0
"""
    with terminal.terminal("-c", program, env={"FAULTLENS_STORE": str(store)}) as run:
        assert (run.ends(), run.written) == (0, "")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_of_a_pool_only_the_parent_speaks(method: str, store: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""{FAILS}
if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context({method!r}).Pool(3) as pool:
        pool.map(fail, [1] * 12)
        pool.close()
        pool.join()
""")
    env = {"FAULTLENS_STORE": str(store), "PYTHONWARNINGS": "ignore"}
    with terminal.terminal(str(program), env=env) as run:
        assert run.ends() == 0, run.written
        assert run.written.splitlines() == SOME


def test_children_that_count_nothing_leave_no_line(store: Path) -> None:
    source = "import subprocess; subprocess.run([sys.executable, '-c', '2 ** 1000'], check=True)"
    assert said("fail(1)", store) == ONE
    assert said(source, store) == []


def test_a_program_that_the_program_runs_is_silent(store: Path) -> None:
    run = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}], check=True)"
    runs_a_failing_one = run.format(f"{FAILS}\nfail(1)")
    assert said(f"fail(1); {runs_a_failing_one}", store) == ONE
    assert said(runs_a_failing_one, store) == SOME


def test_a_program_whose_parent_counts_nothing_speaks(store: Path) -> None:
    """As that of a shell, of make, or of another Python."""
    run = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}], check=True)"
    source = run.format(f"{FAILS}\nfail(1)")
    with terminal.terminal("-c", source, env={"FAULTLENS_STORE": str(store)}) as program:
        assert (program.ends(), program.written.splitlines()) == (0, ONE)
