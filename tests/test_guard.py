from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens import guard


class Evil(str):
    """A str whose every method misbehaves."""

    def __len__(self) -> int:
        raise SystemExit

    def __getitem__(self, index: Any) -> str:
        raise SystemExit

    def encode(self, *args: Any) -> bytes:
        raise SystemExit

    def __str__(self) -> str:
        return self


class Raises:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    @property
    def code(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, RecursionError])
def test_what_a_stranger_raises_stays_in(error: type[BaseException]) -> None:
    assert guard.text(Raises(error), 10) is None
    assert guard.attribute(Raises(error), "code") is None


def test_a_str_subclass_gives_its_characters_and_none_of_its_code() -> None:
    text = guard.text(Evil("abc"), 10)
    assert type(text) is str
    assert text == "abc"


@given(st.text(alphabet=st.characters(), max_size=50), st.integers(1, 20))
def test_text_is_bounded_and_can_be_encoded(value: str, limit: int) -> None:
    text = guard.text(value, limit)
    assert text is not None
    assert len(text) <= limit
    text.encode()


def test_lone_surrogates_are_replaced() -> None:
    assert guard.text("a\ud800b", 10) == "a?b"


def test_a_class_s_name_is_read_past_its_metaclass() -> None:
    class Meta(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise RuntimeError

        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError

    class Named(metaclass=Meta):
        pass

    assert guard.class_name(Named).endswith(".Named")
    assert guard.class_name(Named).startswith("tests.test_guard.")
