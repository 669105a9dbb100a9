"""Writes the tables of docs/kinds.md: ``python -m tests.rules.kinds_page``.

They come from the newest SDKs, without the user's rules.
"""

from __future__ import annotations

import re
from pathlib import Path

from faultlens.commands.classes import load_sdks
from faultlens.rules import REASONS, Rules
from faultlens.sdks import Sdk

PAGE = Path(__file__).parents[2] / "docs" / "kinds.md"
MARKS = {"flyte": "flyte", "durable_workflow": "durable", "temporalio": "temporal"}


def reasons() -> str:
    rows = [f"| `{word}` | {meaning} |" for word, meaning in REASONS.items()]
    return "\n".join(["| reason | what went wrong |", "| --- | --- |", *rows])


def table(sdk: Sdk) -> str:
    """The table of an SDK's classes, by their names without the module."""
    modules = ", ".join(f"`{name}`" for name in sdk.errors_modules)
    rows = [f"**{sdk.distribution} {sdk.version}**, {modules}", ""]
    rows += ["| class | kind | reason | why |", "| --- | --- | --- | --- |"]
    for name, cls in sorted(sdk.classes.items()):
        rule = sdk.rule(cls)
        kinds = ", ".join(f"`{kind.value}`" for kind in rule.kinds)
        reason = f"`{rule.reason}`" if rule.reason else ""
        rows.append(f"| `{name.rpartition('.')[2]}` | {kinds} | {reason} | {rule.why} |")
    return "\n".join(rows)


def between(text: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
    assert found is not None, f"docs/kinds.md has no place for {mark}"
    return found[1].strip()


def sdks() -> list[Sdk]:
    return [sdk for sdk in load_sdks(Rules()) if isinstance(sdk, Sdk)]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = {"reasons": reasons(), **{MARKS[sdk.package]: table(sdk) for sdk in sdks()}}
    for mark, content in tables.items():
        start = text.index(f"<!-- {mark} -->\n") + len(f"<!-- {mark} -->\n")
        text = text[:start] + content + "\n" + text[text.index(f"<!-- /{mark} -->") :]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
