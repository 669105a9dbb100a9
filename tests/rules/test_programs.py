"""The user's rules and the profile in programs that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import children

pytest.importorskip("flyte")
pytest.importorskip("durable_workflow")

RAISES = """
    import flyte.errors, inside
    class Mine(flyte.errors.OOMError): pass
    for cls in (flyte.errors.OOMError, Mine, flyte.errors.RuntimeUserError):
        try:
            raise cls("CODE", "message")
        except Exception:
            pass
    inside.report(inside.failures())
"""


def write(tmp_path: Path, text: str) -> dict[str, str | None]:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return {"FAULTLENS_RULES": str(path)}


def test_a_rule_moves_a_class_and_its_subclasses(tmp_path: Path) -> None:
    env = write(tmp_path, 'flyte.errors.OOMError = "system"')
    assert children.report(RAISES, env=env) == {
        "flyte.errors.OOMError|system|w": 1,
        "__main__.Mine|system|w": 1,
        "flyte.errors.RuntimeUserError|user|w": 1,
    }


def test_a_bad_file_leaves_the_built_in_rules_and_the_program(tmp_path: Path) -> None:
    done = children.run(RAISES, env=write(tmp_path, 'flyte.errors.OOMError = "sytem"'))
    assert '"flyte.errors.OOMError|user|w": 1' in done.stdout
    assert done.stderr.count("FAULTLENS_RULES=") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'flyte.errors.Nonsuch = "user"',
            "line 1: the rule for flyte.errors.Nonsuch changes nothing: the installed flyte has no "
            "such class.",
        ),
        (
            'no_such_package.errors.Error = "user"',
            "the rule for no_such_package.errors.Error changes nothing: the package "
            "no_such_package is not installed.",
        ),
        (
            '[[rule]]\nclass = "flyte.errors.OOMErorr"\nkind = "user"',
            "line 1: the rule for flyte.errors.OOMErorr changes nothing: the installed flyte has "
            "no such class: did you mean flyte.errors.OOMError?",
        ),
        (
            '[[rule]]\ncause = "builtins.ConectionError"\nkind = "user"',
            "the rule for builtins.ConectionError changes nothing: builtins has no such class: did "
            "you mean builtins.ConnectionError?",
        ),
        (
            '[[rule]]\ncause = "htttpx.*"\nkind = "user"',
            "the rule for htttpx.* changes nothing: the package htttpx is not installed: did you "
            "mean httpx?",
        ),
        (
            '[[rule]]\ncause = "os.*"\nkind = "user"\n[[rule]]\ncause = "os.path.*"\nkind = "user"',
            "line 4: the rule changes nothing: the rule on line 1 matches first.",
        ),
    ],
)
def test_a_rule_that_can_never_match_is_a_warning(tmp_path: Path, text: str, says: str) -> None:
    done = children.run(RAISES, env=write(tmp_path, text))
    assert says in done.stderr
    assert done.stderr.count("changes nothing") == 1


@pytest.mark.parametrize(
    "text",
    [
        '[[rule]]\ncause = "botocore_of_another_image.exceptions.*"\nkind = "user"',
        '[[rule]]\ncause = "__main__.Mine"\nkind = "user"',
        '__main__.DefinedLater = "user"',
        "'App\\Exceptions\\Broken' = 'system'",
    ],
)
def test_a_rule_that_may_match_is_not_a_warning(tmp_path: Path, text: str) -> None:
    done = children.run(RAISES, env={**write(tmp_path, text), "FAULTLENS_PROFILE": "operator"})
    assert done.stderr == ""


# A native exception has no SDK class: its own class decides.

NATIVE = """
    import flyte, inside
    env = flyte.TaskEnvironment("report")

    class QuotaExceeded(Exception): pass
    class Wrapped(Exception): pass

    @env.task
    async def clean(name: str) -> int:
        if name == "quota":
            raise QuotaExceeded("too many")
        if name == "lost":
            raise ConnectionResetError(104, "reset")
        if name == "full":
            raise OSError(28, "No space left on device")
        if name == "wrapped":
            try:
                raise QuotaExceeded("too many")
            except QuotaExceeded as error:
                raise Wrapped("no luck") from error
        raise ValueError("bad")

    flyte.init()
    for name in ("quota", "lost", "full", "wrapped", "bad"):
        try:
            flyte.with_runcontext(mode="local").run(clean, name)
        except flyte.errors.BaseRuntimeError:
            pass
    inside.report([inside.samples("faultlens_issues_total"), inside.suppressed()])
