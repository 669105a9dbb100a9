"""What is new in Python 3.14 and 3.15, and in older ones where they have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import children, servers
from tests.exposition.hosts import Host

since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
since_3_15 = pytest.mark.skipif(sys.version_info < (3, 15), reason="new in Python 3.15")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def counted(host: Host) -> dict[str, float]:
    """What the store has: the failures, and the rest by reason."""
    found: Counter[str] = Counter()
    with host.serving():
        for metric in text_string_to_metric_families(servers.get(host.url)):
            for sample in metric.samples:
                if sample.name == "faultlens_failures_total":
                    found["failures"] += int(sample.value)
                elif sample.name in ("faultlens_suppressed_total", "faultlens_dropped_total"):
                    found[sample.labels["reason"]] += int(sample.value)
    return {what: number for what, number in found.items() if number}


def run_file(source: str, folder: Path, env: Mapping[str, str | None]) -> str:
    """Run a program that other processes or interpreters import again; returns what it prints."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, str(program)],
        env=children.environment({**env, "PYTHONPATH": f"{children.TESTS}{os.pathsep}{folder}"}),
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# The start method of multiprocessing.


@since_3_14
def test_the_default_start_method_counts_each_failure_once(host: Host) -> None:
    source = """
        import concurrent.futures, multiprocessing
        from flyte.errors import RuntimeUserError

        class E(RuntimeUserError):
            def __reduce__(self):
                return E, ("c", "m")

        def work(times):
            for _ in range(times):
                try:
                    raise E("c", "m")
                except E:
                    pass

        def fail(times):
            work(times)
            raise E("c", "the last")

        if __name__ == "__main__":
            assert multiprocessing.get_start_method() == "forkserver"
            work(1)
            process = multiprocessing.Process(target=work, args=(2,))
            process.start()
            process.join()
            assert process.exitcode == 0
            with concurrent.futures.ProcessPoolExecutor(2) as pool:
                for future in [pool.submit(fail, times) for times in range(4)]:
                    assert isinstance(future.exception(), E)
                    try:
                        future.result()
                    except E:
                        pass
    """
    run_file(source, host.folder, host.env)
    assert counted(host) == {"failures": 1 + 2 + (0 + 1 + 2 + 3) + 4, "propagated": 4}


# Sub-interpreters. An isolated one has a lock of its own and refuses daemon threads. A legacy one,
# as programs that embed Python make them, takes them, and aborts the process if it ends with one.

INTERPRETERS = """
import os, sys, threading
try:
    import _interpreters
except ImportError:  # before 3.13
    import _xxsubinterpreters as _interpreters

Failed = getattr(_interpreters, "RunFailedError", ())  # before 3.13

def create(kind):
    if sys.version_info >= (3, 13):
        return _interpreters.create(kind)
    return _interpreters.create(isolated=kind == "isolated")

def run(interpreter, source):
    # What an exception that nobody caught says, or None.
    try:
        failure = _interpreters.run_string(interpreter, source)
    except Failed as error:
        return str(error)
    return failure and failure.formatted

def threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
"""

FAIL = {
    "durable_workflow": """
from durable_workflow.errors import NonRetryableError as E
def fail(times):
    for _ in range(times):
        try:
            raise E("m")
        except E:
            pass
""",
    "flyte": """
from flyte.errors import RuntimeUserError
class E(RuntimeUserError):
    def __init__(self, message):
        super().__init__("c", message)
def fail(times):
    for _ in range(times):
        try:
            raise E("m")
        except E:
            pass
""",
}

isolated = pytest.param(
    "isolated",
    marks=pytest.mark.skipif(
        sys.version_info[:2] == (3, 12),
        reason="Python 3.12 aborts once an isolated interpreter has imported asyncio",
    ),
)


