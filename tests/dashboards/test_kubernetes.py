"""``faultlens dashboards --format kubernetes``: kubectl, Kubernetes and the operator take it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from faultlens.commands import dashboards
from tests.children import TIMEOUT
from tests.servers import needs
from tests.test_cli import command

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "dashboards"
MODULES = ROOT / ".venv" / "tools" / "node_modules"
OPERATOR = MODULES / "@kubernetes-models" / "prometheus-operator"
"""The operator's custom resources: their types, and validators that are made of their schemas."""

Manifest = dict[str, Any]
Applied = dict[tuple[str, str], Manifest]
"""What would be applied, by kind and name."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pack")
    done = command("dashboards", str(directory), "--format", "kubernetes")
    assert (done.returncode, done.stderr) == (0, "")
    return directory


def manifest(pack: Path, kind: str) -> Manifest:
    document: Manifest = yaml.safe_load((pack / f"{kind.lower()}.yaml").read_text())
    assert document["kind"] == kind
    return document


def run(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        args, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def kustomized(pack: Path) -> Applied:
    done = run("kubectl", "kustomize", pack)
    assert (done.returncode, done.stderr) == (0, "")
    documents = list(yaml.safe_load_all(done.stdout))
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


@pytest.fixture(scope="module")
def applied(pack: Path) -> Applied:
    return kustomized(pack)


class TestCommand:
    def test_says_what_it_wrote_and_what_to_do_with_it(self, tmp_path: Path) -> None:
        done = command("dashboards", str(tmp_path), "--format", "kubernetes")

        assert (done.returncode, done.stderr) == (0, "")
        written, _, steps = done.stdout.partition("\n\n")
        names = dashboards.FILES["kubernetes"]
        assert written.splitlines() == [f"wrote {tmp_path / name}" for name in names]
        assert {path.name for path in tmp_path.iterdir()} == set(names)
        assert f"namespace, the image and the label in {tmp_path / 'kustomization.yaml'}" in steps
        assert f"kubectl apply -k {tmp_path}\n" in steps

    def test_there_are_no_other_formats(self, tmp_path: Path) -> None:
        done = command("dashboards", str(tmp_path), "--format", "helm")

        assert done.returncode == 2
        assert "--format: invalid choice: 'helm'" in done.stderr
        assert all(name in done.stderr for name in dashboards.FILES)
        assert list(tmp_path.iterdir()) == []

    def test_alerts_link_to_your_grafana(self, tmp_path: Path) -> None:
        url = "https://grafana.example.com"
        command("dashboards", str(tmp_path), "--format", "kubernetes", "--grafana-url", url)

        rules = (tmp_path / "prometheusrule.yaml").read_text()
        assert "localhost:3000" not in rules
        assert rules.count(f"dashboard_url: '{url}/d/") == rules.count("- alert:")

    def test_what_you_set_is_kept(self, tmp_path: Path) -> None:
        command("dashboards", str(tmp_path), "--format", "kubernetes")
        mine = tmp_path / "kustomization.yaml"
        mine.write_text(mine.read_text().replace("registry.example.com", "registry.mine"))

        done = command("dashboards", str(tmp_path), "--format", "kubernetes")

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith(f"{mine} has other content. --force overwrites\n")


class TestContent:
    def test_the_rules_are_those_that_prometheus_loads(self, pack: Path) -> None:
        rules = yaml.safe_load((SOURCE / "prometheus" / "faultlens.rules.yml").read_text())

        assert manifest(pack, "PrometheusRule")["spec"] == rules

    @needs("promtool")
    def test_promtool_takes_them(self, pack: Path, tmp_path: Path) -> None:
        rules = tmp_path / "rules.yml"
        rules.write_text(yaml.safe_dump(manifest(pack, "PrometheusRule")["spec"]))

        done = run("promtool", "check", "rules", "--lint-fatal", rules)

        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_kustomization_has_all_files_but_alertmanagers(self, pack: Path) -> None:
        kustomization = yaml.safe_load((pack / "kustomization.yaml").read_text())
        used = [*kustomization["resources"]]
        for generator in kustomization["configMapGenerator"]:
            used += generator["files"]

        others = {"kustomization.yaml", "alertmanager.yml"}
        assert sorted(used) == sorted({path.name for path in pack.iterdir()} - others)

    def test_the_operator_finds_the_daemons_pods(self, pack: Path) -> None:
        daemon, monitor = manifest(pack, "DaemonSet"), manifest(pack, "PodMonitor")

        assert monitor["spec"]["selector"] == daemon["spec"]["selector"]
        (container,) = daemon["spec"]["template"]["spec"]["containers"]
        (port,) = container["ports"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == port["name"]

    def test_the_port_of_the_node_can_be_had(self, pack: Path) -> None:
        text = (pack / "daemonset.yaml").read_text()
        document = yaml.safe_load(text.replace("# hostPort:", "hostPort:"))

        (container,) = document["spec"]["template"]["spec"]["containers"]
        (port,) = container["ports"]
        assert port["hostPort"] == port["containerPort"]
        latest = kubernetes_validate.utils.latest_version()
        kubernetes_validate.validate(document, latest, strict=True)


@needs("kubectl")
class TestKustomize:
    def test_all_of_it_is_applied(self, pack: Path, applied: Applied) -> None:
        boards = [path.stem for path in pack.glob("*.json")]

        assert len(boards) == 3
        assert set(applied) == {
            ("DaemonSet", "faultlens"),
            ("PodMonitor", "faultlens"),
            ("PrometheusRule", "faultlens"),
            *(("ConfigMap", f"faultlens-{board}") for board in boards),
        }

    def test_grafanas_sidecar_finds_the_boards_as_they_are(self, applied: Applied) -> None:
        for (kind, name), document in applied.items():
            if kind != "ConfigMap":
                assert "grafana_dashboard" not in document["metadata"].get("labels", {})
                continue
            assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
            ((file, text),) = document["data"].items()
            assert file == f"{name.removeprefix('faultlens-')}.json"
            assert json.loads(text) == json.loads((SOURCE / "grafana" / file).read_text())

    def test_kubectl_apply_can_note_each_in_an_annotation(self, applied: Applied) -> None:
        """It notes what it applied, and all annotations together may have 256 KiB."""
        for document in applied.values():
            assert len(json.dumps(document)) < 200 * 1024

    def test_what_you_set_holds_everywhere(self, pack: Path, tmp_path: Path) -> None:
        shutil.copytree(pack, tmp_path, dirs_exist_ok=True)
        file = tmp_path / "kustomization.yaml"
        given = {"namespace": "ops", "newName": "r.example.org/f", "newTag": "7", "release": "kps"}
        text = file.read_text()
        for key, value in given.items():
            (old,) = (line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
            text = text.replace(old, f'{old.partition(":")[0]}: "{value}"')
        file.write_text(text)

        found = kustomized(tmp_path)

        for document in found.values():
            assert document["metadata"]["namespace"] == "ops"
            assert document["metadata"]["labels"]["release"] == "kps"
        spec = found["DaemonSet", "faultlens"]["spec"]["template"]["spec"]
        images = {c["image"] for c in (*spec["initContainers"], *spec["containers"])}
        assert images == {"r.example.org/f:7"}

    def test_a_kustomization_of_your_own_outlasts_the_next_version(
        self, pack: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(pack, tmp_path / "DIR")
        header, _, _ = (pack / "kustomization.yaml").read_text().partition("apiVersion:")
        own = re.findall(r"^# {5}(\w+: [\[\w].*)$", header, re.MULTILINE)
        assert len(own) == 4
        (tmp_path / "kustomization.yaml").write_text("\n".join(own))

        found = kustomized(tmp_path)

        for document in found.values():
            assert document["metadata"]["namespace"] == "ops"
            assert document["metadata"]["labels"]["release"] == "prometheus"
        spec = found["DaemonSet", "faultlens"]["spec"]["template"]["spec"]
        images = {c["image"] for c in (*spec["initContainers"], *spec["containers"])}
        assert images == {"registry.ops.example.com/faultlens:1.2.3"}

    @pytest.mark.parametrize("version", kubernetes_validate.utils.all_versions())
    def test_kubernetes_takes_what_is_its_own(self, version: str, applied: Applied) -> None:
        own = {"DaemonSet", "ConfigMap"}
        documents = [document for (kind, _), document in applied.items() if kind in own]

        assert len(documents) == 4
        for document in documents:
            kubernetes_validate.validate(document, version, strict=True)


VALIDATE = """
import * as v1 from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";
const manifest = JSON.parse(readFileSync("manifest.json", "utf8"));
try { new v1[manifest.kind](manifest).validate(); } catch (error) { console.log(error.message); }
"""
CHECK = """
import type {{ I{kind} }} from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
export const manifest: I{kind} = {manifest};
"""


def complaints(document: Manifest, directory: Path) -> str:
    """What the operator's schemas have against a manifest: its values, then its fields.

    The schemas allow fields that they do not know; TypeScript allows none.
    """
    (directory / "node_modules").symlink_to(MODULES)
    text = json.dumps(document)
    (directory / "manifest.json").write_text(text)
    (directory / "validate.mjs").write_text(VALIDATE)
    (directory / "check.ts").write_text(CHECK.format(kind=document["kind"], manifest=text))
    options = "--noEmit --strict --skipLibCheck --module nodenext --target esnext"
    tsc = MODULES / ".bin" / "tsc"
    values = run("node", "validate.mjs", cwd=directory)
    fields = run(tsc, *options.split(), "check.ts", cwd=directory)
    return values.stdout + values.stderr + fields.stdout + fields.stderr


def first(items: list[Manifest], key: str) -> Manifest:
    return next(item for item in items if key in item)


def alert(document: Manifest) -> Manifest:
    return first(document["spec"]["groups"][0]["rules"], "alert")


def endpoint(document: Manifest) -> Manifest:
    found: Manifest = document["spec"]["podMetricsEndpoints"][0]
    return found


SLIPS: dict[str, tuple[str, Callable[[Manifest], object], str]] = {
    "a field of an alert": (
        "PrometheusRule",
        lambda rule: alert(rule).update(annotation={}),
        '"annotation"\' does not exist',
    ),
    "no expression": ("PrometheusRule", lambda rule: alert(rule).pop("expr"), "property expr"),
    "a duration": (
        "PrometheusRule",
        lambda rule: alert(rule).update({"for": "5 minutes"}),
        "for must match pattern",
    ),
    "a group without a name": (
        "PrometheusRule",
        lambda rule: rule["spec"]["groups"][0].pop("name"),
        "required property name",
    ),
    "a number as a label": (
        "PrometheusRule",
        lambda rule: alert(rule)["labels"].update(severity=1),
        "severity must be string",
    ),
    "no selector": (
        "PodMonitor",
        lambda monitor: monitor["spec"].pop("selector"),
        "required property selector",
    ),
    "a field of the endpoint": (
        "PodMonitor",
        lambda monitor: endpoint(monitor).update(intervall="15s"),
        '"intervall"\' does not exist',
    ),
    "an interval": (
        "PodMonitor",
        lambda monitor: endpoint(monitor).update(interval="15"),
        "interval must match pattern",
    ),
    "a field of a relabeling": (
        "PodMonitor",
        lambda monitor: endpoint(monitor)["relabelings"][0].update(source_labels=[]),
        '"source_labels"\' does not exist',
    ),
    "an action": (
        "PodMonitor",
        lambda monitor: endpoint(monitor)["relabelings"][1].update(action="lose"),
        "action must be equal to one of the allowed values",
    ),
}
"""In which manifest, what is wrong there, and what is said of it."""


@needs("@kubernetes-models/prometheus-operator", OPERATOR)
class TestCustomResources:
    @pytest.mark.parametrize("kind", ["PrometheusRule", "PodMonitor"])
    def test_the_operator_takes_them(self, kind: str, pack: Path, tmp_path: Path) -> None:
        assert complaints(manifest(pack, kind), tmp_path) == ""

    @pytest.mark.parametrize("slip", SLIPS)
    def test_it_would_not_with_a_slip(self, slip: str, pack: Path, tmp_path: Path) -> None:
        kind, change, said = SLIPS[slip]
        document = manifest(pack, kind)
        change(document)

        assert said in complaints(document, tmp_path)
