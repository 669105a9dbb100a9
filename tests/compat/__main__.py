"""Do the tests of other packages pass with faultlens as they do without?

    python -m tests.compat

Runs the test suites of packages that raise a lot, twice each: plainly, and with the plugin `armed`.
Builds an environment of its own in a temporary folder, with this Python, and fetches the packages
and their tests from the package index. It takes 3 minutes on two idle cores. It prints a table, and
the tests that do not end alike; the exit status is 0 if there are none.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.children import TIMEOUT

TESTS = Path(__file__).parents[1]


class Package(NamedTuple):
    """A package whose source distribution has its tests."""

    name: str
    version: str
    needs: Sequence[str]
    """What its tests import."""
    pytest: Sequence[str]
    """The arguments for pytest."""


PACKAGES = (
    Package("tenacity", "9.2.1", ["pytest-asyncio", "tornado", "typeguard"], ["tests"]),
    Package("structlog", "26.1.0", ["pytest-asyncio", "simplejson", "time-machine"], ["tests"]),
    Package("attrs", "26.1.0", ["cloudpickle", "hypothesis"], ["tests"]),
    Package(
        "trio",
        "0.35.0",
        ["trustme", "pyOpenSSL"],
        # Not its development tools and what needs them; a warning of pytest-asyncio's is an error.
        [
            *("src/trio", "--ignore=src/trio/_tests/tools", "-k", "not static_tool"),
            *("-p", "no:asyncio"),
        ],
    ),
)

Outcomes = Mapping[str, str]
"""For each test, how it ended."""


class Row(NamedTuple):
    package: Package
    outcomes: Outcomes
    different: Mapping[str, tuple[str, str]]
    """The tests that do not end alike: how without faultlens, and how with it."""
    counted: Mapping[str, float]
    seconds: float

    @property
    def right(self) -> bool:
        exact = self.counted["failures"] == self.counted["raised"] > 0
        nothing_else = not (self.counted["suppressed"] or self.counted["dropped"])
        return bool(self.outcomes) and not self.different and exact and nothing_else


def main() -> None:
    # Trio's tests wait for it for ever where it is ignored, as in a script's background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        python = build(Path(folder))
        rows = [compare(package, python, Path(folder)) for package in PACKAGES]
    print(
        f"\n{'package':20}{'passed':>8}{'failed':>8}{'skipped':>9}{'different':>11}"
        f"{'raised':>8}{'counted':>9}{'seconds':>9}"
    )
    for row in rows:
        by = Counter(row.outcomes.values())
        print(
            f"{row.package.name + ' ' + row.package.version:20}"
            f"{by['passed']:8}{by['failed']:8}{by['skipped']:9}{len(row.different):11}"
            f"{row.counted['raised']:8}{row.counted['failures']:9.0f}{row.seconds:9.0f}"
        )
    for row in rows:
        for test, (without, armed) in row.different.items():
            print(f"{row.package.name}: {test} {without} without faultlens, {armed} with it")
    sys.exit(not all(row.right for row in rows))


def build(folder: Path) -> str:
    """An environment with faultlens, the packages and what their tests need."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    constraints = ["--constraint", str(TESTS / "requirements" / "constraints.txt")]
    needs = sorted({need for package in PACKAGES for need in package.needs})
    pinned = [f"{package.name}=={package.version}" for package in PACKAGES]
    subprocess.run(
        [*pip, "install", *constraints, str(TESTS.parent), "pytest", *needs, *pinned], check=True
    )
    sources = ["--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*pip, "download", *sources, *pinned], check=True)
    for archive in folder.glob("*.tar.gz"):
        shutil.unpack_archive(archive, folder)
    return python


def compare(package: Package, python: str, folder: Path) -> Row:
    started = time.monotonic()
    outcomes, different, counted = _both(package, python, folder)
    if different:  # some tests do not always end alike
        _, again, _ = _both(package, python, folder)
        different = {test: how for test, how in different.items() if again.get(test) == how}
    return Row(package, outcomes, different, counted, time.monotonic() - started)


def _both(
    package: Package, python: str, folder: Path
) -> tuple[Outcomes, dict[str, tuple[str, str]], dict[str, float]]:
    without = run(package, python, folder, [])
    report = folder / "counted.json"
    report.unlink(missing_ok=True)
    armed = run(package, python, folder, ["-p", "armed"])
    different = {
        test: ends
        for test in [*without, *armed.keys() - without.keys()]
        if len(set(ends := (without.get(test, "absent"), armed.get(test, "absent")))) > 1
    }
    return without, different, json.loads(report.read_text())


def run(package: Package, python: str, folder: Path, arguments: Sequence[str]) -> Outcomes:
    results = folder / "results.xml"
    results.unlink(missing_ok=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", f"--junit-xml={results}", *package.pytest, *arguments],
        cwd=folder / f"{package.name}-{package.version}",
        env={
            **os.environ,
            "FAULTLENS": "0",  # the plugin enables it
            "PYTHONPATH": str(Path(__file__).parent),
            "COMPAT_REPORT": str(folder / "counted.json"),
            "FAULTLENS_STORE": "off",
            "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if not results.exists():
        sys.exit(f"pytest itself failed on {package.name}:\n{done.stdout}\n{done.stderr}")
    found = {}
    for case in ElementTree.parse(results).iter("testcase"):
        kinds = {child.tag for child in case}
        failed, skipped = kinds & {"failure", "error"}, "skipped" in kinds
        found[f"{case.get('classname')}::{case.get('name')}"] = (
            "failed" if failed else "skipped" if skipped else "passed"
        )
    return found


if __name__ == "__main__":
    main()
