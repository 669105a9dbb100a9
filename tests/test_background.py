"""The thread of our own: what it does, and that the program does not notice it."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping

import pytest

from faultlens.background import Background, Job
from faultlens.natives import POLLIN
from faultlens.sockets import Socket
from tests import children
from tests.children import TIMEOUT
from tests.servers import free_port, until


class Counting(Job):
    """Counts what is called."""

    interval = 0.01

    def __init__(self) -> None:
        self.runs = 0
        self.ends = 0

    def run(self) -> None:
        self.runs += 1

    def end(self) -> None:
        self.ends += 1


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    assert background.stop(TIMEOUT)


def test_a_job_runs_at_once_at_each_interval_and_ends_once(background: Background) -> None:
    job = Counting()
    background.add(job)
    assert background.start()
    until(lambda: job.runs > 2, "three runs")
    assert job.ends == 0
    assert background.stop(TIMEOUT)
    runs = job.runs
    assert job.ends == 1
    assert background.stop(TIMEOUT)
    assert (job.runs, job.ends) == (runs, 1)


def test_a_job_s_end_is_a_last_run_unless_it_says_otherwise(background: Background) -> None:
    class Runs(Job):
        runs = 0

        def run(self) -> None:
            self.runs += 1

    job = Runs()
    job.interval = 10.0 * TIMEOUT
    background.add(job)
    background.start()
    until(lambda: job.runs == 1, "the first run")
    assert background.stop(TIMEOUT)
    assert job.runs == 2


def test_stop_wakes_the_thread(background: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "interval", 10.0 * TIMEOUT)
    job = Readable()
    job.interval = Job.interval
    background.add(job)
    background.start()
    until(lambda: job.asked > 0, "it to wait")
    assert background.stop(TIMEOUT)


def test_jobs_come_and_go_while_the_thread_runs(background: Background) -> None:
    first, second = Counting(), Counting()
    background.add(first)
    background.start()
    background.add(second)
    until(lambda: second.runs > 0, "a job that was added")
    background.remove(second)
    until(lambda: first.runs > 0, "a job")
    assert background.stop(TIMEOUT)
    assert (first.ends, second.ends) == (1, 0)


def test_it_can_be_started_again(background: Background) -> None:
    job = Counting()
    background.add(job)
    for time in range(1, 3):
        assert background.start()
        assert background.start()  # once is enough
        before = job.runs
        until(lambda before=before: job.runs > before, "a run")  # type: ignore[misc]
        assert background.stop(TIMEOUT)
        assert job.ends == time


@pytest.mark.parametrize("error", [ValueError, MemoryError, SystemExit, KeyboardInterrupt])
def test_a_job_that_raises_is_logged_and_goes_on_and_so_do_the_others(
    background: Background, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Counting):
        def run(self) -> None:
            super().run()
            raise error("it is broken")

        def end(self) -> None:
            super().end()
            raise error("it is broken")

    caplog.set_level(logging.DEBUG, "faultlens")
    broken, sound = Broken(), Counting()
    background.add(broken)
    background.add(sound)
    background.start()
    until(lambda: min(broken.runs, sound.runs) > 2, "three runs of both")
    assert background.stop(TIMEOUT)
    assert (broken.ends, sound.ends) == (1, 1)
    assert "Broken of faultlens failed" in caplog.text
    assert "it is broken" in caplog.text
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


class Readable(Counting):
    """Has a socket with something to read, which it may or may not read."""

    interval = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Socket.pair()
        self.asked = 0
        self.events: list[Mapping[int, int]] = []

    def sockets(self) -> Mapping[int, int]:
        self.asked += 1
        return {self.one.fileno(): POLLIN}

    def ready(self, events: Mapping[int, int]) -> None:
        self.events.append(events)
        self.one.recv(1)

    def end(self) -> None:
        self.one.close()
        self.other.close()


def test_a_job_is_told_what_happens_on_its_sockets(background: Background) -> None:
    job, other = Readable(), Readable()
    number = job.one.fileno()
    background.add(job)
    background.add(other)
    background.start()
    for count in range(1, 4):
        job.other.send(b"x")
        until(lambda count=count: len(job.events) == count, "an event")  # type: ignore[misc]
    assert job.events == [{number: POLLIN}] * 3
    assert other.events == []


@pytest.mark.parametrize("where", ["sockets", "ready"])
def test_a_job_that_cannot_deal_with_its_sockets_is_asked_again_at_its_next_run(
    background: Background, where: str
) -> None:
    """The socket stays readable: the thread would spin."""

    class Broken(Readable):
        calls = 0

        def sockets(self) -> Mapping[int, int]:
            self.calls += where == "sockets"
            if where == "sockets":
                raise ValueError("it is broken")
            return super().sockets()

        def ready(self, events: Mapping[int, int]) -> None:
            self.calls += 1
            raise ValueError("it is broken")

    job = Broken()
    job.other.send(b"x")
    background.add(job)
    background.start()
    until(lambda: job.runs > 4, "five runs")
    assert background.stop(TIMEOUT)
    assert job.calls <= 2 * job.runs
    if where == "ready":
        assert job.calls > 1


# The end.

HANGS = """
import threading
from faultlens.background import Background, Job

