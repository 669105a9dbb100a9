from __future__ import annotations

from pathlib import Path

import pytest

from faultlens import rules
from faultlens.failure import Kind
from tests import children


def write(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "rules.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_dotted_keys_quoted_keys_and_tables_all_name_classes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        flyte.errors.OOMError = "system"
        "myapp.Busy" = "unknown"
        [myapp.errors]
        QuotaExceeded = "user"
        """,
    )
    assert rules.read(path) == {
        "flyte.errors.OOMError": Kind.SYSTEM,
        "myapp.Busy": Kind.UNKNOWN,
        "myapp.errors.QuotaExceeded": Kind.USER,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\na.B = 'sytem'\n", "line 3: the kind of a.B is 'sytem', expected one of user, system"),
        ("[a]\n# B\nB = 7\n", "line 3: the kind of a.B is 7, expected one of"),
        ("a.B = 'user'\nnot toml\n", "expected TOML: "),
        (b"a.B = '\xff'", "expected TOML, which is UTF-8 text."),
    ],
)
def test_a_bad_file_is_named_with_the_line_and_what_was_expected(
    tmp_path: Path, text: str | bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, text)
    assert rules.load(path) == {}
    (record,) = caplog.records
    assert record.getMessage().startswith(f"FAULTLENS_RULES={path}")
    assert says in record.getMessage()
    assert record.getMessage().endswith("The built-in rules stay in force.")


def test_the_parser_s_own_line_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(rules.RulesError, match="line 2"):
        rules.read(write(tmp_path, "a.B = 'user'\nnot toml\n"))


def test_a_missing_file_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert rules.load(str(tmp_path / "nowhere.toml")) == {}
    (record,) = caplog.records
    assert "nowhere.toml: No such file or directory." in record.getMessage()


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


def test_a_rule_moves_a_class_and_its_subclasses(tmp_path: Path) -> None:
    path = write(tmp_path, 'flyte.errors.OOMError = "system"')
    assert children.report(RAISES, env={"FAULTLENS_RULES": path}) == {
        "flyte.errors.OOMError|system|w": 1,
        "__main__.Mine|system|w": 1,
        "flyte.errors.RuntimeUserError|user|w": 1,
    }


def test_a_bad_file_leaves_the_built_in_rules_and_the_program(tmp_path: Path) -> None:
    path = write(tmp_path, 'flyte.errors.OOMError = "sytem"')
    done = children.run(RAISES, env={"FAULTLENS_RULES": path})
    assert '"flyte.errors.OOMError|user|w": 1' in done.stdout
    assert done.stderr.count("FAULTLENS_RULES=") == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("flyte.errors.Nonsuch", "the installed flyte has no such class"),
        ("no_such_package.errors.Error", "the package no_such_package is not installed"),
    ],
)
def test_a_rule_for_an_unknown_class_is_a_warning(tmp_path: Path, name: str, says: str) -> None:
    from importlib.metadata import version

    path = write(tmp_path, f'{name} = "user"\nflyte.errors.OOMError = "system"')
    done = children.run(RAISES, env={"FAULTLENS_RULES": path})
    expected = f"the rule for {name} changes nothing: {says.format(version=version('flyte'))}."
    assert expected in done.stderr
    assert '"flyte.errors.OOMError|system|w": 1' in done.stdout
