"""Failures as OpenTelemetry log records."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from opentelemetry import _logs

from tests import children
from tests.children import TIMEOUT
from tests.servers import Receiver, until
from tests.sinks.test_instruments import PATIENT, needs_otlp
from tests.sinks.test_spans import TRACING

LOGS = (
    TRACING
    + """
from opentelemetry import _logs
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk._logs import export

def provide(*processors):
    logger_provider = sdk_logs.LoggerProvider()
    for processor in processors:
        logger_provider.add_log_record_processor(processor)
    _logs.set_logger_provider(logger_provider)

InMemory = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter
logged = InMemory()

def in_memory():
    return export.SimpleLogRecordProcessor(logged)

def fail(cls=flyte.errors.OOMError, message="m"):
    try:
        raise cls("OOM", message)
    except cls:
        pass

def records():
    # The log records, once our own thread has emitted what waits.
    inside.settle()
    found = []
    for data in logged.get_finished_logs():
        record = data.log_record
        found.append({
            "name": getattr(record, "event_name", None),
            "severity": [record.severity_number.value, record.severity_text],
            "body": record.body,
            "trace": record.trace_id, "span": record.span_id,
            "timestamp": record.timestamp,
            **record.attributes,
        })
    return found
"""
)
HAS_EVENT_NAME = "event_name" in inspect.signature(_logs.LogRecord).parameters


def program(body: str, *, mode: str | None = "logs", **env: str | None) -> Any:
    opt_in = {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": mode}
    return children.report(LOGS + textwrap.dedent(body), env={**opt_in, **env})


def test_a_record_has_every_attribute_of_the_contract_and_the_ids_of_the_current_span() -> None:
    record, context, before, after = program("""
        import time
        provide(in_memory())
        before = time.time_ns()
        with tracer.start_as_current_span("work") as span:
            fail(message="out of\\nmemory")
        context = span.get_span_context()
        (record,) = records()
        inside.report([record, [context.trace_id, context.span_id], before, time.time_ns()])
    """)
    assert [record.pop("trace"), record.pop("span")] == context
    assert before - 1000 <= record.pop("timestamp") <= after
    stack = record.pop("exception.stacktrace")
    assert stack.startswith("Traceback (most recent call last):\n")
    assert stack.endswith(", in fail\nflyte.errors.OOMError: out of\nmemory\n")
    if not HAS_EVENT_NAME:
        assert record.pop("event.name") == "exception"
    assert record == {
        "name": "exception" if HAS_EVENT_NAME else None,
        "severity": [13, "WARN"],
        "body": "flyte.errors.OOMError: out of",
        "exception.type": "flyte.errors.OOMError",
        "exception.message": "out of\nmemory",
        "error.type": "flyte.errors.OOMError",
        "faultlens.kind": "user",
        "faultlens.reason": "oom",
        "faultlens.worker": "w",
        "faultlens.code": "OOM",
        "faultlens.sdk": "flyte",
        "faultlens.role": "origin",
    }


@pytest.mark.parametrize(
    ("mode", "events", "logs"),
    [(None, 1, 0), ("", 1, 0), ("logs", 0, 1), ("LOGS", 0, 1), ("logs/dup", 1, 1)],
)
def test_the_variable_says_which(mode: str | None, events: int, logs: int) -> None:
    found = program(
        """
        provide(in_memory())
        with tracer.start_as_current_span("work"):
            fail()
        fail()
        inside.report([sum(map(len, spans().values())), len(records())])
        """,
        mode=mode,
    )
    assert found == [2 * events, 2 * logs]


def test_another_value_is_one_warning_and_changes_nothing() -> None:
    done = children.run(
        LOGS + "with tracer.start_as_current_span('work'):\n    fail()\ninside.report(spans())",
        env={"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "log"},
    )
    assert '"exception.type"' in done.stdout
    assert done.stderr == (
        "faultlens: OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN='log': expected logs or logs/dup; "
        "it is ignored.\n"
    )


def test_an_exception_that_leaves_three_spans_is_one_record() -> None:
    found = program("""
        provide(in_memory())
        try:
            with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
                raise flyte.errors.OOMError("OOM", "m")
        except Exception:
            pass
        inside.report(len(records()))
    """)
    assert found == 1


def test_the_program_s_provider_may_be_set_after_the_failures() -> None:
    found = program("""
        fail(message="1")
        fail(message="2")
        provide(in_memory())
        fail(message="3")
        inside.report([record["exception.message"] for record in records()])
    """)
    assert found == ["1", "2", "3"]


def test_without_a_provider_the_last_ones_wait_and_none_is_dropped() -> None:
    found = program("""
        from faultlens.sinks import logs
        for number in range(logs.WAITING_LIMIT + 5):
            fail(message=str(number))
        provide(in_memory())
        inside.report([record["exception.message"] for record in records()])
    """)
    assert found == [str(number) for number in range(5, 1005)]


def test_what_there_is_no_room_for_is_counted() -> None:
    found = program("""
        import threading
        from faultlens import pipeline
        from faultlens.sinks import logs
        running = pipeline.running()
        go_on = threading.Event()
        class Slow(sdk_logs.LogRecordProcessor):
            def on_emit(self, record):
                go_on.wait()
            emit = on_emit
            def shutdown(self):
                pass
            def force_flush(self, timeout_millis=0):
                return True
        provide(Slow(), in_memory())
        inside.expect_dropped()
        fail()
        inside.until(lambda: not running.logs._waiting)  # it hangs in the processor
        for number in range(logs.WAITING_LIMIT + 5):
            fail()
        dropped = inside.dropped()
        go_on.set()
        inside.report([dropped, len(records())])
    """)
    assert found == [{"log_limit": 5}, 1001]


def test_a_processor_that_raises_costs_the_record_and_nothing_else() -> None:
    found = program("""
        class Broken(sdk_logs.LogRecordProcessor):
            def on_emit(self, record):
                raise SystemExit("exporter is down")
            emit = on_emit
            def shutdown(self):
                pass
            def force_flush(self, timeout_millis=0):
                return True
        provide(Broken())
        inside.expect_dropped()
        for _ in range(3):
            fail()
        inside.settle()
        inside.report([inside.failures(), inside.dropped()])
    """)
    assert found == [{"flyte.errors.OOMError|user|w": 3}, {"log_error": 3}]


@pytest.mark.parametrize("when", ["while the program runs", "at its end"])
def test_what_a_processor_raises_is_counted_and_not_logged_without_end(when: str) -> None:
    settle = 3600 if when == "at its end" else 0.1
    found = program(f"""
        from faultlens.sinks import record
        record.SETTLE_SECONDS = {settle}
        class Failing(sdk_logs.LogRecordProcessor):
            def on_emit(self, record):
                try:
                    raise flyte.errors.RuntimeSystemError("S", "in the processor")
                except flyte.errors.RuntimeSystemError:
                    pass
            emit = on_emit
            def shutdown(self):
                pass
            def force_flush(self, timeout_millis=0):
                return True
        provide(Failing(), in_memory())
        fail()
        if record.SETTLE_SECONDS < 1:
            inside.until(logged.get_finished_logs)
        found = records()
        inside.report([len(found), inside.failures()])
    """)
    assert found == [
        1,
        {"flyte.errors.OOMError|user|w": 1, "flyte.errors.RuntimeSystemError|system|w": 1},
    ]


def test_a_logging_handler_that_feeds_opentelemetry_feeds_nothing_back() -> None:
    """Nor does stderr, which a program may redirect to its logging."""
    found = program(
        """
        import logging, sys
        from flyte import errors
        provide(in_memory())
        class Handler(logging.Handler):
            def emit(self, record):
                logged_by_host.append(record.getMessage())
                _logs.get_logger("host").emit(a_record())
        def a_record():
            from opentelemetry._logs import SeverityNumber
            cls = getattr(sdk_logs, "LogRecord", _logs.LogRecord)
            return cls(timestamp=1, observed_timestamp=1, trace_id=1, span_id=1, trace_flags=None,
                       severity_text="INFO", severity_number=SeverityNumber.INFO, body="host")
        logged_by_host = []
        logging.getLogger().addHandler(Handler())
        logging.getLogger().setLevel(logging.DEBUG)
        class Redirected:
            def write(self, text):
                logging.getLogger("stderr").warning(text)
            def flush(self):
                pass
        sys.stderr = Redirected()
        fail()
        found = [record["body"] for record in records()]
        inside.report([found.count("host") == len(logged_by_host), found.count("host") < 5,
                       [body for body in found if body != "host"],
                       [line for line in logged_by_host if "OOMError" in line]])
        """,
        FAULTLENS_LOG="json",
    )
    assert found == [True, True, ["flyte.errors.OOMError: m"], []]


def test_what_is_not_counted_again_has_no_record() -> None:
    found = program("""
        provide(in_memory())
        try:
            try:
                raise flyte.errors.OOMError("OOM", "first")
            except Exception as error:
                raise flyte.errors.RuntimeSystemError("S", "second") from error
        except Exception:
            pass
        inside.report([[record["exception.message"] for record in records()], inside.suppressed()])
    """)
    assert found == [["first"], {"flyte.errors.RuntimeSystemError|system|w|wrapped": 1}]


ENDS = """
from faultlens.sinks import record
record.SETTLE_SECONDS = 3600  # however slow the machine is
provide(in_memory())
env = flyte.TaskEnvironment("e")

