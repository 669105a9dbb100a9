from __future__ import annotations

import pytest

from faultlens import sdks
from tests import children


@pytest.mark.parametrize(
    "worker",
    [
        "user",
        "",
        None,
        "UNKNOWN",
        "worker-0",
        "worker-17",
        " api-key before using this function.",
        b"gpu",
        7,
        "two\nlines",
        'tab\t"quoted"',
        "w" * 10_000,
        "py-worker-0a1b2c3d",
        "a\ud800b\n",
    ],
)
def test_what_flyte_calls_a_worker_is_mostly_none(worker: object) -> None:
    assert sdks.stable_worker(worker) is None


@pytest.mark.parametrize("worker", ["w-7", "gpu-node-7", "worker-a", "pod/x:1", 'say"so"', "Ünal"])
def test_a_name_is_a_name(worker: str) -> None:
    assert sdks.stable_worker(worker) == worker


RAISE = """
    import flyte.errors, inside
    {definitions}
    def attempt(error):
        try:
            raise error
        except BaseException as caught:
            assert caught is error
    for error in ({errors},):
        attempt(error)
    inside.report([inside.failures(), inside.samples("faultlens_failure_codes_total")])
"""


def raised(errors: str, definitions: str = "") -> tuple[dict[str, float], dict[str, float]]:
    failures, codes = children.report(RAISE.format(errors=errors, definitions=definitions))
    return failures, codes


def test_the_exception_s_own_kind_decides() -> None:
    failures, _ = raised(
        "*(flyte.errors.BaseRuntimeError('C', kind, 'm') for kind in ('user', 'system', 'unknown'))"
    )
    assert failures == {
        f"flyte.errors.BaseRuntimeError|{kind}|w": 1 for kind in ("user", "system", "unknown")
    }


def test_any_other_kind_is_unknown() -> None:
    kinds = "('banana', None, b'user', 7, ['user'], 'USER')"
    failures, _ = raised(f"*(flyte.errors.BaseRuntimeError('C', kind, 'm') for kind in {kinds})")
    assert failures == {"flyte.errors.BaseRuntimeError|unknown|w": 6}


def test_a_code_may_be_of_any_type() -> None:
    _, codes = raised(
        "*(flyte.errors.RuntimeUserError(code, 'm') for code in "
        "('C', ('a', 7), b'x', 5, None, '', object, 'two\\nlines'))"
    )
    by_code = {key.split("|", 1)[1]: count for key, count in codes.items()}
    assert by_code == {
        "C": 1,
        "a 7": 1,
        "b'x'": 1,
        "5": 1,
        "two\nlines": 1,
    }


def test_attributes_that_raise_are_left_out_and_the_failure_still_counts() -> None:
    failures, codes = raised(
        "Broken('C', 'm')",
        definitions="""
    class Broken(flyte.errors.RuntimeUserError):
        def __init__(self, code, message):
            RuntimeError.__init__(self, message)
        @property
        def kind(self): raise SystemExit
        @property
        def worker(self): raise KeyboardInterrupt
        @property
        def code(self): raise ValueError
    """,
    )
    assert failures == {"__main__.Broken|unknown|w": 1}
    assert codes == {}


def test_the_span_event_says_which_run_and_action_it_was() -> None:
    event = children.report("""
        import flyte, inside
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        trace.set_tracer_provider(provider)
        env = flyte.TaskEnvironment("env", image="python:3.12-slim")
        @env.task
        async def work() -> int:
            raise flyte.errors.RuntimeSystemError("S", "m", worker="node-1")
        flyte.init()
        try:
            flyte.with_runcontext(mode="local", name="nightly").run(work)
        except flyte.errors.RuntimeSystemError:
            pass
        inside.until(memory.get_finished_spans)
        inside.report(dict(memory.get_finished_spans()[0].events[0].attributes))
    """)
    assert event["faultlens.worker"] == "w"
    assert event["flyte.run"] == "nightly"
    assert event["flyte.action"]
