"""Random programs of Flyte tasks: the counted failures are those that the program made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import children

pytest.importorskip("flyte")
pytest.importorskip("hypothesis")

_PROGRAM = """
    import asyncio, contextlib, json, logging, sys, tempfile
    from datetime import timedelta
    from hypothesis import HealthCheck, given, settings, strategies as st
    import flyte, flyte.errors
    sys.path.insert(0, sys.argv[1])
    import inside
    from tests.sdks.flows import Flows

    flyte.init(log_level=logging.CRITICAL)
    env = flyte.TaskEnvironment("random", image="python:3.12-slim")

    class RoomFullError(Exception):
        pass  # Flyte reads OOM in it

    class Mine(flyte.errors.RuntimeUserError):
        def __init__(self):
            super().__init__("Mine", "m")

    NATIVE = {"ValueError": ValueError, "KeyError": KeyError, "RoomFullError": RoomFullError}
    SDK = {
        "user": lambda: flyte.errors.RuntimeUserError("MYCODE", "m"),
        "system": lambda: flyte.errors.RuntimeSystemError("SYSCODE", "m", worker="w-7"),
        "unknown": lambda: flyte.errors.RuntimeUnknownError("UNK", "m"),
        "custom": lambda: flyte.errors.CustomError("Mine", "m"),
        "oom": lambda: flyte.errors.OOMError("OOM", "m"),
        "bare": lambda: flyte.errors.BaseRuntimeError("Odd", "system", "m"),
        "mine": Mine,
    }

    class Truth:
        # What the program did, by its own account.
        failures = conversions = 0

    def new(error):
        # An exception that is about to be raised for the first time: something goes wrong.
        Truth.failures += 1
        if error in NATIVE:
            Truth.conversions += 1
            return NATIVE[error]("m")
        return SDK[error]()

    def wrapper(error):
        # One that only passes on what went wrong.
        return NATIVE[error]("m") if error in NATIVE else SDK[error]()

    async def step(tree):
        name, *rest = tree
        if name == "fail":
            raise new(rest[0])
        if name == "call":
            return await task(json.dumps(rest[0]))
        if name == "catch":
            with contextlib.suppress(flyte.errors.BaseRuntimeError):
                return await task(json.dumps(rest[0]))
        if name == "wrap":
            child, error = rest
            try:
                return await task(json.dumps(child))
            except flyte.errors.BaseRuntimeError as caught:
                raise wrapper(error) from caught
        if name == "fail while handling":
            child, error = rest
            try:
                return await task(json.dumps(child))
            except flyte.errors.BaseRuntimeError:
                raise new(error)
        if name == "gather":
            children, then_raise = rest
            results = await asyncio.gather(
                *(task(json.dumps(child)) for child in children), return_exceptions=True
            )
            for result in results:
                if then_raise and isinstance(result, Exception):
                    raise result
        if name == "retry":
            return await retried(json.dumps(rest[0]))
        return 0

    retries = 1
    if hasattr(flyte, "Backoff"):
        pause = flyte.Backoff(base=timedelta(0))
        retries = flyte.RetryStrategy(count=1, backoff=pause)

    @env.task
    async def task(tree: str) -> int:
        return await step(json.loads(tree)) or 0

    @env.task(retries=retries)
    async def retried(tree: str) -> int:
        return await step(json.loads(tree)) or 0

    errors = st.sampled_from(sorted([*NATIVE, *SDK]))
    trees = st.recursive(
        st.one_of(st.just(["succeed"]), st.tuples(st.just("fail"), errors).map(list)),
        lambda tree: st.one_of(
            *(st.tuples(st.just(name), tree).map(list) for name in ("call", "catch", "retry")),
            st.tuples(st.just("wrap"), tree, errors).map(list),
            st.tuples(st.just("fail while handling"), tree, errors).map(list),
            st.tuples(st.just("gather"), st.lists(tree, max_size=3), st.booleans()).map(list),
        ),
        max_leaves=6,
    )
    watched = Flows(flyte.errors.BaseRuntimeError)
    failing = [0]

    @settings(max_examples=60, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(trees)
    def check(tree):
        def happen():
            with tempfile.TemporaryDirectory() as scratch:
                runner = flyte.with_runcontext(mode="local", raw_data_path=f"{scratch}/raw")
                runner._metadata_path = f"{scratch}/metadata"
                with contextlib.suppress(flyte.errors.BaseRuntimeError):
                    runner.run(task, json.dumps(tree))
        Truth.failures = Truth.conversions = 0
        counted = watched.count(happen)
        failures = sum(counted.failures.values())
        suppressed = sum(counted.suppressed.values())
        assert failures == Truth.failures, (tree, counted)
        assert failures + suppressed == counted.raised + Truth.conversions, (tree, counted)
        failing[0] += failures > 0

    check()
    inside.report(failing[0])
"""


def test_the_failures_counted_are_the_failures_made() -> None:
    failing = children.report(_PROGRAM, str(Path(__file__).parents[2]))
    assert failing > 20, "most of the programs must fail"
