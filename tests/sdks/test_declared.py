"""SDKs that a rules file declares: no adapter, only an errors module."""

from __future__ import annotations

from pathlib import Path

import pytest

from faultlens import rules
from faultlens.rules import RulesError
from tests import children
from tests.sdks import acme

RULES = """
[sdk.acme]
modules = ["acme.errors", "acme.more"]
kind = "user"

[[rule]]
class = "acme.errors.Lost"
kind = "system"
reason = "network"
owner = "platform"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str | None]:
    """The environment of a program with the made-up SDK, whose adapter is not installed."""
    pytest.importorskip("tomllib" if __import__("sys").version_info >= (3, 11) else "tomli")
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return {**acme.install(tmp_path, entry_points=""), "FAULTLENS_RULES": str(path)}


@pytest.mark.parametrize("first", ["acme.errors", "acme.more"])
def test_a_declared_sdk_s_raised_exceptions_count_and_rules_decide(
    first: str, env: dict[str, str | None]
) -> None:
    found = children.report(
        f"""
        import {first}
        import acme.errors, acme.more, inside
        from catching import catch
        class Mine(acme.errors.Refused): pass
        for cls in (acme.errors.Refused, acme.errors.Lost, acme.more.MoreError, Mine):
            catch(cls)
        try:
            try:
                raise acme.errors.Lost
            except acme.errors.Lost as error:
                raise acme.more.MoreError from error
        except acme.more.MoreError:
            pass
        acme.errors.Refused("never raised")
        inside.report([inside.failures(), inside.suppressed(),
                       inside.samples("faultlens_issues_total")])
        """,
        env=env,
    )
    assert found == [
        {
            "__main__.Mine|user|w": 1,
            "acme.errors.Lost|system|w": 2,
            "acme.errors.Refused|user|w": 1,
            "acme.more.MoreError|user|w": 1,
        },
        {"acme.more.MoreError|user|w|wrapped": 1},
        {
            "__main__.Mine|||user||": 1,
            "acme.errors.Lost|||system|network|platform": 2,
            "acme.errors.Refused|||user||": 1,
            "acme.more.MoreError|||user||": 1,
        },
    ]


def test_the_commands_know_a_declared_sdk(env: dict[str, str | None]) -> None:
    done = children.run(
        "from faultlens.commands import main; import sys; sys.exit(main())",
        *("classes", "--sdk", "acme"),
        env=env,
    )
    header, *rows = done.stdout.splitlines()
    assert header == "acme unknown: 4 classes"
    assert [row.split()[:3] for row in rows] == [
        ["acme.errors.AcmeError", "user", "-"],
        ["acme.errors.Lost", "system", "network"],
        ["acme.errors.Refused", "user", "-"],
        ["acme.more.MoreError", "user", "-"],
    ]


def test_a_declared_sdk_that_has_an_adapter_keeps_it(env: dict[str, str | None]) -> None:
    path = Path(str(env["FAULTLENS_RULES"]))
    path.write_text('[sdk.mine]\nmodules = ["flyte.errors"]\nkind = "user"\n')
    done = children.run(
        """
        import flyte.errors, inside
        from catching import catch
        catch(flyte.errors.LogsNotYetAvailableError)
        print(inside.failures())
        """,
        env=env,
    )
    assert done.stdout == "{'flyte.errors.LogsNotYetAvailableError|system|w': 1}\n"
    assert done.stderr.splitlines() == [
        f"faultlens: FAULTLENS_RULES={path}, line 1: [sdk.mine] changes nothing: "
        "flyte.errors has an adapter."
    ]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[sdk.acme]", 1, "the modules are None, expected a list of names."),
        ('[sdk.acme]\nmodules = "acme.errors"', 2, "the modules are 'acme.errors', expected a"),
        ("[sdk.acme]\nmodules = []", 2, "the modules are [], expected a list of names."),
        ('[sdk.acme]\nmodules = ["a"]\nkind = "mine"', 3, "the kind is 'mine', expected one of"),
        ('[sdk.acme]\nmodule = ["a"]', 2, "unknown key module; expected modules, kind: did you"),
        ('\n[sdk."a-b"]\nmodules = ["a"]', 2, "the SDK's name is 'a-b', expected letters"),
        ("sdk.acme = 1", 1, "sdk.acme is 1, expected a table, [sdk.acme]."),
    ],
)
def test_a_bad_table_is_named_with_its_line(
    text: str, line: int, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(RulesError) as error:
        rules.read(str(path))
    assert str(error.value).startswith(f"FAULTLENS_RULES={path}, line {line}: {problem}")


def test_a_bad_file_is_one_warning(env: dict[str, str | None]) -> None:
    path = Path(str(env["FAULTLENS_RULES"]))
    path.write_text("[sdk.acme]\nmodules = 7\n")
    done = children.run("import acme.errors, flyte.errors", env=env)
    assert done.stderr.splitlines() == [
        f"faultlens: FAULTLENS_RULES={path}, line 2: the modules are 7, expected a list of names. "
        "The built-in rules stay in force."
    ]


@pytest.mark.parametrize(
    "table",
    [
        '[ sdk . acme ]\nmodules = ["acme.errors"]',
        '["sdk".acme]\nmodules = ["acme.errors"]',
        'sdk.acme.modules = ["acme.errors"]',
        '[sdk]\nacme = {modules = ["acme.errors"]}',
    ],
)
def test_a_table_in_each_form_that_toml_has(
    table: str, env: dict[str, str | None], tmp_path: Path
) -> None:
    (tmp_path / "rules.toml").write_text(table)
    found = children.report(
        """
        import acme.errors, inside
        from catching import catch
        catch(acme.errors.Lost)
        inside.report(inside.failures())
        """,
        env=env,
    )
    assert found == {"acme.errors.Lost|unknown|w": 1}


@pytest.mark.parametrize("order", ["acme.errors, flyte.errors", "flyte.errors, acme.errors"])
def test_the_name_of_another_sdk_does_not_mix_the_two(
    order: str, env: dict[str, str | None], tmp_path: Path
) -> None:
    table = '[sdk.flyte]\nmodules = ["acme.errors"]\nkind = "user"'
    (tmp_path / "rules.toml").write_text(table)
    found = children.report(
        f"""
        import {order}
        import inside
        from catching import catch
        catch(acme.errors.Lost)
        catch(flyte.errors.LogsNotYetAvailableError)
        inside.report(inside.failures())
        """,
        env=env,
    )
    assert found == {
        "acme.errors.Lost|user|w": 1,
        "flyte.errors.LogsNotYetAvailableError|system|w": 1,
    }
