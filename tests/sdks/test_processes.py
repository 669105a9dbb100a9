"""A failure that comes back from another process counts once, in the process that raised it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import children
from tests.servers import until

pytest.importorskip("flyte")

# It has its own cause, so there are two raises there, and one comes back.
WORK = """
import flyte.errors

class Mine(flyte.errors.RuntimeUserError):
    def __init__(self, text):
        super().__init__("CODE", text)
        self.text = text
    def __reduce__(self):
        return Mine, (self.text,)

def fail(text):
    try:
        raise flyte.errors.RuntimeSystemError("CODE", text)
    except flyte.errors.RuntimeSystemError as error:
        raise Mine(text) from error

def fail_in_a_pool():
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1) as pool:
        pool.submit(fail, "deep").result()

class Remote:
    def fail(self):
        fail("in a method")
"""

PROGRAM = """
    import inside
    from work import Mine, Remote, fail

    caught = 0
    def catch(call, *args):
        global caught
        try:
            call(*args)
        except Mine:
            caught += 1
        else:
            raise AssertionError("nothing came back")

    def main():
{main}

    if __name__ == "__main__":
        main()
        by_reason = {{"failures": sum(inside.failures().values()), "caught": caught}}
        for series, count in inside.suppressed().items():
            reason = series.rpartition("|")[2]
            by_reason[reason] = by_reason.get(reason, 0) + count
        inside.report(by_reason)
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str | None]:
    """The environment of a program that finds `WORK` and counts in a store."""
    (tmp_path / "work.py").write_text(WORK)
    path = os.pathsep.join(
        [str(children.TESTS), str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {"FAULTLENS_STORE": str(tmp_path / "store"), "PYTHONPATH": path}


def counted(main: str, env: dict[str, str | None]) -> dict[str, float]:
    """The counts in the store after a program, and the exceptions that came back to it."""
    source = textwrap.indent(textwrap.dedent(main), " " * 8)
    found: dict[str, float] = children.report(PROGRAM.format(main=source), env=env)
    return found


def once_each(times: int) -> dict[str, int]:
    return {"failures": times, "caught": times, "wrapped": times, "propagated": times}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_pools_executors_and_managers(
    package: str, method: str, env: dict[str, str | None]
) -> None:
    pytest.importorskip(package)
    managers = f"""
        import {package}
        from {package}.managers import BaseManager

        BaseManager.register("Remote", Remote)
        context = {package}.get_context("{method}")
        with context.Pool(1) as pool:
            catch(pool.apply, fail, ("1",))
            catch(list, pool.imap(fail, ["2"]))
        with BaseManager(ctx=context) as manager:
            catch(manager.Remote().fail)
    """
    assert counted(managers, env) == once_each(3)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_concurrent_futures(method: str, env: dict[str, str | None]) -> None:
    executor = f"""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(1, mp_context=get_context("{method}")) as pool:
            catch(pool.submit(fail, "1").result)
            catch(list, pool.map(fail, ["2"]))
    """
    assert counted(executor, env) == once_each(2)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib(backend: str, env: dict[str, str | None]) -> None:
    pytest.importorskip("joblib")
    parallel = f"""
        from joblib import Parallel, delayed

        for number in range(2):
            catch(Parallel(2, backend="{backend}"), [delayed(fail)(str(number))])
    """
    assert counted(parallel, env) == once_each(2)


def test_joblib_in_threads_is_this_process(env: dict[str, str | None]) -> None:
    pytest.importorskip("joblib")
    parallel = """
        from joblib import Parallel, delayed

        for number in range(2):
            catch(Parallel(2, backend="threading"), [delayed(fail)(str(number))])
    """
    assert counted(parallel, env) == {"failures": 2, "caught": 2, "wrapped": 2}


def test_pebble(env: dict[str, str | None]) -> None:
    pytest.importorskip("pebble")
    pools = """
        import asyncio, pebble

        with pebble.ProcessPool(1) as pool:
            catch(pool.schedule(fail, ["1"]).result)
            catch(list, pool.map(fail, ["2"]).result())
        catch(pebble.concurrent.process(fail)("3").result)

        async def wait():
            await pebble.asynchronous.process(fail)("4")

        catch(asyncio.run, wait())
    """
    assert counted(pools, env) == once_each(4)


def test_a_failure_that_is_carried_through_two_pools(env: dict[str, str | None]) -> None:
    nested = """
        from concurrent.futures import ProcessPoolExecutor
        from work import fail_in_a_pool

        with ProcessPoolExecutor(1) as pool:
            catch(pool.submit(fail_in_a_pool).result)
    """
    found = counted(nested, env)
    if sys.version_info < (3, 12):
        # A raise in a thread other than the constructing one is known only by the traceback, which
        # the inner process's executor removes.
        assert found.pop("propagated") in (1, 2)
        found["propagated"] = 2
    assert found == {"failures": 1, "caught": 1, "wrapped": 1, "propagated": 2}


def test_without_a_store_a_worker_s_counts_end_with_it(
    env: dict[str, str | None],
) -> None:
    pool = """
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(1) as pool:
            catch(pool.submit(fail, "1").result)
    """
    assert counted(pool, {**env, "FAULTLENS_STORE": "off"}) == {"failures": 1, "caught": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_count_what_its_parent_has_raised(
    env: dict[str, str | None],
) -> None:
    """Before Python 3.12, a raise in a thread other than the constructing one is seen later."""
    source = """
        import os, threading
        import inside
        from work import Mine

        made = []
        thread = threading.Thread(target=lambda: made.append(Mine("m")))
        thread.start()
        thread.join()
        try:
            raise made[0]
        except Mine:
            pass
        pid = os.fork()
        if pid == 0:
            inside.failures()
            os._exit(0)
        os.waitpid(pid, 0)
        inside.report(inside.failures())
    """
    assert children.report(source, env=env) == {"work.Mine|user|w": 1}


# Celery.

TASKS = """
import os
import broker
from celery import Celery
from work import fail as work

app = Celery("tasks", broker="filesystem://", backend=f"file://{os.getcwd()}/results")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "queue",
    "polling_interval": 0.05,
}
app.conf.result_serializer = SERIALIZER
# Results only: a worker that accepts pickled messages refuses to run as root.
app.conf.result_accept_content = [SERIALIZER]

@app.task
def fail(text):
    work(text)

@app.task
def outer(text):
    # Runs in the worker, and waits for another task there.
    fail.delay(text).get(timeout=TIMEOUT, disable_sync_subtasks=False)
"""


@pytest.fixture(params=["json", "pickle"])
def celery(
    request: pytest.FixtureRequest, tmp_path: Path, env: dict[str, str | None]
) -> Iterator[dict[str, str | None]]:
    """Celery's worker, with two processes, and the environment of its client."""
    pytest.importorskip("celery")
    settings = f"SERIALIZER, TIMEOUT = {request.param!r}, {children.TIMEOUT}\n"
    (tmp_path / "tasks.py").write_text(settings + TASKS)
    for folder in ("queue", "results"):
        (tmp_path / folder).mkdir()
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c2", "-lINFO"]
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle"],
            cwd=tmp_path,
            env=children.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as worker,
    ):
        try:
            until(lambda: worker.poll() is not None or "ready." in log.read_text(), "Celery")
            assert worker.poll() is None, log.read_text()
            yield env
        finally:
            worker.terminate()
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)


def test_the_results_of_celery_s_tasks(celery: dict[str, str | None], tmp_path: Path) -> None:
    client = f"""
        import os
        os.chdir({str(tmp_path)!r})
        from celery import group
        from tasks import fail, outer

        result = fail.delay("1")
        catch(lambda: result.get(timeout={children.TIMEOUT}))
        both = group(fail.s("2"), fail.s("3"))()
        catch(lambda: both.get(timeout={children.TIMEOUT}))
        for one in both:
            one.get(timeout={children.TIMEOUT}, propagate=False)
        catch(lambda: outer.delay("4").get(timeout={children.TIMEOUT}))
    """
    assert counted(client, celery) == {"failures": 4, "caught": 3, "wrapped": 4, "propagated": 4}


# Copies of a failure.

COPIES = """
    import inside
    from flyte.errors import RuntimeSystemError as System, RuntimeUserError as User

    class __traceback_maker(Exception):
        pass

    def as_dask_unpickles_it():
        # tblib gives the copy the traceback that the exception has in the other process.
        copy = User("CODE", "m")
        try:
            exec("raise __traceback_maker")
        except __traceback_maker as error:
            copy.__traceback__ = error.__traceback__.tb_next
        return copy

    def catch(exc, cause=None):
        try:
            raise exc from cause
        except (System, User):
            pass

    {source}
    inside.report([sum(inside.failures().values()), inside.suppressed()])
"""


def test_a_copy_with_a_traceback_is_not_raised(env: dict[str, str | None]) -> None:
    unraised = "copy = as_dask_unpickles_it(); catch(System('CODE', 'm')); del copy"
    assert children.report(COPIES.format(source=unraised), env=env) == [1, {}]
    raised = "catch(as_dask_unpickles_it())"
    assert children.report(COPIES.format(source=raised), env=env)[0] == 1 + 1


def test_an_exception_raised_from_a_copy_is_the_same_failure(env: dict[str, str | None]) -> None:
    pool = """
        from concurrent.futures import ProcessPoolExecutor
        from flyte.errors import OOMError

        with ProcessPoolExecutor(1) as pool:
            error = pool.submit(fail, "1").exception()
        try:
            raise OOMError("CODE", "m") from error
        except OOMError:
            pass
    """
    assert counted(pool, env) == {"failures": 1, "caught": 0, "wrapped": 2}
