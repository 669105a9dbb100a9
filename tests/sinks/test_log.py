"""The lines of FAULTLENS_LOG."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from faultlens import settings
from faultlens.settings import LogPlace
from tests import children
from tests.children import TIMEOUT
from tests.servers import until
from tests.sinks.test_instruments import PATIENT
from tests.sinks.test_logs import FAILS
from tests.sinks.test_spans import TRACING

JSON = {**PATIENT, "FAULTLENS_LOG": "json"}
DOCS = Path(__file__).parents[2] / "docs" / "logs.md"


def lines(source: str, **env: str | None) -> list[dict[str, Any]]:
    """What a program writes to stderr: JSON lines, and nothing else."""
    done = children.run(textwrap.dedent(source), env={**JSON, **env})
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_has_the_fields_of_a_log_record() -> None:
    inner, outer = lines(
        TRACING
        + FAILS
        + """
with tracer.start_as_current_span("work") as span:
    fail()
print(span.get_span_context().trace_id, span.get_span_context().span_id)
fail()
"""
    )
    assert re.fullmatch(r"[0-9a-f]{32}", inner.pop("trace_id"))
    assert re.fullmatch(r"[0-9a-f]{16}", inner.pop("span_id"))
    for line in (inner, outer):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
        assert line.pop("exception.stacktrace").endswith("in fail\nflyte.errors.OOMError: m\n")
        assert line.pop("process.pid") > 0
        assert line == {
            "severity_text": "WARN",
            "severity_number": 13,
            "event_name": "exception",
            "exception.type": "flyte.errors.OOMError",
            "exception.message": "m",
            "error.type": "flyte.errors.OOMError",
            "faultlens.kind": "user",
            "faultlens.reason": "oom",
            "faultlens.worker": "w",
            "faultlens.code": "OOM",
            "faultlens.sdk": "flyte",
            "faultlens.role": "origin",
            "faultlens.why": "the first sight of it",
        }


def test_the_example_of_the_docs_is_what_is_written() -> None:
    text = DOCS.read_text(encoding="utf-8")
    source, example = re.findall(r"```(?:python|json)\n(.*?)```", text, re.DOTALL)
    shown = json.loads(example)
    (written,) = lines(source, FAULTLENS_WORKER=shown["faultlens.worker"])
    for field in ("timestamp", "process.pid", "exception.stacktrace"):
        assert type(written.pop(field)) is type(shown.pop(field))
    assert written == shown


def test_what_is_not_counted_again_is_of_severity_info_and_has_no_stack() -> None:
    failure, wrapper = lines("""
        import flyte.errors
        try:
            try:
                raise flyte.errors.OOMError("OOM", "first")
            except Exception as error:
                raise flyte.errors.RuntimeSystemError("S", "second") from error
        except Exception:
            pass
    """)
    assert (failure["severity_text"], failure["faultlens.role"]) == ("WARN", "origin")
    assert (wrapper["severity_text"], wrapper["faultlens.role"]) == ("INFO", "wrapped")
    assert wrapper["faultlens.why"] == "raised from flyte.errors.OOMError"
    assert "exception.stacktrace" in failure
    assert "exception.stacktrace" not in wrapper


def test_what_ends_the_program_is_an_error() -> None:
    done = children.run(
        """
        from faultlens.sinks import record
        record.SETTLE_SECONDS = 3600
        import flyte.errors
        raise flyte.errors.OOMError("OOM", "m")
        """,
        env=JSON,
        check=False,
    )
    written = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["severity_text"] for line in written] == ["ERROR"]


def test_what_reports_the_end_of_a_workflow_is_an_error_though_it_is_handled() -> None:
    (line,) = lines("""
        from durable_workflow import errors
        try:
            raise errors.WorkflowFailed("m", "ValueError")
        except errors.WorkflowFailed:
            pass
    """)
    assert (line["faultlens.code"], line["severity_text"]) == ("ValueError", "ERROR")


def test_no_line_has_a_secret() -> None:
    (line,) = lines("""
        import flyte.errors
        try:
            raise flyte.errors.RuntimeUserError("pwd=hunter2", "token=hunter2")
        except flyte.errors.RuntimeUserError:
            pass
    """)
    assert line["faultlens.code"] == "pwd=[scrubbed]"
    assert line["exception.message"] == "token=[scrubbed]"
    assert "hunter2" not in str(line)


def test_messages_and_stack_traces_can_be_turned_off() -> None:
    (line,) = lines(FAILS + "fail()", FAULTLENS_MESSAGES="0", FAULTLENS_STACKTRACES="0")
    assert not {"exception.message", "exception.stacktrace"} & set(line)


@pytest.mark.parametrize("form", ["json", "text"])
def test_it_goes_to_the_process_s_own_stderr_whatever_the_program_does_with_its(form: str) -> None:
    done = children.run(
        "import io, logging, sys\nsys.stderr = io.StringIO()\nlogging.disable()\n"
        + FAILS
        + "fail()",
        env={**PATIENT, "FAULTLENS_LOG": form},
    )
    (line,) = done.stderr.splitlines()
    assert "flyte.errors.OOMError" in line


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_is_one_line_whatever_the_exception_says(form: str) -> None:
    done = children.run(
        r"""
        import flyte.errors
        for text in ("a\nb", "\ud800", "\x85\u2028", "ü", "\0", "\x1b[2J\x9b"):
            try:
                raise flyte.errors.RuntimeUserError(text, text)
            except flyte.errors.RuntimeUserError:
                pass
        """,
        env={**PATIENT, "FAULTLENS_LOG": form},
    )
    if form == "json":
        assert [json.loads(line)["exception.message"] for line in done.stderr.split("\n")[:-1]] == [
            "a\nb",
            "?",
            "\x85\u2028",
            "ü",
            "\0",
            "\x1b[2J\x9b",
        ]
    *written, end = done.stderr.split("\n")
    assert (len(written), end) == (6, "")
    assert all(line.isprintable() for line in written)


# In a file.


def test_a_file_gets_the_lines_of_all_processes_and_may_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    source = FAILS + (
        """
