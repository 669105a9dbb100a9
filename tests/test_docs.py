"""What the documentation says of names, defaults, versions, alerts and links is true."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml

from faultlens import commands, series, settings

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
}
README = PAGES["README.md"]


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table whose first line begins so, without the two lines of the header."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(header))
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_the_configuration_page_has_every_variable_with_its_default() -> None:
    documented = {
        name: default.strip("`")
        for names, default, _ in rows(PAGES["docs/configuration.md"], "| variable")
        for name in re.findall(r"`(\w+)`", names)
    }
    known = {variable.name: variable.default for variable in settings.VARIABLES}
    assert documented.keys() == known.keys()
    differing = {
        name: default for name, default in known.items() if documented[name] not in ("", default)
    }
    inherited = {f"OTEL_EXPORTER_OTLP_{one}_PROTOCOL" for one in ("TRACES", "METRICS", "LOGS")}
    assert differing.keys() <= inherited
    assert {name for name, default in known.items() if default} <= {
        name for name, default in documented.items() if default
    }


def test_the_readme_names_no_variable_that_is_not_there() -> None:
    named = set(re.findall(r"\b(?:FAULTLENS|OTEL)_[A-Z_]+[A-Z]\b", "".join(PAGES.values())))
    known = {variable.name for variable in settings.VARIABLES}
    of_opentelemetry = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"}
    assert named - of_opentelemetry <= known


def test_the_tables_of_metrics() -> None:
    metrics = {f"faultlens_{name}_total": labels for name, _, labels in series.COUNTERS}
    name, _, labels = series.LAST_FAILURE
    metrics[f"faultlens_{name}"] = labels
    table = rows(PAGES["docs/counting.md"], "| metric")
    documented = {row[0].strip("`"): tuple(re.findall(r"`(\w+)`", row[1])) for row in table}
    assert documented.pop("faultlens_info")[:2] == ("version", "detector")
    assert documented == {name: tuple(labels) for name, labels in metrics.items()}
    assert {row[0].strip("`") for row in rows(README, "| metric")} <= {*metrics, "faultlens_info"}


def test_the_commands_that_are_named_exist() -> None:
    parser = commands._parser()
    (subparsers,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    named = set(re.findall(r"`faultlens ([a-z]+)", "".join(PAGES.values())))
    named |= set(re.findall(r"^(?:\$ |    )(?:\w+=\S+ )*faultlens ([a-z]+)", README, re.MULTILINE))
    assert named <= set(subparsers.choices)
    assert {"top", "doctor", "demo", "serve", "dashboards"} <= named


def pins(sdks: str) -> dict[str, str]:
    text = (ROOT / "tests" / "requirements" / f"{sdks}.txt").read_text()
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def test_the_versions_that_are_supported_are_those_that_are_tested() -> None:
    table = {row[0]: row[1] for row in rows(README, "| works with")}
    oldest, newest = pins("oldest"), pins("newest")
    for shown, name in (
        ("Flyte", "flyte"),
        ("Durable Workflow", "durable-workflow"),
        ("Temporal", "temporalio"),
    ):
        assert table[shown] == f"{oldest[name]} to {newest[name]}"
    assert table["OpenTelemetry"].startswith(".".join(oldest["opentelemetry-sdk"].split(".")[:2]))
    classifiers = (ROOT / "pyproject.toml").read_text()
    pythons = re.findall(r"Python :: (3\.\d+)", classifiers)
    assert table["Python"].startswith(f"{pythons[0]} to {pythons[-1]}")
    planned = set(re.findall(r"^  (3\.\d+):", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert planned == set(pythons)


def test_the_alerts_that_are_named_exist() -> None:
    rules = yaml.safe_load((ROOT / "dashboards/prometheus/faultlens.rules.yml").read_text())
    alerts = {
        rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    }
    named = set(re.findall(r"\bFaultlens[A-Z]\w+", "".join(PAGES.values())))
    assert named - {"FaultlensInstrumentor", "FaultlensDoctor"} <= alerts


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        found = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def test_the_pages_are_all_linked_from_the_readme() -> None:
    assert {f"({page})" for page in PAGES if page.startswith("docs/")} <= set(
        re.findall(r"\([^)]+\)", README)
    )
