"""A file of rules is read completely, or rejected with one clear line."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens import rules
from faultlens.failure import Kind
from faultlens.rules import Decision, RulesError
from faultlens.rules.patterns import MESSAGE_LIMIT, expression


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
    assert {name: rule.gives.kind for name, rule in rules.read(path).short.items()} == {
        "flyte.errors.OOMError": Kind.SYSTEM,
        "myapp.Busy": Kind.UNKNOWN,
        "myapp.errors.QuotaExceeded": Kind.USER,
    }


def test_a_rule_has_all_its_parts_and_the_line_where_it_begins(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [[rule]]
        class = "flyte.errors.*"
        cause = ["botocore.*", "OSError"]
        code = "E*"
        message = "timed out"
        kind = "system"
        reason = "storage"
        owner = "data-platform"
        [[rule]]
        cause = "IOError"
        owner = "data-platform"
        """,
    )
    first, second = rules.read(path).rules
    assert first.gives == Decision(Kind.SYSTEM, "storage", "data-platform")
    assert first.where == f"FAULTLENS_RULES={path}, line 2"
    assert str(first) == (
        "class flyte.errors.*, cause botocore.* | builtins.OSError, code E*, message timed out"
    )
    assert (second.where[-2:], second.gives.kind) == ("10", None)
    assert str(second) == "cause builtins.OSError"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\na.B = 'sytem'\n", "line 3: the kind of a.B is 'sytem', expected one of system,"),
        ("[a]\n# B\nB = 7\n", "line 3: the kind of a.B is 7, expected one of"),
        ("a.B = 'user'\nnot toml\n", "expected TOML: "),
        (b"a.B = '\xff'", "expected TOML, which is UTF-8 text."),
        ("'a.*' = 'user'", "line 1: a.* is a glob; expected a class, or a [[rule]] for it."),
        ("rule = [1]", "line 1: the rule is 1, expected a table, [[rule]]."),
        ("[[rule]]\nkind = 'user'", "line 1: the rule has no class, cause, code or message; "),
        ("[[rule]]\ncause = 'a.B'", "line 1: the rule has no kind, reason or owner; "),
        (
            "[[rule]]\ncause = 'a.B'\nkind = 'user'\n\n[[rule]]\ncause = 'a.C'\nknid = 'user'",
            "line 7: unknown key knid; expected class, cause, code, message, kind, reason, "
            "owner: did you mean kind?",
        ),
        (
            "[[rule]]\ncause = 'a.B'\nkind = 'user'\nflyte.errors.OOMError = 'user'",
            "line 4: flyte.errors.OOMError is in the [[rule]] above it; expected it before the "
            "first [[rule]].",
        ),
        ("[[rule]]\ncause = 'a'\nkind = 'me'", "line 3: the kind is 'me': expected one of system,"),
        (
            "[[rule]]\ncause = 'a'\nreason = 'storag'",
            "line 3: the reason is 'storag': expected one of oom, ",
        ),
        ("[[rule]]\ncause = 'a'\nreason = 'storag'", "platform: did you mean storage?"),
        ("[[rule]]\ncause = 'a'\nowner = ' '", "line 3: the owner is ' ': expected a name."),
        (
            '[[rule]]\ncause = "a"\nowner = "a\\nb"',
            "line 3: the owner is 'a\\nb': expected a name.",
        ),
        (f"[[rule]]\ncause = 'a'\nowner = '{'o' * 65}'", "expected at most 64 characters."),
        ("[[rule]]\ncause = []\nkind = 'user'", "line 2: the cause is []: expected a glob, or a"),
        ("[[rule]]\nclass = ['a', 1]\nkind = 'user'", "line 2: the class is ['a', 1]: expected"),
        ("[[rule]]\nmessage = '('\nkind = 'user'", "line 2: the message is '(': expected a reg"),
        (
            "[[rule]]\nmessage = '(a+)+b'\nkind = 'user'",
            "line 2: the message is '(a+)+b': it could take more than 20,000,000 steps on a "
            "message of 1,000 characters; expected fewer repetitions",
        ),
    ],
)
def test_a_bad_file_is_named_with_the_line_and_what_was_expected(
    tmp_path: Path, text: str | bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, text)
    assert rules.load(path).files == ()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"faultlens: FAULTLENS_RULES={path}")
    assert says in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.getMessage().endswith("The built-in rules stay in force.")