import os, time, warnings
warnings.simplefilter("ignore")  # of a fork
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        fail(50)
        time.sleep(0.3)
        fail(50)
        raise SystemExit
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
os.rename(path, path + ".1")
fail()
"""
    )
    done = children.run(
        f"path = {str(path)!r}\n{source}", env={**PATIENT, "FAULTLENS_LOG": f"json:{path}"}
    )
    assert done.stderr == ""
    moved = [json.loads(line) for line in Path(f"{path}.1").read_text().splitlines()]
    assert len(moved) == 400
    assert len({line["process.pid"] for line in moved}) == 4
    assert len(path.read_text().splitlines()) == 1


def test_a_file_that_cannot_be_written_is_one_warning_and_is_counted(tmp_path: Path) -> None:
    done = children.run(
        FAILS
        + """
import inside
inside.expect_dropped()
fail(3)
from faultlens import pipeline
running = pipeline.running()
inside.until(lambda: not running.log._waiting)
inside.report([inside.failures(), inside.dropped()])
""",
        env={**PATIENT, "FAULTLENS_LOG": f"json:{tmp_path}/missing/log"},
    )
    assert json.loads(done.stdout) == [{"flyte.errors.OOMError|user|w": 3}, {"log_error": 3}]
    (line,) = done.stderr.splitlines()
    assert "(log_error: FileNotFoundError: [Errno 2] No such file or directory" in line


def test_a_process_without_stderr_goes_on() -> None:
    found = children.report(
        FAILS
        + """
import inside, sys
sys.__stderr__ = None
inside.expect_dropped()
fail()
from faultlens import pipeline
inside.until(lambda: not pipeline.running().log._waiting)
inside.report([inside.failures(), inside.dropped()])
""",
        env=JSON,
    )
    assert found == [{"flyte.errors.OOMError|user|w": 1}, {"log_error": 1}]


def test_a_file_that_got_the_number_of_a_closed_stderr_stays_as_it_is(tmp_path: Path) -> None:
    """As in a daemon that closes all descriptors and then opens its data."""
    data = tmp_path / "data"
    found = children.report(
        FAILS
        + f"""
