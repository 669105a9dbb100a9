"""What a run's history tells about its failure, to the client and the parent that read it.

A history is JSON of the server's: a list of events, each with a type and a payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faultlens.failure import Role
from faultlens.sdks import Verdict
from faultlens.sdks.durable_workflow.raises import CLIENT, ERRORS, Raise, local, message_of, plain

__all__ = ["event_of_child", "history_of_result", "told_by", "told_by_history"]

# By event: the class that a replay makes of it. SDK 0.2.0 also takes them in snake case.
_CARRIED = {
    "activityfailed": "ActivityFailed",
    "activitytimedout": "ActivityFailed",
    "childrunfailed": "ChildWorkflowFailed",
    "childruncancelled": "ChildWorkflowCancelled",
    "childrunterminated": "ChildWorkflowTerminated",
}


def history_of_result(raised: Raise) -> tuple[Mapping[str, Any], list[Any]]:
    """The event that ended the run, and the events on the page of history that has it."""
    client = raised.within(CLIENT, "get_result")
    payload, events = local(client, "payload"), local(client, "events")
    return (
        payload if type(payload) is dict else {},
        events if type(events) is list else [],
    )


def event_of_child(raised: Raise) -> Mapping[str, Any]:
    """The event by which a parent's history tells of its child's failure.

    SDK 0.2.0 keeps no more of it than the message, so of two events with the same it is the later:
    the earlier was raised before, in a replay that had only that one.
    """
    events = local(raised.replay.frame, "events") if raised.replay is not None else None
    child, message = raised.text("child_workflow_run_id"), message_of(raised.exc)
    for event in reversed(events if type(events) is list else []):
        payload = event.get("payload") if type(event) is dict else None
        if type(payload) is not dict or not _carried_by(event):
            continue
        if child is not None and plain(payload.get("child_workflow_run_id")) == child:
            return payload
        if child is None and plain(payload.get("message")) == message:
            return payload
    return {}


def told_by(payload: Mapping[str, Any]) -> Verdict | None:
    """A failed workflow tells which activity failed it, from 0.4.106 on."""
    exception = payload.get("exception")
    of_activity = type(exception) is dict and (
        exception.get("activity_attempt_id") or exception.get("activity_type")
    )
    if of_activity or payload.get("failed_activity_execution_id"):
        carries = f"{ERRORS}.ActivityFailed"
        return Verdict(Role.PROPAGATED, "its history names the activity", carries=carries)
    return None


def told_by_history(payload: Mapping[str, Any], events: list[Any]) -> Verdict | None:
    """An activity or a child of the run failed with the same class and message."""
    same = ("exception_class", "message")
    for event in reversed(events):
        earlier = event.get("payload") if type(event) is dict else None
        if type(earlier) is not dict or earlier is payload:
            continue
        carried = _carried_by(event)
        if carried and all(plain(earlier.get(key)) == plain(payload.get(key)) for key in same):
            why = f"its history has the {carried}"
            return Verdict(Role.PROPAGATED, why, carries=f"{ERRORS}.{carried}")
    return None


def _carried_by(event: Mapping[str, Any]) -> str | None:
    event_type = plain(event.get("event_type")) or ""
    return _CARRIED.get(event_type.replace("_", "").lower())
