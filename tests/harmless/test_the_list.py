"""Lists where such hooks break, from the bug histories of others, and our tests for each point.

Tests that belong nowhere else are here. All run on every supported Python.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests import children

TESTS = children.TESTS
NEW = sys.version_info >= (3, 12)

THE_LIST = {
    "1. strangers: whatever an exception or its class does when it is looked at": """
        hook/test_hostile.py::test_a_stranger_reaches_the_host_unchanged
        hook/test_hostile.py::test_a_stranger_counts_once_and_has_its_event
        harmless/test_the_list.py::test_arguments_that_raise_sdk_exceptions_are_not_looked_at
    """,
    "2. one count through many layers": """
        hook/test_table.py::test_each_raised_object_counts_once
        harmless/test_the_list.py::test_an_exception_is_handled_once_however_many_layers_it_passes
        harmless/test_programs.py::test_a_random_program_behaves_as_without_and_each_object_counts_once
    """,
    "3. every way to raise, and to raise again": """
        hook/test_table.py::test_each_raised_object_counts_once
        hook/test_table.py::test_the_host_sees_the_same_as_without_faultlens
        harmless/test_programs.py::test_a_random_program_behaves_as_without_and_each_object_counts_once
    """,
    "4. what is no raise: constructed, unpickled, set on a future; control flow of Python": """
        hook/test_table.py::test_each_raised_object_counts_once
    """,
    "5. groups, long chains, rings": """
        hook/test_hostile.py::test_huge_groups_and_long_chains_cost_no_more_than_other_exceptions
        harmless/test_the_list.py::test_cycles_of_causes_and_contexts_terminate
    """,
    "6. no stack left, no memory left, nearly everything gone": """
        hook/test_hostile.py::test_at_the_recursion_limit_no_raise_is_lost_silently
        hook/test_hostile.py::test_raises_at_exit_are_counted_and_raises_after_it_do_no_harm
        hook/test_hostile.py::test_the_hook_does_no_harm_when_its_module_globals_are_gone
        harmless/test_the_list.py::test_the_process_survives_wherever_memory_runs_out
        harmless/test_the_list.py::test_an_exception_that_is_freed_at_the_very_end_causes_no_output
        harmless/test_the_list.py::test_a_stack_of_100_000_frames
    """,
    "7. forks and what dies": """
        hook/test_processes.py::test_children_forked_while_threads_raise_and_scrape_do_not_hang
        hook/test_processes.py::test_multiprocessing_children_count_their_own_raises
        exposition/test_processes.py::test_a_raise_is_counted_however_abruptly_the_process_then_ends
        exposition/test_prefork.py::test_workers_that_are_replaced_under_load
        exposition/test_prefork.py::test_celery_workers_that_are_replaced_and_then_all_killed
    """,
    "8. exporters and SDKs that fail": """
        sinks/test_spans.py::test_a_span_processor_that_raises_costs_the_event_and_nothing_else
        sinks/test_exporters.py::test_a_collector_that_is_not_there_changes_nothing_for_the_program
        sinks/test_spans.py::test_the_api_without_a_provider_is_no_reason_to_fail
        test_serve.py::test_a_program_whose_port_another_store_has_says_so_and_counts_on
        test_startup.py::test_an_sdk_that_fails_to_import_fails_as_ever_and_may_be_tried_again
        harmless/test_the_list.py::test_a_metric_of_the_host_with_our_name_stays_the_host_s
    """,
    "9. re-entrancy": """
        hook/test_hostile.py::test_signals_and_finalizers_at_any_point_neither_hang_nor_lose_a_count
        hook/test_hostile.py::test_an_exception_from_a_signal_handler_during_our_work_reaches_the_host
        hook/test_coexistence.py::test_switching_between_threads_never_misses_a_raise
        harmless/test_the_list.py::test_a_span_that_raises_sdk_exceptions_loses_only_the_event
    """,
    "10. label explosion and memory": """
        hook/test_hostile.py::test_dynamic_classes_and_random_workers_end_in_other
        hook/test_hostile.py::test_objects_of_a_failing_frame_are_freed_when_the_host_is_done
    """,
    "11. beside debuggers, profilers, coverage": """
        hook/test_coexistence.py::test_coverage_measures_the_same_and_the_count_is_exact
        hook/test_coexistence.py::test_a_debugger_steps_as_usual_and_the_count_is_exact
        hook/test_coexistence.py::test_cprofile_profiles_and_the_count_is_exact
        harmless/test_the_list.py::test_the_metrics_say_how_raises_are_detected
    """,
    "12. ways to start Python": """
        hook/test_processes.py::test_the_options_of_python_change_nothing
        hook/test_processes.py::test_a_module_a_zip_application_and_a_script_count_alike
        test_startup.py::test_unset_nothing_is_imported
        test_startup.py::test_a_value_that_is_neither_warns_once_and_stays_off
    """,
    "13. and over time": """
        harmless/test_soak.py::test_many_rounds_leave_no_more_than_a_few_and_every_count_is_exact
        harmless/test_the_list.py::test_no_thread_is_started_at_interpreter_exit
    """,
}


@pytest.mark.parametrize("point", THE_LIST)
def test_each_point_has_its_tests(point: str) -> None:
    for line in THE_LIST[point].split():
        file, _, name = line.partition("::")
        assert re.search(rf"^def {name}\(", Path(TESTS, file).read_text(), re.MULTILINE), line


_LAYERS = """
    import asyncio, contextlib, json, sys
    from faultlens.hook import Hook

    class E(RuntimeError): pass

    handled, dropped = [], []
    hook = Hook(lambda *args: handled.append(1), lambda *why: dropped.append(str(why)))
    hook.watch([E])

    @contextlib.contextmanager
    def manager():
        yield

    def plain(inner):
        inner()
    def managed(inner):
        with manager():
            inner()
    def finally_(inner):
        try:
            inner()
        finally:
            len("")
    def reraised(inner):
        try:
            inner()
        except E:
            raise
    def by_name(inner):
        try:
            inner()
        except E as caught:
            raise caught
    def generator(inner):
        def numbers():
            yield
            inner()
        list(numbers())
    def coroutine(inner):
        async def run():
            inner()
        with contextlib.suppress(StopIteration):
            run().send(None)

    def through(layer, depth):
        if depth:
            layer(lambda: through(layer, depth - 1))
        else:
            raise E

    sys.setrecursionlimit(10_000)
    found = {}
    for layer in (plain, managed, finally_, reraised, by_name, generator, coroutine):
        for depth in (1, 10, 100):
            try:
                through(layer, depth)
            except E:
                pass
            found[f"{layer.__name__} {depth}"] = len(handled)
            handled.clear()
    print(json.dumps([found, dropped]))