import inside
os.close(2)
assert os.open({str(data)!r}, os.O_RDWR | os.O_CREAT) == 2
os.write(2, b"mine")
inside.expect_dropped()
fail()
from faultlens import pipeline
inside.until(lambda: not pipeline.running().log._waiting)
inside.report(inside.dropped())
""",
        env=JSON,
    )
    assert found == {"log_error": 1}
    assert data.read_bytes().startswith(b"mine")
    assert b"exception.type" not in data.read_bytes()


def test_a_stderr_that_was_redirected_gets_the_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = f"os.dup2(os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)\nfail()"
    assert children.run(FAILS + source, env=JSON).stderr == ""
    assert json.loads(log.read_text())["exception.type"] == "flyte.errors.OOMError"


# Nobody waits for a reader, and what is lost is counted.


def test_a_reader_that_does_not_read_holds_up_neither_the_program_nor_its_end() -> None:
    source = FAILS + (
        """
import inside
from faultlens.sinks import log
log.LINES_LIMIT = 100
inside.expect_dropped()
fail(5000)
print(inside.total(), 0 < inside.dropped()["log_limit"] < 5000, flush=True)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", source],
        env=children.environment({**JSON, "FAULTLENS_FLUSH_SECONDS": "0.5"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "5000 True\n"
        assert process.wait(TIMEOUT) == 0


def test_of_a_process_that_is_killed_all_but_the_last_moment_is_written(tmp_path: Path) -> None:
    """What fails in the instant before a SIGKILL is counted, but may have no line."""
    path = tmp_path / "log.json"
    env = {**PATIENT, "FAULTLENS_LOG": f"json:{path}"}
    with subprocess.Popen(
        [sys.executable, "-c", FAILS + "fail(3)\nos.read(0, 1)"],
        env=children.environment(env),
        stdin=subprocess.PIPE,
    ) as process:
        until(lambda: path.exists() and path.read_text().count("\n") == 3, "the lines")
        process.kill()
        process.wait(TIMEOUT)
    done = children.run(
        FAILS + "import signal\nfail(3)\nos.kill(os.getpid(), signal.SIGKILL)",
        env=env,
        check=False,
    )
    assert done.returncode == -9
    written = path.read_text().splitlines(keepends=True)
    assert len(written) in range(3, 7)
    assert all(json.loads(line) for line in written[:-1])


def test_a_forked_child_writes_its_own_lines_and_not_its_parent_s() -> None:
    written = lines(
        """
        import warnings
        warnings.simplefilter("ignore")  # of a fork
        from faultlens.sinks import record
        record.SETTLE_SECONDS = 3600
        """
        + textwrap.indent(FAILS, " " * 8)
        + """
        fail()
        pid = os.fork()
        fail(2)
        if pid:
            idle = os.fork()
            if idle:
                os.waitpid(idle, 0)
                os.waitpid(pid, 0)
        """
    )
    by_process: dict[int, int] = {}
    for line in written:
        by_process[line["process.pid"]] = by_process.get(line["process.pid"], 0) + 1
    assert sorted(by_process.values()) == [2, 3]


# The variable.


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("", None),
        ("0", None),
        ("off", None),
        ("text", LogPlace("text", "")),
        (" json ", LogPlace("json", "")),
        ("json:/var/log/f.json", LogPlace("json", "/var/log/f.json")),
        ("text:/a:b", LogPlace("text", "/a:b")),
    ],
)
def test_the_variable(value: str, place: LogPlace | None) -> None:
    assert settings.load({"FAULTLENS_LOG": value}).log == place


@pytest.mark.parametrize("value", ["1", "yaml", "json:", "json:log.json", "/var/log/x"])
def test_a_value_that_cannot_be_used_is_one_warning(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert settings.load({"FAULTLENS_LOG": value}).log is None
    assert caplog.messages == [
        f"faultlens: FAULTLENS_LOG={value!r}: expected text or json, perhaps with a file: "
        "json:/var/log/faultlens.json; it is ignored."
    ]
