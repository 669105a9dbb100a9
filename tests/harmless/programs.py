"""Runs small random programs, each in its own process. Imported by a child, not by tests.

A program is data: a list of steps, each a name and its arguments, where a list is a block of steps.
It raises SDK exceptions in every way that Python has, and reports what it saw: the order of events,
each exception with its frames and its text, its exit status, and what the interpreter wrote at its
end. The report must be the same with and without faultlens. It also has the expected counts: how
many distinct objects the program raised, and how many of them were not raised from one that had
been raised before.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import flyte.errors

Block = list[Any]


class Error(flyte.errors.RuntimeUserError):
    def __init__(self) -> None:
        super().__init__("c", "m")


class More(Error):
    def __init__(self) -> None:
        try:
            super().__init__()
        finally:
            self.more = 1


class First(ValueError, Error):
    pass


CLASSES = (Error, More, First)


class World:
    """What one program has created and seen."""

    def __init__(self) -> None:
        self.stored: list[BaseException] = []
        self.failures = 0
        self.wrapped = 0
        """SDK exceptions that were raised from an SDK exception."""
        self.happened: list[Any] = []

    def make(self, cls: int) -> Any:
        exc: Any = CLASSES[cls]()
        exc.is_new = True
        return exc

    def will_raise(self, exc: Any, cause: BaseException | None = None) -> Any:
        if exc.is_new:
            exc.is_new = False
            while cause is not None and not isinstance(cause, Error):
                cause = cause.__cause__
            if cause is None:
                self.failures += 1
            else:
                self.wrapped += 1
        return exc

    def do(self, steps: Block) -> None:
        for name, *args in steps:
            STEPS[name](self, *args)

    def see(self, exc: BaseException) -> None:
        entry, frames = exc.__traceback__, []
        while entry is not None:
            frames.append((entry.tb_frame.f_code.co_name, entry.tb_lineno, entry.tb_lasti))
            entry = entry.tb_next
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
        self.happened.append((frames, text))

    def note(self, what: str) -> None:
        self.happened.append(what)


STEPS: dict[str, Callable[..., None]] = {}


def step(function: Callable[..., None]) -> Callable[..., None]:
    STEPS[function.__name__] = function
    return function


# Steps without a block.


@step
def fail(world: World, cls: int) -> None:
    raise world.will_raise(world.make(cls))


@step
def make(world: World, cls: int) -> None:
    world.stored.append(world.make(cls))


@step
def drop(world: World, cls: int) -> None:
    world.make(cls)


@step
def fail_stored(world: World, index: int) -> None:
    if world.stored:
        raise world.will_raise(world.stored[index % len(world.stored)])


@step
def foreign(world: World, times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(ValueError):
            int("no number")


@step
def foreign_error(world: World) -> None:
    raise KeyError("foreign")


@step
def throw(world: World, cls: int) -> None:
    def numbers() -> Iterator[None]:
        try:
            yield
        finally:
            world.note("thrown")

    running: Any = numbers()
    next(running)
    running.throw(world.will_raise(world.make(cls)))


@step
def set_on_a_future(world: World, cls: int) -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_exception(world.will_raise(world.make(cls)))
    future.result()


# Exceptions and blocks.


@step
def catch(world: World, steps: Block) -> None:
    try:
        world.do(steps)
    except Exception as caught:
        world.see(caught)
        if isinstance(caught, Error):
            world.stored.append(caught)
    else:
        world.note("else")


@step
def handle(world: World, steps: Block, handler: Block) -> None:
    try:
        world.do(steps)
    except Error:
        world.do(handler)


@step
def again(world: World, steps: Block) -> None:
    try:
        world.do(steps)
    except Exception:
        world.note("again")
        raise


@step
def again_by_name(world: World, steps: Block) -> None:
    try:
        world.do(steps)
    except Exception as caught:
        raise caught


@step
def again_without_traceback(world: World, steps: Block) -> None:
    try:
        world.do(steps)
    except Exception as caught:
        raise caught.with_traceback(None) from None


@step
def wrap(world: World, steps: Block, cls: int) -> None:
    try:
        world.do(steps)
    except Exception as caught:
        raise world.will_raise(world.make(cls), caught) from caught


@step
def replace(world: World, steps: Block, cls: int) -> None:
    try:
        world.do(steps)
    except Exception:
        raise world.will_raise(world.make(cls))  # noqa: B904


@step
def retry(world: World, steps: Block, times: int) -> None:
    for left in reversed(range(times)):
        try:
            return world.do(steps)
        except Error:
            if not left:
                raise
    return None


@step
def finally_do(world: World, steps: Block, after: Block) -> None:
    try:
        world.do(steps)
    finally:
        world.note("finally")
        world.do(after)


@step
def managed(world: World, steps: Block, swallows: bool) -> None:
    class Manager:
        def __enter__(self) -> None:
            world.note("enter")

        def __exit__(self, kind: Any, exc: BaseException | None, entry: Any) -> bool:
            world.note(f"exit {getattr(kind, '__name__', kind)}")
            return swallows

    with Manager():
        world.do(steps)


@step
def stacked(world: World, steps: Block, after: Block) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(world.note, "callback")
        stack.callback(world.do, after)
        world.do(steps)


# Generators.


@step
def generated(world: World, steps: Block) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        world.do(steps)
        yield 2

    world.note(str(list(numbers())))


@step
def delegated(world: World, steps: Block) -> None:
    def inner() -> Iterator[None]:
        yield
        world.do(steps)

    def outer() -> Iterator[None]:
        yield from inner()

    list(outer())


@step
def closed(world: World, steps: Block) -> None:
    def numbers() -> Iterator[None]:
        try:
            yield
        finally:
            world.do(steps)

    running: Any = numbers()
    next(running)
    running.close()


# Threads and tasks. Event loops cannot be nested, so each has its own thread.


@step
def threaded(world: World, steps: Block) -> None:
    _in_a_thread(world.do, steps)


@step
def uncaught_in_a_thread(world: World, steps: Block) -> None:
    thread = threading.Thread(target=world.do, args=(steps,), name="the host's")
    thread.start()
    thread.join()


def _in_a_thread(do: Callable[..., Any], *args: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        future = executor.submit(do, *args)
        concurrent.futures.wait([future])  # it determines which line of `result` raises
        future.result()


def _run(main: Any) -> None:
    _in_a_thread(asyncio.run, main)


@step
def awaited(world: World, steps: Block) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        world.do(steps)

    async def main() -> None:
        await asyncio.ensure_future(inner())

    _run(main())


@step
def gathered(world: World, steps: Block) -> None:
    async def inner(one: Any) -> None:
        await asyncio.sleep(0)
        world.do([one])

    async def main() -> None:
        found = await asyncio.gather(*map(inner, steps), return_exceptions=True)
        world.note(str([type(each).__name__ for each in found]))
        world.stored.extend(exc for exc in found if isinstance(exc, Error))

    _run(main())


@step
def cancelled(world: World, steps: Block) -> None:
    async def inner() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            world.do(steps)

    async def main() -> None:
        task = asyncio.ensure_future(inner())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            world.note("cancelled")

    _run(main())


@step
def iterated(world: World, steps: Block) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        world.do(steps)
        yield 2

    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)

    async def main() -> None:
        async with manager():
            world.note(str([number async for number in numbers()]))

    _run(main())


GROUPS = """
@step
def task_group(world, steps):
    async def inner(one):
        await asyncio.sleep(0)
        world.do([one])

    async def main():
        try:
            async with asyncio.TaskGroup() as group:
                for one in steps:
                    group.create_task(inner(one))
        except* Error as caught:
            for exc in caught.exceptions:
                if isinstance(exc, Error):
                    world.stored.append(exc)

    _run(main())

@step
def grouped(world, steps):
    try:
        try:
            world.do(steps)
        except Error as caught:
            raise ExceptionGroup("group", [caught, ValueError()])
    except* ValueError as rest:
        world.note(str(len(rest.exceptions)))
"""
if sys.version_info >= (3, 11):
    exec(GROUPS)


def _play(program: dict[str, Any]) -> None:
    """Run a program, which may end this process."""
    world = World()
    try:
        for one in program["steps"]:
            STEPS["catch"](world, [one])
        world.do(program["last"])
    finally:
        print(json.dumps([world.happened, world.failures, world.wrapped]), flush=True)
    if program["status"] is not None:
        sys.exit(program["status"])


def main() -> None:
    """Read programs, fork for each, and report its exit status, its report and its output."""
    out, err = sys.argv[1:]
    pipeline = sys.modules.get("faultlens.pipeline")
    running = pipeline.running() if pipeline is not None else None
    print(running.hook.detector if running is not None else "none", flush=True)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            for number, path in ((1, out), (2, err)):
                opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(opened, number)
                os.close(opened)
            return _play(json.loads(line))  # and exit as any program does
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, flush=True)
    return None


if __name__ == "__main__":
    main()
