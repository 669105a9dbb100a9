"""The record that flows from the hook through an SDK adapter to the sinks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CANCELLED", "OK", "Failure", "Kind", "Role"]

OK = "ok"
CANCELLED = "cancelled"
"""The outcomes of attempts that did not fail. The other outcomes are kinds, and ``propagated``."""


class Kind(str, Enum):
    """Whose fault a failure is, and so who has to act; in the order of urgency."""

    SYSTEM = "system"
    """The fault of the platform: the only kind that pages the platform team."""
    UNKNOWN = "unknown"
    """It cannot be determined; a rule in ``FAULTLENS_RULES`` can decide."""
    USER = "user"
    """The fault of those who wrote or called the workflow: their code, input or credentials."""


class Role(str, Enum):
    """How a raised SDK exception relates to the failure behind it."""

    ORIGIN = "origin"
    """The first SDK exception that shows a failure. Only this one is counted as a failure."""
    PROPAGATED = "propagated"
    """A copy that an SDK rebuilt from a failure, which was counted where it was raised."""
    WRAPPED = "wrapped"
    """Raised because of another SDK exception, which was counted."""
    REPLAYED = "replayed"
    """The same failure again, raised from a workflow's history."""
    CONTROL_FLOW = "control_flow"
    """Raised and swallowed by the SDK although nothing went wrong."""
    CONFIGURED = "configured"
    """Excluded by the user's configuration."""
    PEER = "peer"
    """Another rank of the same clustered attempt has counted the failure."""


class Failure(NamedTuple):
    """One SDK exception, described at the moment it was first raised in this process."""

    sdk: str
    """The SDK's import name: ``flyte`` or ``durable_workflow``."""
    type: str
    """The full dotted name of the exception's class, e.g. ``flyte.errors.OOMError``."""
    kind: Kind
    worker: str
    """Who ran the failing code: a stable name, never an id of a single run."""
    role: Role = Role.ORIGIN
    why: str = ""
    """The reason for the role in words, for the log."""
    carries: str | None = None
    """The class of the exception that a carrier carries; None if it is not known."""
    code: str | None = None
    """The SDK's or the user's short error code, if the exception has one."""
    context: Mapping[str, str] = MappingProxyType({})
    """Where it happened, as span event attributes: run, action, workflow, task queue, ...

    Empty unless a span or a log record needs it.
    """
    task: str = ""
    """The stable name of the task, activity or workflow that was running; empty if none was."""
    reason: str = ""
    """What went wrong: one of `faultlens.rules.REASONS`, or empty."""
    owner: str = ""
    """Who has to act, from a rule; may be empty."""