class Hangs(Job):
    def run(self):
        hangs.set()
        never.acquire()

    def end(self):
        print("not reached")

hangs, never = threading.Event(), threading.Lock()
never.acquire()
background = Background()
background.add(Hangs())
assert background.start()
hangs.wait()
"""


def test_a_job_that_hangs_holds_up_neither_stop_nor_the_end_of_the_process() -> None:
    done = children.run(f"{HANGS}\nassert not background.stop(0.01)")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_thread_that_hung_and_was_stopped_runs_nothing_beside_the_next_one() -> None:
    children.run(f"""{HANGS}
assert not background.stop(0)
hangs.clear()
threads = []
Hangs.end = lambda self: threads.append(threading.get_ident())
Hangs.run = lambda self: threads.append(threading.get_ident())
assert background.start()
import time
while not threads:
    time.sleep(0.01)
first = set(threads)
threads.clear()
never.release()
while not set(threads) - first:  # the old thread's end
    time.sleep(0.01)
assert background.stop(600)
assert threads.count(*(set(threads) - first)) == 1
""")


def test_a_job_may_stop_the_thread_that_it_runs_in() -> None:
    class Stops(Counting):
        stopped = False

        def run(self) -> None:
            super().run()
            until(lambda: thread._thread is not None, "the return of start")
            self.stopped = thread.stop(TIMEOUT)

    thread, job = Background(), Stops()
    thread.add(job)
    thread.start()
    until(lambda: job.ends == 1, "the end")
    assert job.stopped
    assert job.runs == 1


BUSY = """
import atexit, logging, os, sys, threading
from faultlens.background import Background, Job

class Busy(Job):
    interval = 0.0

    def run(self):
        started.set()
        sum(range(1000))
        logging.getLogger("faultlens").warning("x" * 100)

logging.basicConfig(stream=open(os.devnull, "w"))
started = threading.Event()
background = Background()
background.add(Busy())
assert background.start()
started.wait()
"""

ENDS = {
    "nothing": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "an exception": ("raise SystemExit(5)", 5),
    "sys.exit in a thread": ("threading.Thread(target=sys.exit, args=(6,)).start()", 0),
    "SystemExit in atexit": ("atexit.register(sys.exit, 7)", 0),
    "a signal": ("import signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
}


@pytest.mark.parametrize("stops", ["", "atexit.register(background.stop, 600)\n"])
@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_as_it_does_without_it_however_busy_the_thread_is(
    end: str, stops: str
) -> None:
    source, status = ENDS[end]
    for _ in range(5):
        done = children.run(BUSY + stops + source, check=False)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert "Fatal" not in done.stderr
        assert "fault" not in done.stderr
        if end != "SystemExit in atexit":
            assert done.stderr == ""


def test_where_no_thread_can_be_started_nothing_is() -> None:
    """While the interpreter ends, and there without a word on stderr."""
    done = children.run("""
        import atexit
        from faultlens.background import Background

        class Late:
            def __del__(self, background=Background()):
                assert not background.start()
                assert background.stop(600)
                print("late", flush=True)

        atexit.register(lambda: Background().start())
        late = Late()
    """)
    assert (done.stdout, done.stderr) == ("late\n", "")


SUB_INTERPRETERS = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
"""


