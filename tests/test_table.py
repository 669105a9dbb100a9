"""The table at all sizes, and with contents that no SDK comes to."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens.commands.table import ORDERS, View, cells, cut
from faultlens.exposition.rows import Counted, Issue, Row

NOW = 1_000_000.0


def row(kind: str, number: int, *, name: str = "flyte.errors.E", worker: str = "w") -> Row:
    issue = Issue(kind, f"{name}{number}", "", "", "", worker, "")
    return Row(issue, number + 1, NOW - 99, NOW - 10 * number)


def found(*rows: Row) -> Counted:
    return Counted(sorted(rows, key=lambda row: row.issue.rank), Counter(), Counter())


MANY = found(*(row(kind, number) for kind in ("user", "system", "unknown") for number in range(9)))


def drawn(view: View, counted: Counted) -> list[str]:
    titles, rows = view.rows(counted)
    return [*view.head(counted), titles, *rows]


def view(width: int = 80) -> View:
    return View(width, NOW)


texts = st.text(max_size=60) | st.sampled_from(
    ["a" * 300, "日本語" * 20, "e\u0301" * 50, "\x1b[2J\n"]
)
issues = st.builds(
    Issue,
    kind=st.sampled_from(["system", "unknown", "user"]) | texts,
    cls=texts,
    code=texts,
    task=texts,
    reason=texts,
    worker=texts,
    owner=texts,
)


@given(
    st.lists(st.builds(Row, issues, st.integers(1, 99_999), st.none(), st.none())),
    st.integers(40, 200),
)
def test_keeps_to_the_width_whatever_the_labels_are(rows: list[Row], width: int) -> None:
    recent = {row.issue: 7 for row in rows}
    for line in drawn(View(width, NOW, recent), found(*rows)):
        assert cells(line) <= width
        assert line.isprintable()


@pytest.mark.parametrize("width", [1, 2, 10, 20, 39])
def test_a_window_that_is_too_narrow_is_no_error(width: int) -> None:
    for line in drawn(view(width), MANY):
        assert cells(line) <= width


def test_the_kinds_are_in_the_order_of_urgency() -> None:
    _, lines = view().rows(MANY)

    assert [line for line in lines if ": " in line] == [
        "system: the platform's fault",
        "unknown: not known whose fault; a rule can decide",
        "user: the fault of the code or its caller",
    ]
    assert view().head(MANY)[0] == "135 failures: 45 system, 45 unknown, 45 user"


def test_a_wide_window_has_whole_names_and_80_columns_have_what_tells_them_apart() -> None:
    issue = Issue(
        *("system", "flyte.errors.RuntimeSystemError", "GpuFellOffBus", "sales.train_on_gpu"),
        *("hardware", "gpu-node-7", ""),
    )
    counted = found(Row(issue, 1, NOW, NOW))

    assert view(200).rows(counted)[1][1].split("  ")[0] == (
        "flyte.errors.RuntimeSystemError [GpuFellOffBus]"
    )
    _, (_, line) = View(80, NOW, {}).rows(counted)
    for part in ("Runti", "… [GpuFell", "hardwa", "…", "on_gpu", "gpu-node-7", "now"):
        assert part in line


def test_a_code_that_the_class_has_in_its_name_is_not_said_twice() -> None:
    issue = Issue("user", "flyte.errors.DeploymentError", "DeploymentError", "", "", "w" * 30, "")

    _, (_, line) = view(70).rows(found(Row(issue, 1, NOW, NOW)))

    assert line.startswith("DeploymentError ")
    assert "[" not in line


@pytest.mark.parametrize(
    ("order", "expected"),
    [("name", "ABC"), ("count", "BAC"), ("last minute", "CAB"), ("last seen", "CBA")],
)
def test_orders(order: str, expected: str) -> None:
    issues = [Issue("user", name, "", "", "", "", "") for name in "ABC"]
    counts = zip(issues, (2, 3, 2), (1.0, 2.0, 3.0), strict=True)
    rows = [Row(issue, number, None, last) for issue, number, last in counts]

    _, lines = View(80, NOW, {issues[2]: 1}, order).rows(found(*rows))

    assert "".join(line[0] for line in lines[1:]) == expected
    assert order in ORDERS


def test_the_last_minute_is_left_out_where_nobody_watches() -> None:
    assert "1 min" not in view().rows(MANY)[0]
    assert "1 min" in View(80, NOW, {}).rows(MANY)[0]


def test_the_smallest_share_is_seen() -> None:
    counted = found(Row(row("system", 0).issue, 1, NOW, NOW), Row(row("user", 1).issue, 9999, 0, 0))

    assert view().head(counted)[1] == "█" + "░" * 79


def test_without_failures_there_is_nothing_but_zeros() -> None:
    assert view().head(found()) == ["0 failures: 0 system, 0 unknown, 0 user", ""]
    assert view().rows(found())[1] == []


def test_ascii_is_ascii() -> None:
    long = found(row("user", 1, name="a" * 300), row("system", 2))

    plain = view()._replace(ascii=True)
    for line in [*drawn(plain, long), plain.progress(0.5, "")]:
        line.encode("ascii")


def test_the_colours_are_legible_on_white_and_on_black() -> None:
    """Neither a dim nor a bright colour, nor yellow, green, cyan, white or black."""
    colour = view()._replace(colour=True)

    written = "\n".join(drawn(colour, MANY))

    assert set(re.findall(r"\x1b\[([\d;]*)m", written)) == {"0", "1", "1;31", "1;35"}
    assert re.sub(r"\x1b\[[\d;]*m", "", written) == "\n".join(drawn(view(), MANY))


@given(texts, st.integers(1, 50))
def test_what_is_cut_fits(text: str, width: int) -> None:
    short = cut(text, width)

    assert cells(short) <= width
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))
