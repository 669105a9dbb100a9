"""Shared by `provoke_flyte` and `provoke_durable_workflow`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Provocation", "Provocations", "Provoke"]

Provoke = Callable[[], BaseException]


@dataclass(frozen=True)
class Provocation:
    """A class of an SDK, and how to make the SDK raise it."""

    name: str
    provoke: Provoke
    """Makes the SDK raise it, catches it, and returns it."""
    by_hand: bool = False
    """Whether user code raises it, since the SDK does so nowhere, or only with a cluster."""


class Provocations(dict[str, Provocation]):
    """The provocations of one SDK by class name; which of them exist depends on its version."""

    def enter(self, name: str, *, by_hand: bool = False) -> Callable[[Provoke], Provoke]:
        """Register the decorated function under `name`."""

        def enter(provoke: Provoke) -> Provoke:
            self[name] = Provocation(name, provoke, by_hand)
            return provoke

        return enter
