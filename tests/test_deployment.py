"""The deployment page holds: its manifests, configurations, programs, commands and numbers.

So do the manifests of `faultlens dashboards --format kubernetes`, which it is about.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import kubernetes_validate.utils  # type: ignore[import-untyped]
import pytest
import yaml
from celery.bin.celery import celery as celery_command  # type: ignore[import-untyped]
from gunicorn.config import Config as GunicornConfig  # type: ignore[import-untyped]

from faultlens import commands
from faultlens.commands import endpoint
from faultlens.exposition.families import Collector
from faultlens.exposition.ledgers import Ledgers
from faultlens.settings import VARIABLES, StorePath
from tests import children
from tests.children import TIMEOUT
from tests.servers import free_port, get, needs, serving

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "deployment.md").read_text()
PROSE = " ".join(PAGE.split())
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DOCUMENTS = [
    document
    for language, text in BLOCKS
    if language == "yaml"
    for document in yaml.safe_load_all(text)
]
MANIFESTS = {document["kind"]: document for document in DOCUMENTS if "kind" in document}
TEMPLATE, WORKER = (MANIFESTS[kind] for kind in ("PodTemplate", "Deployment"))
DAEMON, MONITOR = (
    yaml.safe_load((ROOT / "dashboards" / "kubernetes" / f"{kind}.yaml").read_text())
    for kind in ("daemonset", "podmonitor")
)
(PROMETHEUS,) = (document for document in DOCUMENTS if "scrape_configs" in document)

VERSIONS = sorted(
    {tuple(map(int, name.split(".")[:2])) for name in kubernetes_validate.utils.all_versions()}
)
SIDECARS_SINCE = (1, 29)  # as the page says


def blocks(language: str) -> list[str]:
    return [text for of, text in BLOCKS if of == language]


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    """The pods that a manifest makes."""
    spec: dict[str, Any] = manifest.get("spec", manifest)["template"]["spec"]
    return spec


def containers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The containers of its pods, those that run first too, by name."""
    found = [*pod(manifest).get("initContainers", ()), *pod(manifest)["containers"]]
    return {container["name"]: container for container in found}


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """What a container's environment says: a value, or where it is taken from."""
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom"))
        for variable in container.get("env", ())
    }


def test_nothing_on_the_page_is_left_unchecked() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh", "yaml"}
    assert set(MANIFESTS) == {"Deployment", "PodTemplate"}
    assert len(DOCUMENTS) == len(MANIFESTS) + 1  # Prometheus' configuration


# Kubernetes


def validate(manifest: dict[str, Any], version: tuple[int, ...]) -> None:
    kubernetes_validate.validate(manifest, ".".join(map(str, version)), strict=True)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: ".".join(map(str, version)))
def test_kubernetes_takes_the_manifests(version: tuple[int, ...]) -> None:
    validate(DAEMON, version)
    validate(TEMPLATE, version)
    if version >= SIDECARS_SINCE:
        validate(WORKER, version)


def test_it_would_not_take_them_with_a_slip() -> None:
    slip = copy.deepcopy(DAEMON)
    pod(slip)["volumes"][0]["hostpath"] = pod(slip)["volumes"][0].pop("hostPath")
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(slip, VERSIONS[-1])


@pytest.mark.parametrize("manifest", [DAEMON, TEMPLATE, WORKER], ids=lambda m: m["kind"])
def test_what_a_manifest_refers_to_is_there(manifest: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in pod(manifest)["volumes"]}
    for container in containers(manifest).values():
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        (mounted,) = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert variables(container).get("FAULTLENS_STORE", mounted) == mounted
        command = container.get("command", [])
        assert "--store" not in command or command[command.index("--store") + 1] == mounted
        for probe in (name for name in container if name.endswith("Probe")):
            asked = container[probe]["httpGet"]
            assert asked["path"] == "/-/healthy"
            assert asked["port"] in [port["name"] for port in container["ports"]]
    if "spec" in manifest:
        selected = manifest["spec"]["selector"]["matchLabels"]
        assert selected.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()


def test_the_pods_of_tasks_and_the_daemon_share_one_directory_and_its_group() -> None:
    assert pod(TEMPLATE)["volumes"] == pod(DAEMON)["volumes"]
    (group,) = pod(TEMPLATE)["securityContext"]["supplementalGroups"]
    assert pod(DAEMON)["securityContext"]["supplementalGroups"] == [group]
    assert containers(DAEMON)["serve"]["securityContext"]["runAsGroup"] == group


def test_flyte_knows_the_task_s_container_by_its_name() -> None:
    assert list(containers(TEMPLATE)) == ["primary"]


