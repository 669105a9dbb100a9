"""Runs suites on several Pythons and sets of SDKs: ``make test``, ``make flows`` and ``.ci/run``.

    python3 -m tests.matrix test python3.11:oldest python3.13:newest:hook,sdks

Each argument is PYTHON:SDKS[:SUITE,...]; SDKS names a file of tests/requirements. A failure does
not stop the rest. A table at the end shows all results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent

SDKS = ("oldest", "between", "newest")

SUITES: Mapping[str, tuple[int, Sequence[str]]] = {
    "hook": (20, ["hook"]),
    "sdks": (190, ["sdks"]),
    "sinks": (40, ["sinks"]),
    "exposition": (105, ["exposition", "test_serve.py", "test_deployment.py"]),
    "package": (155, []),  # all tests that no other suite has
    "demo": (55, ["demo"]),
    "dashboards": (235, ["dashboards", "test_dashboards.py"]),
    "flows": (75, []),  # no tests but the programs in FLOWS
}
"""For each suite its seconds on two idle cores, and where its tests are."""

FLOWS = ("tests.sdks.flyte_flows", "tests.sdks.durable_flows", "tests.sdks.temporal_flows")
"""They print what happens in an SDK, how often it truly goes wrong, and what is counted."""

DEFAULTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "test": {
        "oldest": ["hook", "sdks", "sinks", "exposition", "package"],
        "newest": [suite for suite in SUITES if suite != "flows"],
    },
    "flows": {sdks: ["flows"] for sdks in SDKS},
}
"""What a command runs unless its arguments say otherwise: sets of SDKs, each with its suites."""

WITHOUT_OLDEST = (3, 14)
"""The first Python on which flyte 2.0.0b33 cannot be installed."""

BUILD_SECONDS = 40


@dataclass
class Environment:
    """A virtual environment in .venv, and the suites to run there."""

    name: str
    python: str
    sdks: str
    suites: list[str]

    @property
    def folder(self) -> Path:
        return ROOT / ".venv" / self.name


@dataclass(frozen=True)
class Result:
    """What a suite came to in an environment."""

    environment: str
    suite: str
    seconds: float
    passed: int = 0
    failed: Sequence[str] = ()
    """The tests that failed."""
    skipped: Sequence[str] = ()
    """The reason of each skipped test."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.matrix")
    parser.add_argument("command", choices=DEFAULTS)
    parser.add_argument("environments", nargs="*", metavar="PYTHON:SDKS[:SUITE,...]")
    arguments = parser.parse_args()
    environments = plan(arguments.command, arguments.environments)
    started = time.monotonic()
    announce(environments)
    results = [lint()] if arguments.command == "test" else []
    with ThreadPoolExecutor(2) as pool:  # pip uses one core
        problems = list(pool.map(build, environments))
    for environment, problem in zip(environments, problems, strict=True):
        if problem:
            results.append(problem)
        else:
            results += [run(environment, suite) for suite in environment.suites]
    summarise(results, time.monotonic() - started)
    sys.exit(any(result.failed for result in results))


def plan(command: str, arguments: Sequence[str]) -> list[Environment]:
    """The environments that the arguments name, or the default ones of this Python."""
    defaults = DEFAULTS[command]
    found: dict[str, Environment] = {}
    for argument in arguments or [
        f"{sys.executable}:{sdks}"
        for sdks in defaults
        if sdks != "oldest" or sys.version_info < WITHOUT_OLDEST
    ]:
        python, sdks, named = (*argument.split(":"), "", "")[:3]
        suites = named.split(",") if named else defaults.get(sdks, [])
        if sdks not in SDKS or not suites or not set(suites) <= set(SUITES):
            sys.exit(
                f"{argument} is not PYTHON:SDKS:SUITE,... where SDKS is one of "
                f"{', '.join(SDKS)} and SUITE one of {', '.join(SUITES)}"
            )
        name = f"{version(python)}-{sdks}"
        found.setdefault(name, Environment(name, python, sdks, [])).suites += suites
    return list(found.values())


