"""The hook beside debuggers, coverage tools, profilers and other users of interpreter hooks."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import children

NEW = sys.version_info >= (3, 12)
only_new = pytest.mark.skipif(not NEW, reason="sys.monitoring")

# The hook alone, on its own exception class; `count` finds far raises too.
_HOOK = """
    import contextlib, gc, json, sys, threading
    from faultlens.hook import Hook

    class E(RuntimeError): pass
    raised, dropped = [], []
    hook = Hook(lambda exc, *_: raised.append(exc is None), lambda *why: dropped.append(why))
    hook.watch([E])

    def fail():
        exc = E()
        try:
            raise exc
        except E as caught:
            assert caught is exc

    def fail_through_frames():
        def inner():
            fail()
            raise E
        with contextlib.suppress(E):
            inner()

    def count():
        gc.collect()
        hook.poll()
        assert not dropped
        return len(raised)

    def report(value):
        print(json.dumps(value))
"""


def _program(*parts: str) -> str:
    return "".join(map(textwrap.dedent, (_HOOK, *parts)))


def _report(*parts: str, args: tuple[str, ...] = ()) -> object:
    return children.report(_program(*parts), *args, env={"FAULTLENS": "0"})


# sys.monitoring's tool ids.


@only_new
@pytest.mark.parametrize(
    ("taken", "detector", "ours"),
    [
        ("", "sys.monitoring", 5),
        ("5", "sys.monitoring", 4),
        ("54", "sys.monitoring", 3),
        ("543", "sys.settrace", None),
        ("543210", "sys.settrace", None),
    ],
)
def test_taken_tool_ids_are_left_alone_and_the_count_is_exact(
    taken: str, detector: str, ours: int | None
) -> None:
    source = """
        import sys
        for tool in sys.argv[1]:
            sys.monitoring.use_tool_id(int(tool), "theirs")
    """
    source = textwrap.dedent(source) + _program("""
        tools = [sys.monitoring.get_tool(tool) for tool in range(6)]
        for _ in range(10):
            fail()
        fail_through_frames()
        report([hook.detector, tools.index("faultlens") if "faultlens" in tools else None, count()])
    """)
    result = children.report(source, taken, env={"FAULTLENS": "0"})
    assert result == [detector, ours, 12]


@only_new
def test_the_tool_id_is_free_after_disable_and_taken_again_after_enable() -> None:
    source = """
        import sys
        import faultlens, inside
        import flyte.errors
        tools = lambda: [sys.monitoring.get_tool(tool) for tool in range(6)].count("faultlens")
        seen = [tools()]
        for switch in (faultlens.disable, faultlens.disable, faultlens.enable, faultlens.disable):
            switch()
            seen.append(tools())
        inside.report(seen)
    """
    assert children.report(source) == [1, 0, 0, 1, 0]


_SWITCHES = """
    hook.stop()
    switches = []
    set_events = sys.monitoring.set_events
    def counted(tool, events):
        switches.append(bool(events))
        set_events(tool, events)
    sys.monitoring.set_events = counted
    from faultlens.hook.monitoring import FOREIGN_LIMIT
    hook.watch([E])

    def foreign(times=1):
        for _ in range(times):
            try:
                raise KeyError
            except KeyError:
                pass
