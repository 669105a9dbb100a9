"""The record that flows from the hook through an SDK adapter to the sinks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CANCELLED", "OK", "Failure", "Kind", "Role"]

OK = "ok"
CANCELLED = "cancelled"
"""The outcomes of an attempt that no failure ended; the others are kinds, and ``propagated``."""


class Kind(str, Enum):
    """Whose fault a failure is, and so who has to act."""

    USER = "user"
    """The code, input or credentials of whoever wrote or called the workflow."""
    SYSTEM = "system"
    """The platform: the one kind that pages the platform team."""
    UNKNOWN = "unknown"
    """It cannot be determined from what is seen; a rule in ``FAULTLENS_RULES`` can decide."""


class Role(str, Enum):
    """What a raised SDK exception is to the failure behind it."""

    ORIGIN = "origin"
    """The first SDK exception that shows a failure: it counts."""
    PROPAGATED = "propagated"
    """A copy that an SDK rebuilt from a failure counted where it was raised."""
    WRAPPED = "wrapped"
    """Raised because of another SDK exception, which counted."""
    REPLAYED = "replayed"
    """The same failure again, raised from a workflow's history."""
    CONTROL_FLOW = "control_flow"
    """Raised and swallowed by the SDK while nothing went wrong."""
    CONFIGURED = "configured"
    """Left out by the user's configuration."""
    PEER = "peer"
    """Another rank of the same clustered attempt has counted."""


class Failure(NamedTuple):
    """One SDK exception, described at the moment it was first raised in this process."""

    sdk: str
    """The SDK's import name: ``flyte`` or ``durable_workflow``."""
    type: str
    """Full dotted name of the exception's class, ``flyte.errors.OOMError``."""
    kind: Kind
    worker: str
    """Who ran the failing code: a stable name, never an id made for one run."""
    role: Role = Role.ORIGIN
    why: str = ""
    """The reason for the role in words, for the debug log."""
    carries: str | None = None
    """The class of the exception behind a carrier; None if it is not known."""
    code: str | None = None
    """The SDK's or the user's short error code as text, if the exception has one."""
    context: Mapping[str, str] = MappingProxyType({})
    """Where it happened, as span event attributes: run, action, workflow, task queue, ...

    Empty unless a span or a log records it.
    """
    task: str = ""
    """The task, activity or workflow that was running, by a stable name; empty outside of one."""
    reason: str = ""
    """What went wrong: a word of `faultlens.rules.REASONS`, or empty."""
    owner: str = ""
    """Who has to act, as a rule names them, or empty."""
