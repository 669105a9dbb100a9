"""Clustered tasks: many processes, the ranks, run one attempt and fail together.

The failure of an attempt is one, whichever ranks raise it. The first that fails claims the attempt,
and what it raises counts; what the others raise are `faultlens.failure.Role.PEER`.
"""

from __future__ import annotations

import os
import re
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
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_NAME_LIMIT = 200
"""Of a file name, in characters."""


class Rank(NamedTuple):
    """A process of a clustered attempt."""

    attempt: str
    """The attempt, as a file name."""
    number: str


def current() -> Rank | None:
    """The rank that this process is; None if it is of no clustered attempt.

    As Flyte knows it (``flyte._internal.runtime.io``): its launcher sets FLYTE_CLUSTERED_WORKER,
    torchrun TORCHELASTIC_RUN_ID.
    """
    environ = os.environ
    if not (environ.get("FLYTE_CLUSTERED_WORKER") or environ.get("TORCHELASTIC_RUN_ID")):
        return None
    number = environ.get("RANK")
    if not number or not environ.get("RUN_NAME"):
        return None
    parts = (_UNSAFE.sub("_", environ.get(name, "")) for name in _ATTEMPT)
    return Rank("+".join(parts)[:_NAME_LIMIT], number)
