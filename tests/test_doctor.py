"""``faultlens doctor``, run where something is wrong and where nothing is."""

from __future__ import annotations

import inspect
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from opentelemetry import _logs

from tests import children
from tests.servers import free_port, get
from tests.test_cli import absent, command, package
from tests.test_serve import fail, serving


class Report:
    """What the doctor said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in done.stderr, done.stderr
        self.status = done.returncode
        self.output = done.stdout
        matches = (re.match(r"(ok|warn|FAIL) +(\S+) +(.+)", line) for line in self.lines()[1:])
        self.checks = [match.groups() for match in matches if match]
        assert len(self.checks) == len(self.lines()) - 1, self.output

    def lines(self) -> list[str]:
        return self.output.splitlines()

    def of(self, subject: str) -> list[tuple[str, str]]:
        """Mark and text of each check of a subject."""
        return [(mark, text) for mark, about, text in self.checks if about == subject]

    def failed(self) -> list[str]:
        return [subject for mark, subject, _ in self.checks if mark == "FAIL"]


def doctor(*args: str, env: Mapping[str, str | None] | None = None) -> Report:
    return Report(command("doctor", *args, env=env))


def test_where_all_is_well_it_says_so() -> None:
    report = doctor("--record")

    assert report.status == 0
    assert report.failed() == []
    assert report.of("switch") == [("ok", "FAULTLENS=1: on")]
    (start_up,) = report.of("start-up")
    assert "ran when this process started" in start_up[1]
    assert "\x1b" not in report.output


def test_a_test_failure_of_each_sdk_is_counted_once() -> None:
    assert sorted(doctor("--record").of("record")) == [
        ("ok", "durable_workflow.errors.NonRetryableError: counted once, kind user, worker w"),
        ("ok", "flyte.errors.RuntimeSystemError: counted once, kind system, worker w"),
        ("ok", "temporalio.exceptions.ApplicationError: counted once, kind user, worker w"),
    ]


def test_records_even_where_it_is_off() -> None:
    report = doctor("--record", env={"FAULTLENS": None})

    assert [mark for mark, _ in report.of("record")] == ["ok", "ok", "ok"]
    assert report.status == 1


@pytest.mark.parametrize("value", [None, "", "0", "off"])
def test_off_is_a_failure_that_says_what_to_do(value: str | None) -> None:
    report = doctor(env={"FAULTLENS": value})

    assert report.status == 1
    assert report.failed() == ["switch"]
    assert "Set FAULTLENS=1" in report.of("switch")[0][1]


def test_nonsense_is_neither_on_nor_off() -> None:
    report = doctor(env={"FAULTLENS": "ja"})

    assert report.of("switch") == [
        ("FAIL", "FAULTLENS='ja' is neither on nor off: set it to 1"),
    ]


def test_names_the_detector() -> None:
    (detector,) = doctor().of("detector")

    expected = "sys.monitoring, tool id 5" if sys.version_info >= (3, 12) else "sys.settrace: "
    assert detector[0] == "ok"
    assert detector[1].startswith(expected)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="has no sys.monitoring")
def test_says_who_has_the_tool_ids(tmp_path: Path) -> None:
    ids = "for tool in (3, 4, 5): __import__('sys').monitoring.use_tool_id(tool, f'tracer {tool}')"
    (tmp_path / "sitecustomize.py").write_text(ids)

    (detector,) = doctor(env={"PYTHONPATH": str(tmp_path)}).of("detector")

    assert detector[0] == "warn"
    assert detector[1].startswith("sys.settrace")
    assert "5 by tracer 5" in detector[1]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A virtual environment without faultlens."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=False)
    return str(directory / ("Scripts" if os.name == "nt" else "bin") / "python")


class TestStartUp:
    def run(self, python: str, *args: str) -> Report:
        # What PYTHONPATH names is imported from, but its start-up files are not read.
        source = Path(__file__).parent.parent / "src"
        paths = [str(source), sysconfig.get_path("purelib")]
        env = children.environment({"PYTHONPATH": os.pathsep.join(paths)})
        done = subprocess.run(
            [python, "-m", "faultlens", "doctor", *args],
            env=env,
            capture_output=True,
            text=True,
            timeout=children.TIMEOUT,
            check=False,
        )
        return Report(done)

    def test_a_start_up_file_that_python_does_not_read_is_found(self, bare_python: str) -> None:
        report = self.run(bare_python)

        (start_up,) = report.of("start-up")
        assert report.status == 1
        assert start_up[0] == "FAIL"
        assert "is not in a site directory" in start_up[1]
        assert "faultlens.enable()" in start_up[1]

    def test_enabled_by_hand_it_would_count_there_too(self, bare_python: str) -> None:
        report = self.run(bare_python, "--record")

        assert [mark for mark, _ in report.of("record")] == ["ok", "ok", "ok"], report.output


class TestSdks:
    def test_each_has_its_version_and_number_of_classes(self) -> None:
        classes = json.loads(command("classes", "--json").stdout)

        report = doctor()

        for name in ("flyte", "durable_workflow"):
            mine = [entry for entry in classes if entry["sdk"] == name]
            expected = f"{mine[0]['version']}, {len(mine)} exception classes"
            assert report.of(name) == [("ok", expected)]

    def test_what_a_version_lacks_to_be_seen_whole_is_a_warning(self, tmp_path: Path) -> None:
        site = tmp_path / "sitecustomize.py"  # runs before anything of the doctor's
        site.write_text(
            "import flyte._internal.runtime.convert as convert\n"
            "rebuild = convert.convert_error_to_native\n"
            "convert.convert_error_to_native = lambda *errors: rebuild(*errors)\n"
        )

        report = doctor(env={"PYTHONPATH": str(tmp_path), "FAULTLENS": "0"})

        (_, lacking) = report.of("flyte")
        assert lacking == (
            "warn",
            "has no flyte._internal.runtime.convert.convert_error_to_native as it is known; "
            "without it a failed task counts again at each level of nesting",
        )

    def test_one_is_enough(self, tmp_path: Path) -> None:
        absent(tmp_path, "flyte")

        report = doctor("--record", env={"PYTHONPATH": str(tmp_path)})

        assert report.status == 0
        assert report.of("flyte") == [("ok", "not installed (pip install flyte)")]
        assert len(report.of("record")) == 2

    def test_none_is_a_failure(self, tmp_path: Path) -> None:
        absent(tmp_path, "flyte")
        absent(tmp_path, "durable_workflow")
        absent(tmp_path, "temporalio")

        report = doctor("--record", env={"PYTHONPATH": str(tmp_path)})

        *sdks, record = report.failed()
        assert (sorted(sdks), record) == (["durable_workflow", "flyte", "temporalio"], "record")

    def test_one_that_is_broken_is_a_failure(self, tmp_path: Path) -> None:
        package(tmp_path, "flyte", "import a_module_that_it_needs")

        report = doctor(env={"PYTHONPATH": str(tmp_path)})

        assert report.failed() == ["flyte"]
        assert "No module named 'a_module_that_it_needs'" in report.of("flyte")[0][1]


class TestRules:
    def write(self, tmp_path: Path, source: str) -> dict[str, str]:
        rules = tmp_path / "rules.toml"
        rules.write_text(source)
        return {"FAULTLENS_RULES": str(rules)}

    def test_a_good_file(self, tmp_path: Path) -> None:
        env = self.write(tmp_path, 'flyte.errors.OOMError = "system"\nmyapp.Broken = "user"\n')

        path = env["FAULTLENS_RULES"]
        assert doctor(env=env).of("rules") == [
            ("ok", f"FAULTLENS_RULES={path}: 2 rules"),
            (
                "warn",
                f"FAULTLENS_RULES={path}, line 2: the rule for myapp.Broken changes nothing: the "
                "package myapp is not installed",
            ),
        ]

    def test_a_profile(self) -> None:
        checks = doctor(env={"FAULTLENS_PROFILE": "operator"}).of("rules")

        assert [mark for mark, _ in checks] == ["ok"]
        assert checks[0][1].startswith("FAULTLENS_PROFILE=operator: ")

    def test_a_bad_file(self, tmp_path: Path) -> None:
        report = doctor(env=self.write(tmp_path, '\nflyte.errors.OOMError = "platform"\n'))

        assert report.failed() == ["rules"]
        assert "line 2" in report.of("rules")[0][1]

    def test_a_class_that_there_is_not(self, tmp_path: Path) -> None:
        env = self.write(tmp_path, 'flyte.errors.OomError = "system"\n')
        report = doctor(env=env)

        assert report.status == 0
        assert report.of("rules")[1] == (
            "warn",
            f"FAULTLENS_RULES={env['FAULTLENS_RULES']}, line 1: the rule for flyte.errors.OomError "
            "changes nothing: the installed flyte has no such class: did you mean "
            "flyte.errors.OOMError?",
        )


class TestWorker:
    @pytest.mark.parametrize(
        ("env", "expected"),
        [
            ({"FAULTLENS_WORKER": "gpu-1"}, "gpu-1, by FAULTLENS_WORKER"),
            ({"K8S_NODE_NAME": "node-7", "NODE_NAME": "x"}, "node-7 (K8S_NODE_NAME), "),
            ({"NODE_NAME": "node-8"}, "node-8 (NODE_NAME), "),
            (
                {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=a%201", "NODE_NAME": "x"},
                "a 1 (OTEL_RESOURCE_ATTRIBUTES), ",
            ),
            ({}, f"{socket.gethostname()} (the host name), "),
        ],
    )
    def test_says_where_the_name_comes_from(self, env: dict[str, str], expected: str) -> None:
        (worker,) = doctor(env={"FAULTLENS_WORKER": None, **env}).of("worker")

        assert worker[0] == "ok"
        assert worker[1].startswith(expected)

    @pytest.mark.parametrize("by", [None, f"service.instance.id={socket.gethostname()}"])
    def test_a_pods_name_is_no_good_worker(self, by: str | None) -> None:
        env = {
            "FAULTLENS_WORKER": None,
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "OTEL_RESOURCE_ATTRIBUTES": by,
        }

        (worker,) = doctor(env=env).of("worker")

        assert worker[0] == "warn"
        assert "K8S_NODE_NAME" in worker[1]


class TestMetrics:
    @pytest.fixture
    def port(self) -> Iterator[str]:
        """A port on which somebody listens who never answers."""
        with socket.create_server(("localhost", 0)) as taken:
            yield str(taken.getsockname()[1])

    def test_a_free_port(self) -> None:
        port = str(free_port())

        report = doctor(env={"OTEL_EXPORTER_PROMETHEUS_PORT": port})

        assert report.of("/metrics") == [
            ("ok", f"would be served on localhost:{port}, which is free")
        ]

    def test_a_port_of_somebody_else(self, port: str) -> None:
        report = doctor(env={"OTEL_EXPORTER_PROMETHEUS_PORT": port})

        assert report.failed() == ["/metrics"]
        assert f"localhost:{port} is taken" in report.of("/metrics")[0][1]

    def test_a_taken_port_does_not_keep_a_failure_from_being_counted(self, port: str) -> None:
        report = doctor("--record", env={"OTEL_EXPORTER_PROMETHEUS_PORT": port})

        assert [mark for mark, _ in report.of("record")] == ["ok", "ok", "ok"]

    def test_a_port_where_faultlens_serves_already(self) -> None:
        program = """
            import flyte.errors, inside, sys
            from faultlens import pipeline
            server = pipeline.running().server
            inside.until(lambda: server.listening)
            print(server.port, flush=True)
            sys.stdin.read()
        """
        with subprocess.Popen(
            [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines())],
            env=children.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as serving:
            assert serving.stdout is not None
            port = serving.stdout.readline().strip()
            # On a slow machine, the first page can take longer than the doctor waits for it.
            get(f"http://localhost:{port}/metrics")
            report = doctor(env={"OTEL_EXPORTER_PROMETHEUS_PORT": port})
            serving.communicate("")

        (metrics,) = report.of("/metrics")
        assert metrics[0] == "ok"
        assert f"a process serves faultlens's metrics on localhost:{port}" in metrics[1]

    def test_a_port_where_another_process_serves_this_store(self, tmp_path: Path) -> None:
        store = {"FAULTLENS_STORE": str(tmp_path / "store")}
        with serving(tmp_path / "store") as server:
            server.warm_up()
            port = {"OTEL_EXPORTER_PROMETHEUS_PORT": server.url.split(":")[-1].split("/")[0]}
            (ours,) = doctor(env={**store, **port}).of("/metrics")
            (others,) = doctor(env=port).of("/metrics")
        assert ours[0] == "ok"
        assert "by another process, for all" in ours[1]
        assert others[0] == "warn"
        assert "not those of this store" in others[1]

    def test_a_program_that_opens_no_port(self) -> None:
        (metrics,) = doctor(env={"FAULTLENS_SERVE": "0"}).of("/metrics")

        assert metrics == ("ok", "FAULTLENS_SERVE=0: served by faultlens serve, or by the program")

    def test_a_host_that_there_is_not(self) -> None:
        report = doctor(env={"OTEL_EXPORTER_PROMETHEUS_HOST": "no.such.host.invalid"})

        assert report.failed() == ["/metrics"]

    def test_opentelemetrys_reader(self) -> None:
        (metrics,) = doctor(env={"OTEL_METRICS_EXPORTER": "otlp, prometheus"}).of("/metrics")

        assert "served by OpenTelemetry's reader" in metrics[1]


class TestStore:
    def test_in_memory_only(self) -> None:
        ((mark, text),) = doctor().of("store")
        assert mark == "ok"
        assert text.startswith("off: ")

    def test_a_directory_that_can_be_used(self, tmp_path: Path) -> None:
        report = doctor("--record", env={"FAULTLENS_STORE": str(tmp_path / "store")})
        assert report.of("store") == [
            ("ok", f"{tmp_path / 'store'}: 0 failures counted"),
        ]
        again = doctor(env={"FAULTLENS_STORE": str(tmp_path / "store")})
        assert again.of("store") == report.of("store")  # a test failure is none

    def test_counts_that_nothing_serves_are_told_with_where_to_see_them(
        self, tmp_path: Path
    ) -> None:
        store, port = tmp_path / "store", {"OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port())}
        fail(store, 1)
        env = {"FAULTLENS_STORE": str(store), **port}
        assert doctor(env=env).of("store") == [
            (
                "ok",
                f"{store}: 1 failure counted, and nothing serves the counts now; see them with: "
                "faultlens top",
            ),
        ]
        with serving(store, "--port", port["OTEL_EXPORTER_PROMETHEUS_PORT"]):
            assert doctor(env=env).of("store") == [("ok", f"{store}: 1 failure counted")]

    def test_a_directory_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        report = doctor(env={"FAULTLENS_STORE": str(tmp_path / "file")})
        assert report.failed() == ["store"]
        ((_, text),) = report.of("store")
        assert text.startswith(f"{tmp_path / 'file'} is not a directory; expected a directory")

    def test_a_file_that_is_no_ledger_is_told_in_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "a.ledger").write_bytes(b"no ledger, but long enough to be one" * 400)
        report = doctor(env={"FAULTLENS_STORE": str(tmp_path)})
        ((mark, text),) = report.of("store")
        assert mark == "warn"
        assert text == f"{tmp_path / 'a.ledger'} is not a ledger, or has another byte order"


OPT_IN = {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs"}


class TestLogRecords:
    def test_are_not_spoken_of_unless_they_were_asked_for(self) -> None:
        assert doctor().of("log-records") == []

    def test_says_where_they_go(self) -> None:
        report = doctor(env={**OPT_IN, "OTEL_LOGS_EXPORTER": "console"})

        text = "by the program's logger provider, else sent by console"
        assert report.of("log-records")[0] == ("ok", text)
        assert report.of("spans")[0][1].startswith("no events")

    def test_says_that_the_event_name_is_missing(self) -> None:
        named = "event_name" in inspect.signature(_logs.LogRecord).parameters

        marks = [mark for mark, _ in doctor(env=OPT_IN).of("log-records")]

        assert marks == (["ok"] if named else ["ok", "warn"])

    def test_an_exporter_that_is_not_installed(self) -> None:
        report = doctor(env={**OPT_IN, "OTEL_LOGS_EXPORTER": "pigeon"})

        assert report.failed() == ["log-records"]


class TestLog:
    def test_says_where_it_goes(self, tmp_path: Path) -> None:
        assert doctor().of("lines") == []
        assert doctor(env={"FAULTLENS_LOG": "json"}).of("lines") == [("ok", "json lines on stderr")]

        path = tmp_path / "log"
        assert doctor(env={"FAULTLENS_LOG": f"text:{path}"}).of("lines") == [
            ("ok", f"text lines in {path}")
        ]
        assert not path.exists()

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "log"

        assert doctor(env={"FAULTLENS_LOG": f"json:{path}"}).failed() == ["lines"]


class TestScrubbing:
    def test_is_on_by_default(self) -> None:
        ((mark, _),) = doctor().of("scrubbing")

        assert mark == "ok"

    def test_says_that_it_is_off(self) -> None:
        assert doctor(env={"FAULTLENS_SCRUB": "off"}).of("scrubbing") == [
            ("warn", "off: credentials stay in messages, stacks and codes")
        ]

    def test_says_what_cannot_be_used(self) -> None:
        report = doctor(env={"FAULTLENS_SCRUB": "fine\n(unclosed"})

        assert report.failed() == ["scrubbing"]
        ((_, text),) = report.of("scrubbing")
        assert text.startswith("FAULTLENS_SCRUB: '(unclosed': expected a regular expression")


class TestSpans:
    def test_without_an_exporter_they_are_the_programs_own(self) -> None:
        assert doctor().of("spans") == [
            ("ok", "on the current span; where there is none, by the program's tracer provider, "
             "if it has one"),
        ]  # fmt: skip

    def test_says_where_own_spans_go(self) -> None:
        (spans,) = doctor(env={"OTEL_TRACES_EXPORTER": "console"}).of("spans")

        assert spans[0] == "ok"
        assert spans[1].endswith("sent by console")

    def test_an_exporter_that_is_not_installed(self) -> None:
        report = doctor(env={"OTEL_TRACES_EXPORTER": "pigeon"})

        assert report.failed() == ["spans"]
        assert "'pigeon'" in report.of("spans")[1][1]

    def test_no_password_is_shown(self) -> None:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@collector:4318"}

        report = doctor(env=env)

        assert "secret" not in report.output
        assert "http://***@collector:4318" in report.of("spans")[0][1]

    def test_a_disabled_sdk_sends_none(self) -> None:
        env = {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}

        (spans,) = doctor(env=env).of("spans")

        assert "nowhere: OTEL_SDK_DISABLED=true" in spans[1]


class TestCounters:
    def test_nothing_is_said_where_they_do_not_go_by_opentelemetry(self) -> None:
        assert doctor(env={"OTEL_METRICS_EXPORTER": "none"}).of("counters") == []

    def test_says_where_they_go(self) -> None:
        (counters,) = doctor(env={"OTEL_METRICS_EXPORTER": "console"}).of("counters")

        assert counters == ("ok", "sent by console where the program has no meter provider")

    def test_an_exporter_that_is_not_installed(self) -> None:
        report = doctor(env={"OTEL_METRICS_EXPORTER": "pigeon"})

        assert report.failed() == ["counters"]
        assert "'pigeon'" in report.of("counters")[1][1]

    def test_a_disabled_sdk_sends_none(self) -> None:
        env = {"OTEL_METRICS_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}

        (counters,) = doctor(env=env).of("counters")

        assert counters == ("ok", "on /metrics only: OTEL_SDK_DISABLED=true")


class TestVariables:
    def test_a_value_that_cannot_be_used(self) -> None:
        report = doctor(env={"OTEL_EXPORTER_PROMETHEUS_PORT": "http"})

        assert report.failed() == ["variable"]
        assert any("9464 is used" in text for _, text in report.of("variable"))

    def test_a_name_with_a_typing_error(self) -> None:
        report = doctor(env={"FAULTLENS_RULE": "x"})

        assert report.status == 0
        warning = ("warn", "faultlens does not know FAULTLENS_RULE: did you mean FAULTLENS_RULES?")
        assert warning in report.of("variable")
