"""Random programs behave as without faultlens, and each object that they raise is counted once."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from faultlens import series
from faultlens.exposition.ledgers import Ledgers
from faultlens.settings import StorePath
from tests import children

_NEW = sys.version_info >= (3, 12)
_DETECTORS = ["sys.settrace", *(["sys.monitoring"] if _NEW else [])]
_WITHOUT_MONITORING = """
for tool in range(6):
    sys.monitoring.use_tool_id(tool, "another")
"""

_classes = st.integers(0, 2)
_leaves = st.one_of(
    st.tuples(st.sampled_from(["fail", "make", "drop", "throw", "set_on_a_future"]), _classes),
    st.tuples(st.just("fail_stored"), st.integers(0, 9)),
    st.tuples(st.just("foreign"), st.integers(1, 20)),
    st.tuples(st.just("foreign_error")),
)
_ONE_BLOCK = [
    *("catch", "again", "again_by_name", "generated", "delegated", "closed", "threaded"),
    *("uncaught_in_a_thread", "awaited", "gathered", "cancelled", "iterated"),
    *(["task_group", "grouped"] if sys.version_info >= (3, 11) else []),
]


def _programs(detector: str) -> st.SearchStrategy[dict[str, Any]]:
    # settrace misses an unseen raise if the exception's traceback is then removed.
    blocks = [*_ONE_BLOCK, *(["again_without_traceback"] if detector != "sys.settrace" else [])]

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        block = st.lists(inner, max_size=3)
        return st.one_of(
            st.tuples(st.sampled_from(blocks), block),
            st.tuples(st.sampled_from(["handle", "finally_do", "stacked"]), block, block),
            st.tuples(st.sampled_from(["wrap", "replace"]), block, _classes),
            st.tuples(st.just("managed"), block, st.booleans()),
            st.tuples(st.just("retry"), block, st.integers(1, 3)),
        )

    step = st.recursive(_leaves, nested, max_leaves=15)
    return st.fixed_dictionaries(
        {
            "steps": st.lists(step, max_size=4),
            "last": st.lists(step, max_size=2),
            "status": st.none() | st.integers(0, 5),
        }
    )


class Run(NamedTuple):
    """Everything that can be seen of a program from outside."""

    status: int
    happened: Any
    failures: int
    wrapped: int
    output: str
    errors: str


class Player:
    """A process that runs programs one after the other."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._files = _files(folder)
        self._process = process
        self.detector = self._hear()

    def play(self, program: dict[str, Any]) -> Run:
        assert self._process.stdin is not None
        print(json.dumps(program), file=self._process.stdin, flush=True)
        status = int(self._hear())
        said, errors = (path.read_text() for path in self._files)
        assert said, errors
        report, _, output = said.partition("\n")
        happened, failures, wrapped = json.loads(report)
        return Run(status, happened, failures, wrapped, output, errors)

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _files(folder: Path) -> list[Path]:
    return [folder / "stdout", folder / "stderr"]


@contextlib.contextmanager
def _player(folder: Path, detector: str, **env: str) -> Iterator[Player]:
    folder.mkdir()
    start = "import sys\n" + (_WITHOUT_MONITORING if _NEW and detector != _DETECTORS[-1] else "")
    start += "from harmless import programs\nprograms.main()\n"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", start, *map(str, _files(folder))],
            env=children.environment(dict(env)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            with children.limited(process.kill):
                yield Player(folder, process)
        finally:
            process.kill()


class Store:
    """The counts of all programs."""

    def __init__(self, directory: Path) -> None:
        self._ledgers = Ledgers(StorePath(directory, private=False), None, _cannot_be_read)
        self._before: dict[str, int] = {}

    def news(self) -> dict[str, int]:
        """The counts since the last call, by metric."""
        reading = self._ledgers.read()
        now = {
            name: sum(count.number for count in counts.values())
            for name, counts in series.totals(reading.counts, reading.expected).items()
        }
        before, self._before = self._before, now
        return {name: number - before.get(name, 0) for name, number in now.items()}


def _cannot_be_read(reason: str) -> None:
    raise AssertionError(f"the store cannot be read: {reason}")


@pytest.mark.parametrize("detector", _DETECTORS)
def test_a_random_program_behaves_as_without_and_each_object_counts_once(
    detector: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with (
        _player(tmp_path / "without", detector, FAULTLENS="0") as without_us,
        _player(tmp_path / "with", detector, FAULTLENS_STORE=str(store)) as with_us,
    ):
        assert (without_us.detector, with_us.detector) == ("none", detector)
        counted = Store(store)

        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(_programs(detector))
        def check(program: dict[str, Any]) -> None:
            expected, found = without_us.play(program), with_us.play(program)
            news = counted.news()
            for seen, seen_without in zip(found.happened, expected.happened, strict=False):
                assert seen == seen_without
            assert found == expected
            failures, suppressed = news[series.FAILURES], news[series.SUPPRESSED]
            assert failures + suppressed == expected.failures + expected.wrapped
            if detector == "sys.monitoring":  # settrace may see a raise late, with a new cause
                assert failures == expected.failures
            assert news[series.DROPPED] == 0

        check()
