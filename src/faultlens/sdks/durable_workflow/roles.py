"""What a Durable Workflow exception is to the failure behind it.

    the exception                               is
    ------------------------------------------  ------------------------------------------------
    any, raised again in another replay of the
      run: each task and each query replays     replayed
    WorkflowCancelled, thrown into a workflow   control_flow
    ServerError that the worker or the client
      expects and swallows: see `SWALLOWED`     control_flow
    ActivityFailed, ChildWorkflowFailed,
      WorkflowFailed that name an SDK class     propagated: it counted where it was raised
    ... of a run that failed in this process
      by an SDK exception                       propagated
    ... whose history tells of an activity or a
      child behind it                           propagated: it counted in the run that saw it
    ... that name a class of the user's, or
      none                                      the origin: nothing was raised before that counts
    the end of a run, awaited a second time     replayed; propagated if as another class
    QueryFailed, UpdateRejected, UpdateFailed,
      UpdateValidationFailed that a worker of
      this process raised before                propagated
    {ActivityLease,QueryTask}AuthorityLost of
      an attempt that has lost it already       propagated
    any that was raised from another            wrapped, by the base class
    any other                                   the origin

What cannot be known. The memory is this process's: a worker that restarts counts the failures again
that it replays then, and of two workers that replay one run each counts them once. A query or an
update that a worker in another process refused counts there and at its client: the answer does not
tell who gave it. Of two activities that fail in parallel the SDK raises only the first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, ClassVar, NamedTuple

from faultlens import guard
from faultlens.failure import Kind, Role
from faultlens.identity import IdentityMap
from faultlens.rules.patterns import loaded_class
from faultlens.sdks import CAUSE_LIMIT, Verdict
from faultlens.sdks.durable_workflow.histories import (
    event_of_child,
    history_of_result,
    told_by,
    told_by_history,
)
from faultlens.sdks.durable_workflow.natives import name_of, of_event
from faultlens.sdks.durable_workflow.raises import (
    CLIENT,
    ERRORS,
    FRAME_LIMIT,
    TESTING,
    WORKER,
    WORKFLOW,
    Raise,
    local,
    message_of,
    plain,
    replay_in,
    within,
)
from faultlens.sdks.memory import LIMIT, Bounded, Claims, Ordinals

__all__ = ["SWALLOWED", "Roles", "current_activity"]

# ServerErrors that the SDK swallows: the status, the reasons, and the functions that do it.
SWALLOWED: tuple[tuple[tuple[int, ...], frozenset[str], str, tuple[str, ...]], ...] = (
    (  # the server asks a poll to come back later
        (429,),
        frozenset({"long_poll_capacity_exhausted"}),
        WORKER,
        ("_poll_workflow_tasks", "_poll_activity_tasks", "_poll_query_tasks"),
    ),
    (  # a worker that leaves is gone already
        (404,),
        frozenset({"worker_not_found"}),
        CLIENT,
        ("deregister_worker_registration",),
    ),
    (  # a query that was answered, or given up, by the time the worker has its answer
        (404, 409),
        frozenset(
            {"lease_expired", "query_task_not_found", "query_task_not_leased"}
            | {"query_task_timed_out"}
        ),
        WORKER,
        ("_run_query_task", "_run_query_task_core", "_fail_query_task", "_poll_query_tasks"),
    ),
    (  # an update's validation, likewise
        (),
        frozenset(
            {"duplicate_update_validation_completion", "stale_update_validation_completion"}
            | {"update_validation_lease_expired", "update_validation_task_not_found"}
            | {"update_validation_task_not_leased", "update_validator_worker_lost"}
        ),
        WORKER,
        ("_run_update_validation_task", "_reject_update_validation_task"),
    ),
)

# What names one failure in all its replays, where the server or the SDK gave it an id.
_IDS = ("failure_id", "activity_execution_id", "activity_attempt_id", "service_call_id")
_IDS_OF_A_CHILD = ("child_workflow_run_id",)

USER_CLASSES_LIMIT = 1024
"""How many of the user's subclasses of SDK classes are remembered by name."""

