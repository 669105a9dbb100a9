"""The page at ``/``: well-formed, harmless whatever the labels are, and legible in a browser."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faultlens.exposition.front import ROWS, FrontPage
from faultlens.exposition.layout import Count, Key
from faultlens.exposition.ledgers import Reading
from tests.children import TIMEOUT
from tests.servers import needs
from tests.test_serve import fail, serving

ALONE = {"meta", "wbr"}
"""Elements without an end."""


class Parsed(HTMLParser):
    """A page, as a browser reads it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.rows: list[list[str]] = []
        """The texts of the cells, of each row."""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ALONE:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def page(counts: dict[Key, Count], store: str = "ours") -> str:
    kind, body = FrontPage(lambda: Reading(counts, set()), "1.2.3", lambda: store)("text/html")
    assert kind == "text/html; charset=utf-8"
    return body.decode()


def failure(*labels: str, number: int = 1) -> dict[Key, Count]:
    return {("failures", *labels): Count(number, 1.0, 1.0)}


def test_has_the_columns_of_top_and_a_section_for_each_kind() -> None:
    parsed = Parsed(
        page(
            failure("a.B", "user", "w1", "Code", "task", "code", "", number=2)
            | failure("a.C", "system", "w2", "", "", "network", "")
        )
    )

    assert parsed.rows[0] == [
        *("class", "reason", "task", "worker"),
        *("count", "last minute", "last seen"),
    ]
    assert [row[:6] for row in parsed.rows[1:]] == [
        ["system: the platform's fault"],
        ["a.C", "network", "", "w2", "1", ""],
        ["user: the fault of the code or its caller"],
        ["a.B [Code]", "code", "task", "w1", "2", ""],
    ]
    for row in (parsed.rows[2], parsed.rows[4]):
        assert re.fullmatch(r"\d+ d ago", row[6])
    assert parsed.links == ["/metrics"]


labels = st.text() | st.sampled_from(
    [
        "<script>x</script>",
        '"><img src=x onerror=x>',
        "&lt;",
        "</table>",
        "\x1b[2J",
        "\0",
    ]
)


@given(st.lists(labels, min_size=7, max_size=7))
@example(["</td><script>x</script>"] * 7)
@example(["\ud800"] * 7)
def test_a_label_can_be_anything(values: list[str]) -> None:
    parsed = Parsed(page(failure(*values)))

    assert parsed.tags <= {
        *("html", "meta", "title", "style", "h1", "p", "a", "wbr"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert parsed.links == ["/metrics"]
    cls, _, worker, code, task, reason, _ = values
    shown = [f"{cls} [{code}]" if code else cls, reason, task, worker]

    def printable(text: str) -> str:
        return "".join(char if char.isprintable() else "\ufffd" for char in text)

    assert parsed.rows[2][:4] == [printable(text) for text in shown]


def test_says_so_if_nothing_was_counted() -> None:
    text = page({})

    assert Parsed(text).rows == []
    assert "<h1>0 failures: 0 system, 0 unknown, 0 user</h1>" in text


def test_the_last_minute_shows_from_the_second_load_on() -> None:
    counts = failure("a.B", "user", "w", "", "", "", "", number=2)
    front = FrontPage(lambda: Reading(counts, set()), "1.2.3", str)

    front("")
    counts |= failure("a.B", "user", "w", "", "", "", "", number=5)

    assert Parsed(front("")[1].decode()).rows[2][4:6] == ["5", "3"]


def test_a_long_table_is_cut() -> None:
    counts: dict[Key, Count] = {}
    for number in range(ROWS + 5):
        counts |= failure(f"a.C{number}", "user", "w", "", "", "", "")

    text = page(counts)

    assert len(Parsed(text).rows) == ROWS + 2
    assert "and 5 more: faultlens top shows all" in text


def test_says_whose_counts_it_has() -> None:
    assert "Counted on this host" in page({})
    assert re.search(r"Counted in this process \(pid \d+\)", page({}, store=""))


@needs("chromium")
class TestBrowser:
    """In a real one."""

    def browse(self, url: str, profile: Path, *options: str) -> str:
        command = [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-dev-shm-usage"),
            f"--user-data-dir={profile}",
            *options,
            url,
        ]
        page, said = profile.with_suffix(".html"), profile.with_suffix(".log")
        # A helper process may outlive chromium and hold a pipe open, so these are files.
        with page.open("w") as output, said.open("w") as errors:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=TIMEOUT,
                check=False,
            )
        assert done.returncode == 0, said.read_text()
        return page.read_text()

    def test_shows_the_table(self, tmp_path: Path) -> None:
        pytest.importorskip("flyte")
        with serving(tmp_path / "store") as server:
            fail(tmp_path / "store", 3)
            url = server.url.removesuffix("metrics")
            dom = self.browse(url, tmp_path / "profile", "--dump-dom")

        parsed = Parsed(dom.replace("<wbr>", ""))
        (row,) = (row for row in parsed.rows if row[0].startswith("flyte."))
        assert row[0].startswith("flyte.errors.OOMError")
        assert (row[3], row[4]) == ("w", "3")
