"""Forked, spawned and dying processes: each counts its own, nobody hangs, nobody keeps the port."""

from __future__ import annotations

import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from tests import children

FLYTE = """
import os, sys, threading, time
import flyte.errors, inside
from faultlens import pipeline

def fail(times=1):
    for _ in range(times):
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
"""
OURS = "flyte.errors.OOMError|user|w"


def test_a_forked_child_counts_on_and_has_no_socket() -> None:
    found = children.report(
        FLYTE
        + """
import socket
fail(2)
port = pipeline.running().server.port
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    fail(3)
    os.write(writer, str(int(sum(inside.failures().values()))).encode())
    time.sleep(30)
    os._exit(0)
counted = os.read(reader, 100).decode()
pipeline.running().server.stop()
# The child lives. Were the listening socket still open in it, the port would be taken.
with socket.socket() as other:
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", port))
    other.listen()
os.kill(child, 9)
os.waitpid(child, 0)
inside.report([counted, inside.failures()])
"""
    )
    assert found == ["5", {OURS: 2}]


def test_a_fork_while_other_threads_count_leaves_a_child_that_counts() -> None:
    found = children.report(
        FLYTE
        + """
stop = threading.Event()
def busy():
    while not stop.is_set():
        fail()
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        before = sum(inside.failures().values())
        fail(2)
        os._exit(0 if sum(inside.failures().values()) == before + 2 else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        status = "hung"
    statuses.append(status)
stop.set()
for thread in threads:
    thread.join()
inside.report(statuses)
""",
        timeout=120,
    )
    assert found == [0] * 20


def test_a_fork_in_a_thread_leaves_a_child_that_counts() -> None:
    found = children.report(
        FLYTE
        + """
status = []
def work():
    child = os.fork()
    if child == 0:
        fail()
        os._exit(int(sum(inside.failures().values())))
    status.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread = threading.Thread(target=work)
thread.start()
thread.join()
inside.report(status)
"""
    )
    assert found == [1]


WORKER = """
import sys
sys.path.insert(0, {tests!r})

def count(times):
    import flyte.errors, inside
    for _ in range(times):
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
    return inside.failures()

if __name__ == "__main__":
    import multiprocessing, inside
    context = multiprocessing.get_context({method!r})
    with context.Pool(1) as pool:
        inside.report(pool.apply(count, (3,)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_pool_inherits_the_variable(tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(WORKER.format(tests=str(children.TESTS), method=method))
    done = subprocess.run(
        [sys.executable, str(program)],
        env=children.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'{{"{OURS}": 3}}'


def test_a_subprocess_inherits_the_variable() -> None:
    found = children.report(
        FLYTE
        + """
import subprocess
code = "import flyte.errors, inside; from faultlens import pipeline; "\\
       "inside.report(pipeline.running() is not None)"
inside.report(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
"""
    )
    assert found == "true"


def test_an_exception_that_ends_the_program_is_counted_and_reported_as_ever() -> None:
    program = """
import atexit, flyte.errors, sys
def last():
    from prometheus_client import REGISTRY
    for metric in REGISTRY.collect():
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


def test_what_is_raised_at_exit_and_in_finalizers_is_counted() -> None:
    done = children.run(
        FLYTE
        + """
import atexit
class Late:
    def __del__(self):
        fail()
atexit.register(lambda: print(inside.failures()))
atexit.register(fail)
late = Late()
del late
fail()
"""
    )
    assert done.stdout == f"{{'{OURS}': 3}}\n"


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-s"], ["-B"], ["-O"], ["-X", "dev"]])
def test_options_of_the_interpreter_leave_the_start_up_line_alone(options: list[str]) -> None:
    code = "import flyte.errors; from faultlens import pipeline; print(pipeline.running() is None)"
    done = subprocess.run(
        [sys.executable, *options, "-W", "ignore", "-c", code],
        env=children.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "False\n", done.stderr


def test_a_zipapp_is_a_program_like_any_other(tmp_path: Path) -> None:
    source = tmp_path / "app"
    source.mkdir()
    (source / "__main__.py").write_text(
        "import flyte.errors, inside\n"
        "try:\n    raise flyte.errors.OOMError('OOM', 'm')\n"
        "except flyte.errors.OOMError:\n    pass\n"
        "inside.report(inside.failures())\n"
    )
    zipapp.create_archive(source, tmp_path / "app.pyz")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "app.pyz")],
        env=children.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f'{{"{OURS}": 1}}\n', done.stderr
