"""docs/adapters.md builds an adapter; this runs exactly its text."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

from faultlens.sdks import INTERFACE, Sdk
from tests import children

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()

ERRORS = """
class AcmeError(Exception): pass
class BadInput(AcmeError): pass
class NodeLost(AcmeError): pass
class Retry(AcmeError): pass
class JobFailed(AcmeError):
    def __init__(self, type_name):
        self.type_name = type_name
"""
WORKER = """
def run(name, job):
    return job()
"""


def block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```\n<!-- /{mark} -->", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def install(folder: Path) -> dict[str, str | None]:
    for name, text in {
        "acme/__init__.py": "",
        "acme/errors.py": ERRORS,
        "acme/worker.py": WORKER,
        "acme_faultlens.py": block("adapter"),
        "acme_faultlens-1.0.dist-info/entry_points.txt": next(
            text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "project" in text
        )
        .replace('project.entry-points."faultlens.sdks"', "faultlens.sdks")
        .replace('"', ""),
        "test_acme.py": block("test"),
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}", "FAULTLENS_SERVE": "0"}


def test_the_adapter_does_what_the_page_says(tmp_path: Path) -> None:
    found = children.report(
        """
        import acme.worker, acme.errors, inside
        def fail(exc):
            raise exc
        def attempt(name, job):
            try:
                acme.worker.run(name, job)
            except acme.errors.AcmeError:
                pass
        attempt("clean", lambda: None)
        attempt("clean", lambda: fail(acme.errors.BadInput("no such column")))
        attempt("train", lambda: fail(acme.errors.NodeLost("node-7")))
        attempt("train", lambda: fail(acme.errors.Retry()))
        attempt("client", lambda: fail(acme.errors.JobFailed("ValueError")))
        inside.report([inside.samples("faultlens_issues_total"), inside.suppressed(),
                       inside.samples("faultlens_attempts_total")])
        """,
        env=install(tmp_path),
    )
    assert found == [
        {
            "acme.errors.BadInput||clean|user|input|": 1,
            "acme.errors.NodeLost||train|system|preempted|": 1,
        },
        {
            "acme.errors.JobFailed|unknown|w|propagated": 1,
            "acme.errors.Retry|unknown|w|control_flow": 1,
        },
        {
            "acme|clean|ok": 1,
            "acme|clean|user": 1,
            "acme|train|system": 1,
            "acme|train|propagated": 1,
            "acme|client|propagated": 1,
        },
    ]


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    env = children.environment({**install(tmp_path), "FAULTLENS": "0"})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_acme.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_adapter_is_short_and_of_this_interface() -> None:
    assert len(block("adapter").splitlines()) <= 60
    assert f"    interface = {INTERFACE}\n" in block("adapter")


def test_the_page_lists_everything_that_can_be_filled_in() -> None:
    listed = set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)) - {"class"}
    variables = {"interface", "package", "distribution", "errors_modules", "hooked_modules"}
    source = inspect.getsource(Sdk)
    methods = set(
        re.findall(r"    def (\w+)\(", source[source.index("# What an adapter fills in") :])
    )
    assert listed == variables | methods - {"lacking", "ended_unseen"}
