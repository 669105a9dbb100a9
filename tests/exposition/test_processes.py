"""Processes that fork, spawn and really die: what they counted is in the store, exactly."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.children import TIMEOUT
from tests.exposition.hosts import COMMON, Host, listeners, needs_proc, program
from tests.servers import until


def _unshare() -> list[str] | None:
    """How to run a program in a pid namespace of its own; None if that is not permitted."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for way in (command, [*command, "--map-root-user"]):
        try:
            done = subprocess.run([*way, "true"], capture_output=True, check=False, timeout=TIMEOUT)
        except OSError:
            return None
        if done.returncode == 0:
            return way
    return None


UNSHARE = _unshare()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# How a process ends.


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("sys.exit(4)", 4),
        ("os.execlp('true', 'true')", 0),
    ],
)
def test_however_abruptly_a_process_ends_after_the_raise_it_is_counted(
    host: Host, end: str, status: int
) -> None:
    host.run(f"fail(2)\n{end}", ends=status)
    assert host.counted() == {"failures": 2}


def test_the_failure_that_ends_a_process_is_counted(host: Host) -> None:
    host.run("raise E('c', 'm')", ends=1)
    assert host.counted() == {"failures": 1}


def test_what_fails_at_exit_is_counted_before_and_after_faultlens_s_own_end(host: Host) -> None:
    source = """
        import atexit
        atexit.register(lambda: fail(1))  # the first to be registered is the last to run
        {common}
        atexit.register(lambda: fail(2))
        fail(4)
    """
    file = host.folder / "program.py"
    file.write_text(textwrap.dedent(source).replace("{common}", COMMON))
    with host.running([sys.executable, str(file)]) as running:
        assert running.process.wait(TIMEOUT) == 0
    assert host.counted() == {"failures": 7}


# Ways to have children.


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_s_processes_and_pools_and_the_executor_s(host: Host, method: str) -> None:
    file = host.file("""
        import concurrent.futures, multiprocessing

        def work(times):
            fail(times)
            return times

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            fail()
            processes = [context.Process(target=work, args=(2,)) for _ in range(2)]
            for process in processes:
                process.start()
            with context.Pool(2, maxtasksperchild=2) as pool:  # ends with SIGTERM
                pooled = sum(pool.map(work, [1, 2, 3, 4, 5, 6], chunksize=1))
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
                executed = sum(executor.map(work, [1, 2, 3]))
            for process in processes:
                process.join()
            fail()
            print(1 + 2 * 2 + pooled + executed + 1, flush=True)
            sys.stdin.read()
    """)
    with host.running([sys.executable, str(file), method]) as parent:
        assert parent.hear() == "33"
        assert host.failures() == 33
    assert host.counted() == {"failures": 33}


def test_forks_of_forks_count_each_their_own(host: Host) -> None:
    host.run("""
        def grow(depth):
            fail()
            pids = [child(lambda: grow(depth - 1)) for _ in range(2 if depth else 0)]
            fail()
            assert [ended(pid) for pid in pids] == [0] * len(pids)

        grow(3)
    """)
    assert host.counted() == {"failures": 2 * (1 + 2 + 4 + 8)}


def test_forks_in_threads_while_threads_raise_and_scrape(host: Host) -> None:
    done = host.run("""
        import urllib.request
        busy, raised = True, []

        def raise_on():
            count = 0
            while busy:
                fail()
                count += 1
            raised.append(count)

        def scrape_on():
            while busy:
                urllib.request.urlopen(
                    f"http://127.0.0.1:{os.environ['OTEL_EXPORTER_PROMETHEUS_PORT']}/metrics"
                ).read()

        def fork_on():
            for _ in range(8):
                exits.append(ended(child(lambda: fail(3))))

        exits = []
        others = [threading.Thread(target=do) for do in (raise_on, raise_on, scrape_on)]
        forking = [threading.Thread(target=fork_on) for _ in range(2)]
        for thread in others + forking:
            thread.start()
        for thread in forking:
            thread.join()
        busy = False
        for thread in others:
            thread.join()
        assert exits == [0] * 16, exits
        print(sum(raised) + 3 * 16)
    """)
    assert host.counted() == {"failures": int(done.stdout)}