"""


def test_an_exception_is_handled_once_however_many_layers_it_passes() -> None:
    found, dropped = children.report(_LAYERS, env={"FAULTLENS": "0"})
    assert {layers: times for layers, times in found.items() if times != 1} == {}
    assert (len(found), dropped) == (21, [])


def test_arguments_that_raise_sdk_exceptions_are_not_looked_at() -> None:
    source = """
        import inside
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        looks = []

        def look(self, *args):
            looks.append(1)
            raise E("c", "inner")

        Argument = type("Argument", (), {
            name: look for name in ("__repr__", "__str__", "__format__", "__len__", "__bool__")
        })
        with trace.get_tracer("host").start_as_current_span("host") as span:
            for argument in (Argument(), [Argument()], (1, {"a": Argument()})):
                exc = E("c", "m")
                exc.args = (argument,)
                try:
                    raise exc
                except E as caught:
                    assert caught is exc
        inside.report([inside.total(), len(span.events), looks])
    """
    assert children.report(source) == [3, 3, []]


def test_cycles_of_causes_and_contexts_terminate() -> None:
    source = """
        import inside
        from flyte.errors import RuntimeUserError as E

        for length in (1, 2, 3, 100):
            ring = [E("c", str(number)) for number in range(length)]
            for one, following in zip(ring, [*ring[1:], ring[0]]):
                one.__cause__ = one.__context__ = following
            try:
                raise ring[0]
            except E as caught:
                assert caught is ring[0]
        inside.report([inside.failures(), inside.suppressed()])
    """
    assert children.report(source) == [{"flyte.errors.RuntimeUserError|user|w": 4}, {}]


_NO_MEMORY = """
    import json, sys
    import _testcapi
    from faultlens.hook import Hook

    class E(RuntimeError): pass

    handled, dropped = [], []

    def handler(exc, frame, counted):
        handled.append(id(exc))
        counted[0] = True

    hook = Hook(handler, lambda reason, error: dropped.append(reason))
    if sys.argv[1] == "with":
        hook.watch([E])

    def fail(exc):
        raise exc

    try:
        fail(E())  # 3.15 crashes, with any tool, if memory ends while it instruments a function
    except E:
        pass
    handled.clear()
    others, twice = [], []
    for start in range(150):
        exc = E()
        _testcapi.set_nomemory(start, start + 1)
        try:
            fail(exc)
        except BaseException as caught:
            _testcapi.remove_mem_hooks()
            if caught is not exc and type(caught) is not MemoryError:
                others.append(repr(caught))
        _testcapi.remove_mem_hooks()
        if handled.count(id(exc)) > 1:
            twice.append(start)
        del exc
        handled.clear()
    exc = E()  # and afterwards all is as before
    try:
        fail(exc)
    except E as caught:
        assert caught is exc
    print(json.dumps([others, twice, len(handled)]))
