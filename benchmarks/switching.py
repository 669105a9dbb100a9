"""Measures what it costs to switch raise detection on and off: ``python benchmarks/switching.py``.

Prints one column for each Python 3.12 and later that is found on the PATH and in .venv: how many
microseconds more than without faultlens each exception takes. Only the hook is measured. It needs
no SDK and no other package, so any interpreter will do. ``--limits 1,16,100`` shows what other
values of `faultlens.hook.monitoring.FOREIGN_LIMIT` would cost on the Python that runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
ROUNDS = 15
TIMES = 200
THREADS, FRAMES = 30, 15
FUNCTIONS, LINES = 30, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limits", help="comma-separated values of FOREIGN_LIMIT")
    parser.add_argument("--measure", type=int, metavar="LIMIT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    if arguments.limits:
        columns = {
            f"limit {limit}": ask(sys.executable, int(limit))
            for limit in arguments.limits.split(",")
        }
    else:
        columns = {version: ask(path) for version, path in pythons().items()}
    print("extra microseconds per exception, compared with no faultlens")
    print(f"{'':44}" + "".join(f"{name:>12}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"{row:44}" + "".join(f"{column[row]:12.1f}" for column in columns.values()))


def pythons() -> dict[str, str]:
    """The interpreters from 3.12 on, by version."""
    found: dict[str, str] = {}
    for minor in range(12, 16):
        here = sorted(ROOT.glob(f".venv/3.{minor}-*/bin/python"), reverse=True)
        for path in (*map(str, here), shutil.which(f"python3.{minor}") or ""):
            if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
                found[f"3.{minor}"] = path
                break
    return found


def ask(python: str, limit: int = 0) -> dict[str, float]:
    done = subprocess.run(
        [python, "-S", __file__, "--measure", str(limit)],
        env={**os.environ, "FAULTLENS": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(limit: int) -> dict[str, float]:
    """Measure each situation with and without the hook, in turns; returns the differences in µs."""
    sys.path.insert(0, str(ROOT / "src"))
    from faultlens.hook import Hook, monitoring

    if limit:
        monitoring.FOREIGN_LIMIT = limit

    class Error(RuntimeError):
        pass

    def attempt(raises: int, foreign: int) -> None:
        try:
            error = Error()
            if raises:
                raise error
        except Error:
            pass
        for _ in range(foreign):
            try:
                raise KeyError
            except KeyError:
                pass

    def paired(name: str, act: Callable[[], None]) -> None:
        for number in range(ROUNDS):
            for hooked in (False, True) if number % 2 else (True, False):
                hook = Hook(lambda exc, frame, counted: None, lambda reason, error: None)
                if hooked:
                    hook.watch([Error])
                start = time.perf_counter()
                for _ in range(TIMES):
                    act()
                taken[hooked].append((time.perf_counter() - start) / TIMES * 1e6)
                hook.stop()
        result[name] = median(b - a for a, b in zip(taken[False], taken[True], strict=True))
        taken[False].clear()
        taken[True].clear()

    taken: dict[bool, list[float]] = {False: [], True: []}
    result: dict[str, float] = {}
    functions = long_functions()

    def among_functions(raises: int) -> None:
        attempt(raises, 0)
        for function in functions:
            function()

    paired("constructed only", lambda: attempt(0, 0))
    paired("raised", lambda: attempt(1, 0))
    paired("raised, then 3 foreign exceptions", lambda: attempt(1, 3))
    paired("raised, then 30 foreign exceptions", lambda: attempt(1, 30))
    paired("constructed, 30 functions of 60 lines", lambda: among_functions(0))
    paired("raised, 30 functions of 60 lines", lambda: among_functions(1))
    with idle_threads():
        paired("constructed, 30 idle threads of 15 frames", lambda: attempt(0, 0))
        paired("raised, 30 idle threads of 15 frames", lambda: attempt(1, 0))
        paired("raised and 30 foreign, 30 idle threads", lambda: attempt(1, 30))
    return result


def long_functions() -> list[Callable[[], None]]:
    namespace: dict[str, Callable[[], None]] = {}
    lines = "".join(f"    x = {line}\n" for line in range(LINES))
    for number in range(FUNCTIONS):
        exec(f"def f{number}():\n{lines}", namespace)
    return [namespace[f"f{number}"] for number in range(FUNCTIONS)]


@contextmanager
def idle_threads() -> Iterator[None]:
    end, ready = threading.Event(), threading.Barrier(THREADS + 1)

    def wait(depth: int = FRAMES) -> None:
        if depth:
            wait(depth - 1)
        else:
            ready.wait()
            end.wait()

    threads = [threading.Thread(target=wait) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