FORKS_WHILE_ANOTHER_HAS_THE_STORE = """
    from faultlens import pipeline
    from faultlens.exposition import store as module

    if len(sys.argv) > 1:
        module._FORK_SECONDS = float(sys.argv[1])
    taken, forked = threading.Event(), threading.Event()

    def hold():
        with pipeline.running().store.lock:
            taken.set()
            forked.wait(0.3)

    fail()
    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    pid = child(lambda: fail(2))
    forked.set()
    assert ended(pid) == 0
    holder.join()
    fail()
"""


def test_a_fork_waits_for_another_thread_to_be_done_with_the_store(host: Host) -> None:
    host.run(FORKS_WHILE_ANOTHER_HAS_THE_STORE)
    assert host.counted() == {"failures": 4}


def test_a_fork_does_not_wait_for_ever_and_the_child_says_that_it_counts_in_memory(
    host: Host,
) -> None:
    said = host.run(FORKS_WHILE_ANOTHER_HAS_THE_STORE, "0.01").stderr
    assert said.count("this process was forked while its parent had the database open") == 1
    assert host.counted() == {"failures": 2}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", ["open", "_create", "add", "read"])
def test_a_fork_in_the_middle_of_the_store_s_own_work(host: Host, what: str, moment: str) -> None:
    """As by a signal handler. Both go on from there, and what was interrupted is written once."""
    host.run(
        """
        from faultlens import pipeline

        what, moment = sys.argv[1:]
        store = pipeline.running().store
        database = store._database
        work = getattr(database, what)
        pids = []

        def forks(*args):
            if pids:
                return work(*args)
            done = work(*args) if moment == "after" else None
            pids.append(os.fork())
            if pids == [0]:
                store.read()
            return work(*args) if moment == "before" else done

        setattr(database, what, forks)
        fail()
        store.read()
        fail()
        if pids[0]:
            assert ended(pids[0]) == 0
        """,
        what,
        moment,
    )
    assert host.counted() == {"failures": 3}


def test_a_child_that_is_forked_while_the_store_is_opened_and_stays_there_holds_up_nobody(
    host: Host,
) -> None:
    source = """
        from faultlens import pipeline
        database = pipeline.running().store._database
        create = database._create

        def forks():
            if os.fork() == 0:
                sys.stdin.read()
                os._exit(0)
            create()

        database._create = forks
        fail(2)
        print("counted", flush=True)
        signal.pause()
    """
    with host.running(program(source)) as parent:
        assert parent.hear() == "counted"
        assert host.counted() == {"failures": 2}


def test_a_fork_by_a_signal_handler_in_the_middle_of_a_fork_leaves_the_store_to_all(
    host: Host,
) -> None:
    host.run("""
        import faulthandler
        from faultlens import pipeline
        faulthandler.dump_traceback_later(300, exit=True)  # rather than hang

        def forks(*_):
            pids.append(child(lambda: fail(2)))

        def closes():  # as each fork does first
            database.close = close
            os.kill(os.getpid(), signal.SIGUSR1)
            close()

        fail()
        signal.signal(signal.SIGUSR1, forks)
        database, pids = pipeline.running().store._database, []
        close, database.close = database.close, closes
        pids.append(child(lambda: fail(4)))
        assert [ended(pid) for pid in pids] == [0, 0]
        other = threading.Thread(target=fail, args=(8,))
        other.start()
        other.join()
    """)
    assert host.counted() == {"failures": 15}


def test_the_exit_of_a_child_that_is_forked_in_the_middle_of_a_write_is_the_child_s(
    host: Host,
) -> None:
    """It does not go on with its parent's program."""
    host.run("""
        from types import SimpleNamespace
        from faultlens.exposition import database

        def forks(*_):
            pids.append(os.fork())
            if pids == [0]:
                sys.exit(7)

        def interrupted(values):
            database.chain = chain
            os.kill(os.getpid(), signal.SIGUSR1)
            return chain.from_iterable(values)

        signal.signal(signal.SIGUSR1, forks)
        pids, chain = [], database.chain
        database.chain = SimpleNamespace(from_iterable=interrupted)
        fail()
        if pids == [0]:
            os._exit(1)
        status = ended(*pids)
        assert status == 7, status
    """)
    assert host.counted() == {"failures": 1}


# Interrupted, by what counts too.


