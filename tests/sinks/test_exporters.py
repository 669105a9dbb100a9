"""What our own providers hold is sent at a failure, and nobody is held up for long by it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from faultlens.sinks import exporters
from faultlens.sinks.exporters import Flusher
from tests import children
from tests.children import TIMEOUT
from tests.servers import Receiver, until
from tests.sinks.test_instruments import PROGRAM, needs_otlp, otlp


class Sender:
    """A sender of something: notes that it was called, and may hang or fail."""

    def __init__(self, hangs: bool = False, error: Exception | None = None) -> None:
        self.calls = 0
        self.ended = 0
        self.hangs = hangs
        self.error = error
        self.let_go = threading.Event()

    def send(self) -> None:
        self.calls += 1
        if self.hangs:
            self.let_go.wait(TIMEOUT)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    sender.let_go.set()


def flusher(*senders: Sender, seconds: float = TIMEOUT, interval: float = 3600) -> Flusher:
    made = Flusher(seconds, interval)
    for sender in senders:
        made.add(sender.send, sender.end)
    return made


def test_it_is_sent_when_flush_returns(sender: Sender) -> None:
    sending = flusher(sender)
    sending.flush()
    assert sender.calls == 1
    sending.flush()
    assert sender.calls == 2
    sending.shut_down()


def test_the_end_sends_once_more_and_only_once(sender: Sender) -> None:
    sending = flusher(sender)
    for _ in range(3):
        sending.shut_down()
        sending.flush()
    assert (sender.calls, sender.ended) == (1, 1)


def test_without_anything_to_send_there_is_no_thread() -> None:
    before = threading.active_count()
    sending = flusher()
    sending.flush()
    sending.shut_down()
    assert threading.active_count() == before


def test_it_sends_from_time_to_time_without_a_failure(sender: Sender) -> None:
    sending = flusher(sender, interval=0.01)
    until(lambda: sender.calls > 2, "three times")
    sending.shut_down()


def test_one_that_fails_does_not_keep_another_from_being_sent(sender: Sender) -> None:
    sending = flusher(Sender(error=OSError("down")), sender)
    sending.flush()
    sending.flush()
    assert sender.calls == 2
    sending.shut_down()


def test_one_that_hangs_is_waited_for_once_in_all(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is threading.main_thread():
                waits.append(timeout or 0)
            return super().wait(timeout)

    sender.hangs = True
    sending = flusher(sender, seconds=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Event)
        for _ in range(1000):
            sending.flush()
    assert 0.1 <= sum(waits) < 0.2
    until(lambda: sender.calls == 1, "the call")
    sending.shut_down()
    assert (sender.calls, sender.ended) == (1, 0)


def test_failures_that_go_on_stop_waiting_for_one_that_is_slow(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its clock each call takes a quarter of the time that there is for all.
    clock = SimpleNamespace(monotonic=lambda: sender.calls * TIMEOUT / 4)
    monkeypatch.setattr(exporters, "time", clock)
    sending = flusher(sender)
    for _ in range(100):
        sending.flush()
    assert sender.calls == 4
    sending.shut_down()  # which waits, for it has always answered
    assert (sender.calls, sender.ended) == (5, 1)


def test_a_failure_within_a_sender_does_not_wait_for_itself(sender: Sender) -> None:
    sending = flusher(sender, seconds=60)
    sending.add(sending.flush, sender.end)
    sending.flush()
    sending.flush()  # there is patience left
    assert sender.calls == 2
    sending.shut_down()


def test_where_no_thread_can_be_started_nobody_waits_for_one(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = flusher()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _cannot_start)
        with pytest.raises(RuntimeError):
            sending.add(sender.send, sender.end)
        sending.shut_down()
    sending = flusher()
    sending.add(sender.send, sender.end)
    sending.flush()
    assert sender.calls == 1
    sending.shut_down()


def _cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_with_0_seconds_nothing_is_waited_for(sender: Sender) -> None:
    sender.hangs = True
    sending = flusher(sender, seconds=0)
    sending.flush()
    assert sender.calls == 0
    sending.shut_down()


FAILS = f"{PROGRAM}\nfail(3)\nprint('caught')"


@needs_otlp
@pytest.mark.parametrize("collector", ["dead", "hanging"])
def test_a_collector_that_does_not_answer_changes_nothing_for_the_program(collector: str) -> None:
    with Receiver(hang=True) as receiver:
        url = receiver.url if collector == "hanging" else "http://127.0.0.1:9"
        done = children.run(FAILS, env=otlp(url, FAULTLENS_FLUSH_SECONDS="2"))
        # It has ended while the collector was still hanging.
        assert bool(receiver.bodies) == (collector == "hanging")
    assert done.stdout == "caught\n"


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
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "pass"])
def test_the_span_of_a_dying_process_is_sent_at_the_failure(end: str) -> None:
    with Receiver() as receiver:
        env = otlp(receiver.url, OTEL_METRICS_EXPORTER="none")
        children.run(f"{PROGRAM}\nfail()\n{end}", env=env, check=False)
        (event,) = receiver.events()
    assert event["exception.type"] == "flyte.errors.OOMError"
    assert event["faultlens.role"] == "origin"
