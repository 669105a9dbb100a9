"""What `provoke_flyte` and `provoke_durable_workflow` are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Provocation", "Provocations", "Provoke"]

Provoke = Callable[[], BaseException]


@dataclass(frozen=True)
class Provocation:
    """One class of an SDK, and how to make it happen."""

    name: str
    provoke: Provoke
    """Makes it happen, catches it, and returns it."""
    by_hand: bool = False
    """The SDK has no raise site for it, or none without a cluster: user code raises it."""


class Provocations(dict[str, Provocation]):
    """The provocations of one SDK by class name; which of them exist depends on its version."""

    def enter(self, name: str, *, by_hand: bool = False) -> Callable[[Provoke], Provoke]:
        """Enter the decorated function under `name`."""

        def enter(provoke: Provoke) -> Provoke:
            self[name] = Provocation(name, provoke, by_hand)
            return provoke

        return enter
