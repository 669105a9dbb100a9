"""No secret leaves the process, by whatever way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import children
from tests.sinks.test_instruments import PATIENT
from tests.sinks.test_spans import TRACING

SECRET = "hunter2"

FAILS = f"""
import flyte.errors
def fail(way="raise"):
    try:
        raise flyte.errors.RuntimeUserError(
            "password={SECRET}", "cannot reach postgresql://app:{SECRET}@db/orders for 3 tasks"
        )
    except flyte.errors.RuntimeUserError:
        pass
"""


def program(body: str, **env: str | None) -> Any:
    return children.report(TRACING + FAILS + body, env=env)


@pytest.mark.parametrize("where", ["tracer.start_as_current_span('work')", "nullcontext()"])
def test_no_span_event_has_it(where: str) -> None:
    """On the current span, and on one of our own."""
    found = program(f"""
from contextlib import nullcontext
with {where}:
    fail()
inside.report(spans())
""")
    ((event,),) = found.values()
    assert SECRET not in str(event)
    assert event["exception.message"] == (
        "cannot reach postgresql://[scrubbed]@db/orders for 3 tasks"
    )
    assert event["faultlens.code"] == "password=[scrubbed]"
    assert event["exception.stacktrace"].endswith(
        "RuntimeUserError: cannot reach postgresql://[scrubbed]@db/orders for 3 tasks\n"
    )


@pytest.mark.parametrize("mode", [None, "logs", "logs/dup"])
def test_no_span_that_it_leaves_has_it(mode: str | None) -> None:
    """OpenTelemetry writes it there, with the lines of the source."""
    body = f"""
import linecache
source = 'def connect():\\n    raise flyte.errors.OOMError("OOM", "token={SECRET}")\\n'
linecache.cache["/app.py"] = (len(source), None, source.splitlines(True), "/app.py")
exec(compile(source, "/app.py", "exec"))
try:
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
        connect()
except Exception:
    pass
inside.report(spans())
"""
    found = program(body, OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=mode)
    assert len(found["inner"]) == 1
    assert SECRET not in str(found)
    (outer,) = found["outer"]
    assert outer["exception.message"] == "token=[scrubbed]"
    assert 'raise flyte.errors.OOMError("OOM", "token=[scrubbed]")' in outer["exception.stacktrace"]


def test_what_is_written_by_hand_in_the_program_s_own_words_is_the_program_s() -> None:
    found = program(f"""
with tracer.start_as_current_span("outer") as outer:
    with tracer.start_as_current_span("inner"):
        try:
            raise flyte.errors.OOMError("OOM", "token={SECRET}")
        except Exception as error:
            outer.record_exception(error, {{"exception.message": "my own {SECRET}"}})
            outer.record_exception(ValueError("token={SECRET}"))
inside.report(spans())
""")
    assert [event["exception.message"] for event in found["outer"]] == [
        f"my own {SECRET}",
        f"token={SECRET}",
    ]


def test_neither_the_metrics_nor_the_store_have_it(tmp_path: Path) -> None:
    """A code is a label; a task is, too."""
    store = tmp_path / "store"
    page = children.report(
        FAILS
        + f"""
import inside
fail()
from faultlens import pipeline
running = pipeline.running()
(sdk,) = running.sdks.values()
running.attempted(sdk, "sync?X-Amz-Signature={SECRET}", "ok")
inside.report(inside.page())
""",
        env={"FAULTLENS_STORE": str(store), "FAULTLENS_WORKER": f"http://{SECRET}@gpu-7"},
    )
    assert 'worker="http://[scrubbed]@gpu-7"' in page
    assert 'code="password=[scrubbed]"' in page
    assert 'task="sync?[scrubbed]"' in page
    assert SECRET not in page
    files = [path for path in store.rglob("*") if path.is_file()]
    assert any(b"[scrubbed]" in path.read_bytes() for path in files)
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_the_log_does_not_have_it() -> None:
    done = children.run(FAILS + "fail()", env={**PATIENT, "FAULTLENS_LOG": "text"})
    assert "[password=[scrubbed]]" in done.stderr
    assert SECRET not in done.stderr


def test_rules_still_see_it(tmp_path: Path) -> None:
    """A rule may match what nobody else sees."""
    rules = tmp_path / "rules.toml"
    rules.write_text(f'[[rule]]\nmessage = "app:{SECRET}@"\nkind = "system"\n')
    found = children.report(
        FAILS + "import inside\nfail()\ninside.report(inside.failures())",
        env={"FAULTLENS_RULES": str(rules)},
    )
    assert found == {"flyte.errors.RuntimeUserError|system|w": 1}


def test_the_user_turns_it_off_or_adds_to_it() -> None:
    body = """
with tracer.start_as_current_span("work"):
    fail()
inside.report(spans()["work"][0]["exception.message"])
"""
    assert SECRET in program(body, FAULTLENS_SCRUB="off")
    assert program(body, FAULTLENS_SCRUB="[0-9] tasks\norders") == (
        "cannot reach postgresql://[scrubbed]@db/[scrubbed] for [scrubbed]"
    )
