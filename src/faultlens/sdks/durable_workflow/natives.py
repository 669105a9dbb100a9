"""The class behind a carrier: what an activity or a workflow failed by, of which a name is left.

A name with a module is `exception_class`, in Python's or PHP's form. SDK 0.2.0 sends none.
The server then fills in a class of its own, and `exception_type` has the class's short name.
"""

from __future__ import annotations

from faultlens import guard
from faultlens.identity import IdentityMap
from faultlens.sdks.durable_workflow.raises import plain

__all__ = ["CARRIERS", "name_of", "of_event", "short_name"]

CARRIERS = ("ActivityFailed", "ChildWorkflowFailed", "WorkflowFailed")
"""The classes that stand for whatever failed an activity or a workflow."""

of_event: IdentityMap[str] = IdentityMap()
"""The `exception_type` of a history's event, for an exception that does not have it itself."""


def name_of(exc: object) -> str | None:
    """The class's name, with its module if that is known; None if nothing is."""
    exception_class = plain(guard.attribute(exc, "exception_class"))
    exception_type = plain(guard.attribute(exc, "exception_type")) or of_event.get(exc)
    if exception_class is not None and set(exception_class) & {".", "\\"}:
        return exception_class
    return exception_type or exception_class


def short_name(name: str) -> str:
    return name.replace("\\", ".").rpartition(".")[2]