@env.task
async def ends(how: str) -> None:
    if how == "plainly":
        raise ValueError("m")
    if how == "by an SDK exception":
        raise flyte.errors.RuntimeSystemError("S", "m")
    fail()

flyte.init()
try:
    flyte.with_runcontext(mode="local").run(ends, how={how!r})
except Exception:
    pass
inside.report([[r["exception.type"], r["severity"][1]] for r in records()])
"""


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("plainly", ["flyte.errors.RuntimeUserError", "ERROR"]),
        ("by an SDK exception", ["flyte.errors.RuntimeSystemError", "ERROR"]),
        ("handled", ["flyte.errors.OOMError", "WARN"]),
    ],
)
def test_what_ends_a_task_is_an_error_and_what_is_handled_a_warning(
    how: str, found: list[str]
) -> None:
    assert program("import flyte\n" + ENDS.replace("{how!r}", repr(how))) == [found]


def test_what_ends_the_program_is_an_error_and_reaches_the_program_s_provider() -> None:
    """Which ends at exit, too, and was set after the SDK was imported."""
    done = children.run(
        LOGS
        + """
from faultlens.sinks import record
record.SETTLE_SECONDS = 3600
console = getattr(export, "ConsoleLogRecordExporter", None) or export.ConsoleLogExporter
provide(export.BatchLogRecordProcessor(console()))
fail(message="handled")
raise flyte.errors.OOMError("OOM", "not handled")
""",
        env={**PATIENT, "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs"},
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.count('"exception.type": "flyte.errors.OOMError"') == 2
    handled, ended = (line for line in done.stdout.splitlines() if '"severity_text"' in line)
    assert "WARN" in handled
    assert "ERROR" in ended


@pytest.mark.parametrize(
    ("variable", "attribute"),
    [
        ("FAULTLENS_MESSAGES", "exception.message"),
        ("FAULTLENS_STACKTRACES", "exception.stacktrace"),
    ],
)
def test_messages_and_stack_traces_can_be_turned_off(variable: str, attribute: str) -> None:
    (record,) = program(
        "provide(in_memory())\nfail(message='the secret')\ninside.report(records())",
        **{variable: "0"},
    )
    assert attribute not in record
    assert variable == "FAULTLENS_STACKTRACES" or "the secret" not in str(record)


def test_no_record_has_a_secret() -> None:
    (record,) = program(
        "provide(in_memory())\nfail(message='redis://:hunter2@h')\ninside.report(records())"
    )
    assert record["exception.message"] == "redis://[scrubbed]@h"
    assert "hunter2" not in str(record)


# In a program without a provider.

FAILS = """
import os
import flyte.errors
def fail(times=1):
    for _ in range(times):
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
"""
OPT_IN = {**PATIENT, "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs"}


def test_they_go_where_the_environment_says() -> None:
    done = children.run(
        FAILS + "fail()\nfrom opentelemetry import _logs\n"
        "print(getattr(_logs, '_internal')._LOGGER_PROVIDER)",
        env={**OPT_IN, "OTEL_LOGS_EXPORTER": "console"},
    )
    assert done.stdout.count('"exception.type": "flyte.errors.OOMError"') == 1
    assert '"name": "exception"' not in done.stdout  # no span
    # The global provider is the program's to set.
    assert "None" in done.stdout.splitlines()


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_LOGS_EXPORTER": "none"},
        {"OTEL_LOGS_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_LOGS_EXPORTER": "console", "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": None},
    ],
)
def test_nothing_is_sent_that_nobody_asked_for(env: dict[str, str | None]) -> None:
    done = children.run(FAILS + "fail()", env={**OPT_IN, **env})
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("broken", ["not installed", "cannot be made"])
def test_an_exporter_that_cannot_be_had_is_one_line(broken: str) -> None:
    source = FAILS
    if broken == "cannot be made":
        source += """
