"""Programs that raise, or do not raise, SDK exceptions, and how many objects each raises.

All run in a separate process, once with faultlens and once without. The counts must be exact, and
the host must see the same. A case gets the SDK (`Sdk`) and returns the exceptions that it caught;
it checks identities itself.
"""

# The tests need the code that these rules would tidy up.

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import gc
import pickle
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

TIMEOUT = 1200
"""Seconds; see `tests.children`, which the programs that import this do not."""


@dataclass(frozen=True)
class Sdk:
    """An SDK under test."""

    Error: type[Exception]
    """A class whose instances are constructed with a code and a message."""
    Missing: type[ImportError]
    """An SDK class that is also an ImportError; constructed with a message."""


Seen = Iterable[BaseException]


@dataclass(frozen=True)
class Case:
    run: Callable[[Sdk], Seen]
    raises: int


CASES: dict[str, Case] = {}


def case(raises: int) -> Callable[[Callable[[Sdk], Seen]], Callable[[Sdk], Seen]]:
    def add(run: Callable[[Sdk], Seen]) -> Callable[[Sdk], Seen]:
        CASES[run.__name__] = Case(run, raises)
        return run

    return add


def case_311(raises: int, name: str, source: str) -> None:
    """A case as text, in the syntax of Python 3.11. Its body uses `sdk` and fills `seen`."""
    if sys.version_info < (3, 11):
        return
    body = textwrap.indent(textwrap.dedent(source).strip(), "    ")
    space: dict[str, Any] = {}
    exec(f"def {name}(sdk):\n    seen = []\n{body}\n    return seen\n", space)
    CASES[name] = Case(space[name], raises)


# Ways to raise.


@case(raises=1)
def raised_and_caught(sdk: Sdk) -> Seen:
    exc = sdk.Error("c", "m")
    try:
        raise exc
    except sdk.Error as caught:
        assert caught is exc
        return [caught]


@case(raises=1)
def raised_in_the_same_expression(sdk: Sdk) -> Seen:
    try:
        raise sdk.Error("c", "m")
    except sdk.Error as caught:
        return [caught]


@case(raises=1)
def raised_as_a_class_without_arguments(sdk: Sdk) -> Seen:
    class Bare(sdk.Error):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__("c", "m")

    try:
        raise Bare
    except Bare as caught:
        return [caught]


@case(raises=1)
def raised_over_several_lines(sdk: Sdk) -> Seen:
    try:
        raise sdk.Error(
            "c",
            "".join(str(number) for number in range(3)),
        )
    except sdk.Error as caught:
        return [caught]


@case(raises=2)
def raised_from_another(sdk: Sdk) -> Seen:
    try:
        try:
            raise sdk.Error("c", "cause")
        except sdk.Error as cause:
            raise sdk.Error("c", "effect") from cause
    except sdk.Error as caught:
        return [caught]


@case(raises=1)
def raised_from_one_that_was_never_raised(sdk: Sdk) -> Seen:
    try:
        raise sdk.Error("c", "effect") from sdk.Error("c", "cause")
    except sdk.Error as caught:
        return [caught]


@case(raises=1)
def raised_from_none_while_a_foreign_one_is_handled(sdk: Sdk) -> Seen:
    try:
        try:
            int("absent")
        except ValueError:
            raise sdk.Error("c", "m") from None
    except sdk.Error as caught:
        return [caught]
    return []


@case(raises=1)
def converted_from_a_foreign_one(sdk: Sdk) -> Seen:
    try:
        try:
            int("no number")
        except ValueError as error:
            raise sdk.Error("c", str(error)) from error
    except sdk.Error as caught:
        return [caught]
    return []


@case(raises=1)
def raised_again_bare(sdk: Sdk) -> Seen:
    try:
        try:
            raise sdk.Error("c", "m")
        except sdk.Error:
            raise
    except sdk.Error as caught:
        return [caught]


@case(raises=1)
def raised_again_by_name(sdk: Sdk) -> Seen:
    try:
        try:
            raise sdk.Error("c", "m")
        except sdk.Error as caught:
            raise caught
    except sdk.Error as caught:
        return [caught]


