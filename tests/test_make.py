"""`make`, and the plan of the full run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import matrix
from tests.children import TIMEOUT
from tests.matrix import ROOT, SUITES, TESTS
from tests.servers import needs

pytestmark = needs("make")

MAKEFILE = (ROOT / "Makefile").read_text()
VERSION = matrix.version(sys.executable)


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, also if make runs these tests."""
    own = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "TEST_ON", "FLOWS_ON")
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in own},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without tests, in which the environments of this Python and of lint are built."""
    (tmp_path / "tests").mkdir()
    for name in ("Makefile", "pyproject.toml", "tests/matrix.py", "tests/requirements"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    environments = tmp_path / ".venv"
    script(environments / f"{VERSION}-newest/bin/python", f'exec {sys.executable} "$@"')
    script(environments / "lint/bin/ruff", "exit 0")
    script(environments / "lint/bin/mypy", "exit 0")
    for environment in environments.iterdir():
        (environment / ".done").touch()
    return tmp_path


def test_make_without_a_target_lists_each_target_with_what_it_does() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)) - {"supported"}
    assert {"demo", "test", "flows", "lint"} < targets
    listed = re.findall(r"^  make ([a-z]+) +\S", make().stdout, re.MULTILINE)
    assert sorted(listed) == sorted(targets)


@pytest.mark.parametrize("target", ["test", "demo", "flows", "lint"])
def test_on_python_3_9_make_says_in_one_line_which_python_it_needs(
    target: str, tmp_path: Path
) -> None:
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    (tmp_path / "tests/requirements").mkdir(parents=True)
    (tmp_path / "tests/requirements/x.txt").touch()
    script(
        tmp_path / "python",
        f"""
        case $1 in
          --version) echo Python 3.9.18 ;;
          -c) exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 18); $2" ;;
          *) echo ran; touch ran ;;
        esac""",
    )
    done = make(target, "PYTHON=./python", folder=tmp_path)
    assert done.returncode != 0
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "needs Python 3.10 or later, and ./python is Python 3.9.18." in done.stderr
    assert f"make {target} PYTHON=python3.12" in done.stderr


def test_a_red_lint_environment_or_suite_stops_nothing_and_the_end_says_so(checkout: Path) -> None:
    script(checkout / ".venv/lint/bin/mypy", "exit 1")
    for suite in ("hook", "sinks"):
        (checkout / "tests" / suite).mkdir()
    (checkout / "tests/hook/test_red.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_skipped(): pytest.skip('not today')\n"
    )
    (checkout / "tests/hook/test_broken.py").write_text("import nothing\n")
    (checkout / "tests/sinks/test_green.py").write_text("def test_good(): pass\n")

    on = f"nopython:oldest:hook {sys.executable}:newest:hook,sinks"
    done = make("test", f"PYTHON={sys.executable}", f"TEST_ON={on}", folder=checkout)

    assert done.returncode != 0
    first, *_ = done.stdout.splitlines()
    assert re.fullmatch(r"This takes about \d+ minutes on two idle cores:", first)
    table = done.stdout[done.stdout.index("environment     suite") :]
    rows = [line.split()[:-1] for line in table.splitlines()[1:5]]
    assert rows == [
        ["lint", "0", "1", "0"],
        ["nopython-oldest", "0", "1", "0"],
        [f"{VERSION}-newest", "hook", "1", "2", "1"],
        [f"{VERSION}-newest", "sinks", "1", "0", "0"],
    ]
    assert f"  {VERSION}-newest hook: tests.hook.test_red::test_bad" in table
    assert "  1 not today" in table
    assert re.fullmatch(r"2 passed, 4 failed, 1 skipped in \d+:\d\d", done.stdout.splitlines()[-1])


def test_all_green_is_success(checkout: Path) -> None:
    (checkout / "tests/test_anything.py").write_text("def test_good(): pass\n")
    on = f"{sys.executable}:newest:package"
    done = make("test", f"PYTHON={sys.executable}", f"TEST_ON={on}", folder=checkout)
    assert done.returncode == 0, done.stderr
    assert "\n2 passed, 0 failed, 0 skipped in" in done.stdout


def test_a_suite_without_tests_is_red(checkout: Path) -> None:
    (checkout / "tests/hook").mkdir()
    on = f"{sys.executable}:newest:hook"
    done = make("test", f"PYTHON={sys.executable}", f"TEST_ON={on}", folder=checkout)
    assert "\n1 passed, 1 failed, 0 skipped in" in done.stdout
    assert done.returncode != 0


@pytest.mark.parametrize("status", [0, 1])
def test_the_demo_shows_that_its_setup_goes_on_and_whether_it_failed(
    status: int, tmp_path: Path
) -> None:
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    pip = tmp_path / "pip"
    script(
        pip,
        f"echo Collecting one; echo '  Downloading one'; echo Collecting two; exit {status}",
    )
    script(
        tmp_path / "python",
        f"""
        case $1 in
          -c) exec {sys.executable} "$@" ;;
          -m) mkdir -p .venv/demo/bin && cp pip .venv/demo/bin/python
              ln -sf /bin/true .venv/demo/bin/faultlens ;;
        esac""",
    )
    done = make("demo", "PYTHON=./python", folder=tmp_path)
    assert done.stdout.endswith(" ..\n")
    assert (done.returncode == 0) is (status == 0)
    assert (tmp_path / ".venv/demo/.done").exists() is (status == 0)


def test_the_oldest_sdks_are_not_tried_where_they_cannot_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert [e.sdks for e in matrix.plan("test", [])] == ["oldest", "newest"]
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert [e.sdks for e in matrix.plan("test", [])] == ["newest"]
    assert [e.sdks for e in matrix.plan("flows", [])] == ["between", "newest"]


def test_each_test_is_in_one_suite() -> None:
    files = {path.relative_to(ROOT) for path in TESTS.rglob("test_*.py")}
    for file in files:
        suites = [
            suite
            for suite in SUITES
            if suite != "flows" and any(file.is_relative_to(p) for p in matrix.paths(suite))
        ]
        assert len(suites) == 1, (file, suites)


PLAN = [
    (python, sdks, suites.split(","))
    for python, sdks, suites in re.findall(
        r"^  (3\.\d+):(\w+):([\w,]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE
    )
]
"""What `.ci/run` runs: Python, SDKs, suites."""


def test_the_full_run_has_each_python_that_the_package_is_for() -> None:
    pythons = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert len(pythons) >= 6
    assert {python for python, _, _ in PLAN} == set(pythons)


def test_the_full_run_has_each_suite() -> None:
    assert {suite for _, _, suites in PLAN for suite in suites} == set(SUITES)


def met(suite: str) -> set[tuple[bool, str]]:
    """Whether raises are detected in the new way, and the SDKs, wherever a suite runs."""
    return {
        (int(python.split(".")[1]) >= 12, sdks) for python, sdks, suites in PLAN if suite in suites
    }


@pytest.mark.parametrize("suite", ["hook", "sdks"])
def test_both_ways_of_raise_detection_meet_both_ends_of_the_sdks(suite: str) -> None:
    assert met(suite) >= {(new, sdks) for new in (False, True) for sdks in ("oldest", "newest")}


@pytest.mark.parametrize("suite", ["sinks", "exposition", "package", "demo"])
def test_the_other_suites_meet_each_of_them_once(suite: str) -> None:
    assert met(suite) >= {(False, "oldest"), (True, "newest")}