@pytest.mark.parametrize("what", ["signal handler", "finalizer"])
def test_what_interrupts_the_store_s_work_may_count_while_another_thread_wants_to(
    host: Host, what: str
) -> None:
    host.run(
        """
        import faulthandler
        from faultlens import pipeline
        faulthandler.dump_traceback_later(300, exit=True)  # rather than hang

        class Lock:
            def __init__(self, lock):
                self.lock = lock

            def __enter__(self):
                if threading.current_thread() is other:
                    waits.set()
                self.lock.acquire()

            def __exit__(self, *_):
                self.lock.release()

        class Resource:
            def __del__(self):
                fail()

        def interrupted():
            database.read = read
            other.start()
            waits.wait()
            if sys.argv[1] == "finalizer":
                Resource()
            else:
                os.kill(os.getpid(), signal.SIGUSR1)
            return read()

        fail()
        signal.signal(signal.SIGUSR1, lambda *_: fail())
        other, waits = threading.Thread(target=fail, daemon=True), threading.Event()
        store = pipeline.running().store
        store.lock = Lock(store.lock)
        database = store._database
        read, database.read = database.read, interrupted
        store.read()
        other.join()
        """,
        what,
    )
    assert host.counted() == {"failures": 3}


def test_a_log_handler_may_count_while_another_thread_logs_that_the_store_cannot_be_used(
    host: Host,
) -> None:
    done = host.run("""
        import faulthandler, logging
        from faultlens import pipeline
        faulthandler.dump_traceback_later(300, exit=True)  # rather than hang

        class Handler(logging.Handler):
            def handle(self, record):
                if threading.current_thread() is not other:
                    waits.set()
                return super().handle(record)

            def emit(self, record):
                if record.name != "app":
                    print(record.getMessage())
                    return
                emits.set()
                waits.wait()
                fail()

        def cannot_open():
            raise OSError("the disk is gone")

        logging.getLogger().addHandler(Handler())
        emits, waits = threading.Event(), threading.Event()
        other = threading.Thread(target=logging.getLogger("app").error, args=("m",), daemon=True)
        other.start()
        emits.wait()
        database = pipeline.running().store._database
        opens, database.open = database.open, cannot_open
        fail()
        other.join()
        database.open = opens
    """)
    assert done.stdout.count("the disk is gone") == 1
    assert host.counted()["failures"] == 2


# Killed at any instant.


def test_of_processes_that_are_killed_while_they_raise_no_completed_raise_is_lost(
    host: Host,
) -> None:
    with host.serving(), host.scraping():
        done = host.run("""
            import random

            completed, ours = os.pipe()
            living, killed = [], 0

            def raise_on():
                while True:
                    fail()
                    os.write(ours, b".")

            def count():
                global total
                while got := os.read(completed, 65536):
                    total += len(got)

            total = 0
            counting = threading.Thread(target=count)
            counting.start()
            while killed < 48:
                living.append(child(raise_on))
                if len(living) == 3:
                    time.sleep(random.uniform(0, 0.04))
                    pid = living.pop(random.randrange(3))
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    killed += 1
            for pid in living:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(ours)
            counting.join()
            print(total, killed + len(living))
        """)
        completed, killed = map(int, done.stdout.split())
        counted = host.counted()
        assert completed <= counted["failures"] <= completed + killed
        assert host.failures() == counted["failures"]
        assert list(counted) == ["failures"]


def test_of_processes_that_are_killed_while_they_make_the_store_it_can_be_used(host: Host) -> None:
    host.run("""
        import random
        from pathlib import Path
        from faultlens.counts import Count, Series
        from faultlens.exposition.store import Store
        from faultlens.settings import StorePath

        def count():
            store.unsaved[Series("failures", "sdk.Error")] = Count(1)
            store.save()
            os.write(ours, b".")

        problems = []
        for turn in range(40):
            directory = StorePath(Path(os.environ["FAULTLENS_STORE"], f"{turn}"), False)
            store = Store(directory, lambda: problems.append(turn))
            completed, ours = os.pipe()
            pids = [child(count) for _ in range(3)]
            time.sleep(random.uniform(0, 0.01))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            count()
            os.close(ours)
            raised = len(os.read(completed, 10))
            (counted,) = store.read().values()
            assert raised <= counted.number <= raised + 3, (turn, raised, counted)
            assert not problems
            store.close()
            os.close(completed)
    """)


