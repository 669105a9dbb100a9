"""docs/kinds.md says what the code does. ``python -m tests.rules.kinds_page`` writes its tables."""

from __future__ import annotations

from pathlib import Path

from faultlens import rules
from tests.rules import kinds_page
from tests.rules.kinds_page import MARKS, PAGE, between, table

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_of_the_sdks_are_true() -> None:
    for sdk in kinds_page.sdks():
        written, true = between(TEXT, MARKS[sdk.package]), table(sdk)
        if written.splitlines()[0] == true.splitlines()[0]:  # that version is installed
            assert written == true


def test_the_list_of_reasons_is_true() -> None:
    assert between(TEXT, "reasons") == kinds_page.reasons()


def test_the_example_is_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(TEXT.partition("```toml\n")[2].partition("```")[0])
    file = rules.read(str(path))
    assert (len(file.rules), len(file.short)) == (3, 3)


def test_the_line_that_is_shown_is_that_of_the_rule() -> None:
    shown = int(TEXT.partition("operator, line ")[2].partition(":")[0])
    rule = next(r for r in rules.profile("operator") if r.where.endswith(f"line {shown}"))
    assert str(rule) in TEXT
