"""The host notices nothing of us, whatever an exception is made of and whenever it is raised."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest

from tests import children
from tests.hook.strangers import STRANGERS

_STRANGERS = """
    import gc, json
    import inside
    from flyte.errors import RuntimeUserError
    from hook.strangers import STRANGERS, calls
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from prometheus_client.parser import text_string_to_metric_families

    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("host")
    inside.expect_dropped()
    gc.freeze()
    traceback_of = BaseException.__traceback__.__get__

    def frames(exc):
        entry, found = traceback_of(exc), []
        while entry is not None:
            found.append((entry.tb_frame.f_code.co_name, entry.tb_lineno))
            entry = entry.tb_next
        return found

    results = {}
    for name, make in STRANGERS.items():
        before, dropped = inside.total(), inside.dropped()
        seen = None
        with tracer.start_as_current_span("host") as span:
            exc = make(RuntimeUserError)
            called = len(calls)
            try:
                raise exc
            except BaseException as caught:
                seen = caught
                called = len(calls) - called
        results[name] = {
            "same": seen is exc,
            "calls": called,
            "frames": frames(seen),
            "counted": inside.total() - before,
            "events": len(span.events),
            "dropped": {k: v - dropped.get(k, 0) for k, v in inside.dropped().items()
                        if v != dropped.get(k)},
        }
    list(text_string_to_metric_families(inside.page()))
    inside.report(results)