def test_a_worker_and_its_sidecar_want_the_same_port_of_the_same_host_for_the_same_store() -> None:
    sidecar, worker = containers(WORKER).values()
    assert sidecar["restartPolicy"] == "Always"
    assert variables(sidecar) == variables(worker)
    assert sidecar["image"] == worker["image"]


def test_the_annotations_name_the_port_that_is_served() -> None:
    annotations = WORKER["spec"]["template"]["metadata"]["annotations"]
    (port,) = containers(WORKER)["worker"]["ports"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    default = next(v.default for v in VARIABLES if v.name == "OTEL_EXPORTER_PROMETHEUS_PORT")
    assert default == str(port["containerPort"])


# Prometheus


def configured(tmp_path: Path, job: dict[str, Any], *pods: dict[str, str]) -> Path:
    """The page's configuration for a job that finds these pods."""
    found = [{"targets": [of["__address__"]], "labels": of} for of in pods]
    file = tmp_path / "prometheus.yml"
    for rules in PROMETHEUS["rule_files"]:
        shutil.copy(ROOT / "dashboards" / "prometheus" / rules, tmp_path)
    jobs = [{**job, "static_configs": found}]
    file.write_text(yaml.safe_dump({**PROMETHEUS, "scrape_configs": jobs}))
    return file


def discovered(tmp_path: Path, job: dict[str, Any], *pods: dict[str, str]) -> list[dict[str, str]]:
    """The labels of the targets that a job makes of pods."""
    command = ["promtool", "check", "service-discovery"]
    command += [str(configured(tmp_path, job, *pods)), job["job_name"]]
    for seconds in (1, 60):  # which it takes in full; in one, a busy machine may find nothing
        done = subprocess.run(
            [*command, f"--timeout={seconds}s"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        if found := json.loads(done.stdout):
            break
    kept = [target["labels"] for target in found if target.get("labels")]
    public = [{k: v for k, v in labels.items() if not k.startswith("__")} for labels in kept]
    return sorted(public, key=lambda labels: labels["instance"])


def found_pod(name: str, node: str, **other: str) -> dict[str, str]:
    """What Kubernetes' API tells Prometheus of a pod's port."""
    labels = {"pod_label_app": "faultlens", "pod_container_port_name": "faultlens", **other}
    return {
        "__address__": f"{name}:9464",
        "__meta_kubernetes_pod_node_name": node,
        **{f"__meta_kubernetes_{label}": value for label, value in labels.items()},
    }


def page_job() -> dict[str, Any]:
    """The page's job, without what finds pods: Debian's Prometheus does not know Kubernetes."""
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod"}]
    return {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}


@needs("promtool")
def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    command = ["promtool", "check", "config", str(configured(tmp_path, page_job()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
def test_it_scrapes_the_daemon_s_pods_only_and_calls_each_as_its_node(tmp_path: Path) -> None:
    assert discovered(
        tmp_path,
        page_job(),
        found_pod("a", "node-1"),
        found_pod("b", "node-2"),
        found_pod("c", "node-3", pod_label_app="other"),
        found_pod("d", "node-4", pod_container_port_name="other"),
    ) == [{"instance": node, "job": "faultlens"} for node in ("node-1", "node-2")]


@needs("promtool")
def test_the_operator_s_labels_of_a_pod_do_not_make_new_series(tmp_path: Path) -> None:
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    own = [{"target_label": name, "replacement": "x"} for name in ("pod", "container", "endpoint")]
    to_snake_case = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    relabelings = [
        {to_snake_case.get(key, key): value for key, value in relabeling.items()}
        for relabeling in endpoint["relabelings"]
    ]
    job = {"job_name": "faultlens", "relabel_configs": [*own, *relabelings]}
    found = discovered(tmp_path, job, found_pod("a", "node-1"))
    assert found == [{"instance": "node-1", "job": "faultlens"}]


# Programs, commands and variables


def test_flyte_builds_the_task_s_environment() -> None:
    (source,) = blocks("python")
    used, image = children.report(
        f"""
import inside
{source}
@env.task
async def work() -> None: ...

inside.report([work.pod_template, repr(work.image)])
""",
        env={"FAULTLENS": None},
    )
    assert used == TEMPLATE["metadata"]["name"]
    assert "'faultlens'" in image
    assert "('FAULTLENS', '1')" in image


def gunicorn(args: Sequence[str]) -> None:
    GunicornConfig().parser().parse_args(args)


def celery(args: Sequence[str]) -> None:
    position = args.index("worker")
    worker = celery_command.commands["worker"]
    for command, of in ((celery_command, args[:position]), (worker, args[position + 1 :])):
        command.make_parser(click.Context(command)).parse_args(list(of))


def faultlens(args: Sequence[str]) -> None:
    commands._parser().parse_args(args)


def kubectl(args: Sequence[str]) -> None:
    assert list(args) == ["apply", "-k", "faultlens"]


PARSERS: dict[str, Callable[[Sequence[str]], None]] = {
    "celery": celery,
    "faultlens": faultlens,
    "gunicorn": gunicorn,
    "kubectl": kubectl,
}
COMMANDS = [
    *(shlex.split(line) for text in blocks("sh") for line in text.splitlines()),
    *(re.findall(r"[\w-]+", code) for code in re.findall(r"`(faultlens [^`]*)`", PAGE)),
    *(
        container["command"]
        for manifest in (DAEMON, WORKER)
        for container in containers(manifest).values()
        if container["command"][0] not in ("sh", "python")
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_understood(command: list[str]) -> None:
    while "=" in command[0]:
        command = command[1:]
    PARSERS[command[0]](command[1:])


def test_each_variable_exists() -> None:
    known = {variable.name for variable in VARIABLES}
    opentelemetry = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"}
    named = set(re.findall(r"\b(?:FAULTLENS|OTEL|K8S)(?:_[A-Z]+)*\b", PAGE))
    assert named <= known | opentelemetry
    assert len(named) >= 8


def test_each_value_of_a_variable_can_be_used() -> None:
    given = {
        (name, value)
        for name, value in re.findall(r"\b(FAULTLENS|[A-Z]+_[A-Z_]+)=([\w./-]+)", PAGE)
    }
    for manifest in (DAEMON, TEMPLATE, WORKER):
        for container in containers(manifest).values():
            given.update((n, v) for n, v in variables(container).items() if isinstance(v, str))
    parse = {variable.name: variable.parse for variable in VARIABLES}
    for name, value in given:
        if name in parse:
            parse[name](value)
    assert ("FAULTLENS", "1") in given
    assert ("FAULTLENS_STORE", "/var/lib/faultlens") in given


# Numbers

TIMES = "\N{MULTIPLICATION SIGN}"
CLAIM = re.compile(r"(\d+) for the (\d+)(?: classes)? of ([a-z-]+) ([\d.]+\d)")


def claims() -> dict[str, tuple[str, int, int]]:
    """What the page says of each SDK: version, classes, series."""
    return {
        name: (version, int(classes), int(series))
        for series, classes, name, version in CLAIM.findall(PROSE)
    }


def judged() -> dict[str, list[int]]:
    """How many kinds each class can get, by distribution."""
    command = [sys.executable, "-m", "faultlens", "classes", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    kinds: dict[str, list[int]] = {}
    for one in json.loads(done.stdout):
        kinds.setdefault(one["sdk"].replace("_", "-"), []).append(len(one["kinds"]))
    return kinds


@pytest.mark.parametrize("distribution", ["flyte", "durable-workflow", "temporalio"])
def test_the_series_of_an_sdk_are_as_many_as_the_page_says(distribution: str) -> None:
    version, classes, series = claims()[distribution]
    if metadata.version(distribution) != version:
        pytest.skip(f"the page is about {distribution} {version}")
    kinds = judged()[distribution]
    assert (len(kinds), sum(kinds)) == (classes, series)


def test_a_store_has_those_for_each_worker_and_about_ten_of_its_own(tmp_path: Path) -> None:
    for worker in ("node-1", "node-2"):
        children.run(
            "import flyte.errors, durable_workflow.errors",
            env={"FAULTLENS_STORE": str(tmp_path), "FAULTLENS_WORKER": worker},
        )
    ledgers = Ledgers(StorePath(tmp_path, private=False), None, pytest.fail)
    families = Collector(ledgers.read, lambda: {"version": "1"}).collect()
    samples = [sample for family in families for sample in family.samples]
    known = re.compile(r"(flyte|durable_workflow)\.errors\.")
    of_classes = [s for s in samples if known.match(s.labels.get("class", ""))]
    kinds = judged()
    assert len(of_classes) == 2 * sum(kinds["flyte"] + kinds["durable-workflow"])
    assert 5 <= len(samples) - len(of_classes) <= 15


def test_the_table_is_calculated_right() -> None:
    flyte, durable = (claims()[name][2] for name in ("flyte", "durable-workflow"))
    both = flyte + durable
    per_node = int(re.findall(r"With (\d+) pods to a node", PROSE)[0])
    section = PAGE.partition("## How many series")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in section.splitlines() if row.startswith("|")]
    header, _, *lines = ([cell.strip() for cell in row] for row in rows)
    pods = [number(cell) for cell in header[2:]]
    nodes = [count // per_node for count in pods]
    assert [(formula, *map(number, cells)) for _, formula, *cells in lines] == [
        (f"nodes {TIMES} {flyte}", *(count * flyte for count in nodes)),
        (f"nodes {TIMES} {both}", *(count * both for count in nodes)),
        (f"pods {TIMES} {both}", *(count * both for count in pods)),
    ]
    a_day = number(re.findall(r"that is ([\d ]+) series a day", PROSE)[0])
    assert a_day == pods[0] * both * 24 * 60
    assert f"the node as worker still has {nodes[0] * both:,}".replace(",", " ") in PROSE


def number(text: str) -> int:
    """``12 000 pods`` is 12000."""
    return int("".join(re.findall(r"\d", text)))


# Several users in the directory of a node


GROUP = pod(DAEMON)["securityContext"]["supplementalGroups"][0]
SERVER = containers(DAEMON)["serve"]["securityContext"]["runAsUser"]
ENVIRONMENT: dict[str, str | None] = {"FAULTLENS_WORKER": None, "K8S_NODE_NAME": "node-1"}
NO_CAPABILITIES = ("--bounding-set=-all", "--inh-caps=-all")
FAIL_AND_END = """
import os, sys
os.umask(0o077)
import flyte.errors
for _ in range(int(sys.argv[1])):
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass
sys.exit(1)
"""
LINE = 'faultlens_failures_total{class="flyte.errors.OOMError",kind="user",worker="node-1"} 6.0'


def run_as(user: int, groups: Sequence[int], *command: str, flags: Sequence[str] = ()) -> list[str]:
    """The command, as a container runs it: as a user of a group of its own, and of `groups`."""
    of = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return ["setpriv", f"--reuid={user}", f"--regid={user}", of, *flags, *command]


def _to_read_python() -> Sequence[str] | None:
    """What lets another user run a Python that is in root's home; nobody writes by it."""
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    program = (sys.executable, "-c", "import faultlens.commands")
    for flags in ((), reading):
        command = run_as(1000, (), *program, flags=flags)
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
        if done.returncode == 0:
            return flags
    return None


@pytest.fixture(scope="module")
def reading() -> Sequence[str]:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can run programs as other users")
    flags = _to_read_python()
    if flags is None:
        pytest.skip("other users cannot run this Python")
    return flags


@pytest.fixture
def directory() -> Iterator[Path]:
    """As the kubelet makes it; not in `tmp_path`, where other users may not go."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        made = Path(parent, "faultlens")
        made.mkdir()
        made.chmod(0o755)
        yield made


def prepare(directory: Path) -> None:
    """What the manifest's first container does, as who it is."""
    container = containers(DAEMON)["directory"]
    assert container["securityContext"]["runAsUser"] == 0
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (mount,) = container["volumeMounts"]
    command = [part.replace(mount["mountPath"], str(directory)) for part in container["command"]]
    as_root = run_as(0, [GROUP], *command, flags=NO_CAPABILITIES)
    subprocess.run(as_root, timeout=TIMEOUT, check=True)


def fail(
    directory: Path, user: int, flags: Sequence[str], *, groups: Sequence[int], times: int
) -> str:
    """A task's pod that fails, and ends with it; returns what it said."""
    program = (sys.executable, "-c", FAIL_AND_END, str(times))
    done = subprocess.run(
        run_as(user, groups, *program, flags=flags),
        cwd=directory,
        env=children.environment(
            {**ENVIRONMENT, "FAULTLENS_STORE": str(directory), "HOME": str(directory.parent)}
        ),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


@contextlib.contextmanager
def served(directory: Path, flags: Sequence[str]) -> Iterator[str]:
    """The daemon; gives the URL of its metrics."""
    url = endpoint.metrics_url("127.0.0.1", port := free_port())
    address = ("--host", "127.0.0.1", "--port", str(port), "--store", str(directory))
    program = (sys.executable, "-m", "faultlens", "serve", *address)
    command = run_as(SERVER, [GROUP], *program, flags=flags)
    with serving(command, url, directory.parent):
        yield url


def test_users_who_share_the_group_count_in_one_store_that_another_serves(
    directory: Path, reading: Sequence[str]
) -> None:
    prepare(directory)
    assert fail(directory, 1000, reading, groups=[GROUP], times=1) == ""
    assert fail(directory, 2000, reading, groups=[GROUP], times=2) == ""
    with served(directory, reading) as url:
        assert fail(directory, 0, NO_CAPABILITIES, groups=[GROUP], times=1) == ""
        assert fail(directory, 1000, reading, groups=[GROUP], times=2) == ""
        assert LINE in get(url)


def test_a_user_without_the_group_is_warned_and_changes_nothing(
    directory: Path, reading: Sequence[str]
) -> None:
    prepare(directory)
    assert fail(directory, 1000, reading, groups=[GROUP], times=6) == ""
    said = fail(directory, 2000, reading, groups=[], times=1)
    assert "faultlens: the store" in said
    with served(directory, reading) as url:
        assert LINE in get(url)