"""


def test_the_process_survives_wherever_memory_runs_out() -> None:
    """The host sees its exception, or a MemoryError, as in any code that needs memory."""
    pytest.importorskip("_testcapi")
    for faultlens, counted in (("with", 1), ("without", 0)):
        found = children.report(_NO_MEMORY, faultlens, env={"FAULTLENS": "0"})
        assert found == [[], [], counted]


def test_an_exception_that_is_freed_at_the_very_end_causes_no_output() -> None:
    """The interpreter has no frame left when it clears the modules."""
    source = """
        import flyte.errors
        kept = flyte.errors.RuntimeUserError("c", "m")
        cycle = flyte.errors.RuntimeUserError("c", "m")
        cycle.itself = cycle
    """
    done = children.run(source)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python frames take C stack")
def test_a_stack_of_100_000_frames() -> None:
    source = """
        import sys
        import inside
        from flyte.errors import RuntimeUserError as E

        sys.setrecursionlimit(101_000)

        def dive(left):
            if left:
                dive(left - 1)
            else:
                raise E("c", "m")

        try:
            dive(100_000)
        except E as caught:
            entry, following = caught.__traceback__, caught.__traceback__.tb_next
            entries = 1
            while following is not None:  # freed one by one, or the C stack overflows
                entry.tb_next = None
                entry, following = following, following.tb_next
                entries += 1
        inside.report([inside.total(), entries])
    """
    assert children.report(source) == [1, 100_002]


def test_a_metric_of_the_host_with_our_name_stays_the_host_s() -> None:
    source = """
        import faultlens, inside
        from flyte.errors import RuntimeUserError as E
        from prometheus_client import REGISTRY, Counter, generate_latest

        theirs = Counter("faultlens_failures", "The host's.")
        theirs.inc(7)
        try:
            raise E("c", "m")
        except E:
            pass
        try:
            REGISTRY.register(faultlens.collector())
        except ValueError:
            refused = True
        page = generate_latest().decode()
        inside.report([inside.total(), refused, "faultlens_failures_total 7.0" in page])
    """
    assert children.report(source) == [1, True, True]


@pytest.mark.parametrize("method", ["get_span_context", "is_recording", "add_event"])
def test_a_span_that_raises_sdk_exceptions_loses_only_the_event(method: str) -> None:
    source = """
        import sys
        import inside
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace

        class Broken(trace.NonRecordingSpan):
            def is_recording(self):
                return True

        def fail(self, *args, **kwargs):
            raise E("c", "of the span")

        setattr(Broken, sys.argv[1], fail)
        inside.expect_dropped()
        with trace.use_span(Broken(trace.INVALID_SPAN_CONTEXT), record_exception=False,
                            set_status_on_exception=False):
            for number in range(3):
                exc = E("c", "m")
                try:
                    raise exc
                except E as caught:
                    assert caught is exc
        inside.report([inside.total(), inside.dropped()["span_error"] >= 3])
    """
    assert children.report(source, method) == [3, True]


@pytest.mark.parametrize("taken", ["0", *(["6"] if NEW else [])])
def test_the_metrics_say_how_raises_are_detected(taken: str) -> None:
    source = """
        import sys
        import inside
        for tool in range(int(sys.argv[1])):
            sys.monitoring.use_tool_id(tool, "theirs")
        import flyte.errors
        print(inside.page())
    """
    detector = "sys.monitoring" if NEW and taken == "0" else "sys.settrace"
    assert f'detector="{detector}"' in children.run(source, taken).stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_no_thread_is_started_at_interpreter_exit() -> None:
    source = """
        import os
        import inside
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace

        before = len(os.listdir("/proc/self/task"))

        class AtTheVeryEnd:
            def __init__(self):
                self.listdir, self.write = os.listdir, os.write
            def __del__(self, E=E, len=len, str=str):
                try:
                    raise E("c", "m")
                except E:
                    pass
                more = len(self.listdir("/proc/self/task")) > before
                self.write(1, b"more" if more else b"no more")

        import sys
        sys.at_the_very_end = AtTheVeryEnd()
    """
    done = children.run(source)
    assert (done.stdout, done.stderr) == ("no more", "")