@case(raises=1)
def kept_and_raised_again_later(sdk: Sdk) -> Seen:
    kept: list[BaseException] = []
    try:
        raise sdk.Error("c", "m")
    except sdk.Error as caught:
        kept.append(caught)
    for _ in range(3):
        with contextlib.suppress(sdk.Error):
            raise kept[0]
    return kept


@case(raises=1)
def raised_again_without_its_traceback(sdk: Sdk) -> Seen:
    exc = sdk.Error("c", "m")
    for _ in range(3):
        try:
            raise exc.with_traceback(None)
        except sdk.Error as caught:
            assert caught is exc
    return [exc]


@case(raises=2)
def two_in_turns(sdk: Sdk) -> Seen:
    a, b = sdk.Error("c", "a"), sdk.Error("c", "b")
    for exc in (a, b, a, b):
        with contextlib.suppress(sdk.Error):
            raise exc
    return [a, b]


@case(raises=1)
def a_singleton_of_the_class(sdk: Sdk) -> Seen:
    class Singleton(sdk.Error):  # type: ignore[misc,name-defined]
        instance: Any = None

        def __new__(cls, *args: Any) -> Any:
            if cls.instance is None:
                cls.instance = super().__new__(cls, *args)
            return cls.instance

    for _ in range(2):
        with contextlib.suppress(Singleton):
            raise Singleton("c", "m")
    return [Singleton.instance]


@case(raises=1)
def made_by_a_factory_of_a_factory(sdk: Sdk) -> Seen:
    def factory() -> Exception:
        return sdk.Error("c", "m")

    def outer() -> Exception:
        made = factory()
        return made

    try:
        raise outer()
    except sdk.Error as caught:
        return [caught]


@case(raises=1)
def constructed_here_raised_by_a_callee(sdk: Sdk) -> Seen:
    def fail(error: Exception) -> None:
        sum(range(10))
        raise error

    try:
        fail(sdk.Error("c", "m"))
    except sdk.Error as caught:
        return [caught]
    return []


@case(raises=1)
def raised_and_swallowed_in_a_callee(sdk: Sdk) -> Seen:
    def swallow(error: Exception) -> Exception:
        try:
            raise error
        except sdk.Error as caught:
            return caught

    return [swallow(sdk.Error("c", "m"))]


@case(raises=100)
def a_hundred_of_them(sdk: Sdk) -> Seen:
    for number in range(100):
        with contextlib.suppress(sdk.Error):
            raise sdk.Error("c", str(number))
    return []


@case(raises=100)
def a_hundred_constructed_first_and_raised_later(sdk: Sdk) -> Seen:
    for exc in [sdk.Error("c", str(number)) for number in range(100)]:
        with contextlib.suppress(sdk.Error):
            raise exc
    return []


@case(raises=1)
def raised_long_after_its_construction(sdk: Sdk) -> Seen:
    exc = sdk.Error("c", "m")
    for _ in range(2000):
        sorted([2, 1], key=lambda value: -value)
    with contextlib.suppress(sdk.Error):
        raise exc
    return [exc]


# Things that are not a raise.


@case(raises=0)
def constructed_and_dropped(sdk: Sdk) -> Seen:
    sdk.Error("c", "m")
    return []


@case(raises=0)
def returned_as_a_value(sdk: Sdk) -> Seen:
    def work() -> Exception:
        return sdk.Error("c", "m")

    return [work()]


@case(raises=0)
def a_list_of_values(sdk: Sdk) -> Seen:
    return [sdk.Error("c", str(number)) for number in range(10)]


@case(raises=0)
def control_flow_of_python_while_one_is_pending(sdk: Sdk) -> Seen:
    exc = sdk.Error("c", "m")

    def numbers() -> Iterator[int]:
        yield 1

    async def cancelled() -> None:
        raise asyncio.CancelledError

    generator = numbers()
    assert list(generator) == [1]
    started: Any = numbers()
    next(started)
    started.close()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(cancelled())
    with contextlib.suppress(KeyError):
        raise KeyError
    return [exc]


