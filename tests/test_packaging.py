"""The wheel and the editable install, in environments of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests import children

ROOT = Path(__file__).parent.parent


def pip(*args: str, python: Path | str = sys.executable) -> None:
    # PIP_NO_INDEX: what a test needs must be there; the network is for installing the project.
    done = subprocess.run(
        [str(python), "-m", "pip", *args],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=children.TIMEOUT,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_start_up_file_beside_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    # No faultlens.start: it makes each start of Python 3.15 slower, with the variable unset too.
    assert {name for name in top if ".dist-info" not in name} == {"faultlens", "faultlens.pth"}
    assert {"faultlens/py.typed", "faultlens/rules/operator.toml"} <= set(names)


def test_the_pth_is_one_short_line_that_looks_at_the_variable_first(wheel: Path) -> None:
    line = zipfile.ZipFile(wheel).read("faultlens.pth").decode()
    assert line.count("\n") == 1
    assert len(line) < 210
    assert line.startswith('import os; os.environ.get("FAULTLENS") and ')
    assert "exec" not in line


def test_three_packages_are_all_that_is_needed_at_run_time(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
    lines = archive.read(name).decode().splitlines()
    required = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist: ")]
    names = sorted(line.split(">")[0] for line in required if "extra ==" not in line)
    assert names == ["opentelemetry-api", "opentelemetry-sdk", "prometheus-client"]
    assert "License-Expression: Apache-2.0" in lines


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A virtual environment with nothing but faultlens in it."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    what: tuple[str, ...] = ("--target", str(site), str(wheel))
    if request.param == "editable":
        what = ("--no-build-isolation", "--prefix", str(folder), "--editable", str(ROOT))
    # --ignore-installed, else pip takes the faultlens out that is being tested.
    pip("install", "--no-deps", "--ignore-installed", *what)
    return folder / "bin" / "python"


def start(python: Path, *args: str, value: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *args],
        env=children.environment({"FAULTLENS": value, "PYTHONPATH": None}),
        capture_output=True,
        text=True,
        check=False,
        timeout=children.TIMEOUT,
    )


PRINT = "import sys; print(sorted(m for m in sys.modules if m.startswith('faultlens')))"


@pytest.mark.parametrize("options", [[], ["-I"], ["-E", "-s"], ["-B"]])
def test_a_fresh_environment_starts_faultlens_by_the_variable_alone(
    python: Path, options: list[str]
) -> None:
    on = start(python, *options, "-c", PRINT, value="1")
    assert (
        on.stdout == "['faultlens', 'faultlens.imports', 'faultlens.startup', 'faultlens.switch']\n"
    )
    off = start(python, *options, "-c", PRINT, value=None)
    assert (off.stdout, off.stderr, on.stderr) == ("[]\n", "", "")


def test_no_environment_gets_another_start_up_file(python: Path) -> None:
    assert not list(python.parents[1].rglob("*.start"))


@pytest.mark.parametrize("left", ["nothing", "an empty package"])
def test_a_start_up_file_whose_package_is_gone_says_nothing(
    wheel: Path, tmp_path: Path, left: str
) -> None:
    """It outlives the checkout of an editable install, for one."""
    venv.create(tmp_path, symlinks=True)
    site = next(tmp_path.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extract("faultlens.pth", site)
    if left != "nothing":
        (site / "faultlens").mkdir()
    for value in (None, "1"):
        done = start(tmp_path / "bin" / "python", "-c", PRINT, value=value)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_bad_value_warns_once_though_the_line_runs_twice(python: Path) -> None:
    done = start(python, "-c", "pass", value="banana")
    assert done.returncode == 0
    assert done.stderr.count("FAULTLENS='banana'") == 1


def test_the_command_is_there(python: Path) -> None:
    command = python.parent / "faultlens"
    if not command.exists():  # pip's --target puts no commands on the path
        command = next(python.parents[1].glob("lib/python*/site-packages/bin/faultlens"))
    assert command.exists()