def test_a_sub_interpreter_has_no_thread_and_can_end() -> None:
    done = children.run(f"""{SUB_INTERPRETERS}
import os, sys
read, write = os.pipe()
sub = interpreters.create()
problem = interpreters.run_string(sub, f'''
import os, sys
sys.path[:] = {{sys.path!r}}
from faultlens.background import Background
from faultlens.exposition.serving import Server
background = Background()
background.add(Server(dict(), "localhost", 0))
os.write({{write}}, b"%d %d" % (background.start(), background.stop(600)))
''')
assert problem is None, problem
interpreters.destroy(sub)
print(os.read(read, 10))
""")
    assert (done.stdout, done.stderr) == ("b'0 1'\n", "")


# What the program sees.


def test_the_thread_is_not_among_the_program_s_whatever_its_jobs_ask() -> None:
    done = children.run("""
        import logging, threading, time
        from faultlens.background import Background, Job

        class Asks(Job):
            interval = 0.01
            runs = 0

            def run(self):
                logging.getLogger("faultlens").warning("of %s", threading.current_thread().name)
                self.runs += 1

        logging.basicConfig(format="%(threadName)s %(message)s")
        job, background = Asks(), Background()
        background.add(job)
        background.start()
        while job.runs < 3:
            time.sleep(0.01)
        background.remove(job)
        seen = job.runs
        while threading.active_count() > 1:  # nothing is left, once the last run has ended
            time.sleep(0.01)
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
        assert background.stop(600)
        assert threading.active_count() == 1
    """)
    assert "of Dummy-1" in done.stderr


def test_signals_stay_the_program_s() -> None:
    """It can block one and wait for it, and the handler of another interrupts its sleep."""
    children.run("""
        import os, signal, time
        from faultlens.background import Background, Job

        class Runs(Job):
            runs = 0

            def run(self):
                self.runs += 1

        job, background = Runs(), Background()
        background.add(job)
        background.start()
        while not job.runs:
            time.sleep(0.01)

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.sigwait([signal.SIGTERM]) == signal.SIGTERM

        class Interrupted(Exception):
            pass

        def interrupt(*_):
            raise Interrupted

        signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            time.sleep(600)
        except Interrupted:
            print("interrupted")
        assert background.stop(600)
    """)


# Forks.

FORK = """
import ctypes, os, time
from faultlens import sockets
from faultlens.background import Background, Job

class Runs(Job):
    interval = 0.01
    runs = 0

    def run(self):
        self.runs += 1

def runs_on(job):
    before = job.runs
    while job.runs == before:
        time.sleep(0.01)

def threads():
    return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else None

def descriptors():
    return set(os.listdir("/dev/fd"))

before = descriptors()
job, background = Runs(), Background()
background.add(job)
background.start()
runs_on(job)
"""

# With this, threads give the interpreter's lock away only where they wait. So ours is in poll() at
# a fork by C code: the child could not run if ours waited for that lock.
IN_POLL = f"import sys; sys.setswitchinterval(1000)\n{FORK}"


def test_a_forked_child_has_a_thread_once_it_resumes() -> None:
    children.run(f"""{FORK}{children.ENDED}
pid = os.fork()
if pid == 0:
    try:
        assert descriptors() == before
        assert background._thread is not None
        background.resume()
        runs_on(job)
        assert threads() in (2, None)
        background.resume()  # once is enough
        assert threads() in (2, None)
        assert background.stop(600)
        assert descriptors() == before
        assert background.start()
        runs_on(job)
        os._exit(0)
    finally:
        import traceback
        traceback.print_exc()
        os._exit(1)
assert ended(pid) == 0
runs_on(job)
background.resume()  # does nothing here
assert threads() in (2, None)
assert background.stop(600)
assert descriptors() == before
""")