"""


@only_new
def test_the_event_stays_on_until_enough_foreign_exceptions_were_raised() -> None:
    source = """
        foreign(100)
        seen = [list(switches)]
        fail()
        foreign(FOREIGN_LIMIT - 1)
        fail_through_frames()
        E()
        foreign(FOREIGN_LIMIT - 1)
        seen.append(list(switches))
        foreign()
        seen.append(list(switches))
        kept = E()
        foreign(10 * FOREIGN_LIMIT)
        seen.append(list(switches))
        del kept
        foreign(FOREIGN_LIMIT)
        seen.append(list(switches))
        report(seen)
    """
    assert _report(_SWITCHES, source) == [
        [],
        [True],
        [True, False],
        [True, False, True],
        [True, False, True, False],
    ]


@only_new
def test_a_busy_program_hardly_ever_switches() -> None:
    """Switching is expensive: the interpreter instruments all running code again."""
    source = """

        def work():
            for number in range(1000):
                fail()
                E()
                foreign(number % 8)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report(len(switches) < 8000 / 10)
    """
    # At most 9 foreign exceptions come between two failures of a thread; 8 threads take turns.
    assert _report(_SWITCHES, source) is True


@only_new
def test_switching_between_threads_never_misses_a_raise() -> None:
    source = """
        sys.setswitchinterval(1e-6)
        def work():
            for number in range(2000):
                fail()
                if number % 3 == 0:
                    E()
                for _ in range(number % 40):
                    try:
                        raise KeyError
                    except KeyError:
                        pass
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report([count(), len(hook._pending)])
    """
    assert _report(source) == [8000, 0]


# sys.settrace.

_FOREIGN = """
    events = []
    def tracer(frame, event, arg):
        code = frame.f_code
        if code.co_name in ("fail", "inner"):
            events.append((code.co_name, event, frame.f_lineno - code.co_firstlineno))
        return tracer
"""


def test_a_foreign_trace_function_sees_the_same_events_and_the_count_is_exact() -> None:
    source = textwrap.dedent(_FOREIGN) + textwrap.dedent("""
        if sys.argv[1] == "without":
            hook.stop()
        sys.settrace(tracer)
        fail_through_frames()
        still = sys.gettrace() is tracer
        sys.settrace(None)
        report([still, events, count()])
    """)
    with_us, without = _report(source, args=("with",)), _report(source, args=("without",))
    assert isinstance(with_us, list)
    assert isinstance(without, list)
    assert with_us[:2] == without[:2]
    assert (with_us[2], without[2]) == (2, 0)


def test_a_trace_function_set_while_an_exception_is_pending_takes_over_the_thread() -> None:
    source = textwrap.dedent(_FOREIGN) + textwrap.dedent("""
        def start():
            sys.settrace(tracer)
            sys._getframe(1).f_trace = tracer  # as bdb does for the frame it stops in

        def fail():
            exc = E()
            start()
            line = 1
            line = 2
            try:
                raise exc
            except E:
                pass
            del exc

        if sys.argv[1] == "without":
            hook.stop()
        fail()
        still = sys.gettrace() is tracer
        sys.settrace(None)
        report([still, events, count()])
    """)
    with_us, without = _report(source, args=("with",)), _report(source, args=("without",))
    assert isinstance(with_us, list)
    assert isinstance(without, list)
    assert with_us[:2] == without[:2]
    assert (with_us[2], without[2]) == (1, 0)


def test_a_trace_function_may_come_and_go_between_raises() -> None:
    source = textwrap.dedent(_FOREIGN) + textwrap.dedent("""
        for _ in range(3):
            fail()
            sys.settrace(tracer)
            fail()
            sys.settrace(None)
        report([sys.gettrace() is None, count()])
    """)
    assert _report(source) == [True, 6]


def test_threading_settrace_and_setprofile_keep_working() -> None:
    source = """
        traced, profiled = [], []
        def tracer(frame, event, arg):
            traced.append(frame.f_code.co_name)
        def profiler(frame, event, arg):
            profiled.append((frame.f_code.co_name, event))
        threading.settrace(tracer)
        threading.setprofile(profiler)
        sys.setprofile(profiler)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        fail()
        kept = sys.getprofile() is profiler
        sys.setprofile(None)
        report([kept, "fail" in traced, profiled.count(("fail", "call")),
                profiled.count(("fail", "return")), count()])
    """
    assert _report(source) == [True, True, 2, 2, 2]


def test_cprofile_profiles_and_the_count_is_exact() -> None:
    source = """
        import cProfile, pstats
        profile = cProfile.Profile()
        profile.runcall(fail_through_frames)
        calls = {name: calls for (_, _, name), (calls, *_) in pstats.Stats(profile).stats.items()}
        report([calls["fail"], calls["inner"], count()])
    """
    assert _report(source) == [1, 1, 2]


def test_a_debugger_steps_as_usual_and_the_count_is_exact(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        _program("""
        def work():
            exc = E()
            breakpoint()
            first = 1
            second = 2
            try:
                raise exc
            except E:
                third = 3
            del exc
            return third

        if len(sys.argv) > 1:
            hook.stop()
        work()
        sys.settrace(None)
        print("\\nraised", count())
        """)
    )
    commands = "next\nnext\nnext\nnext\nnext\nnext\np first, second\nbt\ncontinue\n"

    def session(*args: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, str(program), *args],
            env=children.environment({"FAULTLENS": "0"}),
            input=commands,
            capture_output=True,
            text=True,
            timeout=children.TIMEOUT,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    with_us, without = session(), session("without")
    assert with_us[:-1] == without[:-1]
    assert (with_us[-1], without[-1]) == ("raised 1", "raised 0")


# What the trace function sees, and for how long.


@pytest.mark.skipif(NEW, reason="sys.settrace")
def test_tracing_ends_with_the_raise_the_death_or_its_budget() -> None:
    source = """
        def traced():
            return sys.gettrace() is not None

        seen = [traced()]
        kept = E()
        seen.append(traced())
        for _ in range(2000):
            traced()
        seen.append(traced())  # kept is pending still
        fail()
        seen.append(traced())
        E()
        traced()
        seen.append(traced())
        report(seen)
    """
    assert _report(source) == [False, True, False, False, False]


def test_an_exception_is_seen_when_raised_after_others_were_constructed_and_raised() -> None:
    source = """
        hook.stop()
        hook = Hook(lambda e, frame, _: raised.append(frame and frame.f_code.co_name), print)
        hook.watch([E])

        def first_constructed_last_raised():
            error = E()
            E()
            fail()
            with contextlib.suppress(E):
                raise error

        def returned():
            return E()

        def raised_by_the_caller():
            with contextlib.suppress(E):
                raise returned()

        first_constructed_last_raised()
        raised_by_the_caller()
        report(raised)
    """
    expected = ["fail", "first_constructed_last_raised", "raised_by_the_caller"]
    assert _report(source) == expected


# coverage.py.

_COVERED = """
import sys

