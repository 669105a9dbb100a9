"""Clustered tasks: four ranks run one attempt, whose failure counts once."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from faultlens.exposition import claims
from faultlens.exposition.claims import Claims
from faultlens.sdks.flyte import gang
from faultlens.settings import StorePath
from tests import children
from tests.sdks.test_flyte_pods import CONTAINER, prepare

pytest.importorskip("flyte")

RANKS = 4
READ = """
    import flyte.errors, inside
    names = ("failures", "suppressed", "attempts")
    inside.report([inside.samples(f"faultlens_{name}_total") for name in names])
"""
VALUE_ERROR = "flyte.errors.RuntimeUserError|user|w"
HANDLED = "flyte.errors.RuntimeSystemError|system|w"
ATTEMPT = "flyte|pod.fails_in_some_ranks"


def torchrun(scratch: Path, failing: str, store: str, **env: str) -> list[dict[str, float]]:
    """Run a gang as torchrun does; returns the store's failures, suppressed and attempts."""
    scratch.mkdir()
    command = prepare("fails_in_some_ranks", scratch)
    shared = {
        **CONTAINER,
        "FAILING": failing,
        "FAULTLENS_STORE": store,
        "FLYTE_ATTEMPT_NUMBER": "1",
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": "r7x-a0",
        "WORLD_SIZE": str(RANKS),
        **env,
    }
    ranks = [
        subprocess.Popen(
            command,
            cwd=scratch / "code",
            env=children.environment({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(RANKS)
    ]
    for number, rank in enumerate(ranks):
        if not failing or str(number) in failing + env.get("HANDLING", ""):
            rank.wait(children.TIMEOUT)
    for rank in ranks:
        rank.terminate()
        rank.wait(children.TIMEOUT)
    found: list[dict[str, float]] = children.report(READ, env={"FAULTLENS_STORE": store})
    return found


def by_role(suppressed: dict[str, float], role: str) -> float:
    return sum(count for series, count in suppressed.items() if series.endswith(f"|{role}"))


@pytest.mark.parametrize("failing", ["0", "2", "3", "1 3", "0 1 2 3"])
def test_a_gang_counts_its_failure_once_whichever_ranks_fail(failing: str, tmp_path: Path) -> None:
    failures, suppressed, attempts = torchrun(tmp_path / "r", failing, str(tmp_path / "store"))
    assert failures == {VALUE_ERROR: 1, HANDLED: 1}
    assert by_role(suppressed, "peer") == 2 * (len(failing.split()) - 1)
    assert attempts == {f"{ATTEMPT}|user": 1}


def test_exceptions_that_other_ranks_handle_do_not_hide_the_failure(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    failures, suppressed, attempts = torchrun(tmp_path / "r", "3", store, HANDLING="1 2")
    assert failures == {VALUE_ERROR: 1, HANDLED: 2}  # NoShard and WarmCache
    assert by_role(suppressed, "peer") == 1
    assert attempts == {f"{ATTEMPT}|user": 1}


def test_a_gang_that_succeeds_is_one_attempt(tmp_path: Path) -> None:
    failures, _, attempts = torchrun(tmp_path / "r", "", str(tmp_path / "store"))
    assert failures == {}
    assert attempts == {f"{ATTEMPT}|ok": 1}


def test_each_restart_and_each_attempt_counts(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    restarts: list[dict[str, str]] = [
        {},
        {"TORCHELASTIC_RESTART_COUNT": "1"},
        {"JOBSET_RESTART_ATTEMPT": "1"},
        {"FLYTE_ATTEMPT_NUMBER": "2"},
        {"ACTION_NAME": "a1"},
        {"RUN_NAME": "r2"},
    ]
    for number, env in enumerate(restarts, 1):
        failures, _, attempts = torchrun(tmp_path / str(number), "0 2", store, **env)
        assert failures == {VALUE_ERROR: number, HANDLED: number}, env
        assert attempts == {f"{ATTEMPT}|user": number}, env


def test_without_a_store_each_rank_counts() -> None:
    rank = """
        import flyte.errors, inside
        try:
            raise flyte.errors.RuntimeSystemError("S", "m")
        except flyte.errors.RuntimeSystemError:
            inside.report(inside.failures())
    """
    for number in range(2):
        env = {"RUN_NAME": "r", "TORCHELASTIC_RUN_ID": "r", "RANK": str(number)}
        assert children.report(rank, env={**env, "FAULTLENS_STORE": "off"}) == {HANDLED: 1}


@pytest.mark.parametrize(
    "env", [{}, {"RANK": "1"}, {"RANK": "1", "TORCHELASTIC_RUN_ID": "r"}], ids=str
)
def test_other_processes_are_not_ranks_of_flyte(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLYTE_CLUSTERED_WORKER", "TORCHELASTIC_RUN_ID", "RANK", "RUN_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert gang.current() is None


def test_each_attempt_has_its_own_claims_which_are_file_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLYTE_CLUSTERED_WORKER", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("FLYTE_ATTEMPT_NUMBER", "1")
    names = set()
    for run in ("../../etc/ü" + "x" * 1000, "a/b", "a_b"):
        for attempt in ("1", "2"):
            monkeypatch.setenv("RUN_NAME", run)
            monkeypatch.setenv("FLYTE_ATTEMPT_NUMBER", attempt)
            rank = gang.current()
            assert rank is not None
            names |= {rank.claim(), rank.claim("class", "code")}
    assert len(names) == 3 * 2 * 2
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in names)


# Claims.


def store(tmp_path: Path) -> StorePath:
    return StorePath(tmp_path / "store", private=False)


def test_a_claim_has_one_permanent_holder_in_all_processes(tmp_path: Path) -> None:
    first, second = Claims(store(tmp_path)), Claims(store(tmp_path))
    assert second.claim("a", "3")
    assert not first.claim("a", "0")
    assert first.claim("b", "0")
    assert second.claim("a", "3")
    assert Claims(store(tmp_path)).claim("a", "3"), "another process of the same rank"


def test_every_process_counts_if_no_claim_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (None, StorePath(tmp_path / "file", private=False)):
        assert Claims(place).claim("a", "0")
        assert Claims(place).claim("a", "1")


def test_an_answer_is_remembered(tmp_path: Path) -> None:
    asked = Claims(store(tmp_path))
    assert asked.claim("a", "0")
    (tmp_path / "store" / claims.FOLDER / "a").unlink()
    assert Claims(store(tmp_path)).claim("a", "1")
    assert asked.claim("a", "0")


def test_old_claims_are_removed_by_a_process_that_makes_one(tmp_path: Path) -> None:
    Claims(store(tmp_path)).claim("old", "0")
    folder = tmp_path / "store" / claims.FOLDER
    long_ago = time.time() - claims.STALE_SECONDS - 1
    os.utime(folder / "old", (long_ago, long_ago), follow_symlinks=False)
    later: Any = Claims(store(tmp_path))
    later.sweep()
    assert {path.name for path in folder.iterdir()} == {"old"}
    later.claim("new", "0")
    later.sweep()
    assert {path.name for path in folder.iterdir()} == {"new"}
