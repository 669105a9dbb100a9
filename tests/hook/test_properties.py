"""Random programs: as many records as distinct objects raised, whatever the program does."""

from __future__ import annotations

import sys

import pytest

from tests import children

pytest.importorskip("hypothesis")

_PROGRAM = """
    import asyncio, concurrent.futures, contextlib, gc, json, sys, threading
    from hypothesis import HealthCheck, Phase, given, settings, strategies as st
    from faultlens.hook import Hook

    class E(RuntimeError):
        pass

    class Init(E):
        def __init__(self):
            super().__init__("m")
            self.more = 1

    class First(ValueError, E):
        pass

    handled, dropped = [], []
    hook = Hook(lambda exc, frame: handled.append(id(exc)), lambda *why: dropped.append(why))
    hook.watch([E])

    class World:
        # What a program has stored, and how many distinct objects it has raised.
        def __init__(self):
            self.stored = []
            self.raised = {}

        def will_raise(self, exc):
            self.raised[id(exc)] = exc  # kept, so that no id is used twice
            return exc

    def do(world, step):
        name, *args = step
        STEPS[name](world, *args)

    def each(world, steps):
        for step in steps:
            do(world, step)

    def fail(world, cls):
        raise world.will_raise(cls())

    def make(world, cls):
        world.stored.append(cls())

    def drop(world, cls):
        cls()

    def fail_stored(world, index):
        if world.stored:
            raise world.will_raise(world.stored[index % len(world.stored)])

    def foreign(world):
        with contextlib.suppress(KeyError):
            {}["absent"]

    def catch(world, steps):
        try:
            each(world, steps)
        except (E, ValueError) as caught:
            world.stored.append(caught)

    def again(world, steps):
        try:
            each(world, steps)
        except (E, ValueError):
            raise

    def again_by_name(world, steps):
        try:
            each(world, steps)
        except (E, ValueError) as caught:
            raise caught.with_traceback(None) from None

    def wrap(world, steps, cls):
        try:
            each(world, steps)
        except (E, ValueError) as caught:
            raise world.will_raise(cls()) from caught

    def layers(world, steps):
        with contextlib.ExitStack() as stack:
            stack.callback(int)
            try:
                each(world, steps)
            finally:
                sum(range(3))

    def generator(world, steps):
        def numbers():
            yield 1
            each(world, steps)
            yield 2
        list(numbers())

    def delegated(world, steps):
        def inner():
            yield
            each(world, steps)
        def outer():
            yield from inner()
        list(outer())

    def threw(world, cls):
        def numbers():
            yield
        running = numbers()
        next(running)
        running.throw(world.will_raise(cls()))

    def thread(world, steps):
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(each, world, steps).result()

    def coroutine(world, steps):
        async def inner():
            await asyncio.sleep(0)
            each(world, steps)
        async def main():
            task = asyncio.ensure_future(inner())
            await task
        # A loop within a loop is an error of the program's own.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, main()).result()

    def gathered(world, steps):
        async def inner(step):
            await asyncio.sleep(0)
            do(world, step)
        async def main():
            found = await asyncio.gather(*map(inner, steps), return_exceptions=True)
            world.stored.extend(exc for exc in found if isinstance(exc, E))
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, main()).result()

    STEPS = {step.__name__: step for step in (
        fail, make, drop, fail_stored, foreign, catch, again, again_by_name, wrap, layers,
        generator, delegated, threw, thread, coroutine, gathered,
    )}
    classes = st.sampled_from([E, Init, First])
    leaves = st.one_of(
        st.tuples(st.sampled_from(["fail", "make", "drop", "threw"]), classes),
        st.tuples(st.just("fail_stored"), st.integers(0, 9)),
        st.tuples(st.just("foreign")),
    )

    def nested(inner):
        steps = st.lists(inner, max_size=4)
        blocks = ["catch", "again", "layers", "generator", "delegated", "thread", "coroutine",
                  "gathered", *NAMED]
        return st.one_of(
            st.tuples(st.sampled_from(blocks), steps),
            st.tuples(st.just("wrap"), steps, classes),
        )

    # settrace cannot tell a raise that nobody saw once its traceback is taken off.
    NAMED = ["again_by_name"] if hook.detector == "sys.monitoring" else []
    programs = st.lists(st.recursive(leaves, nested, max_leaves=20), max_size=6)

    @settings(max_examples=int(sys.argv[1]), deadline=None, database=None, derandomize=True,
              phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))
    @given(programs)
    def check(steps):
        handled.clear()
        world = World()
        for step in steps:
            try:
                do(world, step)
            except (E, ValueError) as caught:
                assert id(caught) in world.raised
        hook.poll()
        assert not dropped, dropped
        assert sorted(handled) == sorted(world.raised)

    check()
    gc.collect()
    print(json.dumps([len(hook._pending), hook.detector]))
"""
_TAKE_ALL_TOOL_IDS = """
    import sys
    for tool in (3, 4, 5):
        sys.monitoring.use_tool_id(tool, "another")
"""


_DETECTORS = ["sys.settrace", *(["sys.monitoring"] if sys.version_info >= (3, 12) else [])]


@pytest.mark.parametrize("detector", _DETECTORS)
def test_a_random_program_is_recorded_once_for_each_distinct_object_it_raises(
    detector: str,
) -> None:
    taken = _TAKE_ALL_TOOL_IDS if detector != _DETECTORS[-1] else ""
    source = taken + _PROGRAM
    result = children.report(source, "80", env={"FAULTLENS": "0"}, timeout=120)
    assert result == [0, detector]