def fail(cls, flag):
    exc = cls("c", "m")
    if flag:
        text = "on"
    else:
        text = "off"
    raise exc

def main():
    from flyte.errors import RuntimeUserError
    seen = 0
    for flag in (True, False, True):
        try:
            fail(RuntimeUserError, flag)
        except RuntimeUserError:
            seen += 1
    del RuntimeUserError
    return seen

print(main())
import faultlens
print(int(sum(
    sample.value
    for metric in faultlens.collector().collect()
    for sample in metric.samples
    if sample.name == "faultlens_failures_total"
)))
"""


@pytest.mark.parametrize("core", ["ctrace", "sysmon" if NEW else "pytrace"])
def test_coverage_measures_the_same_and_the_count_is_exact(core: str, tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    (tmp_path / "program.py").write_text(_COVERED)

    def measured(faultlens: str) -> tuple[list[str], object]:
        env = {"FAULTLENS": faultlens, "COVERAGE_CORE": core}
        command = [sys.executable, "-m", "coverage"]
        done = subprocess.run(
            [*command, "run", "--branch", "--include=program.py", "program.py"],
            env=children.environment(dict(env)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=children.TIMEOUT,
            check=True,
        )
        subprocess.run(
            [*command, "json", "-q", "-o", "coverage.json"],
            env=children.environment(dict(env)),
            cwd=tmp_path,
            timeout=children.TIMEOUT,
            check=True,
        )
        report = json.loads((tmp_path / "coverage.json").read_text())
        return done.stdout.splitlines(), report["files"]["program.py"]

    (lines_with_us, with_us), (lines_without, without) = measured("1"), measured("0")
    assert with_us == without
    assert (lines_with_us, lines_without) == (["3", "3"], ["3", "0"])