import opentelemetry.sdk._logs.export as export
def broken(*args, **kwargs):
    raise ValueError("10s is no number")
for name in ("ConsoleLogRecordExporter", "ConsoleLogExporter"):
    if hasattr(export, name):
        getattr(export, name).__init__ = broken
"""
    exporter = "nonesuch" if broken == "not installed" else "console"
    done = children.run(source + "fail(2)", env={**OPT_IN, "OTEL_LOGS_EXPORTER": exporter})
    (line,) = done.stderr.splitlines()
    assert line.startswith("faultlens: OTEL_LOGS_EXPORTER")


@needs_otlp
def test_they_are_sent_by_otlp_at_the_end_too() -> None:
    with Receiver() as receiver:
        children.run(
            FAILS + "import atexit\natexit.register(fail)\nfail()",
            env={**OPT_IN, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **UNCOMPRESSED},
        )
    records = receiver.records()
    assert [record["exception.type"] for record in records] == ["flyte.errors.OOMError"] * 2
    assert {record["event_name"] for record in records} == {"exception"}
    assert {record["severity_text"] for record in records} == {"WARN"}
    assert receiver.events() == []


UNCOMPRESSED = {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"}


@needs_otlp
def test_of_a_process_that_is_killed_all_but_the_last_moment_arrives() -> None:
    """What fails in the instant before a SIGKILL is lost here, though it is counted."""
    source = FAILS + "fail(3)\nprint('failed', flush=True)\nos.read(0, 1)"
    with Receiver() as receiver:
        env = {**OPT_IN, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **UNCOMPRESSED}
        with subprocess.Popen(
            [sys.executable, "-c", source], env=children.environment(env), stdin=subprocess.PIPE
        ) as process:
            until(lambda: len(receiver.records()) >= 3, "the records")
            process.kill()
            process.wait(TIMEOUT)
        killed = FAILS + "import signal\nfail(3)\nos.kill(os.getpid(), signal.SIGKILL)"
        before = len(receiver.records())
        assert before == 3
        done = children.run(killed, env=env, check=False)
        assert done.returncode == -9
        assert len(receiver.records()) - before in range(4)


@needs_otlp
def test_a_collector_that_hangs_holds_up_no_raise_and_the_end_for_no_longer_than_allowed() -> None:
    """It would wait until the test ends, which waits for it."""
    source = FAILS + "fail(100)\nprint('failed', flush=True)\nos.read(0, 1)"
    with Receiver(hang=True) as receiver:
        env = {
            **OPT_IN,
            "FAULTLENS_FLUSH_SECONDS": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            **UNCOMPRESSED,
        }
        with subprocess.Popen(
            [sys.executable, "-c", source],
            env=children.environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "failed\n"
            until(lambda: bool(receiver.bodies), "the collector to hang")
            process.stdin.close()
            assert process.wait(TIMEOUT) == 0


def test_a_forked_child_emits_its_own_and_not_its_parent_s() -> None:
    found = program("""
        import os
        provide(in_memory())
        from faultlens.sinks import record
        record.SETTLE_SECONDS = 3600
        fail(message="the parent's")
        ours, theirs = os.pipe()
        if os.fork() == 0:
            fail(message="the child's")
            os.write(theirs, repr([r["exception.message"] for r in records()]).encode())
            os._exit(0)
        os.wait()
        inside.report([os.read(ours, 1000).decode(), [r["exception.message"] for r in records()]])
    """)
    assert found == [repr(["the child's"]), ["the parent's"]]
