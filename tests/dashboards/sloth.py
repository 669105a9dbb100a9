"""Compares what sloth makes of dashboards/slo/sloth.yml with the shipped alerts.

    go install github.com/slok/sloth/cmd/sloth@v0.16.0
    python -m tests.dashboards.sloth

By hand, because building sloth takes minutes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import yaml

from tests.dashboards.rule_cases import WINDOWS
from tests.dashboards.test_slo import OBJECTIVE, SLO, SLOTHS, budget, factor

THRESHOLD = re.compile(r"ratio_rate(\w+)\{[^}]*\} > \(([\d.]+) \* ([\d.]+)\)")


def main() -> None:
    text = (SLO / "sloth.yml").read_text().replace("disable: true, ", "")
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "sloth.yml")
        spec.write_text(text)
        made = subprocess.check_output(["sloth", "generate", "--input", spec], text=True)
    groups = yaml.safe_load(made)["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert [alert["labels"]["severity"] for alert in alerts] == list(SLOTHS)
    for alert in alerts:
        severity = alert["labels"]["severity"]
        expected = [
            (window, factor(percent, long), f"{budget():g}")
            for percent, long, short in SLOTHS[severity]
            for window in (short, long)
        ]
        assert THRESHOLD.findall(alert["expr"]) == expected
        assert alert["labels"]["kind"] == "system"
    recorded = {
        rule["labels"]["sloth_window"]: "".join(rule["expr"].split())
        for rule in groups[0]["rules"]
        if "sloth_window" in rule["labels"]
    }
    asked = OBJECTIVE["sli"]["events"]
    for window in WINDOWS:
        query = f"({asked['error_query']})/({asked['total_query']})".replace("{{.window}}", window)
        assert recorded[window] == "".join(query.split())
    print("sloth's alerts are ours")


if __name__ == "__main__":
    main()
