"""Clustered tasks: many processes, the ranks, run one attempt and fail together.

The failure that ends an attempt is one, whichever ranks it ends. The first rank that it ends claims
it and counts; those of the others are `faultlens.failure.Role.PEER`. What a rank raises as an SDK
exception may be handled, so it is claimed by its class and code, apart from the attempt's end.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import NamedTuple

__all__ = ["Rank", "current"]

_ATTEMPT = (
    "FLYTE_INTERNAL_EXECUTION_PROJECT",
    "FLYTE_INTERNAL_EXECUTION_DOMAIN",
    "RUN_NAME",
    "ACTION_NAME",
    "FLYTE_ATTEMPT_NUMBER",
    # Both restart the ranks within an attempt: Kubernetes' JobSet all pods, torchrun those of one.
    "JOBSET_RESTART_ATTEMPT",
    "TORCHELASTIC_RESTART_COUNT",
)
_environ = os.environ  # the host may put something else in its place


class Rank(NamedTuple):
    """A process of a clustered attempt."""

    attempt: tuple[str, ...]
    number: str

    def claim(self, *of: str) -> str:
        """The name of a claim, as a file name. Of what: nothing for the attempt's end."""
        return sha256("\0".join((*self.attempt, *of)).encode("utf-8", "replace")).hexdigest()


def current() -> Rank | None:
    """The rank that this process is; None if it is of no clustered attempt.

    As Flyte knows it (``flyte._internal.runtime.io``): its launcher sets FLYTE_CLUSTERED_WORKER,
    torchrun TORCHELASTIC_RUN_ID.
    """
    if not (_environ.get("FLYTE_CLUSTERED_WORKER") or _environ.get("TORCHELASTIC_RUN_ID")):
        return None
    number = _environ.get("RANK")
    if not number or not _environ.get("RUN_NAME"):
        return None
    return Rank(tuple(_environ.get(name, "") for name in _ATTEMPT), number)
