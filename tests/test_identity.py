"""What is remembered about objects, and for how long."""

from __future__ import annotations

import copy
import gc

from faultlens.identity import IdentityMap


class Unhashable(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_a_value_is_its_object_s_alone_whatever_that_is_equal_to() -> None:
    values: IdentityMap[str] = IdentityMap()
    one, other = Unhashable(), Unhashable()
    values.set(one, "one")
    assert values.get(one) == "one"
    assert values.get(other) is None
    assert values.get(copy.copy(one)) is None


def test_it_is_forgotten_with_its_object_which_is_not_kept() -> None:
    values: IdentityMap[str] = IdentityMap()
    for _ in range(100):  # most of them get the address of the one before
        exc = Unhashable()
        assert values.get(exc) is None
        values.set(exc, "known")
        assert len(values) <= 2
        del exc
    gc.collect()
    assert len(values) == 0


def test_the_last_value_counts() -> None:
    values: IdentityMap[str] = IdentityMap()
    exc = Unhashable()
    values.set(exc, "first")
    values.set(exc, "second")
    assert values.get(exc) == "second"
    del exc
    assert len(values) == 0


def test_nothing_is_remembered_of_what_takes_no_weak_reference() -> None:
    values: IdentityMap[str] = IdentityMap()
    exc = ValueError()
    values.set(exc, "lost")
    assert values.get(exc) is None
    assert len(values) == 0


def test_what_is_kept_is_known_until_it_is_discarded() -> None:
    values: IdentityMap[str] = IdentityMap()
    exc = ValueError()
    values.keep(exc, "known")
    assert values.get(exc) == "known"
    values.discard(ValueError())
    assert values.get(exc) == "known"
    values.discard(exc)
    assert values.get(exc) is None
    assert len(values) == 0
