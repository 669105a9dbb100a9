"""The objective as sloth and pyrra take it: the same numbers as the shipped alerts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from faultlens import series as metrics
from tests.dashboards.promql import promql_parser
from tests.dashboards.rule_cases import BUDGET, BURN, WINDOWS
from tests.dashboards.test_rules import ALERTS, RULES, selectors

SLO = Path(__file__).parents[2] / "dashboards" / "slo"
SLOTH: dict[str, Any] = yaml.safe_load((SLO / "sloth.yml").read_text())
PYRRA: dict[str, Any] = yaml.safe_load((SLO / "pyrra.yml").read_text())
(OBJECTIVE,) = SLOTH["slos"]

# From internal/alert/windows/google-30d.yaml of sloth 0.16.0: per cent of a budget of 30 days, the
# long and the short window. Google's SRE workbook recommends them ("Alerting on SLOs").
SLOTHS = {
    "page": ((2, "1h", "5m"), (5, "6h", "30m")),
    "ticket": ((10, "1d", "2h"), (10, "3d", "6h")),
}
OF = {
    "page": "FaultlensPlatformFailsAttempts",
    "ticket": "FaultlensPlatformFailsSomeAttempts",
}
"""The shipped alert of each of sloth's."""


def factor(percent: int, long: str) -> str:
    """How fast that share of the budget is used up if it is used up within the long window."""
    return f"{percent / 100 * 30 * 24 * 60 / WINDOWS[long]:g}"


def budget() -> float:
    (ratio,) = re.findall(r"vector\((.*)\)", RULES[BUDGET]["expr"])
    return float(ratio)


@pytest.mark.parametrize("severity", SLOTHS)
def test_the_alerts_have_sloths_windows_and_factors(severity: str) -> None:
    pairs = []
    for percent, long, short in SLOTHS[severity]:
        above = factor(percent, long)
        pairs.append(f"{BURN}{long} > {above} and {BURN}{short} > {above}")

    alert = ALERTS[OF[severity]]

    assert alert["expr"] == " or ".join(pairs)
    labels = OBJECTIVE["alerting"]["labels"] | OBJECTIVE["alerting"][f"{severity}_alert"]["labels"]
    assert labels == alert["labels"]
    assert "for" not in alert


@pytest.mark.parametrize("window", WINDOWS)
def test_sloth_asks_what_the_burn_rates_ask(window: str) -> None:
    asked = OBJECTIVE["sli"]["events"]
    error, total = (asked[f"{one}_query"] for one in ("error", "total"))

    query = f"{error} / {total} / scalar({BUDGET})".replace("{{.window}}", window)

    assert query == RULES[f"{BURN}{window}"]["expr"]


def test_the_objective_is_everywhere_the_same() -> None:
    percent = 100 - 100 * budget()
    assert OBJECTIVE["objective"] == percent
    assert float(PYRRA["spec"]["target"]) == percent
    for text in (OBJECTIVE["description"], PYRRA["spec"]["description"]):
        assert f"at most {100 - percent:g} %" in text
    assert PYRRA["spec"]["window"] == "30d"


def test_nobody_is_alerted_twice() -> None:
    assert all(OBJECTIVE["alerting"][f"{severity}_alert"]["disable"] for severity in SLOTHS)
    assert PYRRA["spec"]["alerting"] == {"burnrates": False, "absent": False}


def test_pyrra_divides_the_same_counters() -> None:
    ratio = PYRRA["spec"]["indicator"]["ratio"]
    assert ratio["grouping"] == ["job"]
    texts = [ratio[one]["metric"] for one in ("errors", "total")]
    # It takes nothing else.
    assert all(isinstance(promql_parser.parse(t), promql_parser.VectorSelector) for t in texts)
    (errors,), (total,) = map(selectors, texts)
    assert errors.name == total.name == f"faultlens_{metrics.ATTEMPTS}_total"
    (matcher,) = errors.matchers.matchers
    only = (matcher.name, matcher.op, matcher.value)
    assert only == ("outcome", promql_parser.MatchOp.Equal, "system")
    assert not total.matchers.matchers


def fields(document: Any, path: str = "") -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield f"{path}{key}"
            yield from fields(value, f"{path}{key}.")


def test_pyrra_knows_every_field() -> None:
    """Those that config/crd/bases/pyrra.dev_servicelevelobjectives.yaml of pyrra has."""
    spec = set(fields(PYRRA["spec"]))
    assert {"apiVersion", "kind", "metadata", "spec"} == set(PYRRA)
    assert spec == {
        "description",
        "target",
        "window",
        "indicator",
        "indicator.ratio",
        *(f"indicator.ratio.{one}" for one in ("errors", "total", "grouping")),
        *(f"indicator.ratio.{one}.metric" for one in ("errors", "total")),
        "alerting",
        "alerting.burnrates",
        "alerting.absent",
    }
    assert isinstance(PYRRA["spec"]["target"], str)