@case(raises=1)
def pickled_and_raised_from_the_copy(sdk: Sdk) -> Seen:
    pickled = pickle.dumps(_Picklable("c", "m"))
    returned_only = pickle.loads(pickled)
    try:
        raise pickle.loads(pickled)
    except _Picklable as caught:
        return [returned_only, caught]


@case(raises=2)
def a_raised_one_copied_and_the_copy_raised(sdk: Sdk) -> Seen:
    seen: list[BaseException] = []
    try:
        raise _Picklable("c", "m")
    except _Picklable as caught:
        seen += [caught, copy.copy(caught), pickle.loads(pickle.dumps(caught))]
    try:
        raise copy.copy(seen[0])
    except _Picklable as caught:
        seen.append(caught)
    return seen


# Code that an exception passes through.


@case(raises=1)
def through_ten_layers(sdk: Sdk) -> Seen:
    @contextlib.contextmanager
    def manager() -> Iterator[None]:
        yield

    def generator(depth: int) -> Iterator[None]:
        yield
        layer(depth - 1)

    async def coroutine(depth: int) -> None:
        await asyncio.sleep(0)
        layer(depth - 1)

    def layer(depth: int) -> None:
        if depth == 0:
            raise sdk.Error("c", "m")
        if depth % 5 == 0:
            with manager():
                layer(depth - 1)
        elif depth % 5 == 1:
            try:
                layer(depth - 1)
            finally:
                sum(range(3))
        elif depth % 5 == 2:
            try:
                layer(depth - 1)
            except sdk.Error:
                raise
        elif depth % 5 == 3:
            list(generator(depth))
        else:
            runner = threading.Thread(target=lambda: asyncio.run(run(coroutine(depth))))
            runner.start()
            runner.join()
            raise passed.pop()

    passed: list[BaseException] = []

    async def run(awaitable: Any) -> None:
        try:
            await awaitable
        except sdk.Error as caught:
            passed.append(caught)

    try:
        layer(10)
    except sdk.Error as caught:
        return [caught]
    return []


@case(raises=1)
def thrown_into_a_generator(sdk: Sdk) -> Seen:
    def numbers() -> Iterator[int]:
        yield 1

    generator: Any = numbers()
    next(generator)
    exc = sdk.Error("c", "m")
    try:
        generator.throw(exc)
    except sdk.Error as caught:
        assert caught is exc
    return [exc]


@case(raises=1)
def thrown_through_generators_that_delegate(sdk: Sdk) -> Seen:
    def inner() -> Iterator[int]:
        try:
            yield 1
        except sdk.Error:
            raise

    def outer() -> Iterator[int]:
        yield from inner()

    generator: Any = outer()
    next(generator)
    try:
        generator.throw(sdk.Error("c", "m"))
    except sdk.Error as caught:
        return [caught]
    return []


@case(raises=1)
def raised_between_two_yields(sdk: Sdk) -> Seen:
    def numbers() -> Iterator[Any]:
        exc = sdk.Error("c", "m")
        yield 1
        yield 2
        raise exc

    try:
        list(numbers())
    except sdk.Error as caught:
        return [caught]
    return []


@case(raises=1)
def raised_in_a_callback_of_c(sdk: Sdk) -> Seen:
    def key(value: int) -> int:
        raise sdk.Error("c", "m")

    try:
        sorted([2, 1], key=key)
    except sdk.Error as caught:
        return [caught]
    return []


# Threads and loops.


@case(raises=8)
def raised_in_threads(sdk: Sdk) -> Seen:
    seen: list[BaseException] = []

    def work() -> None:
        try:
            raise sdk.Error("c", "m")
        except sdk.Error as caught:
            seen.append(caught)

    _in_threads(work, 8)
    return seen


@case(raises=1)
def constructed_here_raised_in_another_thread(sdk: Sdk) -> Seen:
    exc = sdk.Error("c", "m")

    def work() -> None:
        with contextlib.suppress(sdk.Error):
            raise exc

    _in_threads(work, 1)
    return [exc]


