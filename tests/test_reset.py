"""``faultlens reset``: it asks, it forgets, and it harms nobody who counts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import children
from tests.test_cli import command
from tests.test_serve import FAIL, fail, serving

pytest.importorskip("flyte")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with three failures of a process that has ended."""
    store = tmp_path / "store"
    fail(store, 3)
    return store


def reset(store: Path | str, *args: str) -> subprocess.CompletedProcess[str]:
    return command("reset", "--store", str(store), *args)


def total(store: Path) -> str:
    return command("top", "--once", "--store", str(store)).stdout.splitlines()[0]


THREE = "3 failures: 0 system, 0 unknown, 3 user"


def test_says_what_it_forgets_and_forgets_it(store: Path) -> None:
    assert total(store) == THREE

    done = reset(store, "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    assert first.startswith(f"{store}: 3 failures (0 system, 0 unknown, 3 user); the last one was ")
    assert second == "Also 0 raises not counted again, and all attempts."
    assert last == "Forgotten. Prometheus takes it for a restart."
    assert total(store).startswith("Nothing is counted in ")
    assert list(store.glob("*.ledger")) == []


def test_counting_goes_on_from_0(store: Path) -> None:
    reset(store, "--yes")
    fail(store, 1)
    assert total(store) == "1 failure: 0 system, 0 unknown, 1 user"
    assert reset(store, "--yes").returncode == 0
    fail(store, 2)
    assert total(store) == "2 failures: 0 system, 0 unknown, 2 user"


def test_asks_first_and_without_an_answer_it_does_nothing(store: Path) -> None:
    done = reset(store)

    assert done.returncode == 1
    expected = "faultlens: reset asks before it forgets, and nobody can answer here: give --yes\n"
    assert done.stderr == expected
    assert total(store) == THREE


@pytest.mark.parametrize(
    ("answer", "status", "says", "left"),
    [
        ("y\n", 0, "Forgotten.", "Nothing is counted in "),
        ("\n", 1, "Nothing was forgotten.", THREE),
        ("yep\n", 1, "Nothing was forgotten.", THREE),
        ("\x04", 1, "Nothing was forgotten.", THREE),
    ],
    ids=["yes", "enter", "nonsense", "Ctrl-D"],
)
def test_in_a_terminal_it_asks(answer: str, status: int, says: str, left: str, store: Path) -> None:
    terminal = pytest.importorskip("tests.terminal", reason="has no pseudo-terminals")
    arguments = ("-m", "faultlens", "reset", "--store", str(store))
    with terminal.terminal(*arguments, env={}) as run:
        run.wait_for("Forget all this? [y/N] ")
        run.press(answer)
        assert run.ends() == status
        assert says in run.written
    assert total(store).startswith(left)


def test_refuses_while_a_process_counts(store: Path) -> None:
    goes_on = f"{FAIL}\n    print(flush=True)\n    sys.stdin.read()\n    {FAIL.strip()}"
    with subprocess.Popen(
        [sys.executable, "-c", _dedented(goes_on), "1"],
        env=children.environment({"FAULTLENS_STORE": str(store)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()

        done = reset(store, "--yes")

        assert done.returncode == 1
        assert done.stderr == (
            f"faultlens: 1 process still counts in {store}: {program.pid}. Nothing was forgotten; "
            "end what runs, then reset.\n"
        )
        program.communicate("", timeout=children.TIMEOUT)
        assert program.returncode == 0
    assert total(store) == "5 failures: 0 system, 0 unknown, 5 user"
    assert reset(store, "--yes").returncode == 0


def test_what_serves_the_counts_starts_anew(store: Path) -> None:
    with serving(store) as server:
        assert server.failures() == 3
        assert reset(store, "--yes").returncode == 0
        assert server.failures() == 0
        fail(store, 1)
        assert server.failures() == 1
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(children.TIMEOUT)
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


def test_other_files_stay(store: Path) -> None:
    names = ("notes.txt", "reset", "ledger")
    for name in names:
        (store / name).write_text("mine")
    (store / "broken.ledger").write_bytes(b"too short")

    assert reset(store, "--yes").returncode == 0

    assert [(store / name).read_text() for name in names] == ["mine"] * len(names)
    assert (store / "broken.ledger").exists()


def test_where_there_is_nothing_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    done = reset(tmp_path / "none", "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Nothing is counted in {tmp_path / 'none'}.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_must_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = reset(tmp_path / "file", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"faultlens: the store cannot be used: {tmp_path / 'file'} is ")
    assert len(done.stderr.splitlines()) == 1
    expected = "faultlens: FAULTLENS_STORE=off: there is no store. Name one with --store\n"
    assert command("reset", "--yes").stderr == expected


def _dedented(source: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in source.splitlines())