@pytest.mark.skipif(UNSHARE is None, reason="unshare may make no pid namespace here")
def test_two_pid_namespaces_that_share_the_directory(host: Host) -> None:
    source = program("""
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        pids = []
        for _ in range(4):
            pids.append(child(lambda: (fail(25), os.kill(os.getpid(), signal.SIGKILL))))
            fail(5)
        assert [ended(pid) for pid in pids] == [-signal.SIGKILL] * 4
        print("done", flush=True)
    """)
    assert UNSHARE is not None
    command = [*UNSHARE, sys.executable, "-c", source]
    with (
        host.serving(),
        host.scraping(),
        host.running(command) as one,
        host.running(command) as other,
    ):
        assert one.hear() == other.hear() == "1"
        one.say("go")
        other.say("go")
        assert one.hear() == other.hear() == "done"
        assert host.failures() == 2 * 4 * 30
    assert host.counted() == {"failures": 2 * 4 * 30}


# One endpoint for all.

OBEYS = """
    print("ready", flush=True)
    for line in sys.stdin:
        fail(int(line))
        print("done", flush=True)
"""


def test_one_process_serves_all_and_when_it_is_killed_another_does(host: Host) -> None:
    with contextlib.ExitStack() as stack:
        programs = []
        for _ in range(3):
            programs.append(stack.enter_context(host.running(program(OBEYS))))
            assert programs[-1].hear() == "ready"  # the first has the port now
        stack.enter_context(host.scraping())
        total = 0
        while programs:
            for obeying in programs:
                assert obeying.tell("2") == "done"
                total += 2
                assert host.failures() == total
            programs.pop(0).process.kill()
            if programs:
                until(lambda: host.failures() >= 0, "another to serve")
                assert host.failures() == total
    assert host.counted() == {"failures": 2 * (3 + 2 + 1)}


def test_an_answer_in_the_middle_of_which_the_server_is_killed_is_none(host: Host) -> None:
    source = """
        from wsgiref.handlers import BaseHandler
        send = BaseHandler.send_preamble

        def is_killed(handler):
            send(handler)
            os.kill(os.getpid(), signal.SIGKILL)

        BaseHandler.send_preamble = is_killed
        print("ready", flush=True)
        sys.stdin.read()
    """
    with host.running(program(source)) as server:
        assert server.hear() == "ready"
        with pytest.raises(OSError, match=r"no HTTP answer|reset"):
            host.page()


FORKS = """
    fail()
    if os.fork():
        while True:
            signal.pause()
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        fail(int(line))
        print("done", flush=True)
"""


@needs_proc
def test_a_forked_child_never_has_the_port_but_takes_it_over_from_its_parent(host: Host) -> None:
    with host.running(program(FORKS)) as parent:
        child = int(parent.hear())
        assert listeners(host.port) == {parent.pid}
        with host.scraping():
            assert parent.tell("2") == "done"  # the child answers, and stands by from now on
            assert host.failures() == 3
            assert listeners(host.port) == {parent.pid}
            parent.process.kill()
            until(lambda: host.failures() >= 0, "the child to serve")
            assert listeners(host.port) == {child}
            assert host.failures() == 3
            assert parent.tell("4") == "done"
            assert host.failures() == 7


FORKS_WHILE_IT_TAKES_THE_PORT = """
    from socketserver import TCPServer
    listen = TCPServer.server_activate

    def listens_slowly(server):
        listen(server)
        listening.set()
        time.sleep(0.5)

    listening = threading.Event()
    TCPServer.server_activate = listens_slowly
    print("ready", flush=True)
    listening.wait()
    pid = os.fork()
    if pid:
        print(pid, flush=True)
    sys.stdin.read()
"""


@needs_proc
def test_a_child_that_is_forked_while_its_parent_takes_the_port_does_not_have_it(
    host: Host,
) -> None:
    with host.serving() as first, host.running(program(FORKS_WHILE_IT_TAKES_THE_PORT)) as parent:
        assert parent.hear() == "ready"
        first.process.kill()
        assert int(parent.hear()) > 0
        until(lambda: host.failures() >= 0, "the parent to serve")
        assert listeners(host.port) == {parent.pid}