"""


def issues(env: dict[str, str | None]) -> dict[str, tuple[str, str, str]]:
    """Kind, reason and owner by code."""
    found: dict[str, float] = children.report(NATIVE, env=env)[0]
    assert set(found.values()) == {1}
    split: list[list[str]] = [series.split("|") for series in found]
    return {code: (kind, reason, owner) for _, code, _, kind, reason, owner in split}


def test_rules_reach_a_native_exception_that_ends_a_task(tmp_path: Path) -> None:
    env = write(
        tmp_path,
        """
        __main__.QuotaExceeded = "unknown"
        [builtins]
        ConnectionError = "system"
        [[rule]]
        class = "flyte.errors.RuntimeUserError"
        cause = "OSError"
        code = "OS*"
        message = "^[[]Errno 28[]]"
        kind = "system"
        reason = "disk"
        owner = "data-platform"
        """,
    )
    found = issues(env)
    assert found["QuotaExceeded"][0] == "unknown"
    assert found["Wrapped"][0] == "unknown"  # by its cause
    assert found["ConnectionResetError"][0] == "system"
    assert found["OSError"] == ("system", "disk", "data-platform")
    assert found["ValueError"][0] == "user"


def test_the_operator_s_profile(tmp_path: Path) -> None:
    found = issues({"FAULTLENS_PROFILE": "operator"})
    assert found["ConnectionResetError"] == ("system", "network", "")
    assert found["OSError"] == ("system", "disk", "")
    assert found["ValueError"][0] == "user"
    assert issues({})["OSError"][0] == "user"


def test_an_unknown_profile_is_one_warning() -> None:
    done = children.run(RAISES, env={"FAULTLENS_PROFILE": "oprator"})
    assert (
        done.stderr == "faultlens: FAULTLENS_PROFILE='oprator': expected operator; it is ignored.\n"
    )


def test_a_native_class_can_be_suppressed() -> None:
    found: Any = children.report(
        NATIVE, env={"FAULTLENS_SUPPRESS": "__main__.QuotaExceeded, ConnectionError"}
    )
    failures, suppressed = found
    assert sorted(series.split("|")[1] for series in failures) == ["OSError", "ValueError"]
    configured = [series for series in suppressed if series.endswith("|configured")]
    assert sum(suppressed[series] for series in configured) == 3


RAISED_FROM = """
    import flyte.errors, inside
    class Mine(Exception):
        def __str__(self): raise AssertionError("the host's code ran")
    def attempt(cause, *args):
        try:
            raise flyte.errors.RuntimeSystemError(*args) from cause
        except flyte.errors.RuntimeSystemError:
            pass
    attempt(Mine("it said no"), "A1", "m")
    attempt(KeyError("k"), "A2", "m")
    attempt(None, "A3", "it said no")
    ring = Mine("x")
    ring.__cause__ = ring
    attempt(ring, "A4", "m")
    inside.report(inside.samples("faultlens_issues_total"))
"""


def test_rules_see_the_causes_of_a_raise(tmp_path: Path) -> None:
    env = write(
        tmp_path,
        """
        [[rule]]
        cause = "__main__.Mine"
        message = "said no"
        kind = "user"
        owner = "a"
        [[rule]]
        cause = "LookupError"
        owner = "b"
        [[rule]]
        message = "said no"
        reason = "input"
        [[rule]]
        code = "*4"
        kind = "unknown"
        """,
    )
    found: dict[str, float] = children.report(RAISED_FROM, env=env)
    split: list[list[str]] = [series.split("|") for series in found]
    by_code = {row[1]: (row[3], row[5]) for row in split}
    assert by_code == {
        "A1": ("user", "a"),
        "A2": ("system", "b"),
        "A3": ("system", ""),
        "A4": ("unknown", ""),
    }
    assert next(row[4] for row in split if row[1] == "A3") == "input"
    assert not any("said no" in series for series in found)  # a message is no label


def test_every_kind_that_a_rule_can_give_starts_at_0(tmp_path: Path) -> None:
    program = """
        import faultlens, flyte.errors, inside
        inside.report(sorted(
            sample.labels["kind"]
            for metric in faultlens.collector().collect()
            for sample in metric.samples
            if sample.name == "faultlens_failures_total"
            and sample.labels["class"] == "flyte.errors.RuntimeUserError"
        ))
    """
    env = write(tmp_path, '[[rule]]\ncause = "a.B"\nkind = "system"')
    assert children.report(program, env=env) == ["system", "user"]


def test_a_class_named_by_a_carrier_counts_as_its_cause() -> None:
    program = """
        import durable_workflow.errors as errors
        from faultlens.failure import Kind
        from faultlens.rules import Rules, profile
        from faultlens.sdks.durable_workflow import DurableWorkflow

        class Adapter(DurableWorkflow):
            def native_names(self, exc):
                return ("botocore.exceptions.ReadTimeoutError",)

        adapter = Adapter(errors, Rules([profile("operator")]))
        failure = adapter.describe(errors.DurableWorkflowError("m"), None)
        print(failure.kind.value, failure.reason)
        adapter = Adapter(errors, suppress=["botocore.exceptions.ReadTimeoutError"])
        print(adapter.describe(errors.DurableWorkflowError("m"), None).role.value)
    """
    done = children.run(program, env={"FAULTLENS": None})
    assert done.stdout.split() == ["system", "storage", "configured"]
