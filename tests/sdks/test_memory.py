"""The memory of failures is bounded, works by key, and gives the same answer again."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from faultlens.sdks.memory import Bounded, Claims


class Failure(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_the_first_exception_with_a_key_claims_it_permanently() -> None:
    claims = Claims()
    first, second = Failure(), Failure()
    assert claims.claim(("run", 1), first, "Failure") is None
    assert claims.claim(("run", 1), first, "Failure") is None, "asked again, it says the same"
    assert claims.claim(("run", 1), second, "Failure") == "Failure"
    assert claims.claim(("run", 2), second, "Failure") is None
    del first
    gc.collect()
    assert claims.claim(("run", 1), second, "Failure") == "Failure"


def test_an_unclaimed_key_is_not_claimed_by_a_look() -> None:
    claims = Claims()
    exc = Failure()
    assert claims.holder("key", exc) is None
    assert claims.claim("key", exc, "Failure") is None
    assert claims.holder("key", exc) is None
    assert claims.holder("key", Failure()) == "Failure"


def test_recently_used_entries_are_kept_and_the_memory_is_bounded() -> None:
    memory: Bounded[int] = Bounded(limit=100)
    for number in range(10_000):
        memory.setdefault(("key", number), number)
        assert memory.get(("key", 0)) == 0, "used again and again"
        assert len(memory) <= 102
    assert all(memory.get(("key", number)) == number for number in range(9_960, 10_000))
    assert memory.get(("key", 5_000)) is None


def test_a_value_is_never_replaced() -> None:
    memory: Bounded[str] = Bounded(limit=4)
    assert memory.setdefault("key", "first") == "first"
    assert memory.setdefault("key", "second") == "first"


def test_threads_agree_on_who_was_first() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        claims, winners = Claims(), []
        barrier = threading.Barrier(8)

        def claim() -> None:
            mine = [Failure() for _ in range(300)]
            barrier.wait()
            for number, exc in enumerate(mine):
                if claims.claim(("run", number), exc, "Failure") is None:
                    winners.append(number)

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(winners) == list(range(300))


def test_random_interleavings_of_replays_give_one_claim_for_each_run_and_failure() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    steps = st.tuples(st.text(max_size=3), st.integers(0, 4))

    @hypothesis.given(st.lists(steps, max_size=60))
    def check(raises: list[tuple[str, int]]) -> None:
        claims = Claims()
        first = [key for key in raises if claims.claim(("number", *key), Failure(), "F") is None]
        assert sorted(first) == sorted(set(raises))

    check()