def version(python: str) -> str:
    """Of this Python, 3.13; its own name if it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return Path(python).name
    return done.stdout.strip()


def announce(environments: Sequence[Environment]) -> None:
    suites = [suite for environment in environments for suite in environment.suites]
    new = [e for e in environments if not (e.folder / ".done").exists()]
    seconds = sum(SUITES[suite][0] for suite in suites) + BUILD_SECONDS * len(new)
    say(f"This takes about {1 + seconds // 60} minutes on two idle cores:")
    for environment in environments:
        say(f"  {environment.name}: {', '.join(environment.suites)}")


def lint() -> Result:
    say("\n== lint")
    started = time.monotonic()
    ok = call("make", "--no-print-directory", "lint", f"PYTHON={sys.executable}")
    seconds = time.monotonic() - started
    return Result("lint", "", seconds, passed=ok, failed=() if ok else ["see above"])


def build(environment: Environment) -> Result | None:
    """Build an environment unless it is there; returns what is wrong."""
    started = time.monotonic()
    variables = (f"PYTHON={environment.python}", f"SDKSET={environment.sdks}")
    if call("make", "--silent", f".venv/{environment.name}/.done", *variables):
        return None
    return Result(
        environment.name, "", time.monotonic() - started, failed=["it could not be built"]
    )


def run(environment: Environment, suite: str) -> Result:
    say(f"\n== {environment.name}: {suite}")
    started = time.monotonic()
    python = str(environment.folder / "bin" / "python")
    passed, failed, skipped = flows(python) if suite == "flows" else tests(python, suite)
    return Result(environment.name, suite, time.monotonic() - started, passed, failed, skipped)


def flows(python: str) -> tuple[int, list[str], list[str]]:
    def flow(module: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", module],
            cwd=ROOT,
            env={**os.environ, "FAULTLENS": "1", "OTEL_EXPORTER_PROMETHEUS_PORT": "0"},
            capture_output=True,
            text=True,
            check=False,
        )

    failed = []
    with ThreadPoolExecutor() as pool:
        for module, done in zip(FLOWS, pool.map(flow, FLOWS), strict=True):
            say(done.stdout)
            if done.returncode != 0:
                say(done.stderr)
                failed.append(module)
    return len(FLOWS) - len(failed), failed, []


def tests(python: str, suite: str) -> tuple[int, list[str], list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ok = call(
            *(python, "-m", "pytest", "--numprocesses=auto", "--dist=loadfile"),
            *(f"--junit-xml={report}", *paths(suite)),
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failed, skipped = [], []
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif (skip := case.find("skipped")) is not None:
            skipped.append(skip.get("message", ""))
    passed = len(cases) - len(failed) - len(skipped)
    if not ok and not failed:
        failed.append("pytest itself")
    return passed, failed, skipped


def paths(suite: str) -> list[str]:
    """What pytest runs for a suite."""
    parts = SUITES[suite][1]
    if not parts:
        taken = {part for _, parts in SUITES.values() for part in parts}
        found = {file.relative_to(TESTS).parts[0] for file in TESTS.rglob("test_*.py")}
        parts = sorted(found - taken)
    return [f"tests/{part}" for part in parts]


def call(*command: str) -> bool:
    """Run a command with its output on ours; whether it succeeded."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def summarise(results: Sequence[Result], seconds: float) -> None:
    say(f"\n{'environment':16}{'suite':12}{'passed':>8}{'failed':>8}{'skipped':>9}{'time':>8}")
    for r in results:
        counts = f"{r.passed:8}{len(r.failed):8}{len(r.skipped):9}"
        say(f"{r.environment:16}{r.suite:12}{counts}{minutes(r.seconds):>8}")
    skips = Counter(reason for result in results for reason in result.skipped)
    if skips:
        say("\nskipped:")
    for reason, count in skips.most_common():
        say(f"  {count} {reason}")
    failures = [(r, test) for r in results for test in r.failed]
    if failures:
        say("\nfailed:")
    for r, test in failures:
        say(f"  {r.environment} {r.suite or '-'}: {test}")
    passed = sum(result.passed for result in results)
    counts = f"{passed} passed, {len(failures)} failed, {skips.total()} skipped"
    say(f"\n{counts} in {minutes(seconds)}")


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def say(text: str) -> None:
    # Flushed, because what is called writes to the same place.
    print(text, flush=True)


if __name__ == "__main__":
    main()
