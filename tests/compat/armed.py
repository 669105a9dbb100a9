"""A pytest plugin: faultlens counts while the tests of another package run.

An exception of a stand-in SDK is constructed before each test and raised after it, so that raises
are looked at all the while. At the end it writes what was raised and counted to the file that
COMPAT_REPORT names.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import faultlens

_errors: Any = ModuleType("flyte.errors")
_errors.RuntimeUserError = type("RuntimeUserError", (RuntimeError,), {"__module__": "flyte.errors"})
sys.modules.update({"flyte": ModuleType("flyte"), "flyte.errors": _errors})
faultlens.enable()

_raised = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    global _raised
    pending = _errors.RuntimeUserError("c", "m")
    try:
        return (yield)
    finally:
        with contextlib.suppress(_errors.RuntimeUserError):
            _raised += 1
            raise pending


def pytest_sessionfinish() -> None:
    counted = {"raised": _raised, "failures": 0.0, "suppressed": 0.0, "dropped": 0.0}
    for metric in faultlens.collector().collect():
        for sample in metric.samples:
            name = sample.name.removeprefix("faultlens_").removesuffix("_total")
            if name in counted:
                counted[name] += sample.value
    Path(os.environ["COMPAT_REPORT"]).write_text(json.dumps(counted))