@case(raises=1)
def one_object_raised_in_two_threads(sdk: Sdk) -> Seen:
    exc = sdk.Error("c", "m")
    both = threading.Barrier(2)

    def work() -> None:
        both.wait(TIMEOUT)
        with contextlib.suppress(sdk.Error):
            raise exc

    _in_threads(work, 2)
    return []  # either thread's frames may be its traceback


@case(raises=4)
def raised_in_an_executor(sdk: Sdk) -> Seen:
    def work(number: int) -> None:
        raise sdk.Error("c", str(number))

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(work, number) for number in range(4)]
    for future in futures:
        with contextlib.suppress(sdk.Error):
            future.result(10)
    return [error for future in futures if (error := future.exception()) is not None]


@case(raises=1)
def a_futures_result_in_another_thread(sdk: Sdk) -> Seen:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    exc = sdk.Error("c", "m")
    future.set_exception(exc)

    def work() -> None:
        for _ in range(2):
            try:
                future.result(10)
            except sdk.Error as caught:
                assert caught is exc

    _in_threads(work, 1)
    return [exc]


@case(raises=0)
def a_futures_exception_that_nobody_takes(sdk: Sdk) -> Seen:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_exception(sdk.Error("c", "m"))
    return []


@case(raises=1)
def a_futures_result_in_another_loop(sdk: Sdk) -> Seen:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    async def produce() -> None:
        future.set_exception(sdk.Error("c", "m"))

    async def consume() -> BaseException | None:
        try:
            await asyncio.wrap_future(future)
        except sdk.Error as caught:
            return caught
        return None

    _in_threads(lambda: asyncio.run(produce()), 1)
    caught = asyncio.run(consume())
    assert caught is future.exception()
    return [caught] if caught is not None else []


@case(raises=3)
def gathered_as_results(sdk: Sdk) -> Seen:
    async def work(number: int) -> None:
        await asyncio.sleep(0)
        raise sdk.Error("c", str(number))

    async def main() -> list[Any]:
        return await asyncio.gather(*map(work, range(3)), return_exceptions=True)

    return asyncio.run(main())


@case(raises=0)
def gathered_values_that_are_exceptions(sdk: Sdk) -> Seen:
    async def work(number: int) -> Exception:
        await asyncio.sleep(0)
        return sdk.Error("c", str(number))

    async def main() -> list[Any]:
        return await asyncio.gather(*map(work, range(3)), return_exceptions=True)

    return asyncio.run(main())


@case(raises=1)
def a_task_awaited_twice(sdk: Sdk) -> Seen:
    async def work() -> None:
        raise sdk.Error("c", "m")

    async def main() -> list[BaseException]:
        task = asyncio.ensure_future(work())
        seen: list[BaseException] = []
        for _ in range(2):
            try:
                await task
            except sdk.Error as caught:
                seen.append(caught)
        assert seen[0] is seen[1]
        return seen[:1]

    return asyncio.run(main())


@case(raises=1)
def constructed_before_an_await_and_raised_after(sdk: Sdk) -> Seen:
    async def work() -> None:
        exc = sdk.Error("c", "m")
        await asyncio.sleep(0.001)
        raise exc

    async def main() -> Seen:
        try:
            await work()
        except sdk.Error as caught:
            return [caught]
        return []

    return asyncio.run(main())


# The user's classes.


def _raise_each(*classes: type[BaseException]) -> Seen:
    seen: list[BaseException] = []
    for cls in classes:
        exc = cls("c", "m")
        try:
            raise exc
        except cls as caught:
            assert caught is exc
            seen.append(caught)
    return seen


@case(raises=4)
def classes_with_a_second_base(sdk: Sdk) -> Seen:
    class Last(sdk.Error, ValueError): ...  # type: ignore[misc,name-defined]

    class First(ValueError, sdk.Error): ...  # type: ignore[misc,name-defined]

    class Below(First): ...

    class Mixin:
        def __new__(cls, *args: Any) -> Any:
            return super().__new__(cls, *args)

    class Mixed(Mixin, KeyError, sdk.Error): ...  # type: ignore[misc,name-defined]

    return _raise_each(Last, First, Below, Mixed)


