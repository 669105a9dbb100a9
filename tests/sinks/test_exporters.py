"""What goes where the environment says is sent in the background, and holds nobody up for long."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests import children
from tests.children import TIMEOUT
from tests.servers import Receiver, until
from tests.sinks.test_instruments import PROGRAM, needs_otlp, otlp

FAILS = f"{PROGRAM}\nfail(3)\nprint('caught')"


@needs_otlp
def test_a_collector_that_is_not_there_changes_nothing_for_the_program() -> None:
    env = otlp("http://127.0.0.1:9", FAULTLENS_FLUSH_SECONDS="2")
    assert children.run(FAILS, env=env).stdout == "caught\n"


AT_EXIT = f"""{PROGRAM}
import atexit, flyte
atexit.register(fail)
fail()
"""


@needs_otlp
def test_what_fails_at_exit_is_sent_too() -> None:
    with Receiver() as receiver:
        children.run(AT_EXIT, env=otlp(receiver.url))
    assert list(receiver.counted("faultlens_failures_total").values()) == [2]
    assert len(receiver.events()) == 2


@needs_otlp
def test_a_span_of_our_own_is_sent_while_the_program_goes_on() -> None:
    """Not at the end only: this one is killed."""
    source = f"{PROGRAM}\nfail()\nos.read(0, 1)"
    with (
        Receiver() as receiver,
        subprocess.Popen(
            [sys.executable, "-c", source],
            env=children.environment(otlp(receiver.url)),
            stdin=subprocess.PIPE,
        ) as process,
    ):
        try:
            until(lambda: bool(receiver.events()), "the span")
        finally:
            process.send_signal(signal.SIGKILL)
        (event,) = receiver.events()
    assert event["exception.type"] == "flyte.errors.OOMError"
    assert event["faultlens.role"] == "origin"


@needs_otlp
def test_a_raise_does_not_wait_for_a_collector_that_hangs() -> None:
    """It would wait until the test ends, which waits for it."""
    source = f"{PROGRAM}\nfail(100)\nprint('failed', flush=True)\nos.read(0, 1)"
    env = otlp("", FAULTLENS_FLUSH_SECONDS="0")
    with Receiver(hang=True) as receiver:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
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