def test_the_parser_s_own_line_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="line 2"):
        rules.read(write(tmp_path, "a.B = 'user'\nnot toml\n"))


def test_a_missing_file_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert rules.load(str(tmp_path / "nowhere.toml")).files == ()
    (record,) = caplog.records
    assert "nowhere.toml: No such file or directory." in record.getMessage()


def test_without_a_toml_parser_one_line_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("faultlens.rules.files._toml_parser", lambda: None)
    (shipped,) = rules.load("rules.toml", "operator").files  # which needs none
    assert shipped.shipped
    (record,) = caplog.records
    assert record.getMessage() == (
        "faultlens: FAULTLENS_RULES=rules.toml: Python 3.10 has no TOML parser; "
        "`pip install 'faultlens[rules]'` adds one. The built-in rules stay in force."
    )


KEYS = ("class", "cause", "code", "message", "kind", "reason", "owner", "a.b", "rule", "knid")
VALUES = ("'user'", "'a.*'", "'oom'", "'('", "1", "['a']", "[]", "{}", "{a = 'user'}", "'")
lines = st.just("[[rule]]") | st.builds("{} = {}".format, *map(st.sampled_from, (KEYS, VALUES)))


@given(st.lists(lines, max_size=8).map("\n".join) | st.text(max_size=60))
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        rules.read(str(path))
    except RulesError as error:
        assert str(error).startswith(f"FAULTLENS_RULES={path}")
        assert "\n" not in str(error)


# Regular expressions over messages, whose search time is bounded.


@pytest.mark.parametrize(
    "text",
    [
        r"\[Errno 28\]",
        "timed out after .* seconds",
        ".*timed out.*",
        "(?i)^connection .* refused",
        r"^\S+ .* (reset|refused|lost)",
        r"(timeout|refused|reset).*host",
        r"(?:\d{1,3}\.){3}\d{1,3}",
        "(?:ab|cd)*e",
        "a(?=.*b)",
    ],
)
def test_a_fast_expression_is_accepted(text: str) -> None:
    expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+b",
        "(a*)*b",
        "(a|aa)+b",
        "(?i)(?:ab|Ab)*c",
        "(?i)(?:kx|\u212ax)*c",
        r"(\w+\s?)*!",
        "a.*b.*c.*d",
        r"(.+)x\1y",
        "(?:a?){30}a{30}",
        r"(?:\b){100000000}lost",
        "x" * 501,
        "(" * 200 + ")" * 200 + "*" * 3,
    ],
)
def test_an_expression_that_may_backtrack_for_long_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|could take"):
        expression(text)


atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", r"\w", "ab", "(?:a|b)", "(?:ab|a)", "^", "$", r"\b"]
)
repeated = st.builds(
    "{}{}".format, atoms, st.sampled_from(["", "*", "+", "?", "{0,3}", "*?", "{2}", "{5,}"])
)
sequences = st.lists(repeated, min_size=1, max_size=4).map("".join)
nested = st.builds(
    "(?:{}){}{}".format, sequences, st.sampled_from(["", "*", "+", "{0,4}"]), repeated
)
hostile = st.sampled_from(["a", "b", "ab", "aab", "a b", "ba"]).map(
    lambda text: (text * MESSAGE_LIMIT)[: MESSAGE_LIMIT - 1] + "!"
)


@given(st.builds("{}{}{}".format, sequences, nested, st.sampled_from(["", "c", "!x"])), hostile)
def test_an_accepted_expression_searches_any_message_in_bounded_time(
    text: str, message: str
) -> None:
    with contextlib.suppress(ValueError):
        compiled = expression(text)
        start = time.thread_time()
        compiled.search(message)
        assert time.thread_time() - start < 20, text  # others take minutes, or never end