@case(raises=3)
def classes_with_a_constructor_of_their_own(sdk: Sdk) -> Seen:
    class Cooperative(sdk.Error):  # type: ignore[misc,name-defined]
        def __new__(cls, *args: Any) -> Any:
            return super().__new__(cls, *args)

    class Direct(sdk.Error):  # type: ignore[misc,name-defined]
        def __new__(cls, *args: Any) -> Any:
            return Exception.__new__(cls, *args)

    class Below(Direct): ...

    return _raise_each(Cooperative, Direct, Below)


@case(raises=1)
def a_class_whose_constructor_raises_it(sdk: Sdk) -> Seen:
    class Itself(sdk.Error):  # type: ignore[misc,name-defined]
        def __new__(cls, *args: Any) -> Any:
            exc = super().__new__(cls, *args)
            with contextlib.suppress(cls):
                raise exc
            return exc

    return _raise_each(Itself)


@case(raises=1)
def a_class_whose_initialiser_raises_it(sdk: Sdk) -> Seen:
    class Itself(sdk.Error):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            raise self

    try:
        Itself("c", "m")
    except Itself as caught:
        return [caught]
    return []


@case(raises=0)
def a_class_whose_constructor_gives_something_else(sdk: Sdk) -> Seen:
    class Disguised(sdk.Error):  # type: ignore[misc,name-defined]
        def __new__(cls, *args: Any) -> Any:
            return 7

    assert Disguised("c", "m") == 7
    return []


@case(raises=2)
def classes_that_do_not_announce_their_subclasses(sdk: Sdk) -> Seen:
    class Silent(sdk.Error):  # type: ignore[misc,name-defined]
        def __init_subclass__(cls) -> None:
            pass

    class Below(ValueError, Silent): ...

    class Direct(Silent):
        def __new__(cls, *args: Any) -> Any:
            return Exception.__new__(cls, *args)

    return _raise_each(Below, Direct)


@case(raises=1)
def a_class_with_arguments_for_its_subclasses(sdk: Sdk) -> Seen:
    class Base(sdk.Error):  # type: ignore[misc,name-defined]
        def __init_subclass__(cls, *, flavour: str) -> None:
            super().__init_subclass__()
            cls.flavour = flavour

    class Sweet(Base, flavour="sweet"): ...

    assert Sweet.flavour == "sweet"
    return _raise_each(Sweet)


@case(raises=1)
def a_class_with_slots(sdk: Sdk) -> Seen:
    class Slotted(sdk.Error):  # type: ignore[misc,name-defined]
        __slots__ = ("extra",)

    return _raise_each(Slotted)


@case(raises=2)
def classes_that_are_import_errors_too(sdk: Sdk) -> Seen:
    class Below(sdk.Missing):  # type: ignore[misc,name-defined]
        ...

    seen: list[BaseException] = []
    for cls in (sdk.Missing, Below):
        try:
            raise cls("m")
        except ImportError as caught:
            seen.append(caught)
    return seen


@case(raises=2)
def classes_with_a_finalizer(sdk: Sdk) -> Seen:
    class Finalized(sdk.Error):  # type: ignore[misc,name-defined]
        def __del__(self) -> None:
            finalized.append(1)

    class Below(Finalized): ...

    finalized: list[int] = []
    near = list(_raise_each(Finalized))
    far = [Below("c", "m")]

    def work() -> None:
        with contextlib.suppress(sdk.Error):
            raise far[0]

    _in_threads(work, 1)
    assert not finalized
    near.clear()
    far.clear()
    gc.collect()
    assert finalized == [1, 1]
    return []


@case(raises=1)
def raised_by_a_finalizer(sdk: Sdk) -> Seen:
    class Resource:
        def __del__(self) -> None:
            with contextlib.suppress(sdk.Error):
                raise sdk.Error("c", "m")

    Resource()
    return []


@case(raises=1)
def raised_by_the_garbage_collector(sdk: Sdk) -> Seen:
    class Resource:
        def __del__(self) -> None:
            with contextlib.suppress(sdk.Error):
                raise sdk.Error("c", "m")

    resource: Any = Resource()
    resource.itself = resource
    del resource
    gc.collect()
    return []


