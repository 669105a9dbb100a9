"""Clustered tasks: many processes, the ranks, run one attempt and fail together.

The end of an attempt is one failure, however many ranks it ends. The first of these ranks claims
the failure and counts it; in the others it is `faultlens.failure.Role.PEER`. An SDK exception that
a rank raises may be handled, so it has a claim of its own, by class and code.
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
    # Ranks may restart within an attempt: JobSet restarts all pods, torchrun the ranks of one pod.
    "JOBSET_RESTART_ATTEMPT",
    "TORCHELASTIC_RESTART_COUNT",
)
_environ = os.environ  # the original: the host may replace it


class Rank(NamedTuple):
    """A process of a clustered attempt."""

    attempt: tuple[str, ...]
    number: str

    def claim(self, *of: str) -> str:
        """The name of a claim, which is a valid file name.

        of: the class and code of what is claimed; nothing for the end of the attempt.
        """
        return sha256("\0".join((*self.attempt, *of)).encode("utf-8", "replace")).hexdigest()


def current() -> Rank | None:
    """The rank of this process; None if the process does not run a clustered attempt.

    Determined as Flyte does (``flyte._internal.runtime.io``): its launcher sets
    FLYTE_CLUSTERED_WORKER, torchrun sets TORCHELASTIC_RUN_ID.
    """
    if not (_environ.get("FLYTE_CLUSTERED_WORKER") or _environ.get("TORCHELASTIC_RUN_ID")):
        return None
    number = _environ.get("RANK")
    if not number or not _environ.get("RUN_NAME"):
        return None
    return Rank(tuple(_environ.get(name, "") for name in _ATTEMPT), number)