@pytest.mark.parametrize("kind", [isolated, "legacy"])
def test_a_sub_interpreter_counts_and_ends_with_and_without_a_failure(
    host: Host, kind: str
) -> None:
    source = INTERPRETERS + textwrap.dedent("""
        fail, kind = sys.argv[1:]
        for ending in ("fail(1)", "raise E('the last')"):
            before = threads()
            interpreter = create(kind)
            failure = run(interpreter, f"{fail}\\nfail(2)\\n{ending}")
            assert ("the last" in failure if "raise" in ending else failure is None), failure
            assert threads() == before
            _interpreters.destroy(interpreter)
        exec(fail)
        fail(1)
    """)
    exported = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"}
    done = children.run(source, FAIL["durable_workflow"], kind, env={**host.env, **exported})
    assert "faultlens" not in done.stderr
    assert counted(host) == {"failures": 3 + 3 + 1}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="flyte leaves a daemon thread: it aborts")
def test_flyte_counts_in_a_sub_interpreter_that_takes_its_daemon_thread(host: Host) -> None:
    source = INTERPRETERS + textwrap.dedent("""
        interpreter = create("legacy")
        assert run(interpreter, sys.argv[1] + "fail(2)") is None
        _interpreters.destroy(interpreter)
    """)
    done = children.run(source, FAIL["flyte"], env=host.env)
    assert "faultlens" not in done.stderr
    assert counted(host) == {"failures": 2}


@pytest.mark.parametrize("kind", [isolated])
def test_flyte_refuses_an_isolated_interpreter_as_ever(host: Host, kind: str) -> None:
    source = INTERPRETERS + textwrap.dedent("""
        interpreter = create(sys.argv[1])
        print(run(interpreter, "import flyte.errors"))
        _interpreters.destroy(interpreter)
    """)
    with_us, without = (
        children.run(source, kind, env={**host.env, "FAULTLENS": value}) for value in ("1", None)
    )
    assert "thread" in without.stdout
    assert with_us.stdout == without.stdout
    assert "faultlens" not in with_us.stderr


@since_3_14
def test_the_interpreters_of_the_standard_library_count(host: Host) -> None:
    source = """
        import sys
        from concurrent import interpreters

        def call():
            fail(1)

        fail = sys.argv[1]
        for work in (fail, fail + "raise E('the last')"):
            one, other = interpreters.create(), interpreters.create()
            thread = other.call_in_thread(exec, fail + "fail(3)")
            try:
                one.exec(work)
            except interpreters.ExecutionFailed as error:
                assert "the last" in str(error)
            one.exec("fail(2)")
            thread.join()
            one.close()
            other.close()
    """
    children.run(source, FAIL["durable_workflow"], env=host.env)
    assert counted(host) == {"failures": 2 * (2 + 3) + 1}


@since_3_14
@pytest.mark.parametrize("store", ["on", "off"])
def test_an_exception_out_of_a_pool_of_interpreters_counts_once(host: Host, store: str) -> None:
    (host.folder / "work.py").write_text(
        FAIL["durable_workflow"] + "\ndef work(times):\n    fail(times)\n    raise E('the last')\n"
    )
    source = """
        from concurrent.futures import InterpreterPoolExecutor
        from work import E, work

        if __name__ == "__main__":
            import inside
            with InterpreterPoolExecutor(2) as pool:
                for future in [pool.submit(work, times) for times in range(4)]:
                    try:
                        future.result()
                    except E:
                        pass
            inside.report([sum(inside.failures().values()), sum(inside.suppressed().values())])
    """
    out = run_file(source, host.folder, host.env if store == "on" else {"FAULTLENS_STORE": "off"})
    if store == "on":
        assert counted(host) == {"failures": (0 + 1 + 2 + 3) + 4, "propagated": 4}
    else:  # what the pool's interpreters have counted ends with them
        assert json.loads(out) == [4, 0]


# Lazy imports.

RAISE_LAZILY = """
import sys
lazy import flyte.errors
lazy from durable_workflow.errors import NonRetryableError

def fail():
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass
    try:
        raise NonRetryableError("m")
    except NonRetryableError:
        pass

heavy = ("flyte", "durable_workflow", "prometheus_client", "opentelemetry", "logging")
early = [name for name in heavy if name in sys.modules]
fail()
fail()
import inside
inside.report([early, inside.failures()])
"""


