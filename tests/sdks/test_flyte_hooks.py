"""The hooked functions of Flyte: if one is missing, less is seen, and a warning says so."""

from __future__ import annotations

import json

import pytest

from tests import children

pytest.importorskip("flyte")

RUN = """
    import logging, sys, tempfile
    import flyte, flyte.errors, inside
    from flyte._internal.runtime import convert, taskrunner
    {before}
    import faultlens; faultlens.enable()
    flyte.init(log_level=logging.CRITICAL)
    env = flyte.TaskEnvironment("hooks", image="python:3.12-slim")

    @env.task
    async def fails() -> int:
        raise ValueError("a bad row")

    @env.task
    async def calls() -> int:
        return await fails()

    with tempfile.TemporaryDirectory() as scratch:
        runner = flyte.with_runcontext(mode="local", raw_data_path=f"{{scratch}}/raw")
        runner._metadata_path = f"{{scratch}}/metadata"
        try:
            runner.run(calls)
        except flyte.errors.RuntimeUserError as error:
            assert error.code == "ValueError", error
    inside.report([inside.failures(), inside.suppressed()])
"""
FAILURE, PROPAGATED = "flyte.errors.RuntimeUserError|user|w", "propagated"
NO_OBSERVERS = """
    if "flyte._observe" in sys.modules:
        del sys.modules["flyte._observe"].register_observer
"""
OTHER_CONVERSION = """
    @classmethod
    def from_exception(cls, exception, *, more=None):
        return cls(type(exception).__name__, str(exception))
    flyte.errors.CustomError.from_exception = from_exception
"""
OTHER_REBUILDING = """
    convert._rebuild = convert.convert_error_to_native
    convert.convert_error_to_native = lambda *errors: convert._rebuild(*errors)
"""


def run(before: str = "") -> tuple[dict[str, float], dict[str, float], str]:
    done = children.run(RUN.format(before=before), env={"FAULTLENS": "0"})
    failures, suppressed = json.loads(done.stdout.splitlines()[-1])
    return failures, suppressed, done.stderr


@pytest.mark.parametrize("before", ["", NO_OBSERVERS], ids=["observers", "no observers"])
def test_enabled_after_flyte_was_imported_it_sees_the_same(before: str) -> None:
    failures, suppressed, log = run(before)
    assert failures == {FAILURE: 1}
    assert suppressed == {f"{FAILURE}|propagated": 2}
    assert log == ""


def test_an_unknown_conversion_is_one_warning_and_parents_show_the_failure() -> None:
    failures, suppressed, log = run(NO_OBSERVERS + OTHER_CONVERSION)
    assert failures == {FAILURE: 2}
    assert suppressed == {}
    assert len(log.splitlines()) == 1
    assert "has no flyte.errors.CustomError.from_exception as it is known; without it" in log


def test_an_unknown_rebuilding_is_one_warning_and_each_level_counts() -> None:
    failures, suppressed, log = run(OTHER_REBUILDING)
    assert failures == {FAILURE: 3}
    assert suppressed == {}
    assert len(log.splitlines()) == 1
    assert "convert.convert_error_to_native as it is known; without it" in log


OTHER_RUNNER = """
    original = taskrunner.convert_and_run
    async def convert_and_run(**everything):
        return await original(**everything)
    from flyte._internal.runtime import entrypoints
    taskrunner.convert_and_run = entrypoints.convert_and_run = convert_and_run
"""


def test_an_unknown_way_to_run_a_task_is_one_warning_and_attempts_are_counted_by_the_other() -> (
    None
):
    failures, suppressed, log = run(OTHER_RUNNER)
    assert failures == {FAILURE: 1}
    assert suppressed == {f"{FAILURE}|propagated": 2}
    assert len(log.splitlines()) == 1
    assert "taskrunner.convert_and_run as it is known; without it attempts" in log