Run = tuple[int, str]


class End(NamedTuple):
    """How a run, or an update, ended in this process."""

    behind: str
    """The class that ended it."""
    counted: bool
    """Whether that, or what caused it, was an SDK exception, which has counted."""
    outcome: str = ""
    """The outcome of the run, as an attempt."""


class Roles:
    """Gives the verdict on each raise, from the raise and from what was seen before.

    classes: the SDK's exceptions by their full names.
    limit: how many keys each of the memories holds.
    """

    def __init__(self, classes: Mapping[str, type[BaseException]], limit: int = LIMIT) -> None:
        self._classes = classes
        self._short_names = {name.rpartition(".")[2] for name in classes}
        self._user_classes: dict[str, None] = {}
        self._claims = Claims(limit)
        self._ordinals = Ordinals()
        # What a replayed carrier brings on, by its number in the replay.
        self._carried: Bounded[str] = Bounded(limit)
        self._ends: Bounded[End] = Bounded(limit)
        self._answers: Bounded[str] = Bounded(limit)
        self.subjects: IdentityMap[str] = IdentityMap()
        """The workflow that an exception is about, where only the history or the client tells."""
        self.replay_code: CodeType | None = None
        """The code of the function that replays a workflow, once its module is imported."""
        self.environment: Callable[[], int] = lambda: 0
        """The number of the WorkflowEnvironment's execution that runs the current code."""

    # What the hooks report.

    def forget_replays(self) -> None:
        """No function is known any more that replays."""
        self.replay_code = None

    def command_made(
        self, outcome: Callable[[BaseException], str], update_id: object = None
    ) -> None:
        """The SDK makes the command that ends a workflow or an update with a failure.

        It does so while it handles the exception, so that is at hand, itself and not its name.

        outcome: gives the outcome of a run that ends by an exception.
        """
        exc = sys.exc_info()[1]
        if exc is None:
            return
        end = End(*self.behind(exc))
        if update_id is not None:
            key: tuple[object, ...] = ("update", plain(update_id))
        else:
            frames = tuple(guard.frames(exc, sys._getframe(1), FRAME_LIMIT))
            replay = replay_in(frames, self.replay_code, self.environment())
            if replay is None:
                return
            key = ("run", *replay.run)
            end = end._replace(outcome=outcome(exc))
        self._ends.setdefault(key, end)

    def outcome_of_run(self, run_id: str | None) -> str:
        """How a run of a worker's failed, as the outcome of an attempt."""
        end = self._ends.get(("run", 0, run_id or ""))
        return end.outcome if end is not None else Kind.UNKNOWN.value

    def behind(self, exc: BaseException) -> tuple[str, bool]:
        """The class that failed a workflow, and whether an SDK exception has shown that failure."""
        for link in (exc, *guard.causes(exc, CAUSE_LIMIT - 1)):
            name = guard.class_name(type(link))
            if self._is_ours(type(link)) and name != f"{ERRORS}.WorkflowCancelled":
                return name, True
        return guard.class_name(type(exc)), False

    # The verdict.

    def verdict(
        self, exc: BaseException, frame: FrameType | None, names: tuple[str, ...]
    ) -> Verdict | None:
        self._remember(type(exc))
        frames = tuple(guard.frames(exc, frame, FRAME_LIMIT))
        replay = replay_in(frames, self.replay_code, self.environment())
        raised = Raise(exc, names[0] if names else "", frames, replay, frame is not None)
        self._read_about(raised)
        replayed = self._replayed(raised)
        number = self._number(raised)
        if replayed is not None:
            carried = self._carried.get(number) if number is not None else None
            return replayed._replace(carries=carried or replayed.carries)
        rule = next((self._RULES[name] for name in names if name in self._RULES), None)
        verdict = rule(self, raised) if rule is not None else None
        if number is not None and verdict is not None and verdict.role is Role.PROPAGATED:
            self._carried.setdefault(number, verdict.carries or raised.name)
        return verdict

    def _read_about(self, raised: Raise) -> None:
        """Remember what only the history and the client tell of a carrier."""
        exc = raised.exc
        waiting = raised.within(CLIENT, "get_result")
        if waiting is not None:
            for known in (local(waiting, "handle"), local(waiting, "desc")):
                if workflow_type := plain(guard.attribute(known, "workflow_type")):
                    self.subjects.set(exc, workflow_type)
                    break
        payload: Mapping[str, object] = {}
        if raised.name == "WorkflowFailed":
            payload, _ = history_of_result(raised)
        elif raised.name == "ChildWorkflowFailed" and raised.text("child_workflow_run_id") is None:
            payload = event_of_child(raised)  # SDK 0.2.0
            if child_type := plain(payload.get("child_workflow_type")):
                self.subjects.set(exc, child_type)
        if exception_type := plain(payload.get("exception_type")):
            of_event.set(exc, exception_type)

    def _number(self, raised: Raise) -> tuple[object, ...] | None:
        """What names the exception in each replay of the run: the count of its class before it."""
        if raised.replay is None:
            return None
        name = guard.class_name(type(raised.exc))
        return (
            "number",
            *raised.replay.run,
            name,
            self._ordinals.number(raised.replay.context, name, raised.exc),
        )

    def _replayed(self, raised: Raise) -> Verdict | None:
        """Whether an earlier replay of the run has raised this failure.

        Its ids tell, else its number in the replay. A local activity's failure has its ids only
        from the second replay on, so the number is asked for both.
        """
        exc, name, replay = raised.exc, guard.class_name(type(raised.exc)), raised.replay
        of_child = raised.name.startswith("ChildWorkflow")
        thrown = of_child or raised.name == "ActivityFailed"  # by a replay, and by nothing else
        ids = tuple(filter(None, map(raised.text, _IDS_OF_A_CHILD if of_child else _IDS)))
        earlier = None
        if ids and (replay is not None or thrown):
            earlier = self._claims.claim(("id", name, *ids), exc, name)
        key = self._number(raised)
        if replay is not None and key is not None:
            if ids:
                earlier = earlier or self._claims.holder(key, exc)
            else:
                earlier = self._claims.claim(key, exc, name)
                self._claims.claim(("message", *replay.run, name, message_of(exc)), exc, name)
        elif thrown and not ids and not raised.raising:
            earlier = self._replayed_long_ago(raised, name)
        if earlier is None:
            return None
        return Verdict(Role.REPLAYED, "raised in an earlier replay of the run", carries=name)

    def _replayed_long_ago(self, raised: Raise, name: str) -> str | None:
        """The same for a raise that is over, by the class and the message that the failure has.

        On Python 3.10 and 3.11 the raise of an exception that was made long before, from a long
        history, is seen when it is freed: as its replay returns to who asked for it.
        """
        frames = tuple(guard.frames(raised.exc, sys._getframe(1), FRAME_LIMIT))
        task = within(frames, WORKER, "_run_workflow_task")
        run_id = plain(local(task, "run_id"))
        run = (0, run_id) if run_id else self._run_in_environment(frames)
        if run is None or guard.traceback_of(raised.exc) is None:
            return None
        return self._claims.claim(("message", *run, name, message_of(raised.exc)), raised.exc, name)

    def _run_in_environment(self, frames: tuple[FrameType, ...]) -> Run | None:
        """The run that a WorkflowEnvironment executes."""
        executing = within(frames, TESTING, "execute_workflow")
        run_id = plain(local(executing, "current_run_id")) or plain(local(executing, "run_id"))
        return (self.environment(), run_id) if run_id else None

    def _server_error(self, raised: Raise) -> Verdict | None:
        body = guard.attribute(raised.exc, "body")
        reason = dict.get(body, "reason") if issubclass(type(body), dict) else None
        status = guard.attribute(raised.exc, "status")
        if type(reason) is not str or type(status) is not int:
            return None
        for statuses, reasons, module, functions in SWALLOWED:
            if reason in reasons and (not statuses or status in statuses):
                swallower = raised.within(module, *functions)
                # A registration that is fenced by a token must be found.
                if swallower is not None and local(swallower, "fenced") is not True:
                    return Verdict(Role.CONTROL_FLOW, f"{reason}, expected by {functions[0]}")
        return None

    def _workflow_cancelled(self, raised: Raise) -> Verdict | None:
        if raised.replay is not None:
            return Verdict(Role.CONTROL_FLOW, "thrown into the workflow that is cancelled")
        return self._end_of_run(raised, self._awaited_run(raised))

    def _activity_failed(self, raised: Raise) -> Verdict | None:
        return self._named(raised)

    def _child_failed(self, raised: Raise) -> Verdict | None:
        payload = event_of_child(raised)
        child = raised.text("child_workflow_run_id") or plain(payload.get("child_workflow_run_id"))
        return (
            self._end_of_run(raised, (0, child) if child else None)
            or self._named(raised)
            or told_by(payload)
        )

    def _workflow_failed(self, raised: Raise) -> Verdict | None:
        payload, events = history_of_result(raised)
        return (
            self._end_of_run(raised, self._awaited_run(raised))
            or self._named(raised)
            or told_by(payload)
            or told_by_history(payload, events)
        )

    def _awaited(self, raised: Raise) -> Verdict | None:
        return self._end_of_run(raised, self._awaited_run(raised))

    def _awaited_run(self, raised: Raise) -> Run | None:
        """The run whose result is awaited where this is raised."""
        run_id = plain(local(raised.within(CLIENT, "get_result"), "run_id"))
        return (0, run_id) if run_id else self._run_in_environment(raised.frames)

    def _end_of_run(self, raised: Raise, run: Run | None) -> Verdict | None:
        """Whether the failure of a run has been seen already, under whatever class."""
        if run is None:
            return None
        key = ("run", *run)
        end = self._ends.get(key)
        if end is not None and end.counted:
            why = f"the run failed by {end.behind}, here"
            return Verdict(Role.PROPAGATED, why, carries=end.behind)
        earlier = self._claims.claim(key, raised.exc, raised.name)
        if earlier is not None:
            same = earlier == raised.name
            role = Role.REPLAYED if same else Role.PROPAGATED
            carries = f"{ERRORS}.{earlier}"
            return Verdict(role, f"the run's end was seen before, as {earlier}", carries=carries)
        if end is not None:
            why = f"the run failed by {end.behind}, which is no SDK exception"
            return Verdict(Role.ORIGIN, why)
        return None

    def _answer(self, raised: Raise) -> Verdict | None:
        """A worker of this process raises it; then its client does, from the server's answer."""
        task = raised.within(WORKER, *_ANSWERING) if raised.frames else None
        asked = raised.within(CLIENT, "query_workflow", "update_workflow")
        message = message_of(raised.exc)
        update_id = raised.text("update_id")
        if asked is not None:
            workflow_id = plain(local(asked, "workflow_id"))
            known = self._answers.get((workflow_id, message))
            end = self._ends.get(("update", update_id)) if update_id else None
            if known is None and end is not None and end.counted:
                known = end.behind
            if known is not None:
                why = "a worker of this process has answered with it"
                return Verdict(Role.PROPAGATED, why, carries=known)
            return None
        workflow_id = _workflow_of(task)
        if workflow_id is not None:
            name = guard.class_name(type(raised.exc))
            self._answers.setdefault((workflow_id, message), name)
        return self._query_on_failed(raised, message)

    def _query_on_failed(self, raised: Raise, message: str | None) -> Verdict | None:
        """A query on a run whose replay ends in its failure shows that failure."""
        asking = raised.within(WORKFLOW, "_prepare_query_state", "query_state")
        run_id = plain(local(asking, "run_id"))
        if run_id is None or not (message or "").startswith("workflow replay failed before query"):
            return None
        return self._end_of_run(raised, (self.environment(), run_id))

    def _lost(self, raised: Raise) -> Verdict | None:
        task = raised.text("task_id") or raised.text("query_task_id")
        if task is None:
            return None
        key = ("lost", raised.name, task, _current_attempt())
        if self._claims.claim(key, raised.exc, raised.name) is None:
            return None
        carries = guard.class_name(type(raised.exc))
        return Verdict(Role.PROPAGATED, "the attempt's authority is lost already", carries=carries)

    # One rule for each class, or for its nearest base that has one.
    _RULES: ClassVar[dict[str, Callable[[Roles, Raise], Verdict | None]]] = {
        "ServerError": _server_error,
        "ActivityFailed": _activity_failed,
        "ChildWorkflowFailed": _child_failed,
        "WorkflowFailed": _workflow_failed,
        "WorkflowCancelled": _workflow_cancelled,
        "WorkflowTerminated": _awaited,
        "WorkflowTimedOut": _awaited,
        "QueryFailed": _answer,
        "UpdateRejected": _answer,
        "UpdateFailed": _answer,
        "UpdateValidationFailed": _answer,
        "ActivityLeaseAuthorityLost": _lost,
        "QueryTaskAuthorityLost": _lost,
    }

    # Classes of which only the name is left.

    def _named(self, raised: Raise) -> Verdict | None:
        """Whether a carrier names an SDK class, or a user's subclass of one."""
        name = name_of(raised.exc)
        if name is not None and self._names_ours(name):
            return Verdict(Role.PROPAGATED, f"{name} counted where it was raised", carries=name)
        return None

    def _names_ours(self, name: str) -> bool:
        # What a spawned process calls the module that is the main one here.
        name = name.replace("__mp_main__.", "__main__.", 1)
        module, _, short = name.rpartition(".")
        if short == "WorkflowCancelled":
            return False  # thrown into the workflow: it did not count there
        if module in ("", ERRORS):
            return short in self._short_names or name in self._user_classes
        return name in self._user_classes or self._is_ours(loaded_class(name))

    def _is_ours(self, cls: type | None) -> bool:
        return cls is not None and any(
            guard.class_name(base) in self._classes for base in guard.mro(cls)
        )

    def _remember(self, cls: type) -> None:
        name = guard.class_name(cls)
        if name not in self._classes and len(self._user_classes) < USER_CLASSES_LIMIT:
            self._user_classes[name] = None
            self._user_classes[name.rpartition(".")[2]] = None  # all that 0.2.0 tells


