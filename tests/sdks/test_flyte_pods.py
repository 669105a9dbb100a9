"""Task pods: the real ``a0``, which runs for a second and ends right after the failure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import children

pytest.importorskip("flyte")

TASKS = """
    import asyncio, atexit, json, os, sys
    import flyte, flyte.errors
    import inside

    env = flyte.TaskEnvironment("pod", image="python:3.12-slim")

    @env.task
    async def succeeds() -> int:
        return 1

    @env.task
    async def value_error() -> int:
        raise ValueError("a bad row")

    @env.task
    def value_error_sync() -> int:
        raise ValueError("a bad row")

    @env.task
    async def system_error() -> int:
        raise flyte.errors.RuntimeSystemError("S", "m")

    @env.task
    async def custom_error() -> int:
        raise flyte.errors.CustomError("Mine", "m")

    @env.task
    async def fails_in_some_ranks() -> int:
        # As ranks do: the rank that fails ends, the others wait for it, and torchrun kills them.
        failing = os.environ["FAILING"].split()
        if os.environ["RANK"] in os.environ.get("HANDLING", "").split():
            try:
                raise flyte.errors.RuntimeSystemError("WarmCache", "handled")
            except flyte.errors.RuntimeSystemError:
                return 1
        if os.environ["RANK"] not in failing:
            if failing:
                await asyncio.Event().wait()
            return 1
        try:
            raise flyte.errors.RuntimeSystemError("NoShard", "handled")
        except flyte.errors.RuntimeSystemError:
            pass
        raise ValueError("a bad row")

    @env.task
    async def wrong_type() -> int:
        return "no number"

    @atexit.register
    def report():
        metrics = [inside.samples(f"faultlens_{name}_total") for name in ("issues", "attempts")]
        print(json.dumps([inside.failures(), inside.suppressed(), *metrics]), flush=True)
"""
# The SDK's storage has no async support for local paths: it raises and swallows an exception.
STORED = {"flyte.errors.OnlyAsyncIOSupportedError|user|w|control_flow": 1}


class Pod(NamedTuple):
    """What remains of a pod."""

    status: int
    written: set[str]
    log: list[str]
    counts: list[dict[str, float]]
    """Failures, suppressed, issues, attempts."""


def prepare(task: str, scratch: Path, module: str = "tasks_of_a_pod") -> list[str]:
    """Write a container's input files; returns its command."""
    code = scratch / "code"
    code.mkdir()
    (code / "tasks_of_a_pod.py").write_text(textwrap.dedent(TASKS))
    outputs = scratch / "outputs"
    outputs.mkdir()
    (scratch / "inputs.pb").write_bytes(b"")
    command = (
        Path(sys.executable).with_name("a0"),
        *("--inputs", scratch / "inputs.pb", "--outputs-path", outputs, "--version", "v1"),
        *("--run-base-dir", scratch / "run", "--raw-data-path", scratch / "raw"),
        *("--resolver", "flyte._internal.resolvers.default.DefaultTaskResolver"),
        *("mod", module, "instance", task),
    )
    return [str(part) for part in command]


# Only parents call the control plane.
CONTAINER = {
    "FAULTLENS_LOG": "text",
    "FAULTLENS_FLUSH_SECONDS": "60",
    "ACTION_NAME": "a0",
    "RUN_NAME": "nightly",
    "FLYTE_INTERNAL_EXECUTION_PROJECT": "sales",
    "FLYTE_INTERNAL_EXECUTION_DOMAIN": "production",
    "_U_ORG_NAME": "acme",
    "_U_EP_OVERRIDE": "http://127.0.0.1:9",
    "FLYTE_DISABLE_SENTRY": "1",
}


def run(task: str, scratch: Path, *, module: str = "tasks_of_a_pod") -> Pod:
    """Run a task as its container does."""
    command = prepare(task, scratch, module)
    done = subprocess.run(
        command,
        cwd=scratch / "code",
        env=children.environment(CONTAINER),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=False,
    )
    log = [line for line in done.stderr.splitlines() if line.startswith("faultlens: ")]
    counts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[{")]
    written = {path.name for path in (scratch / "outputs").iterdir()}
    return Pod(done.returncode, written, log, counts[0] if counts else [])


def test_a_task_that_succeeds_counts_no_failure(tmp_path: Path) -> None:
    pod = run("succeeds", tmp_path)
    assert (pod.status, pod.written) == (0, {"outputs.pb"})
    assert pod.counts == [{}, STORED, {}, {"flyte|pod.succeeds|ok": 1}]


@pytest.mark.parametrize("task", ["value_error", "value_error_sync"])
def test_a_plain_exception_counts_although_no_sdk_exception_is_raised(
    task: str, tmp_path: Path
) -> None:
    pod = run(task, tmp_path)
    assert (pod.status, pod.written) == (0, {"error.pb"})
    assert pod.counts == [
        {"flyte.errors.RuntimeUserError|user|w": 1},
        STORED,
        {f"flyte.errors.RuntimeUserError|ValueError|pod.{task}|user|code|": 1},
        {f"flyte|pod.{task}|user": 1},
    ]


@pytest.mark.parametrize(
    ("task", "series"),
    [
        ("system_error", "flyte.errors.RuntimeSystemError|system|w"),
        ("custom_error", "flyte.errors.CustomError|user|w"),
    ],
)
def test_an_sdk_exception_that_the_task_raises_counts_once(
    task: str, series: str, tmp_path: Path
) -> None:
    pod = run(task, tmp_path)
    assert (pod.status, pod.written) == (0, {"error.pb"})
    assert pod.counts[:2] == [{series: 1}, STORED]
    assert pod.counts[3] == {f"flyte|pod.{task}|{series.split('|')[1]}": 1}


def test_an_output_of_the_wrong_type_counts_once(tmp_path: Path) -> None:
    failures, _, _, attempts = run("wrong_type", tmp_path).counts
    assert failures == {"flyte.errors.RuntimeDataValidationError|user|w": 1}
    assert attempts == {"flyte|pod.wrong_type|user": 1}


def test_a_task_that_cannot_be_loaded_counts_where_the_sdk_reports_it(tmp_path: Path) -> None:
    pod = run("any", tmp_path, module="module_that_is_not_in_the_image")
    assert pod.status != 0
    # The module would have printed the counts; they are also in the log.
    failures = [line for line in pod.log if line.startswith("faultlens: failure")]
    assert len(failures) == len(pod.written)
    for line in failures:
        assert re.search(r"RuntimeUnknownError \[ModuleNotFoundError\] unknown: .* converted", line)


def test_the_log_explains_each_raise(tmp_path: Path) -> None:
    first, second = run("value_error", tmp_path).log
    assert re.sub(r"\S+/", "", first) == (
        "faultlens: failure flyte.errors.RuntimeUserError [ValueError] user: builtins.ValueError, "
        "converted by the SDK; raised at tasks_of_a_pod.py:14 in value_error"
    )
    assert re.sub(r"\S+/|:\d+", "", second) == (
        "faultlens: control_flow flyte.errors.OnlyAsyncIOSupportedError "
        "[OnlyAsyncIOSupportedError] user: swallowed by flyte.storage._storage.put_stream; "
        "raised at _storage.py in open"
    )
