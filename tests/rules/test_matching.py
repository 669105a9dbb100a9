"""The first rule that matches decides, and only what it needs is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faultlens.rules
from faultlens.failure import Kind
from faultlens.rules import Decision, Entry, RuleFile, Rules, checking, matching
from faultlens.rules.files import REASONS, profile
from faultlens.rules.patterns import Globs, expression, full_name, loaded_class

USER, SYSTEM, UNKNOWN = Kind.USER, Kind.SYSTEM, Kind.UNKNOWN
MRO = ("flyte.errors.OOMError", "flyte.errors.RuntimeUserError", "builtins.Exception")


def rule(
    kind: Kind | None = SYSTEM,
    cls: str = "",
    cause: str = "",
    code: str = "",
    message: str = "",
    **gives: str,
) -> Entry:
    return Entry(
        "here, line 1",
        Decision(kind, **gives),
        Globs([cls]) if cls else None,
        Globs([cause]) if cause else None,
        Globs([code]) if code else None,
        expression(message) if message else None,
    )


def short(**kinds: Kind) -> dict[str, Entry]:
    found = {name.replace("__", "."): kind for name, kind in kinds.items()}
    return {name: Entry("here", Decision(kind), name=name) for name, kind in found.items()}


def decide(
    rules: Rules,
    natives: Sequence[type] = (),
    code: str | None = None,
    messages: Sequence[str] = (),
    names: tuple[str, ...] = MRO,
) -> Decision:
    candidates = rules.for_class(names)
    if candidates is None:
        return Decision()
    return candidates.decide([rules.link(cls) for cls in natives], code, lambda: messages)


def only(*listed: Entry, **kinds: Kind) -> Rules:
    return Rules([RuleFile(listed, short(**kinds))])


def test_a_class_glob_matches_the_class_and_its_bases() -> None:
    for glob in ("flyte.errors.OOMError", "flyte.errors.Runtime*", "flyte.*", "*"):
        assert decide(only(rule(cls=glob))).kind is SYSTEM
    assert only(rule(cls="flyte.errors.OOM")).for_class(MRO) is None


def test_a_cause_glob_matches_the_native_class_its_bases_and_its_causes() -> None:
    for glob in ("builtins.ConnectionResetError", "builtins.OSError", "builtins.KeyError"):
        found = decide(only(rule(cause=glob)), [ConnectionResetError, KeyError])
        assert found.kind is SYSTEM, glob
    assert decide(only(rule(cause="builtins.ValueError")), [ConnectionResetError]) == Decision()
    assert decide(only(rule(cause="*"))) == Decision()  # nothing caused it


def test_the_code_must_be_there_to_match() -> None:
    rules = only(rule(code="*"))
    assert decide(rules) == Decision()
    assert decide(rules, code="E1").kind is SYSTEM


def test_all_conditions_of_a_rule_must_hold() -> None:
    rules = only(rule(cls="flyte.*", cause="builtins.OSError", code="E?", message="no space"))
    assert decide(rules, [OSError], "E1", ["x", "no space left"]).kind is SYSTEM
    assert decide(rules, [OSError], "E1", ["x"]) == Decision()
    assert decide(rules, [OSError], "E10", ["no space left"]) == Decision()
    assert decide(rules, [KeyError], "E1", ["no space left"]) == Decision()


def test_messages_are_made_only_for_a_rule_that_asks_and_is_reached() -> None:
    def unwanted() -> Sequence[str]:
        raise AssertionError

    rules = only(rule(cls="flyte.*", cause="builtins.KeyError"), rule(USER, message="x"))
    candidates = rules.for_class(MRO)
    assert candidates is not None
    assert candidates.decide([rules.link(KeyError)], None, unwanted).kind is SYSTEM


def test_the_short_form_comes_after_the_rules_and_the_nearest_class_wins() -> None:
    rules = only(
        rule(cause="builtins.KeyError"),
        builtins__Exception=UNKNOWN,
        builtins__LookupError=USER,
        flyte__errors__OOMError=SYSTEM,
    )
    assert decide(rules, [KeyError]).kind is SYSTEM
    assert decide(rules, [IndexError]).kind is USER
    assert decide(rules, [ValueError]).kind is UNKNOWN  # the native class is nearer
    assert decide(rules, [ValueError, IndexError]).kind is UNKNOWN  # than what caused it
    assert decide(rules).kind is SYSTEM
    assert decide(rules, names=MRO[1:]).kind is UNKNOWN


def test_a_short_rule_for_an_sdk_class_does_not_apply_to_a_cause() -> None:
    rules = only(flyte__errors__OOMError=USER, flyte__errors__RuntimeSystemError=SYSTEM)
    cause = type("RuntimeSystemError", (Exception,), {"__module__": "flyte.errors"})
    assert decide(rules, [cause]).kind is USER


def test_the_profile_gives_what_the_user_s_rule_does_not() -> None:
    users = RuleFile([rule(None, cause="builtins.OSError", owner="data")])
    shipped = RuleFile([rule(cause="builtins.OSError", reason="network")], shipped=True)
    assert decide(Rules([users, shipped]), [OSError]) == Decision(SYSTEM, "network", "data")


def test_the_first_match_in_a_file_decides_everything() -> None:
    rules = only(rule(USER, cls="*"), rule(cls="*", reason="oom", owner="ops"))
    assert decide(rules) == Decision(USER)


def test_a_class_that_is_decided_by_name_costs_nothing_per_exception() -> None:
    rules = only(rule(USER, cls="flyte.errors.OOM*"), rule(cause="*"))
    candidates = rules.for_class(MRO)
    assert candidates is not None
    assert candidates.settled() == Decision(USER)
    other = rules.for_class(MRO[1:])
    assert other is not None
    assert other.settled() is None


def test_the_kinds_that_a_class_can_get() -> None:
    def kinds(rules: Rules, names: tuple[str, ...] = MRO) -> tuple[Kind, ...]:
        candidates = rules.for_class(names)
        return (USER,) if candidates is None else candidates.kinds((USER,))

    assert kinds(only(rule(cause="x"))) == (SYSTEM, USER)
    assert kinds(only(rule(cls="*"), rule(UNKNOWN, cause="x"))) == (SYSTEM,)
    assert kinds(only(rule(None, cls="*", owner="x"))) == (USER,)
    assert kinds(only(flyte__errors__OOMError=SYSTEM)) == (SYSTEM,)
    assert kinds(only(flyte__errors__OOMError=SYSTEM), MRO[1:]) == (USER,)
    assert kinds(only(yourapp__Busy=UNKNOWN)) == (UNKNOWN, USER)


# Compared with the most literal reading of the documentation.

names = st.sampled_from(["a.A", "a.B", "b.A", "b.C", "builtins.KeyError", "builtins.LookupError"])
globs = st.sampled_from(["a.*", "*.A", "b.C", "*", "builtins.*Error", "?.B", "[ab].A", "nothing"])
entries = st.builds(
    rule,
    st.sampled_from([None, *Kind]),
    cls=st.just("") | globs,
    cause=st.just("") | globs,
    code=st.just("") | st.sampled_from(["E*", "E1", "?"]),
    message=st.just("") | st.sampled_from(["x", "y$", "^z"]),
    reason=st.sampled_from(["", "oom"]),
    owner=st.sampled_from(["", "ops"]),
)
lineages = st.lists(names, min_size=1, max_size=3, unique=True).map(tuple)
kinds_by_name = st.dictionaries(names, st.sampled_from(Kind), max_size=3)


def plainly(
    listed: Sequence[Entry],
    kinds: dict[str, Kind],
    sdk_class: Sequence[str],
    natives: Sequence[Sequence[str]],
    code: str | None,
    messages: Sequence[str],
) -> Decision:
    def holds(pattern: Globs | None, among: Sequence[str]) -> bool:
        return pattern is None or any(
            fnmatch.fnmatchcase(name, text) for name in among for text in pattern.texts
        )

    causes = [name for native in natives for name in native]
    for entry in listed:
        said = entry.message is None or any(entry.message.search(text) for text in messages)
        coded = holds(entry.code, [code] if code else [])
        if holds(entry.classes, sdk_class) and holds(entry.causes, causes) and coded and said:
            return entry.gives
    for name in [*causes, *sdk_class]:
        if name in kinds:
            return Decision(kinds[name])
    return Decision()


@given(
    st.lists(entries, max_size=6),
    kinds_by_name,
    lineages,
    st.lists(lineages, max_size=3),
    st.sampled_from([None, "", "E1", "X"]),
    st.lists(st.sampled_from(["x", "zy", ""]), max_size=2),
)
def test_decides_as_documented(
    listed: list[Entry],
    kinds: dict[str, Kind],
    sdk_class: tuple[str, ...],
    natives: list[tuple[str, ...]],
    code: str | None,
    messages: list[str],
) -> None:
    by_name = {name: Entry("here", Decision(kind), name=name) for name, kind in kinds.items()}
    rules = Rules([RuleFile(listed, by_name)])
    links = [rules._link(native) for native in natives]
    expected = plainly(listed, kinds, sdk_class, natives, code, messages)

    candidates = rules.for_class(sdk_class)

    found = candidates.decide(links, code, lambda: messages) if candidates else Decision()
    assert found == expected
    if candidates is not None:
        assert (expected.kind or UNKNOWN) in candidates.kinds((UNKNOWN,))
        assert candidates.settled() in (None, expected)
    for late in checking.unreachable(rules):
        assert late.endswith("matches first.")


@given(st.lists(entries, min_size=2, max_size=4), lineages, st.lists(lineages, max_size=2))
def test_a_rule_that_is_called_unreachable_never_decides(
    listed: list[Entry], sdk_class: tuple[str, ...], natives: list[tuple[str, ...]]
) -> None:
    numbered = [
        entry._replace(where=f"here, line {number}", gives=Decision(owner=str(number)))
        for number, entry in enumerate(listed)
    ]
    rules = Rules([RuleFile(numbered)])
    late = {text.split(":")[0].rpartition(" ")[2] for text in checking.unreachable(rules)}
    candidates = rules.for_class(sdk_class)
    if candidates is not None:
        links = [rules._link(native) for native in natives]
        for code in (None, "E1", "X"):
            for texts in (["x"], ["zy"]):
                assert candidates.decide(links, code, texts.copy).owner not in late


# The memory of classes.


def test_memory_is_bounded_and_classes_can_be_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "CLASS_LIMIT", 10)
    rules = only(rule(cause="*.Mine"))
    for number in range(100):
        rules.link(type("Mine", (Exception,), {}))
        rules.named(f"elsewhere.Mine{number}")
    assert len(rules._links) <= 10
    assert len(rules._named) <= 10


def test_a_name_is_resolved_without_an_import() -> None:
    rules = only(rule(cause="builtins.OSError"))
    assert rules.named("ConnectionError") == rules.link(ConnectionError)
    assert rules.named("builtins.ConnectionError") == rules.link(ConnectionError)
    assert rules.named("no_such.Error").names == ("no_such.Error",)
    assert rules.named(r"App\Exceptions\Broken").names == (r"App\Exceptions\Broken",)
    assert len(rules.named("x" * 10_000).names[0]) == matching.NAME_LIMIT


@pytest.mark.parametrize(
    "name", ["", ".", "..", "builtins.", "int", "builtins.int", "sys.path", "os.path.join", "a..b"]
)
def test_only_exception_classes_are_resolved(name: str) -> None:
    assert loaded_class(name) is None
    assert full_name(name) == name


def test_a_class_inside_a_class_is_found() -> None:
    assert loaded_class("tests.rules.test_matching.Outer.Inner") is Outer.Inner


class Outer:
    class Inner(Exception):
        pass


# The profile.

OPERATOR = Path(faultlens.rules.__file__).with_name("operator.toml")


def test_each_rule_of_the_profile_has_a_kind_a_reason_and_a_comment() -> None:
    lines = OPERATOR.read_text(encoding="utf-8").splitlines()
    for entry in profile("operator"):
        assert entry.gives.kind is SYSTEM
        assert entry.gives.reason in REASONS
    above = [before for before, line in pairwise(lines) if line == "[[rule]]"]
    assert [line for line in above if not line.startswith("# ")] == []


def test_no_rule_of_the_profile_is_unreachable() -> None:
    file = profile("operator")
    assert list(checking.unreachable(Rules([RuleFile(file.rules, file.short)]))) == []


@pytest.mark.parametrize(
    ("cls", "cause", "message", "reason"),
    [
        ("TaskInterruptedError", "", "", "preempted"),
        ("ImagePullBackOffError", "", "", "image"),
        ("MaxQueuedTimeExceededError", "", "", "scheduling"),
        ("SlowDownError", "", "", "throttled"),
        ("RuntimeUserError", "botocore.exceptions.EndpointConnectionError", "", "storage"),
        ("RuntimeUserError", "botocore.exceptions.ReadTimeoutError", "", "storage"),
        ("RuntimeUserError", "botocore.exceptions.NoCredentialsError", "", "auth"),
        (
            "RuntimeUserError",
            "botocore.exceptions.ClientError",
            "An error occurred (SlowDown) when calling the PutObject operation: wait",
            "throttled",
        ),
        ("RuntimeUserError", "google.api_core.exceptions.ServiceUnavailable", "", "storage"),
        ("RuntimeUserError", "google.auth.exceptions.RefreshError", "", "auth"),
        ("RuntimeUserError", "azure.core.exceptions.ServiceRequestError", "", "storage"),
        ("RuntimeUserError", "fsspec.exceptions.FSTimeoutError", "", "storage"),
        ("RuntimeUserError", "requests.exceptions.ConnectTimeout", "", "network"),
        ("RuntimeUserError", "httpx.ConnectError", "", "network"),
        (
            "RuntimeUserError",
            "httpx.HTTPStatusError",
            "Client error '429 Too Many Requests' for url 'http://x'",
            "throttled",
        ),
        (
            "RuntimeUserError",
            "requests.exceptions.HTTPError",
            "503 Server Error: Service Unavailable for url: http://x",
            "network",
        ),
        ("RuntimeUserError", "aiohttp.client_exceptions.ClientConnectorError", "", "network"),
        ("RuntimeUserError", "grpc.aio._call.AioRpcError", "", "network"),
        ("RuntimeUserError", "sqlalchemy.exc.OperationalError", "", "database"),
        ("RuntimeUserError", "psycopg.OperationalError", "", "database"),
        ("RuntimeUserError", "redis.exceptions.ConnectionError", "", "database"),
        ("RuntimeUserError", "ConnectionResetError", "", "network"),
        ("RuntimeUserError", "OSError", "[Errno 28] No space left on device", "disk"),
        ("RuntimeUserError", "OSError", "[Errno 5] Input/output error", "disk"),
        ("RuntimeUserError", "MemoryError", "", "oom"),
        ("RuntimeUserError", "torch.OutOfMemoryError", "", "gpu"),
        ("RuntimeUserError", "RuntimeError", "CUDA out of memory. Tried to allocate 2 GiB", "gpu"),
        # What the SDK still decides.
        ("RuntimeUserError", "ValueError", "CUDA out of memory", ""),
        ("RuntimeUserError", "OSError", "[Errno 2] No such file or directory", ""),
        ("RuntimeUserError", "sqlalchemy.exc.ProgrammingError", "", ""),
        ("RuntimeUserError", "httpx.HTTPStatusError", "Client error '404 Not Found'", ""),
        ("RuntimeUserError", "botocore.exceptions.ClientError", "(NoSuchKey) when calling", ""),
        ("OOMError", "", "", ""),
        ("InvalidImageNameError", "", "", ""),
    ],
)
def test_the_operator_s_view(cls: str, cause: str, message: str, reason: str) -> None:
    rules = Rules([profile("operator")])
    candidates = rules.for_class((f"flyte.errors.{cls}", "flyte.errors.RuntimeUserError"))
    assert candidates is not None
    links = [rules.named(cause)] if cause else []
    found = candidates.decide(links, None, lambda: [message])
    assert found == (Decision(SYSTEM, reason) if reason else Decision())


def test_the_reasons_are_a_closed_list() -> None:
    assert " ".join(REASONS) == (
        "oom preempted image scheduling timeout network storage database throttled disk gpu auth "
        "config code input cancelled platform"
    )
    assert all(REASONS.values())


def test_the_profile_is_in_the_user_s_format() -> None:
    def told(file: RuleFile) -> list[tuple[str, Decision]]:
        return [(str(entry), entry.gives) for entry in file]

    assert told(profile("operator")) == told(faultlens.rules.read(str(OPERATOR)))
