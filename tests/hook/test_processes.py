"""However a process begins and ends, it counts its own raises, and does not hang or keep a port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path

import pytest

from tests import children
from tests.servers import free_port

# The start of programs whose children are forked, spawned or run: what a child does and reports.
_COMMON = """
    import gc, json, multiprocessing, os, signal, sys, threading, time
    import inside
    from flyte.errors import RuntimeUserError as E

    gc.freeze()  # what was imported need not be searched for each look at the metrics

    def fail():
        try:
            raise E("c", "m")
        except E as caught:
            return caught

    def work(pipe=None):
        before = inside.total()
        for _ in range(3):
            fail()
        counted = inside.total() - before
        if pipe is not None:
            pipe.send(counted)
        return counted
"""


def _program(body: str) -> str:
    return textwrap.dedent(_COMMON) + children.ENDED + textwrap.dedent(body)


def test_children_forked_while_threads_raise_and_scrape_do_not_hang() -> None:
    source = _program("""
        busy = True
        def raise_on():
            while busy:
                fail()
        def scrape_on():
            while busy:
                inside.samples("faultlens_failures_total")
        threads = [threading.Thread(target=target) for target in (raise_on, raise_on, scrape_on)]
        for thread in threads:
            thread.start()
        exits = []
        for _ in range(6):
            pid = os.fork()
            if pid == 0:
                # Threads of the child may get the identity of one that was busy in the parent.
                before = inside.total()
                for _ in range(3):
                    thread = threading.Thread(target=fail)
                    thread.start()
                    thread.join()
                os._exit(int(inside.total() - before))
            exits.append(ended(pid))
        busy = False
        for thread in threads:
            thread.join()
        inside.report(exits)
    """)
    assert children.report(source) == [3] * 6


def test_a_child_forked_in_a_thread_counts_its_own_raises() -> None:
    source = _program("""
        exits = []
        def fork():
            pid = os.fork()
            if pid == 0:
                os._exit(int(work()))
            exits.append(ended(pid))

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        inside.report(exits)
    """)
    assert children.report(source) == [3]


def test_a_child_forked_during_our_own_work_counts_its_own_raises() -> None:
    source = _program("""
        from opentelemetry import trace

        class Forks(trace.NonRecordingSpan):
            def is_recording(self):
                if not pids:
                    pids.append(os.fork())
                return False

        pids = []
        with trace.use_span(Forks(trace.INVALID_SPAN_CONTEXT)):
            fail()
        if 0 in pids:
            os._exit(int(work()))
        inside.report([[ended(pid) for pid in pids], inside.total()])
    """)
    assert children.report(source) == [[3], 1]


def test_a_pending_exception_raised_in_both_child_and_parent_counts_in_each() -> None:
    source = _program("""
        exc = E("c", "m")
        pid = os.fork()
        try:
            raise exc
        except E:
            pass
        del exc
        if pid == 0:
            os._exit(int(inside.total()))
        inside.report([ended(pid), inside.total()])
    """)
    assert children.report(source) == [1, 1]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_children_count_their_own_raises(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    source = _program("""
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(theirs,))
            process.start()
            counted = ours.recv()
            process.join(1200)
            with context.Pool(1) as pool:
                pooled = pool.apply(work)
            inside.report([counted, process.exitcode, pooled, inside.total()])
    """)
    program.write_text(source)
    done = subprocess.run(
        [sys.executable, str(program), method],
        env=children.environment(),
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=True,
    )
    assert json.loads(done.stdout) == [3, 0, 3, 0]


@pytest.mark.parametrize("store", ["off", "on"])
def test_an_exception_that_comes_back_from_a_process_pool_counts_once_in_a_store(
    tmp_path: Path, store: str
) -> None:
    program = tmp_path / "program.py"
    source = """
        import concurrent.futures, multiprocessing
        import inside
        from flyte.errors import RuntimeUserError

        class E(RuntimeUserError):
            def __reduce__(self):
                return E, ("c", "m")

        def work():
            raise E("c", "m")

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                future = pool.submit(work)
                in_the_child = pool.submit(inside.total).result()  # one worker: after that
                try:
                    future.result()
                except E as caught:
                    assert caught is future.exception()
            del future
            inside.report([in_the_child, inside.failures(), inside.suppressed()])
    """
    program.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, str(program)],
        env=children.environment(
            {"FAULTLENS_STORE": str(tmp_path / "store") if store == "on" else "off"}
        ),
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=True,
    )
    in_the_child, failures, suppressed = json.loads(done.stdout)
    assert in_the_child == 1
    # Without a store, the child's counts end with the child: only the parent's are visible.
    assert list(failures.values()) == [1]
    assert [name.rpartition("|")[2] for name in suppressed] == ["propagated"] * (store == "on")


def test_a_subprocess_inherits_the_switch_and_counts_its_own_raises() -> None:
    source = _program("""
        import subprocess
        if len(sys.argv) == 1:
            again = [sys.executable, "-c", sys.orig_argv[2], "as a child"]
            done = subprocess.run(again, capture_output=True, text=True, check=True)
            inside.report([json.loads(done.stdout), inside.total()])
        else:
            inside.report(work())
    """)
    assert children.report(source) == [3, 0]


def test_the_port_is_free_when_the_parent_is_gone_but_its_child_is_alive() -> None:
    source = _program("""
        from faultlens import pipeline
        server = pipeline.running().server
        inside.until(lambda: server.listening)
        print(json.dumps([server.host, server.port]), flush=True)
        if os.fork() == 0:
            print("forked", flush=True)
            sys.stdin.read()  # until the test lets go
        os._exit(0)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", source],
        # The system might give one of its own ports to somebody else meanwhile.
        env=children.environment({"OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port())}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        host, port = json.loads(parent.stdout.readline())
        assert parent.stdout.readline() == "forked\n"
        parent.wait(children.TIMEOUT)
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(address[:2])
            again.listen()


def test_an_abrupt_exit_of_the_child_loses_nothing_of_the_parent() -> None:
    source = _program("""
        fail()
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                try:
                    raise E("c", "m")
                finally:
                    os._exit(0)
            ended(pid)
        fail()
        inside.report(inside.total())
    """)
    assert children.report(source) == 2


# Ways to start Python.

_SMALL = """
import sys
sys.path.insert(0, {tests!r})
import inside
from flyte.errors import RuntimeUserError as E
try:
    raise E("c", "m")
except E:
    pass
inside.report(inside.total())
"""


def _small() -> str:
    return _SMALL.format(tests=str(children.TESTS))


def _counted(*command: str, env: dict[str, str | None] | None = None) -> object:
    done = subprocess.run(
        [sys.executable, *command],
        env=children.environment(env),
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("option", ["-I", "-E", "-OO"])
def test_the_options_of_python_change_nothing(option: str) -> None:
    assert _counted(option, "-c", _small()) == 1


def test_without_site_packages_nothing_starts() -> None:
    source = "import sys; print(sum(name.startswith('faultlens') for name in sys.modules))"
    assert _counted("-S", "-c", source) == 0


def test_a_module_a_zip_application_and_a_script_count_alike(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__main__.py").write_text(_small())
    zipapp.create_archive(package, tmp_path / "app.pyz")
    assert _counted(str(package / "__main__.py")) == 1
    assert _counted(str(tmp_path / "app.pyz")) == 1
    assert _counted("-m", "app", env={"PYTHONPATH": str(tmp_path)}) == 1


def test_a_pth_line_run_twice_starts_once() -> None:
    source = """
        import sys
        import site
        from pathlib import Path
        import faultlens

        line = (Path(faultlens.__file__).parent.parent / "faultlens.pth").read_text()
        for _ in range(2):
            exec(line)
        from faultlens import imports
        import inside
        from flyte.errors import RuntimeUserError as E
        for _ in range(2):
            exec(line)
        try:
            raise E("c", "m")
        except E:
            pass
        inside.report([sys.meta_path.count(imports._finder), inside.total()])
    """
    assert children.report(source) == [1, 1]


def test_without_an_sdk_the_switch_costs_no_thread_and_no_descriptor() -> None:
    source = """
        import json, os, threading
        print(json.dumps([threading.active_count(), len(os.listdir("/proc/self/fd"))]))
    """
    if not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        pytest.skip("no /proc")
    on, off = (children.report(source, env={"FAULTLENS": value}) for value in ("1", None))
    assert on == off


def test_an_exception_that_ends_the_program_is_counted_and_reported_as_usual() -> None:
    program = """
import atexit, faultlens, flyte.errors, sys
def last():
    for metric in faultlens.collector().collect():
        for sample in metric.samples:
            if sample.name == "faultlens_failures_total" and sample.value:
                print(sample.labels["class"], sample.value)
atexit.register(last)
raise flyte.errors.OOMError("OOM", "the end")
"""
    with_us = children.run(program, check=False)
    without = children.run(program, env={"FAULTLENS": None}, check=False)
    # Flyte's own excepthook writes to stdout.
    assert with_us.stdout == without.stdout + "flyte.errors.OOMError 1\n"
    assert (with_us.returncode, with_us.stderr) == (without.returncode, without.stderr)
    assert "the end" in without.stdout + without.stderr
