"""``faultlens explain`` names the rule that decides, with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cli import command

pytest.importorskip("flyte")

RULES = """\
flyte.errors.OOMError = "system"

[[rule]]
class = "flyte.errors.RuntimeUserError"
cause = "botocore.exceptions.*"
kind = "system"
reason = "storage"

[[rule]]
code = "E*"
message = "no space"
owner = "data-platform"
"""
USER_ERROR = "flyte.errors.RuntimeUserError"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str | None]:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return {"FAULTLENS_RULES": str(path)}


def test_says_which_rule_on_which_line_decides(env: dict[str, str | None]) -> None:
    cause = "botocore.exceptions.EndpointConnectionError"

    done = command("explain", USER_ERROR, "--cause", cause, env=env)

    by = f"FAULTLENS_RULES={env['FAULTLENS_RULES']}, line 3: class {USER_ERROR}, cause botocore"
    kind, reason, owner = done.stdout.splitlines()
    assert kind.startswith(f"kind    system   {by}")
    assert reason.startswith(f"reason  storage  {by}")
    assert owner == "owner   -        nothing gives one"
    assert done.returncode == 0
    assert done.stderr.startswith(f"faultlens: {cause} cannot be imported here, so its b")


def test_the_sdk_decides_where_no_rule_does(env: dict[str, str | None]) -> None:
    args = ("RuntimeUserError", "--code", "E1", "--message", "there is no space", "--json")
    found = json.loads(command("explain", *args, env=env).stdout)

    assert found["kind"]["value"] == "user"
    assert found["kind"]["by"].endswith("its .kind, set by RuntimeUserError")
    assert found["owner"]["value"] == "data-platform"
    assert "line 9: code E*, message no space" in found["owner"]["by"]


@pytest.mark.parametrize("suppressed", ["flyte.errors.BaseRuntimeError", "builtins.LookupError"])
def test_says_what_is_not_counted(suppressed: str) -> None:
    env = {"FAULTLENS_SUPPRESS": suppressed}
    args = ("RuntimeUserError", "--cause", "KeyError", "--json")
    found = json.loads(command("explain", *args, env=env).stdout)
    assert found["counts"] == {"value": "no", "by": f"FAULTLENS_SUPPRESS has {suppressed}"}


def test_the_profile_decides_by_the_bases_of_a_built_in_class() -> None:
    done = command(
        "explain", USER_ERROR, "--cause", "BrokenPipeError", env={"FAULTLENS_PROFILE": "operator"}
    )

    assert done.stdout.startswith("kind    system   FAULTLENS_PROFILE=operator, line ")
    assert done.stderr == ""


def test_a_user_s_subclass_is_imported(env: dict[str, str | None], tmp_path: Path) -> None:
    (tmp_path / "yourapp.py").write_text(
        "import flyte.errors\nclass Full(flyte.errors.OOMError): pass\n"
    )

    done = command("explain", "yourapp.Full", env={**env, "PYTHONPATH": str(tmp_path)})

    assert done.stdout.startswith("kind    system  FAULTLENS_RULES=")


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (
            ["flyte.errors.OOMErorr"],
            1,
            "no SDK has the class flyte.errors.OOMErorr: did you mean flyte.errors.OOMError?",
        ),
        (["ValueError"], 1, "no SDK has the class ValueError"),
        (
            ["OOMError", "--cause", "ConectionError"],
            0,
            "ConectionError cannot be imported here, so its bases are not known: did you mean "
            "ConnectionError?",
        ),
        (
            ["OOMError", "--cause", "httpx.ConectError"],
            0,
            "httpx.ConectError cannot be imported here, so its bases are not known: did you mean "
            "httpx.ConnectError?",
        ),
    ],
)
def test_an_unknown_name_is_one_line_with_a_suggestion(
    args: list[str], status: int, says: str
) -> None:
    done = command("explain", *args)

    assert done.returncode == status
    assert done.stderr.startswith(f"faultlens: {says}")
    assert done.stderr.count("\n") == 1
