"""docker-compose.yml and what it mounts, as far as that can be run without a docker daemon.

The files fit together; docker-compose and promtool take them; and the demo runs with the
configuration of its container, scraped by a real Prometheus with the configuration of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import children
from tests.children import TIMEOUT
from tests.servers import Prometheus, Receiver, get, needs, prometheus, until
from tests.test_packaging import pip

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DEMO = SERVICES["demo"]
DOCKERFILE: str = DEMO["build"]["dockerfile_inline"]

DASHBOARDS = ROOT / "dashboards"
PROMETHEUS_YML = DASHBOARDS / "prometheus" / "prometheus.yml"
SCRAPING = yaml.safe_load(PROMETHEUS_YML.read_text())
TEMPO = yaml.safe_load((DASHBOARDS / "tempo" / "tempo.yml").read_text())
PROVISIONING = DASHBOARDS / "grafana" / "provisioning"
(PROVIDER,) = yaml.safe_load((PROVISIONING / "dashboards" / "faultlens.yml").read_text())[
    "providers"
]
SOURCES = {
    source["uid"]: source
    for source in yaml.safe_load((PROVISIONING / "datasources" / "faultlens.yml").read_text())[
        "datasources"
    ]
}
(EXEMPLARS,) = SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]


def mounts(service: str) -> dict[str, Path]:
    """What a container has of the checkout: path there, path here."""
    volumes = [volume.split(":") for volume in SERVICES[service].get("volumes", ())]
    return {target: ROOT / source for source, target, *_ in volumes if source.startswith(".")}


def here(service: str, path: str) -> Path:
    """The file of the checkout that a container has at `path`."""
    for target, source in mounts(service).items():
        if path == target or path.startswith(f"{target}/"):
            return source / path.removeprefix(target).removeprefix("/")
    raise AssertionError(f"nothing is mounted at {path} of {service}")


class TestComposeFile:
    def config(self, file: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker-compose", "--file", file, "config", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    @needs("docker-compose")
    def test_is_taken(self) -> None:
        done = self.config(FILE)

        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @needs("docker-compose")
    @pytest.mark.parametrize("key", ["healthcheck", "hostname", "dockerfile_inline", "ports"])
    def test_with_a_mistyped_key_is_not(self, key: str, tmp_path: Path) -> None:
        mistyped = FILE.read_text().replace(f" {key}:", f" {key}x:", 1)
        (tmp_path / FILE.name).write_text(mistyped)

        done = self.config(tmp_path / FILE.name)

        assert done.returncode != 0
        assert f"{key}x" in done.stderr

    def test_every_image_is_pinned(self) -> None:
        images = {service["image"] for service in SERVICES.values() if "image" in service}

        assert len(images) == 4
        for image in images:
            assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", image)
        assert re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE) == ["python:3.13-slim"]

    def test_ports_are_open_to_this_machine_only(self) -> None:
        ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

        assert ports == {
            "alertmanager": ["127.0.0.1:9093:9093"],
            "grafana": ["127.0.0.1:3000:3000"],
            "prometheus": ["127.0.0.1:9090:9090"],
        }

    def test_who_does_not_sign_in_can_only_look_and_there_is_no_secret_in_it(self) -> None:
        names = [name for service in SERVICES.values() for name in service.get("environment", ())]

        assert names
        assert not [name for name in names if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]
        grafana = SERVICES["grafana"]["environment"]
        assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"

    def test_whatever_can_say_how_it_is_is_asked(self) -> None:
        assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {
            "tempo"
        }

    def test_what_is_mounted_from_the_checkout_exists_and_stays_as_it_is(self) -> None:
        for name, service in SERVICES.items():
            for volume in service.get("volumes", ()):
                assert not volume.startswith(".") or volume.endswith(":ro")
            for source in mounts(name).values():
                assert source.exists()

    def test_every_volume_is_declared_and_used(self) -> None:
        volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]

        used = [volume.split(":")[0] for volume in volumes if not volume.startswith(".")]
        assert sorted(used) == sorted(COMPOSE["volumes"])


class TestImage:
    def test_what_is_copied_is_enough_to_install_it(self, tmp_path: Path) -> None:
        for sources, target in re.findall(r"^COPY (.+) (\S+)$", DOCKERFILE, re.MULTILINE):
            for source in sources.split():
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, tmp_path / "src" / target)
                else:
                    (tmp_path / "src" / target).mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, tmp_path / "src" / target)

        out = str(tmp_path / "wheel")
        source = str(tmp_path / "src")
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)

        assert list((tmp_path / "wheel").glob("faultlens-*.whl"))

    def test_it_does_not_run_as_root(self) -> None:
        (user,) = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)

        assert f"useradd --create-home {user}\n" in DOCKERFILE
        assert "RUN" not in DOCKERFILE.partition(f"USER {user}")[2]


class TestWiring:
    """What one file names, another has."""

    def test_prometheus_reads_its_configuration_and_ours_scrapes_the_demo(self) -> None:
        command = SERVICES["prometheus"]["command"]
        (file,) = [argument for argument in command if argument.startswith("--config.file=")]

        assert here("prometheus", file.partition("=")[2]) == PROMETHEUS_YML
        for rules in SCRAPING["rule_files"]:
            assert (PROMETHEUS_YML.parent / rules).is_file()
        (job,) = SCRAPING["scrape_configs"]
        assert job["static_configs"] == [{"targets": ["demo:9464"]}]
        assert DEMO["environment"]["OTEL_EXPORTER_PROMETHEUS_HOST"] == "0.0.0.0"

    @needs("promtool")
    def test_promtool_takes_it(self) -> None:
        done = subprocess.run(
            ["promtool", "check", "config", PROMETHEUS_YML],
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        assert "SUCCESS: 1 rule files found" in done.stdout

    def test_prometheus_keeps_exemplars_and_knows_when_a_counter_was_created(self) -> None:
        (flag,) = [f for f in SERVICES["prometheus"]["command"] if "--enable-feature" in f]

        features = flag.partition("=")[2].split(",")
        assert features == ["exemplar-storage", "created-timestamp-zero-ingestion"]

    def test_prometheus_sends_its_alerts_to_alertmanager_which_reads_our_routes(self) -> None:
        (alertmanagers,) = SCRAPING["alerting"]["alertmanagers"]
        assert alertmanagers == {"static_configs": [{"targets": ["alertmanager:9093"]}]}
        (file,) = [a for a in SERVICES["alertmanager"]["command"] if "--config.file=" in a]
        routes = here("alertmanager", file.partition("=")[2])
        assert routes == DASHBOARDS / "alertmanager" / "alertmanager.yml"
        assert routes.is_file()

    def test_tempo_takes_what_the_demo_sends(self) -> None:
        config = SERVICES["tempo"]["command"][-1]
        assert here("tempo", config.partition("=")[2]) == DASHBOARDS / "tempo" / "tempo.yml"
        protocols = TEMPO["distributor"]["receivers"]["otlp"]["protocols"]
        host, _, port = protocols["http"]["endpoint"].rpartition(":")

        assert host == "0.0.0.0"
        assert DEMO["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://tempo:{port}"
        assert "opentelemetry-exporter-otlp-proto-http" in DOCKERFILE

    def test_what_tempo_keeps_is_in_its_volume(self) -> None:
        (volume,) = [v for v in SERVICES["tempo"]["volumes"] if v.startswith("tempo:")]
        trace = TEMPO["storage"]["trace"]

        for place in (trace["local"]["path"], trace["wal"]["path"]):
            assert place.startswith(volume.partition(":")[2] + "/")

    def test_grafana_reads_the_provisioning(self) -> None:
        for kind in ("dashboards", "datasources"):
            file = here("grafana", f"/etc/grafana/provisioning/{kind}/faultlens.yml")
            assert file == PROVISIONING / kind / "faultlens.yml"

    def test_grafana_finds_the_boards(self) -> None:
        assert here("grafana", PROVIDER["options"]["path"]) == DASHBOARDS / "grafana"
        home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert json.loads(here("grafana", home).read_text())["uid"] == "faultlens-overview"

    def test_the_boards_are_files_and_stay_so(self) -> None:
        assert PROVIDER["folder"] == "faultlens"
        assert PROVIDER["disableDeletion"]
        assert not PROVIDER["allowUiUpdates"]

    def test_the_data_sources_are_the_containers(self) -> None:
        ports = {"prometheus": 9090, "tempo": TEMPO["server"]["http_listen_port"]}

        assert {uid: source["url"] for uid, source in SOURCES.items()} == {
            name: f"http://{name}:{port}" for name, port in ports.items()
        }
        assert {source["type"] for source in SOURCES.values()} <= set(SERVICES)

    def test_an_exemplar_leads_to_its_trace(self) -> None:
        assert SOURCES[EXEMPLARS["datasourceUid"]]["type"] == "tempo"
        # A single $ is a variable of the environment there.
        assert re.findall(r"\$+", EXEMPLARS["urlDisplayLabel"]) == ["$$"]

    def test_grafana_knows_how_often_is_scraped(self) -> None:
        interval = SOURCES["prometheus"]["jsonData"]["timeInterval"]

        assert interval == SCRAPING["global"]["scrape_interval"]

    def test_a_board_needs_no_other_data_source(self) -> None:
        boards = sorted((DASHBOARDS / "grafana").glob("*.json"))

        assert boards
        for board in map(Path.read_text, boards):
            variables = json.loads(board)["templating"]["list"]
            types = {v["query"] for v in variables if v["type"] == "datasource"}
            needed = types - {"loki"}  # its panel is folded away
            assert needed == {source["type"] for source in SOURCES.values()}
            uids = re.findall(r'"datasource": \{[^}]*"uid": "([^"]*)"', board)
            fixed = {uid for uid in uids if not uid.startswith(("$", "-- "))} - {"grafana"}
            assert fixed <= set(SOURCES)


class Native:
    """The demo, Prometheus, and what stands for Tempo, outside of containers."""

    def __init__(
        self, demo: subprocess.Popen[str], url: str, server: Prometheus, tempo: Receiver
    ) -> None:
        self.demo = demo
        self.url = url
        self.server = server
        self.tempo = tempo

    def api(self, path: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        return json.loads(get(f"{self.server.url}/api/v1/{path}?{query}"))["data"]

    def exemplars(self) -> list[tuple[dict[str, str], str]]:
        """Each exemplar of a failure: the labels of its series, and the trace that it names."""
        found = self.api("query_exemplars", query="faultlens_failures_total", start=0, end=4e9)
        return [
            (series["seriesLabels"], exemplar["labels"][EXEMPLARS["name"]])
            for series in found
            for exemplar in series["exemplars"]
        ]

    def spans(self) -> list[Any]:
        """What has been sent to Tempo."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        return [
            span
            for _, body in list(self.tempo.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def traces(self) -> dict[str, list[dict[str, str]]]:
        """The events `exception` of each trace that has arrived."""
        traces: dict[str, list[dict[str, str]]] = {}
        for span in self.spans():
            traces.setdefault(span.trace_id.hex(), []).extend(
                {attribute.key: attribute.value.string_value for attribute in event.attributes}
                for event in span.events
                if event.name == "exception"
            )
        return traces


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    for package in ("flyte", "durable_workflow", "opentelemetry.exporter.otlp.proto.http"):
        pytest.importorskip(package)
    directory = tmp_path_factory.mktemp("native")
    for rules in SCRAPING["rule_files"]:
        shutil.copy(PROMETHEUS_YML.parent / rules, directory)
    flags = [f for f in SERVICES["prometheus"]["command"] if f.startswith("--enable-feature")]
    with (
        Receiver() as tempo,
        subprocess.Popen(
            [sys.executable, "-m", *DEMO["command"], "--port", "0"],
            env=children.environment(
                {
                    **DEMO["environment"],
                    "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": tempo.url,
                    **dict.fromkeys(("FAULTLENS", "FAULTLENS_WORKER")),
                }
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as demo,
    ):
        try:
            assert demo.stdout is not None
            url = demo.stdout.readline().split()[0]
            target = urllib.parse.urlsplit(url).netloc
            config = PROMETHEUS_YML.read_text().replace("demo:9464", target)
            with prometheus(directory, config, *flags) as server:
                yield Native(demo, url, server, tempo)
        finally:
            demo.kill()


@needs("prometheus")
class TestNatively:
    def test_the_demo_is_scraped(self, native: Native) -> None:
        native.server.wait_for('up{job="demo"} == 1')
        native.server.wait_for('faultlens_info{job="demo"}')
        assert len(native.server.query("up")) == 1

    def test_every_rule_is_loaded_and_works(self, native: Native) -> None:
        expected = [
            rule.get("alert") or rule["record"]
            for file in SCRAPING["rule_files"]
            for group in yaml.safe_load((PROMETHEUS_YML.parent / file).read_text())["groups"]
            for rule in group["rules"]
        ]

        def rules() -> list[dict[str, Any]]:
            return [rule for group in native.api("rules")["groups"] for rule in group["rules"]]

        # A rule is unknown until its group has had its turn, which takes one interval.
        until(lambda: all(rule["health"] != "unknown" for rule in rules()), "the rules")
        assert sorted(rule["name"] for rule in rules()) == sorted(expected)
        assert {rule["health"] for rule in rules()} == {"ok"}

    def test_every_exemplar_leads_to_the_trace_of_such_a_failure(self, native: Native) -> None:
        kinds = {"user", "system", "unknown"}
        until(lambda: {s["kind"] for s, _ in native.exemplars()} == kinds, "exemplars")
        exemplars = native.exemplars()

        until(lambda: {trace for _, trace in exemplars} <= set(native.traces()), "their traces")

        for series, trace in exemplars:
            failures = [
                (event["exception.type"], event["faultlens.kind"], event["faultlens.worker"])
                for event in native.traces()[trace]
                if event["faultlens.role"] == "origin"
            ]
            assert (series["class"], series["kind"], series["worker"]) in failures

    def test_every_failure_is_in_a_trace_of_the_programs(self, native: Native) -> None:
        """None is on a span of faultlens' own, to which no exemplar would lead."""

        def failures() -> list[dict[str, str]]:
            return [event for events in native.traces().values() for event in events]

        until(
            lambda: {"flyte", "durable_workflow"} <= {e["faultlens.sdk"] for e in failures()},
            "both",
        )
        until(lambda: "orders" in {event["faultlens.worker"] for event in failures()}, "a worker's")

        assert "exception" not in {span.name for span in native.spans()}

    @pytest.mark.parametrize(("well", "status"), [(True, 0), (False, 1)])
    def test_the_health_check_tells(self, native: Native, well: bool, status: int) -> None:
        target = urllib.parse.urlsplit(native.url).netloc if well else "127.0.0.1:1"
        cmd, program, option, code = DEMO["healthcheck"]["test"]

        done = subprocess.run(
            [sys.executable, option, code.replace("127.0.0.1:9464", target)],
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=TIMEOUT,
        )

        assert (cmd, program, done.returncode) == ("CMD", "python", status)

    def test_it_ends_as_docker_ends_it(self, native: Native) -> None:
        native.demo.send_signal(signal.SIGTERM)
        stdout, stderr = native.demo.communicate(timeout=TIMEOUT)

        assert (native.demo.returncode, stderr) == (0, "")
        assert "failures: " in stdout