@since_3_15
@pytest.mark.parametrize("mode", ["normal", "all"])
def test_a_lazily_imported_sdk_counts_from_its_first_use(mode: str) -> None:
    assert children.report(RAISE_LAZILY, env={"PYTHON_LAZY_IMPORTS": mode}) == [
        [],
        {
            "flyte.errors.OOMError|user|w": 2,
            "durable_workflow.errors.NonRetryableError|user|w": 2,
        },
    ]


@since_3_15
def test_no_module_of_an_sdk_is_imported_for_faultlens_alone() -> None:
    source = """
        import json, sys
        import durable_workflow.errors, durable_workflow.worker, flyte.errors
        for make in (flyte.errors.OOMError, durable_workflow.errors.DurableWorkflowError):
            try:
                raise make("OOM", "m")
            except Exception:
                pass
        durable_workflow.worker.Worker
        sdks = ("flyte", "flyteidl2", "durable_workflow", "opentelemetry")
        print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in sdks)))
    """
    with_us, without = (
        children.report(source, env={"PYTHON_LAZY_IMPORTS": "all", "FAULTLENS": value})
        for value in ("1", None)
    )
    assert with_us == without


# Ways to run the interpreter.


@since_3_14
def test_the_jit_changes_no_count() -> None:
    source = """
        import sys
        import inside
        if not sys._jit.is_available():
            inside.report(None)
            sys.exit()
        assert sys._jit.is_enabled()
        from flyte.errors import RuntimeUserError as E

        def fail(exc):
            raise exc

        def work(times):
            for number in range(times):
                try:
                    fail(E("c", "m"))
                except E:
                    pass
                E("c", "never raised")
                try:
                    fail(ValueError(number))
                except ValueError:
                    pass

        work(20_000)
        inside.report(inside.total())
    """
    counted = children.report(source, env={"PYTHON_JIT": "1"})
    if counted is None:
        pytest.skip("a Python that was built without the JIT")
    assert counted == 20_000


def test_no_warning_of_ours_in_development_mode_where_warnings_are_errors() -> None:
    source = """
        import http.server, threading
        import durable_workflow.worker, flyte
        import inside
        from faultlens import pipeline
        from faultlens.commands import endpoint
        from flyte.errors import RuntimeUserError as E

        try:
            raise E("c", "m")
        except E:
            pass
        server = pipeline.running().server
        inside.until(lambda: server.listening)
        page = endpoint.fetch(endpoint.metrics_url(server.host, server.port), 1200)
        assert page.count("faultlens_failures_total{") > 1

        class Stranger(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(404)
            def log_message(self, *args):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
            thread = threading.Thread(target=stranger.handle_request)
            thread.start()
            assert endpoint.store_served(f"http://127.0.0.1:{stranger.server_port}/") is None
            thread.join()
        inside.report(inside.failures())
    """
    done = children.run(source, env={"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"})
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"flyte.errors.RuntimeUserError|user|w": 1}


# Free-threaded builds. The interpreter is one that only says so: no such build is at hand.


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
@pytest.mark.parametrize("gil", [True, False])
def test_without_the_interpreter_lock_faultlens_says_so_and_stays_off(gil: bool) -> None:
    source = f"""
        import sys
        sys._is_gil_enabled = lambda: {gil}
        import faultlens
        faultlens.enable()
        import flyte.errors, inside
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        started = "faultlens.pipeline" in sys.modules
        inside.report([inside.total(), started])
    """
    done = children.run(source, env={"FAULTLENS": None})
    counted, started = json.loads(done.stdout)
    if gil:
        assert (counted, started, done.stderr) == (1, True, "")
    else:
        assert (counted, started) == (0, False)
        assert done.stderr == (
            "faultlens: stays off and records nothing: this free-threaded Python runs without "
            "the global interpreter lock, and failures would be counted wrong; PYTHON_GIL=1 or "
            "-X gil=1 turns the lock on.\n"
        )
