"""alertmanager.yml: who gets which alert. Alertmanager's own `amtool` says it.

So that this is known to see a wrong route, each route and each of its matchers is then left out in
turn, and each time somebody else must get an alert.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.children import TIMEOUT
from tests.dashboards.test_compose import SCRAPING, SERVICES
from tests.dashboards.test_rules import ALERTS
from tests.servers import Receiver, free_port, needs, prometheus, serving, until

ROOT = Path(__file__).parents[2]
FILE = ROOT / "dashboards" / "alertmanager" / "alertmanager.yml"
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())
PAGE = (ROOT / "docs" / "deployment.md").read_text()

KINDS = ("user", "system", "unknown")
SEVERITIES = ("page", "ticket", "info")
NEW = "FaultlensNewFailureClass"

Labels = Mapping[str, str]

WHO = {
    "FaultlensPlatformFailsAttempts": "page",
    "FaultlensPlatformFailsSomeAttempts": "ticket",
    "FaultlensPlatformFailsOutsideAttempts": "ticket",
    "FaultlensUnknownFailures": "ticket",
    "FaultlensWorkerOutlier": "nobody",
    "FaultlensDown": "ticket",
    "FaultlensGone": "ticket",
    "FaultlensDropping": "ticket",
}
"""Who gets each alert whose kind is always the same."""

WHO_OF_A_NEW_CLASS = {
    ("user", "team-a"): "owner",
    ("user", ""): "nobody",
    ("user", "_OTHER"): "nobody",
    ("system", "team-a"): "nobody",
    ("system", ""): "nobody",
    ("unknown", "team-a"): "ticket",
    ("unknown", ""): "ticket",
}
"""Its kind is that of the failures, by kind and owner."""


def told() -> Iterator[tuple[Labels, str]]:
    """The labels that the alerts can have, each with who gets such an alert."""
    for alert, who in WHO.items():
        yield {"alertname": alert, "job": "flyte", **ALERTS[alert]["labels"]}, who
    for (kind, owner), who in WHO_OF_A_NEW_CLASS.items():
        labels = {"alertname": NEW, "job": "flyte", "class": "a.B", "kind": kind, "owner": owner}
        yield {**labels, **ALERTS[NEW]["labels"]}, who


def amtool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["amtool", *args], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def receiver(file: Path, labels: Labels) -> str:
    """Who gets an alert with these labels."""
    given = (f"{name}={value}" for name, value in labels.items() if value)
    done = amtool("config", "routes", "test", f"--config.file={file}", *given)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs("amtool")
def test_alertmanager_takes_it() -> None:
    done = amtool("check-config", FILE)

    assert done.returncode == 0, done.stderr
    assert "4 receivers" in done.stdout


@needs("amtool")
@pytest.mark.parametrize("key", ["matchers", "receiver", "group_by", "name"])
def test_it_would_not_take_a_mistyped_key(key: str, tmp_path: Path) -> None:
    mistyped = tmp_path / FILE.name
    mistyped.write_text(re.sub(rf"\b{key}:", f"{key}x:", FILE.read_text()))

    assert amtool("check-config", mistyped).returncode != 0


def test_every_alert_has_somebody() -> None:
    assert {*WHO, NEW} == set(ALERTS)
    for alert in WHO:
        assert set(ALERTS[alert]["labels"]) == {"severity", "kind"}
    assert set(ALERTS[NEW]["labels"]) == {"severity"}
    assert {kind for kind, _ in WHO_OF_A_NEW_CLASS} == set(KINDS)


@needs("amtool")
@pytest.mark.parametrize(("labels", "who"), list(told()))
def test_who_gets_an_alert(labels: Labels, who: str) -> None:
    assert receiver(FILE, labels) == who


@needs("amtool")
@pytest.mark.parametrize(("kind", "severity"), list(product(KINDS, SEVERITIES)))
@pytest.mark.parametrize("owner", ["", "team-a"])
def test_only_the_platform_is_paged(kind: str, severity: str, owner: str) -> None:
    labels = {"alertname": "FaultlensX", "kind": kind, "severity": severity, "owner": owner}

    paged = receiver(FILE, labels) == "page"

    assert paged == ((kind, severity) == ("system", "page"))


@needs("amtool")
def test_the_page_says_who_gets_which() -> None:
    section = PAGE.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (`\w+`|any) \| (.*) \|$", section, re.MULTILINE)
    words = {"page": "pager", "ticket": "ticket", "owner": "owner", "nobody": "nobody"}
    said = {
        (kind, one): text
        for kind, severity, text in rows
        for one in (SEVERITIES if severity == "any" else [severity.strip("`")])
    }
    assert set(said) == set(product(KINDS, SEVERITIES))
    for (kind, severity), text in said.items():
        labels = {"alertname": "FaultlensX", "kind": kind, "severity": severity, "owner": "team-a"}
        assert words[receiver(FILE, labels)] in text.split(".")[0]


@needs("amtool")
def test_one_who_already_has_a_configuration_needs_only_the_route_and_the_receivers(
    tmp_path: Path,
) -> None:
    theirs: dict[str, Any] = {
        "route": {"receiver": "theirs", "routes": [{"receiver": "all", "matchers": []}]},
        "receivers": [{"name": "theirs"}, {"name": "all"}],
    }
    theirs["route"]["routes"][:0] = CONFIG["route"]["routes"]
    theirs["receivers"] += CONFIG["receivers"]
    file = tmp_path / FILE.name
    file.write_text(json.dumps(theirs))

    for labels, who in told():
        assert receiver(file, labels) == who
    assert receiver(file, {"alertname": "Watchdog", "kind": "user", "severity": "page"}) == "all"


def without_each() -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration without each of its routes, then without each matcher."""
    (ours,) = CONFIG["route"]["routes"]
    for number, route in enumerate(ours["routes"]):
        changed = copy.deepcopy(CONFIG)
        del changed["route"]["routes"][0]["routes"][number]
        yield f"route {route}", changed
        for matcher in route["matchers"]:
            changed = copy.deepcopy(CONFIG)
            changed["route"]["routes"][0]["routes"][number]["matchers"].remove(matcher)
            yield f"{matcher} of {route}", changed


