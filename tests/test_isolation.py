"""Nothing that is run from here counts in the store of the user who runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import children

pytest.importorskip("flyte")
pytest.importorskip("durable_workflow")

ROOT = Path(__file__).parent.parent
FAILS = """
import flyte.errors
try:
    raise flyte.errors.OOMError("OOM", "m")
except flyte.errors.OOMError:
    pass
"""


def left_by(directory: Path, *args: str) -> tuple[list[str], list[str]]:
    """What a user's Python leaves: in their home, and of faultlens in their temporary directory.

    They have faultlens on, and no store chosen.
    """
    home, temporary = directory / "home", directory / "tmp"
    for made in (home, temporary):
        made.mkdir()
    env = {"HOME": str(home), "TMPDIR": str(temporary), "FAULTLENS_STORE": None, "PYTHONPATH": None}
    done = subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=children.environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (
        [path.name for path in home.iterdir()],
        [path.name for path in temporary.glob("faultlens*")],
    )


def test_any_other_program_does(tmp_path: Path) -> None:
    _, stores = left_by(tmp_path, "-c", FAILS)

    assert len(stores) == 1


@pytest.mark.parametrize(
    "args",
    [
        ("-m", "tests.sdks.flyte_flows", "ValueError"),
        ("-m", "tests.sdks.durable_flows", "an update that nobody declared"),
        ("-m", "benchmarks.run", "--help"),
        ("-c", f"import benchmarks.run\n{FAILS}"),
        (
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "tests/rules/test_programs.py",
            "-k",
            "moves_a_class",
        ),
    ],
    ids=lambda args: args[1].split()[-1],
)
def test_flows_benchmarks_and_tests_do_not(args: tuple[str, ...], tmp_path: Path) -> None:
    assert left_by(tmp_path, *args) == ([], [])


def test_a_child_without_a_store_of_its_own_is_refused() -> None:
    with pytest.raises(AssertionError):
        children.environment({"FAULTLENS_STORE": None})
