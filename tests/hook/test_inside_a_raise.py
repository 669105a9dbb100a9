"""Inside a raise, nothing waits, and neither the host's code nor its clocks are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import children
from tests.sinks.test_instruments import PATIENT

_SPANS = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("host")
"""


@pytest.mark.parametrize("where", ["in a span", "without a span"])
def test_a_str_that_takes_a_lock_held_by_the_raiser(where: str) -> None:
    """If we called the method, the test would hang."""
    source = (
        """
    import contextlib, sys, threading
    import inside
    from flyte.errors import RuntimeUserError
"""
        + _SPANS
        + """
    lock = threading.Lock()
    class Locked(RuntimeUserError):
        def __str__(self):
            with lock:
                return "text"
        __repr__ = __str__
        @property
        def worker(self):
            return str(self)
        @worker.setter
        def worker(self, value):
            pass
    class Meta(type):
        def __getattribute__(cls, name):
            with lock:
                return super().__getattribute__(name)
    class Locking(Locked, metaclass=Meta):
        pass

    span = tracer.start_as_current_span("host")
    with span if sys.argv[1] == "in a span" else contextlib.nullcontext():
        for cls in (Locked, Locking):
            exc = cls("c", "m")
            with lock:
                try:
                    raise exc
                except RuntimeUserError as caught:
                    assert caught is exc
    inside.report(inside.total())
"""
    )
    assert children.report(source, where, env={"FAULTLENS_LOG": "text"}) == 2


_CLOCKS = """
    import sys, threading, time, traceback
    from unittest import mock
    import inside
    import flyte.errors

    real = {name: getattr(time, name) for name in ("time", "monotonic", "time_ns", "sleep")}
    asked = []

    def fail(times):
        for _ in range(times):
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                pass

    def keep():
        # What our own thread does each second, twice.
        from faultlens import pipeline
        for _ in range(2):
            pipeline.running()._keep()
            pipeline.running().read()
"""

_WITH_CLOCKS = {
    "patch with two values": """
    with mock.patch("time.time", side_effect=[1.0, 2.0]):
        fail(3)
        keep()
        values = [time.time(), time.time()]
    assert values == [1.0, 2.0]
    """,
    "patch with a MagicMock": """
    with mock.patch("time.time"), mock.patch("time.monotonic"):
        fail(3)
        keep()
        assert not time.time.called and not time.monotonic.called
    """,
    # As freezegun does: by identity, in every module that has one of the functions.
    "a search through all modules": """
    def fake(name):
        def function(*args):
            stack = traceback.extract_stack()
            asked.extend(f.filename for f in stack if "/faultlens/" in f.filename)
            return 1.0
        return function
    fakes = {id(function): fake(name) for name, function in real.items()}
    changed = []
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if id(value) in fakes and module is not sys.modules["__main__"]:
                changed.append((module, name, value))
                setattr(module, name, fakes[id(value)])
    try:
        fail(3)
        keep()
    finally:
        for change in changed:
            setattr(*change)
    assert len(changed) > 4
    """,
    "a monotonic clock that stands still": """
    with mock.patch("time.monotonic", lambda: 0.0), mock.patch("time.time", lambda: 0.0):
        fail(3)
        keep()
    """,
}


@pytest.mark.parametrize("how", _WITH_CLOCKS)
def test_clocks_replaced_by_the_host_are_not_used_and_no_count_is_lost(
    how: str, tmp_path: Path
) -> None:
    found = children.report(
        _CLOCKS
        + _WITH_CLOCKS[how]
        + """
    fail(2)
    last = inside.samples("faultlens_last_failure_timestamp_seconds").values()
    inside.report([inside.total(), asked, all(abs(t - real["time"]()) < 3600 for t in last)])
    """,
        env={"FAULTLENS_STORE": str(tmp_path / "store"), "FAULTLENS_LOG": "text"},
    )
    assert found == [5, [], True]


@pytest.mark.parametrize("log", ["text", "json", "off"])
def test_the_host_s_logging_handler_is_not_called_in_a_raise(log: str) -> None:
    """The raise must not wait for the handler either: here it would wait for itself."""
    found = children.report(
        """
        import logging, threading
        import inside
        from flyte.errors import OOMError
        class Handler(logging.Handler):
            def emit(self, record):
                called.append(threading.current_thread() is threading.main_thread())
        called = []
        logging.getLogger().addHandler(Handler())
        logging.getLogger().setLevel(logging.DEBUG)
        logging.getLogger("faultlens").setLevel(logging.DEBUG)
        inside.expect_dropped()
        class Odd(OOMError): pass
        try:
            raise Odd("OOM", "m")
        except OOMError:
            pass
        inside.report([called.count(True), inside.total()])
        """,
        env={"FAULTLENS_LOG": log},
    )
    assert found == [0, 1]


def test_the_log_survives_the_host_s_logging_configuration() -> None:
    done = children.run(
        """
        import logging.config
        import flyte.errors
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        """,
        env={**PATIENT, "FAULTLENS_LOG": "text"},
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("faultlens: ")]
    assert [line.split(";")[0] for line in lines] == [
        "faultlens: failure flyte.errors.OOMError [OOM] user: the first sight of it"
    ]