@needs("amtool")
def test_each_route_and_matcher_is_needed(tmp_path: Path) -> None:
    # A user failure with a severity of its own, which no alert has today.
    paged = {"alertname": "FaultlensX", "kind": "user", "severity": "page"}
    asked = [*told(), (paged, "nobody")]
    for what, config in without_each():
        file = tmp_path / FILE.name
        file.write_text(json.dumps(config))
        assert any(receiver(file, labels) != who for labels, who in asked), what


def test_an_alert_of_each_owner_is_sent_on_its_own() -> None:
    (ours,) = CONFIG["route"]["routes"]
    assert {"owner", "kind"} <= set(ours["group_by"])


@contextlib.contextmanager
def alertmanager(directory: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """An Alertmanager on this host; gives its host and port."""
    file = directory / FILE.name
    file.write_text(json.dumps(config))
    target = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus-alertmanager",  # as Debian calls it
        f"--config.file={file}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={target}",
        "--cluster.listen-address=",
    ]
    with serving(command, f"http://{target}/-/ready", directory):
        yield target


def delivered(receiver: Receiver) -> set[tuple[str, ...]]:
    """Each alert that was sent: to whom, its name, kind and owner."""
    return {
        (path.strip("/"), *(alert["labels"].get(name, "") for name in ("alertname", *NAMES)))
        for path, body in list(receiver.bodies)
        for alert in json.loads(body)["alerts"]
    }


NAMES = ("kind", "owner")


@needs("prometheus")
@needs("prometheus-alertmanager")
def test_what_prometheus_fires_arrives_where_it_should(tmp_path: Path) -> None:
    rules = []
    for labels, _ in told():
        alertname, *others = labels.items()
        rules.append({"alert": alertname[1], "expr": "vector(1)", "labels": dict(others)})
    group = {"name": "as ours", "interval": "1s", "rules": rules}
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [group]}))
    config = copy.deepcopy(CONFIG)
    # By default, an alert that ends before it is told is told five minutes later.
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    with Receiver() as receiver:
        for one in config["receivers"]:
            one["webhook_configs"] = [{"url": f"{receiver.url}/{one['name']}"}]
        with alertmanager(tmp_path, config) as target:
            alerting = json.dumps(SCRAPING["alerting"]).replace("alertmanager:9093", target)
            loaded = {"alerting": json.loads(alerting), "rule_files": ["rules.yml"]}
            # What it fires before it knows its Alertmanagers is lost, and sent again.
            again = "--rules.alert.resend-delay=1s"
            with prometheus(tmp_path, json.dumps(loaded), again):
                expected = {
                    (who, *(labels.get(name, "") for name in ("alertname", *NAMES)))
                    for labels, who in told()
                }
                until(lambda: len(delivered(receiver)) >= len(expected), "the alerts")
            asked = SERVICES["alertmanager"]["healthcheck"]["test"]
            check = [part.replace("127.0.0.1:9093", target) for part in asked]
            assert check[:2] == ["CMD", "amtool"]
            assert amtool(*check[2:]).returncode == 0
        assert amtool(*check[2:]).returncode != 0

    assert delivered(receiver) == expected