"""


@cache
def _strangers(faultlens: str) -> Any:
    return children.report(_STRANGERS, env={"FAULTLENS": faultlens})


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_reaches_the_host_unchanged(stranger: str) -> None:
    with_us, without = _strangers("1")[stranger], _strangers("0")[stranger]
    assert (with_us["same"], with_us["frames"]) == (True, without["frames"])


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_counts_once_and_has_its_event(stranger: str) -> None:
    result = _strangers("1")[stranger]
    assert (result["counted"], result["events"]) == (1, 1)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_is_recorded_in_full(stranger: str) -> None:
    assert _strangers("1")[stranger]["dropped"] == {}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_no_code_of_a_stranger_runs(stranger: str) -> None:
    """Calls by the interpreter and by the test happen without faultlens as well."""
    assert _strangers("1")[stranger]["calls"] == _strangers("0")[stranger]["calls"]


# Groups, chains and depth.


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup")
def test_huge_groups_and_long_chains_cost_no_more_than_other_exceptions() -> None:
    source = """
        import inside
        from flyte.errors import RuntimeUserError as E

        class Group(ExceptionGroup, E):
            def __init__(self, message, members):
                E.__init__(self, "c", message)

        deep = ValueError()
        for _ in range(900):
            deep = ExceptionGroup("deep", [deep])
        wide = ExceptionGroup("wide", [ValueError() for _ in range(10_000)])
        for member in (deep, wide):
            try:
                raise Group("g", [member])
            except Group as caught:
                assert caught.exceptions == (member,)
        chained = E("c", "m")
        for _ in range(10_000):
            following = E("c", "m")
            following.__cause__, chained = chained, following
        try:
            raise chained
        except E as caught:
            assert caught is chained
        total = inside.total()
        while chained is not None:  # freeing the whole chain at once would overflow the stack
            chained.__cause__, chained = None, chained.__cause__
        inside.report(total)
    """
    assert children.report(source) == 3


def test_a_deep_stack_is_recorded_in_bounded_space() -> None:
    depth = 20_000 if sys.version_info >= (3, 11) else 2_000
    source = """
        import sys
        import inside
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        depth = int(sys.argv[1])
        sys.setrecursionlimit(depth + 1000)

        def dive(left):
            if left:
                dive(left - 1)
            else:
                raise E("c", "m")

        with trace.get_tracer("host").start_as_current_span("host") as span:
            try:
                dive(depth)
            except E as caught:
                entries, entry = 0, caught.__traceback__
                while entry is not None:
                    entries, entry = entries + 1, entry.tb_next
                caught.__traceback__ = None
        stack = span.events[0].attributes["exception.stacktrace"]
        inside.report([inside.total(), entries - depth, stack.count("in dive") <= 64])
    """
    assert children.report(source, str(depth)) == [1, 2, True]


def test_at_the_recursion_limit_no_raise_is_lost_silently() -> None:
    """The exception is caught in the frame that raises it, so no other frame can record it."""
    source = """
        import sys
        import inside
        from flyte.errors import RuntimeUserError as E

        inside.expect_dropped()
        sys.setrecursionlimit(400)
        caught = foreign = 0

        def dive():
            global caught, foreign
            try:
                dive()
            except RecursionError:
                pass
            try:
                raise E("c", "m")
            except E:
                caught += 1
            except RecursionError:
                pass
            except BaseException:
                foreign += 1

        dive()
        sys.setrecursionlimit(1000)
        told = inside.total() + inside.dropped().get("internal_error", 0)
        # In the very last frames there is not even room to tell.
        inside.report([foreign, caught > 300, 0 <= caught - told <= 2])
    """
    assert children.report(source) == [0, True, True]


def test_at_the_recursion_limit_a_constructed_exception_reaches_the_host() -> None:
    source = """
        import sys
        import inside
        from flyte.errors import RuntimeUserError as E

        inside.expect_dropped()
        others = []

        def dive():
            try:
                dive()
            except RecursionError:
                pass
            try:
                exc = E("c", "m")
            except RecursionError:  # the constructor is Python and takes room, ours as theirs
                return
            try:
                raise exc
            except BaseException as caught:
                if caught is not exc:
                    others.append(type(caught).__name__)

        sys.setrecursionlimit(400)
        dive()
        sys.setrecursionlimit(1000)
        inside.report(others)
    """
    assert children.report(source) == []


def test_past_the_recursion_limit_an_exception_is_recorded_once_there_is_room() -> None:
    source = """
        import sys
        import inside
        from flyte.errors import RuntimeUserError as E

        def dive():
            try:
                dive()
            except RecursionError as error:
                raise E("c", "too deep") from error

        sys.setrecursionlimit(400)
        try:
            dive()
        except E as caught:
            first = caught
        sys.setrecursionlimit(1000)
        raised, chain = set(), first
        while isinstance(chain, E):
            raised.add(id(chain))
            chain = chain.__context__
        inside.report(inside.total() - len(raised))
    """
    assert children.report(source) == 0


# During our own work.


def test_signals_and_finalizers_at_any_point_neither_hang_nor_lose_a_count() -> None:
    """Exceptions that they raise inside our callback cannot be seen and are counted as dropped."""
    source = """
        import gc, signal
        import inside
        from flyte.errors import RuntimeUserError
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        inside.expect_dropped()
        trace.set_tracer_provider(TracerProvider())
        class Host(RuntimeUserError): pass
        class Nested(RuntimeUserError): pass
        raised = {Host: 0, Nested: 0}

        def fail(cls):
            exc = cls("c", "m")
            raised[cls] += 1
            try:
                raise exc
            except cls as caught:
                assert caught is exc
            finally:
                del exc

        class Resource:
            def __del__(self):
                fail(Nested)

        def alarm(number, frame):
            fail(Nested)
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # an earlier one would interrupt this

        signal.signal(signal.SIGALRM, alarm)
        gc.freeze()
        gc.set_threshold(7)
        with trace.get_tracer("host").start_as_current_span("host"):
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            for number in range(1000):
                fail(Host)
                garbage = Resource()
                garbage.itself = garbage
                del garbage
                if number % 10 == 0:
                    inside.page()
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        gc.collect()
        counted = {name.split("|")[0]: count for name, count in inside.failures().items()}
        told = counted["__main__.Nested"] + inside.dropped().get("reentrant", 0)
        inside.report([raised[Host], counted["__main__.Host"], told - raised[Nested]])
    """
    assert children.report(source) == [1000, 1000, 0]


def test_an_exception_that_was_only_constructed_is_not_lost_wherever_it_is_freed() -> None:
    """The garbage collector often runs where our callback begins."""
    source = """
        import gc
        import inside
        from flyte.errors import RuntimeUserError

        def fail(cls, *args):
            try:
                raise cls(*args)
            except cls:
                pass

        gc.freeze()
        for number in range(500):
            fail(RuntimeUserError, "c", "m")  # from now on the interpreter reports each raise
            constructed = [RuntimeUserError("c", "m")]
            constructed.append(constructed)
            del constructed  # only the collector frees it
            gc.set_threshold(1 + number % 20)
            for _ in range(9):
                fail(ValueError)
            gc.set_threshold(0)
        inside.report(inside.total())
    """
    assert children.report(source) == 500


def test_raises_while_the_thread_holds_an_opentelemetry_lock_do_not_hang() -> None:
    """A finalizer or a signal handler can interrupt anything and raise."""
    source = """
        import inside
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        class Interrupted(dict):
            def items(self):
                try:
                    raise E("c", "m")
                except E:
                    pass
                return super().items()

        inside.expect_dropped()
        trace.set_tracer_provider(TracerProvider())
        with trace.get_tracer("host").start_as_current_span("host") as span:
            span.set_attributes(Interrupted(key="value"))
        inside.report([inside.total(), span.attributes["key"]])
    """
    assert children.report(source) == [1, "value"]


_SIGNALLED = """
    import json, signal, sys
    from faultlens.hook import Hook

    class E(RuntimeError): pass
    class TimeIsUp(Exception): pass
    class Alarm:
        def __call__(self, number, frame):
            raise TimeIsUp
    def terminate(number, frame):
        sys.exit(3)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGALRM, Alarm())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    signals, handled, dropped = [], [], []

    def handler(exc, frame, counted):
        if signals:
            signal.raise_signal(signals.pop())
        handled.append(1)

    hook = Hook(handler, lambda *args: dropped.append(args))
    hook.watch([E])
    seen = []
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT):
        signals.append(number)
        exc = E()
        for _ in range(2):
            try:
                raise exc
            except BaseException as caught:
                seen.append(type(caught).__name__)
        del exc  # on settrace, one that is raised again is recorded when it is freed
    print(json.dumps([seen, len(handled), dropped]))
