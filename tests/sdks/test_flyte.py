from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from faultlens import sdks
from tests import children

ROOT = Path(__file__).parents[2]


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
def test_most_worker_values_of_flyte_are_not_a_stable_name(worker: object) -> None:
    assert sdks.stable_worker(worker) is None


@pytest.mark.parametrize("worker", ["w-7", "gpu-node-7", "worker-a", "pod/x:1", 'say"so"', "Ünal"])
def test_a_stable_name_is_kept(worker: str) -> None:
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
    inside.report([inside.failures(), inside.samples("faultlens_issues_total")])
"""


def raised(errors: str, definitions: str = "") -> tuple[dict[str, float], dict[str, float]]:
    """The failures, and how many there are with each code."""
    failures, issues = children.report(RAISE.format(errors=errors, definitions=definitions))
    return failures, {issue.split("|")[1]: count for issue, count in issues.items()}


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
    assert codes == {
        "": 3,
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
    assert codes == {"": 1}


EVENTS = """
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

    @flyte.trace
    async def step() -> int:
        raise flyte.errors.RuntimeSystemError("S", "m", worker="node-1")

    # In local mode a task's version is that of its cache.
    @env.task(cache=flyte.Cache(behavior="override", version_override="v7"))
    async def work() -> int:
        inside.action = flyte.ctx().action.name
        {body}

    flyte.init()
    try:
        flyte.with_runcontext(mode="local", name="nightly").run(work)
    except flyte.errors.RuntimeSystemError:
        pass
    inside.until(memory.get_finished_spans)
    event = dict(memory.get_finished_spans()[0].events[0].attributes)
    inside.report([event, inside.action])
"""


@pytest.mark.parametrize(
    "body",
    ["raise flyte.errors.RuntimeSystemError('S', 'm', worker='node-1')", "return await step()"],
    ids=["task", "step"],
)
def test_the_event_says_where_it_happened_with_the_names_of_flyte_s_own_plugin(body: str) -> None:
    event, action = children.report(EVENTS.format(body=body))
    assert event["faultlens.worker"] == "w"
    assert event["flyte.run_name"] == "nightly"
    assert event["flyte.action_name"] == action, "the task's, not that of the step"
    assert event["flyte.task_name"] == "env.work"
    assert event["flyte.version"] == "v7"
    assert "flyte.run" not in event


def test_the_sick_machine_is_the_worker_of_a_gpu_fault() -> None:
    pytest.importorskip("flyte")
    faults = """
        import flyte.errors, inside
        from tests.sdks import provoke_flyte
        from flyteidl2.core import execution_pb2

        if not hasattr(flyte.errors, "GPUFaultError"):
            inside.report(None)
            raise SystemExit
        for kind in (execution_pb2.ExecutionError.SYSTEM, execution_pb2.ExecutionError.USER):
            error = execution_pb2.ExecutionError(kind=kind, code="GpuXidError", message="Xid 79")
            error.gpu_fault.node = "gpu-node-7"
            provoke_flyte.child_ends("FAILED", error)
        inside.report(inside.samples("faultlens_failures_total"))
    """
    failures = children.report(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + dedent(faults))
    if failures is None:
        pytest.skip("this version has no GPU faults")
    assert failures == {
        "flyte.errors.GPUFaultSystemError|system|gpu-node-7": 1,
        "flyte.errors.GPUFaultUserError|user|gpu-node-7": 1,
    }