def test_what_was_hooked_is_restored() -> None:
    restored = """
        import inside
        from flyte._internal.runtime import convert, entrypoints, taskrunner
        import faultlens
        def hooked():
            return [
                taskrunner.convert_and_run, entrypoints.convert_and_run, taskrunner.run_task,
                convert.convert_error_to_native,
            ]
        before = hooked()
        faultlens.enable()
        during = hooked()
        faultlens.disable()
        inside.report([
            [a is b for a, b in zip(before, during, strict=True)],
            [a is b for a, b in zip(before, hooked(), strict=True)],
        ])
    """
    during, after = children.report(restored, env={"FAULTLENS": "0"})
    assert during == [False] * 4
    assert after == [True] * 4


def test_hooks_that_were_set_while_flyte_was_imported_are_restored() -> None:
    restored = """
        import inside
        from flyte._internal.runtime import entrypoints, taskrunner
        import faultlens
        ours = taskrunner.convert_and_run
        assert entrypoints.convert_and_run is ours
        faultlens.disable()
        inside.report([
            taskrunner.convert_and_run is ours.__wrapped__,
            entrypoints.convert_and_run is ours.__wrapped__,
        ])
    """
    assert children.report(restored) == [True, True]


def test_the_program_s_own_observer_sees_no_difference() -> None:
    pytest.importorskip("flyte._observe")
    found = children.report(
        RUN.format(
            before="""
    import contextlib
    from flyte import _observe
    seen = []
    class Observer:
        @contextlib.contextmanager
        def task_span(self, info, recorder):
            yield
            seen.append([info.name, type(recorder.error).__name__])
        def step_span(self, info, recorder):
            return contextlib.nullcontext()
    _observe.register_observer(Observer())
    """
        ).replace(
            "inside.report([inside.failures(), inside.suppressed()])",
            "inside.report([inside.failures(), seen])",
        ),
        env={"FAULTLENS": "0"},
    )
    assert found == [
        {FAILURE: 1},
        [["hooks.fails", "ValueError"], ["hooks.calls", "RuntimeUserError"]],
    ]


def test_a_converted_exception_is_recorded_once_on_the_task_s_span() -> None:
    """The span is that of an observer that was registered after ours, so it is closed before."""
    pytest.importorskip("flyte._observe")
    event = children.report(
        RUN.format(
            before="""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    import contextlib, gc
    class Observer:
        # As flyteplugins-otel does.
        @contextlib.contextmanager
        def task_span(self, info, recorder):
            with trace.get_tracer("app").start_as_current_span(info.name) as span:
                yield
                if recorder.error is not None:
                    span.record_exception(recorder.error)
        def step_span(self, info, recorder):
            return contextlib.nullcontext()
    """
        )
        .replace(
            "flyte.init(",
            "from flyte import _observe; _observe.register_observer(Observer()); flyte.init(",
        )
        .replace(
            "inside.report([inside.failures(), inside.suppressed()])",
            "from faultlens import pipeline;"
            " gc.collect(); kept = [entry for entry in pipeline.running().spans._recorded._entries"
            ".values() if type(entry[0]()) is ValueError]; assert kept == [], kept;"
            " spans = {span.name: [dict(e.attributes) for e in span.events]"
            " for span in memory.get_finished_spans()}; inside.report(spans)",
        ),
        env={"FAULTLENS": "0"},
    )
    (conversion,) = event["hooks.fails"]
    assert conversion["exception.type"] == "flyte.errors.RuntimeUserError"
    assert conversion["exception.message"] == "a bad row"
    assert "in fails" in conversion["exception.stacktrace"]
    assert conversion["faultlens.role"] == "origin"
    assert conversion["faultlens.carries"] == "builtins.ValueError"
    assert conversion["faultlens.code"] == "ValueError"
    (carrier,) = event["hooks.calls"]
    assert carrier["faultlens.role"] == "propagated"
    assert carrier["faultlens.carries"] == "ValueError"