"""


def test_an_exception_from_a_signal_handler_during_our_work_reaches_the_host() -> None:
    """The exception that was being recorded is recorded when it is raised next."""
    assert children.report(_SIGNALLED, env={"FAULTLENS": "0"}) == [
        ["SystemExit", "E", "TimeIsUp", "E", "KeyboardInterrupt", "E"],
        3,
        [],
    ]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", ["is_recording", "get_span_context", "add_event"])
def test_a_signal_that_arrives_while_a_span_is_asked_or_written_still_ends_the_program(
    number: str, step: str
) -> None:
    source = """
        import signal, sys
        import inside
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace

        def interrupted(self, *args):
            signal.raise_signal(getattr(signal, sys.argv[1]))

        def leave(number, frame):
            sys.exit(3)

        inside.expect_dropped()
        body = {"is_recording": lambda self: True, sys.argv[2]: interrupted}
        Slow = type("Slow", (trace.NonRecordingSpan,), body)
        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
        token = trace.context_api.attach(
            trace.set_span_in_context(Slow(trace.INVALID_SPAN_CONTEXT)))
        try:
            raise E("c", "m")
        except E:
            pass
        except KeyboardInterrupt:
            sys.exit(3)
    """
    assert children.run(source, number, step, check=False).returncode == 3


def test_a_handler_that_fails_loses_only_the_record() -> None:
    source = """
        import json
        from faultlens.hook import Hook

        class E(RuntimeError): pass
        dropped, seen = [], []

        def handler(exc, frame, counted):
            raise errors[-1]

        def drop(reason, error):
            dropped.append([reason, type(error).__name__])
            raise error

        hook = Hook(handler, drop)
        hook.watch([E])
        errors = [ValueError(), SystemExit(), GeneratorExit(), BaseException()]
        while errors:
            exc = E()
            try:
                raise exc
            except BaseException as caught:
                seen.append(caught is exc)
            errors.pop()
        print(json.dumps([seen, [name for _, name in dropped]]))
    """
    names = ["BaseException", "GeneratorExit", "SystemExit", "ValueError"]
    assert children.report(source, env={"FAULTLENS": "0"}) == [[True] * 4, names]


# Label explosion.


def test_dynamic_classes_and_random_workers_end_in_other() -> None:
    source = """
        import uuid
        import inside
        from flyte.errors import RuntimeUserError
        from faultlens import series

        inside.expect_dropped()
        for number in range(500):
            cls = type(f"Dynamic{number}", (RuntimeUserError,), {})
            exc = cls("c", "m")
            exc.code = exc.worker = uuid.uuid4().hex
            try:
                raise exc
            except cls:
                pass
        labels = [sample.split("|") for sample in inside.failures()]
        dropped = inside.dropped()
        inside.report([
            inside.total(),
            len({cls for cls, _, _ in labels}) <= series.CLASS_LIMIT + 1,
            len({worker for _, _, worker in labels}) <= series.WORKER_LIMIT + 1,
            len(inside.samples("faultlens_issues_total")) <= series.ISSUE_LIMIT + 1,
            dropped["class_limit"] > 100,
            dropped["worker_limit"] > 300,
        ])
    """
    assert children.report(source, env={"FAULTLENS_WORKER": None}) == [500, *[True] * 5]


# Memory.


@pytest.mark.parametrize("span", ["in a span", "without a span"])
def test_objects_of_a_failing_frame_are_freed_when_the_host_is_done(span: str) -> None:
    source = """
        import contextlib, gc, sys, weakref
        import inside
        from flyte.errors import RuntimeUserError
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        gc.disable()  # by reference counts alone

        class Big(bytearray): pass
        class E(RuntimeUserError): pass

        def work():
            local = Big(50_000_000)
            watched.append(weakref.ref(local))
            exc = E("c", "m")
            watched.append(weakref.ref(exc))
            try:
                raise exc
            finally:
                del exc  # a local that holds the exception is a cycle of the host's own

        watched = []
        with contextlib.ExitStack() as stack:
            if sys.argv[1] == "in a span":
                stack.enter_context(trace.get_tracer("host").start_as_current_span("host"))
            try:
                work()
            except E:
                pass
            if sys.version_info < (3, 11):
                gc.collect()  # 3.10 keeps a copy of the locals of each frame that was traced
            inside.report([reference() is None for reference in watched])
    """
    done = children.run(source, span)
    assert done.stdout == "[true, true]\n"


def test_many_raises_leave_nothing_in_our_tables() -> None:
    source = """
        import gc
        import inside
        from faultlens import pipeline
        from flyte.errors import RuntimeUserError as E
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        running = pipeline.running()
        kept = [E("c", "kept")]
        with trace.get_tracer("host").start_as_current_span("host"):
            for number in range(3000):
                exc = E("c", "m")  # one raised, one dropped, one in a cycle
                E("c", "m")
                try:
                    raise exc
                except E:
                    pass
                exc.itself = exc
        del exc
        gc.collect()
        inside.report([
            inside.total(),
            len(running.hook._pending),
            len(running.spans._recorded._entries),
        ])
    """
    assert children.report(source) == [3000, 1, 0]


def test_enabling_and_disabling_leaves_no_object_behind() -> None:
    source = """
        import gc
        import faultlens, inside
        from flyte.errors import RuntimeUserError as E

        def alive():
            gc.collect()
            names = (f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
            return sorted(name for name in names if name.startswith("faultlens."))

        def cycle():
            faultlens.enable()
            try:
                raise E("c", "m")
            except E:
                pass
            faultlens.disable()

        cycle()
        before = alive()
        for _ in range(2):
            cycle()
        inside.report([before, alive()])
    """
    before, after = children.report(source)
    assert after == before


# Exceptions that the garbage collector frees anywhere.


def test_exceptions_that_are_freed_while_another_is_recorded_count_too() -> None:
    source = """
        import contextlib, gc, json, sys
        from faultlens.hook import Hook

        class E(Exception): pass
        handled, dropped = [], []

        def handler(exc, frame, counted):
            gc.collect()  # which may run at any time
            handled.append(1)

        for tool in (5, 4, 3) if sys.version_info >= (3, 12) else ():
            sys.monitoring.use_tool_id(tool, "other")
        hook = Hook(handler, lambda *args: dropped.append(str(args)))
        hook.watch([E])
        sys.settrace(lambda *args: None)  # as under a debugger: no raise is seen as it happens
        gc.disable()

        def fail():
            exc = E()  # a cycle, with its own frame
            raise exc

        for _ in range(20):
            with contextlib.suppress(E):
                fail()
        sys.settrace(None)
        hook.poll()
        print(json.dumps([hook.detector, len(handled), dropped]))
    """
    assert children.report(source, env={"FAULTLENS": None}) == ["sys.settrace", 20, []]


# At interpreter exit, when nearly everything is gone.


def test_raises_at_exit_are_counted_and_raises_after_it_do_no_harm() -> None:
    source = """
        import atexit, os, sys, threading
        import inside
        from flyte.errors import RuntimeUserError as E

        def fail():
            try:
                raise E("c", "m")
            except E as caught:
                return caught

        class AtTheVeryEnd:
            def __init__(self):
                self.fail, self.write = fail, os.write  # sys.stdout may have gone
            def __del__(self, E=E):
                exc = E("c", "m")
                try:
                    raise exc
                except E as caught:
                    self.write(1, b"True\\n" if caught is exc else b"False\\n")

        sys.at_the_very_end = AtTheVeryEnd()
        atexit.register(lambda: print(int(inside.total()), flush=True))
        atexit.register(fail)
        threading._register_atexit(fail)
    """
    done = children.run(source)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["2", "True"]


def test_the_hook_does_no_harm_when_its_module_globals_are_gone() -> None:
    source = """
        import json, sys
        from faultlens.hook import Hook

        class E(RuntimeError): pass
        class Own(E):
            def __new__(cls):
                return Exception.__new__(cls)

        def handler(exc, frame, counted):
            raise TypeError("as all else: gone")

        hook = Hook(handler, lambda reason, error: None)
        hook.watch([E])
        for name in [name for name in sys.modules if name.startswith("faultlens")]:
            for key in list(vars(sys.modules[name])):
                if not key.startswith("__"):
                    vars(sys.modules[name])[key] = None
        seen = []
        for cls in (E, E, Own):
            exc = cls()
            try:
                raise exc
            except BaseException as caught:
                seen.append(caught is exc)
            kept = cls()
            del kept
        print(json.dumps(seen))
    """
    done = children.run(source, env={"FAULTLENS": "0"})
    assert (done.stdout, done.stderr) == ("[true, true, true]\n", "")
