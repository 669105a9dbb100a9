"""The store has the exact counts of real processes that fork, spawn and die."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import children
from tests.children import TIMEOUT
from tests.exposition.hosts import COMMON, Host, listeners, needs_proc, program
from tests.servers import until


def _unshare() -> list[str] | None:
    """The command to run a program in its own pid namespace; None if that is not permitted."""
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


# Ways for a process to end.


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
def test_a_raise_is_counted_however_abruptly_the_process_then_ends(
    host: Host, end: str, status: int
) -> None:
    host.run(f"fail(2)\n{end}", ends=status)
    assert host.counted() == {"failures": 2}


def test_the_failure_that_ends_a_process_is_counted(host: Host) -> None:
    host.run("raise E('c', 'm')", ends=1)
    assert host.counted() == {"failures": 1}


def test_failures_at_exit_are_counted_before_and_after_faultlens_itself_ends(host: Host) -> None:
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
def test_processes_and_pools_of_multiprocessing_and_the_executor(host: Host, method: str) -> None:
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
        until(lambda: host.failures() >= 0, "the endpoint")
        assert host.failures() == 33
    assert host.counted() == {"failures": 33}


@pytest.mark.parametrize("fork", ["os.fork", "fork_by_c_code"])
def test_forks_of_forks_each_count_their_own_failures(host: Host, fork: str) -> None:
    host.run(
        """
        fork = globals().get(sys.argv[1], fork)

        def grow(depth):
            fail()
            pids = [child(lambda: grow(depth - 1)) for _ in range(2 if depth else 0)]
            fail()
            assert [ended(pid) for pid in pids] == [0] * len(pids)

        grow(3)
        """,
        fork,
    )
    assert host.counted() == {"failures": 2 * (1 + 2 + 4 + 8)}


@pytest.mark.parametrize("fork", ["os.fork", "fork_by_c_code"])
def test_a_fork_before_the_first_failure(host: Host, fork: str) -> None:
    host.run(
        """
        fork = globals().get(sys.argv[1], fork)
        pids = [child(lambda: fail(times)) for times in (1, 2, 3)]
        fail(4)
        assert [ended(pid) for pid in pids] == [0, 0, 0]
        """,
        fork,
    )
    assert host.counted() == {"failures": 1 + 2 + 3 + 4}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="has no sys.monitoring")
def test_a_child_that_c_code_forked_has_no_thread_of_ours_and_switches_no_events(
    host: Host,
) -> None:
    """Switching walks the stacks of the parent's threads, which the child's threads overwrite."""
    done = host.run(
        """
        from faultlens import pipeline
        from faultlens.hook.monitoring import FOREIGN_LIMIT

        def foreign():
            for _ in range(2 * FOREIGN_LIMIT):
                try:
                    int("x")
                except ValueError:
                    pass
            tool = next(n for n in range(6) if sys.monitoring.get_tool(n) == "faultlens")
            os.write(1, b"%d " % sys.monitoring.get_events(tool))

        def work():
            fail()
            foreign()
            foreign()
            os.write(1, b"%d\\n" % len(os.listdir("/proc/self/task")))

        fork = fork_by_c_code
        fail()
        foreign()
        assert ended(child(work)) == 0
        print(sys.monitoring.events.RAISE)
    """,
        "fork_by_c_code",
    )
    child, raise_ = done.stdout.splitlines()
    assert child == f"0 {raise_} {raise_} 1"


def test_the_workers_that_uwsgi_forks_from_its_master(host: Host) -> None:
    """Each worker serves, and counts in its threads, although the master has a thread of Flyte's.

    On Python 3.13, switching events crashes such a worker, even without faultlens.
    """
    uwsgi = """
        import sys, types

        uwsgi = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
        uwsgi.numproc = 2
        uwsgi.masterpid = lambda: 0
        uwsgi.worker_id = lambda: number

        number = 0
    """
    source = """
        def request():
            ready.wait()
            fail()
            for _ in range(100):
                try:
                    int("x")
                except ValueError:
                    pass

        def deep(frames):
            if frames:
                deep(frames - 1)
            started.set()
            over.wait()

        def work():
            global number
            number = 1
            threads = [threading.Thread(target=request) for _ in range(9)]
            for thread in threads:
                thread.start()
            request()
            for thread in threads:
                thread.join()
            assert b"faultlens_failures_total" in page()

        ready = threading.Barrier(10)
        started, over = threading.Event(), threading.Event()
        thread = threading.Thread(target=deep, args=(20,))
        thread.start()
        started.wait()
        fork = fork_by_c_code
        for _ in range(5):
            status = ended(child(work))
            assert status == 0, status
        over.set()
    """
    source = textwrap.dedent(uwsgi) + program(source)
    done = children.run(source, "fork_by_c_code", env=dict(host.env), check=False)
    assert done.returncode == 0, done.stderr
    assert host.counted() == {"failures": 5 * 10}


def test_forks_in_threads_while_threads_raise_and_scrape(host: Host) -> None:
    done = host.run("""
        busy, raised, pages, exits = True, [], [], []

        def raise_on():
            count = 0
            while busy:
                fail()
                count += 1
            raised.append(count)

        def scrape_on():
            while busy:
                pages.append(page())

        def fork_on():
            for _ in range(8):
                exits.append(ended(child(lambda: fail(3))))

        page()
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
        assert pages
        print(sum(raised) + 3 * 16)
    """)
    assert host.counted() == {"failures": int(done.stdout)}


def test_short_processes_leave_no_more_files_than_ran_at_once(host: Host) -> None:
    """A scraper sees no error, and no total that goes down. Every fifth process is killed."""
    at_once, processes = 6, 150
    with host.serving(), host.scraping():
        host.run(
            """
            at_once, processes = map(int, sys.argv[1:])

            def work(number):
                fail(2)
                if number % 5 == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            living = []
            for number in range(processes):
                if len(living) == at_once:
                    assert ended(living.pop(0)) in (0, -signal.SIGKILL)
                living.append(child(lambda: work(number)))
            assert {ended(pid) for pid in living} <= {0, -signal.SIGKILL}
            """,
            str(at_once),
            str(processes),
        )
        assert host.failures() == 2 * processes
    assert host.counted() == {"failures": 2 * processes}
    assert host.files() <= at_once + 1  # and their parent


# Killed at any instant.


def test_no_completed_raise_is_lost_when_processes_are_killed_while_raising(
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


def test_a_store_can_be_used_after_processes_were_killed_while_they_made_it(host: Host) -> None:
    host.run("""
        import random
        from pathlib import Path
        from faultlens.exposition.ledger import Ledger
        from faultlens.exposition.ledgers import Ledgers
        from faultlens.settings import StorePath

        def count():
            ledger = Ledger(place, problems.append)
            ledger.open()
            ledger.add(("failures", "sdk.Error"), 1.0)
            os.write(ours, b".")
            return ledger

        problems = []
        for turn in range(40):
            place = StorePath(Path(os.environ["FAULTLENS_STORE"], f"{turn}"), False)
            completed, ours = os.pipe()
            pids = [child(count) for _ in range(3)]
            time.sleep(random.uniform(0, 0.01))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            ledger = count()
            os.close(ours)
            raised = len(os.read(completed, 10))
            (counted,) = Ledgers(place, ledger, problems.append).read().counts.values()
            assert raised <= counted.number <= 4, (turn, raised, counted)
            assert not problems, problems
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
            assert programs[-1].hear() == "ready"
            until(lambda: host.failures() >= 0, "the first to serve")
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


FORKS = """
    fork = globals().get(sys.argv[1], fork)
    page()
    fail()
    if fork():
        while True:
            signal.pause()
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        fail(int(line))
        print("done", flush=True)
"""


@needs_proc
@pytest.mark.parametrize("fork", ["os.fork", "fork_by_c_code"])
def test_a_forked_child_leaves_the_port_to_its_parent_and_takes_it_over(
    host: Host, fork: str
) -> None:
    with host.running([sys.executable, "-c", program(FORKS), fork]) as parent:
        child = int(parent.hear())
        with host.scraping() as scraper:
            assert parent.tell("2") == "done"  # the child answers
            assert host.failures() == 3
            until(lambda: scraper.pages > 0, "a scrape")
            # A child that C code forked keeps its parent's socket until it counts.
            assert listeners(host.port) == {parent.pid}
            parent.process.kill()
            if fork == "os.fork":
                until(lambda: host.failures() >= 0, "the child to serve")
                assert listeners(host.port) == {child}
                assert host.failures() == 3
            assert parent.tell("4") == "done"
        assert host.counted() == {"failures": 7}
