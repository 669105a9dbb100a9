"""For every way to raise or not to raise, the count is exact and the host sees no change."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import pytest

from tests import children
from tests.hook.cases import CASES

_PLAIN = """
    import json, gc
    from hook import cases

    class Error(RuntimeError):
        def __init__(self, code, message):
            super().__init__(message)
            self.code = code

    class Missing(Error, ImportError):
        def __init__(self, message):
            super().__init__("missing", message)

    raised = []
"""
_HOOKED = """
    from faultlens.hook import Hook

    hook = Hook(lambda *_: raised.append(1), lambda reason, error: raised.append(reason))
    hook.watch([Error])

    def count():
        hook.poll()
        return raised.count(1) if len(raised) == raised.count(1) else raised
"""
_UNHOOKED = """
    def count():
        return 0
"""
_REPORT = """
    print(json.dumps(cases.run(cases.Sdk(Error, Missing), count)))
"""
_FLYTE = """
    import gc, json
    import inside
    from flyte.errors import RuntimeUserError as Error
    from hook import cases

    class Missing(Error, ImportError):
        def __init__(self, message):
            super().__init__("missing", message)

    gc.freeze()  # what was imported need not be searched for each case
    count = inside.total
"""
_TAKE_ALL_TOOL_IDS = """
    import sys
    for tool in (3, 4, 5):
        sys.monitoring.use_tool_id(tool, "another")
"""
_WAYS = ["hook", "flyte", *(["settrace on a new Python"] if sys.version_info >= (3, 12) else [])]


@cache
def _results(way: str, faultlens: bool) -> dict[str, Any]:
    """Run all cases in one process, which is fast."""
    if way == "flyte":
        source = _FLYTE + _REPORT
    else:
        taken = _TAKE_ALL_TOOL_IDS if way != "hook" else ""
        source = taken + _PLAIN + (_HOOKED if faultlens else _UNHOOKED) + _REPORT
    # Without faultlens only the hook is off: the child's metrics must be available either way.
    done = children.run(source, env={"FAULTLENS": "1" if faultlens and way == "flyte" else "0"})
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("case", CASES)
def test_each_raised_object_counts_once(case: str, way: str) -> None:
    assert _results(way, faultlens=True)[case]["counted"] == CASES[case].raises


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_host_sees_the_same_as_without_faultlens(case: str, way: str) -> None:
    assert (
        _results(way, faultlens=True)[case]["seen"] == _results(way, faultlens=False)[case]["seen"]
    )


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("case", CASES)
def test_no_trace_function_is_left_behind(case: str, way: str) -> None:
    assert _results(way, faultlens=True)[case]["clean"]