_ANSWERING = ("_run_query_task", "_run_query_task_core", "_run_update_validation_task")


def _workflow_of(task_frame: FrameType | None) -> str | None:
    """The workflow that a worker answers a query or an update about."""
    task = local(task_frame, "task")
    if type(task) is dict:
        return plain(task.get("workflow_id"))
    identity = guard.attribute(
        _current("_query_task_authority", "current_query_authority"), "identity"
    )
    return plain(identity.get("workflow_id")) if type(identity) is dict else None


def _current_attempt() -> str:
    """The id of the activity's attempt that runs the current code, or nothing."""
    authority = _current("_activity_lease", "current_activity_authority")
    identity = guard.attribute(authority, "identity")
    if type(identity) is dict:
        return plain(identity.get("activity_attempt_id")) or ""
    return plain(guard.attribute(current_activity(), "activity_attempt_id")) or ""


def current_activity() -> object:
    """What the SDK tells an activity about itself; None outside of one."""
    context: Any = _current("activity", "_current_context")
    try:
        return context.info  # a property of the SDK's
    except Exception:
        return None


def _current(module: str, variable: str) -> object:
    """The value of one of the SDK's context variables; None if there is none."""
    found = guard.attribute(sys.modules.get(f"durable_workflow.{module}"), variable)
    try:
        return found.get()
    except Exception:
        return None