def test_a_child_that_c_code_forked_has_no_thread_and_lets_go_of_the_parent_s_sockets() -> None:
    """Where the parent's thread waited for the interpreter's lock, a second thread would hang."""
    children.run(f"""{IN_POLL}{children.ENDED}
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    try:
        background.resume()
        assert threads() in (1, None)
        assert descriptors() == before
        assert background.stop(600)
        os._exit(0)
    finally:
        import traceback
        traceback.print_exc()
        os._exit(1)
assert ended(pid) == 0
runs_on(job)
assert background.stop(600)
""")


def test_the_port_of_a_job_that_was_removed_is_free_at_once(background: Background) -> None:
    """While the thread waits for a socket, the kernel keeps it, even if it is closed."""
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port))

    class Listens(Job):
        interval = 600.0
        waits = threading.Event()

        def sockets(self) -> Mapping[int, int]:
            self.waits.set()
            return {listener.fileno(): POLLIN}

    job = Listens()
    background.add(job)
    background.start()
    assert job.waits.wait(TIMEOUT)
    background.remove(job)
    listener.close()
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_the_end_of_a_forked_child_that_did_not_resume_waits_for_no_thread(fork: str) -> None:
    children.run(f"""{IN_POLL}{children.ENDED}
pid = {fork}()
if pid == 0:
    os._exit(0 if background.stop(600) else 1)
assert ended(pid) == 0
assert background.stop(600)
""")


def test_forks_while_the_thread_makes_sockets() -> None:
    """No child keeps one, and none hangs."""
    children.run(f"""{FORK}{children.ENDED}
class Makes(Job):
    interval = 0.0

    def run(self):
        for end in sockets.Socket.pair():
            end.close()

background.add(Makes())
pids = []
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert descriptors() == before, descriptors()
            background.resume()
            runs_on(job)
            status = 0
        finally:
            os._exit(status)
    pids.append(pid)
assert [ended(pid) for pid in pids] == [0] * 50
assert background.stop(600)
""")


# Descriptors that the program has closed.

COUNTS_TURNS = """
import os, resource, time
from faultlens import natives
from faultlens.background import Background, Job

class Runs(Job):
    interval = 0.1
    runs = 0

    def run(self):
        self.runs += 1

def more_runs(count):
    until = job.runs + count
    while job.runs < until:
        time.sleep(0.01)

def counting(watched, seconds):
    global turns
    turns += 1
    return wait(watched, seconds)

turns = 0
wait, natives.wait = natives.wait, counting
job, background = Runs(), Background()
background.add(job)
background.start()
more_runs(1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX's")
def test_a_program_that_closes_everything_and_gets_the_numbers_again() -> None:
    children.run(f"""{COUNTS_TURNS}
ours = [end.fileno() for end in background._thread._bell._ends]
os.closerange(3, 4096)
theirs, other = os.pipe()
os.write(other, b"x")  # readable all the time
for number in ours:
    os.dup2(theirs, number)
before, turns = job.runs, 0
more_runs(20)
assert turns < 10 * (job.runs - before), turns
assert background.stop(600)
assert [os.fstat(number) for number in ours] == [os.fstat(theirs)] * 2  # not closed
assert os.read(theirs, 10) == b"x"
""")


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
def test_a_program_that_allows_itself_no_descriptors() -> None:
    children.run(f"""{COUNTS_TURNS}
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
before, turns = job.runs, 0
more_runs(3)
assert turns < 10 * (job.runs - before), turns
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
more_runs(3)
assert background.stop(600)
""")


def test_a_fork_waits_for_what_our_thread_imports() -> None:
    """Else the child would have a module that is half imported, for ever."""
    children.run("""
import os
from faultlens import background, natives
from faultlens.background import Background, Job, no_fork

background._FORK_SECONDS = 600
holds = forking = done = False

class Imports(Job):
    def run(self):
        global holds, done
        if not done:
            with no_fork:
                holds = True
                while not forking:
                    natives.sleep(0.001)
                natives.sleep(0.3)
                done = True

thread = Background()
thread.add(Imports())
thread.start()
while not holds:
    natives.sleep(0.001)
forking = True
pid = os.fork()
assert done
if pid == 0:
    with no_fork:
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert thread.stop(600)
""")