@case(raises=1)
def in_a_cycle_and_raised_far_away(sdk: Sdk) -> Seen:
    exc: Any = sdk.Error("c", "m")
    exc.itself = exc

    def work() -> None:
        with contextlib.suppress(sdk.Error):
            raise exc

    _in_threads(work, 1)
    return []


# Groups.

case_311(
    2,
    "members_that_were_raised_before_they_were_grouped",
    """
    for message in ("a", "b"):
        try:
            raise sdk.Error("c", message)
        except sdk.Error as caught:
            seen.append(caught)
    try:
        raise ExceptionGroup("g", list(seen))
    except ExceptionGroup as group:
        seen.append(group)
    """,
)
case_311(
    0,
    "members_that_were_only_ever_grouped",
    """
    try:
        raise ExceptionGroup("g", [sdk.Error("c", "a"), sdk.Error("c", "b")])
    except* sdk.Error as group:
        seen.append(group)
    """,
)
case_311(
    1,
    "a_member_raised_out_of_its_group",
    """
    try:
        try:
            raise ExceptionGroup("g", [sdk.Error("c", "a"), ValueError()])
        except* sdk.Error as group:
            raise group.exceptions[0]
    except ExceptionGroup as group:
        seen.append(group)
    """,
)
case_311(
    3,
    "a_task_group",
    """
    import asyncio

    async def work(number):
        raise sdk.Error("c", str(number))

    async def main():
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(work(number))

    try:
        asyncio.run(main())
    except* sdk.Error as group:
        seen += group.exceptions
    """,
)
case_311(
    1,
    "a_group_that_is_an_sdk_exception",
    """
    class Group(ExceptionGroup, sdk.Error):
        def __init__(self, message, members):
            sdk.Error.__init__(self, "c", message)

    try:
        raise Group("g", [ValueError()])
    except Group as caught:
        seen.append(caught)
    """,
)
case_311(
    1,
    "a_note_is_kept",
    """
    try:
        raise sdk.Error("c", "m")
    except sdk.Error as caught:
        caught.add_note("a note")
        seen.append(caught)
    """,
)


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


# The runner, in the child.


def run(sdk: Sdk, count: Callable[[], float]) -> dict[str, Any]:
    """Run all cases. Returns for each how many raises were counted and what the host can see."""
    _define_picklable(sdk)
    results: dict[str, Any] = {}
    for name, each in CASES.items():
        before = count()
        seen = _watched(each.run, sdk)
        gc.collect()
        results[name] = {"counted": count() - before, "seen": seen, "clean": _clean()}
    return results


def _watched(run: Callable[[Sdk], Seen], sdk: Sdk) -> list[Any]:
    return [_picture(exc) for exc in run(sdk)]


def _picture(exc: BaseException) -> Any:
    """Everything that can be seen of an exception: itself, its attributes and its whole chain."""
    return {
        "args": repr(exc.args),
        "vars": sorted(vars(exc)),
        "frames": [
            (entry.tb_frame.f_code.co_name, entry.tb_lineno, entry.tb_lasti)
            for entry in _entries(exc)
        ],
        "suppress": exc.__suppress_context__,
        "cause": _picture(exc.__cause__) if exc.__cause__ is not None else None,
        "context": _picture(exc.__context__) if exc.__context__ is not None else None,
        "text": "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)),
    }


def _entries(exc: BaseException) -> Iterator[Any]:
    entry = exc.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _clean() -> bool:
    """Whether no trace function is left, on the thread or on any frame of its stack."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_trace is not None or not frame.f_trace_lines:
            return False
        frame = frame.f_back
    return sys.gettrace() is None


def _define_picklable(sdk: Sdk) -> None:
    def reduce(self: Any) -> Any:
        return _Picklable, ("c", "m")

    globals()["_Picklable"] = type("_Picklable", (sdk.Error,), {"__reduce__": reduce})
    _Picklable.__module__ = __name__


_Picklable: Any = None
