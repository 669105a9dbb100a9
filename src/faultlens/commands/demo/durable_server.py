"""A Durable Workflow server in one file, for the demo and the tests.

The real server is a PHP application that no package index carries. This one gives its documented
answers over real HTTP, so that the real Client and the real Worker (0.2.0, 0.4 to 2.12) work:
workflows run, activities are retried, and every error is raised by the SDK itself.

    with DurableServer() as server:
        client = durable_workflow.Client(server.url)

What it refuses on purpose, and what the client then raises (`Rules` holds the names):

    ask for                                      answer                      raises
    a bearer token other than `token`            401                         Unauthorized
    a namespace not in `namespaces`              404 namespace_not_found     NamespaceNotFound
    a start without a type, an id, a queue,
      or with a time-out below one second        422 with `errors`           InvalidArgument
    a start with an id that exists               409 duplicate_not_allowed   WorkflowAlreadyStarted
    a start on the queue `wholesale`             503 backend_unavailable     ServerError
    a start on the queue `flash-sale`            429 rate_limited            ServerError
    a workflow that does not exist               404 instance_not_found      WorkflowNotFound
    a query that the workflow does not declare   404 query_not_found         QueryFailed
    an update that it does not declare, or that
      its validator refuses, or after its end    409 update_rejected         UpdateRejected
    a schedule that does not exist               404 schedule_not_found      ScheduleNotFound
    a schedule that exists                       409 schedule_already_exists ScheduleAlreadyExists

A client without any token is let in. Everything else a test may script with `server.answer()`.
Not here: signals, continue-as-new, side effects, conditions, selection, Nexus, streams, storage.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import itertools
import json
import re
import socket
import threading
import time
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

Json = dict[str, Any]

TOKEN = "demo-token"
PROTOCOL_OF_0_2 = "1.0"
MAX_RUNS = 1000  # older closed runs are forgotten, so that a demo may run for weeks
MAX_TASK_ATTEMPTS = 3
POLL_SECONDS = 0.5  # short: SDK 0.2.0 stops only when its polls have returned
ANSWER_SECONDS = 3.0  # how long the client of a query or an update waits for a worker


# ── What the records look like ────────────────────────────────────────────────────────────────


class Refusal(Exception):
    """An error answer: the HTTP status and the JSON body that the real server gives."""

    def __init__(self, status: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"reason": reason, "message": message, **details}


@dataclass(eq=False)
class Step:
    """What a run waits for: an activity, a timer or a child. Its events all repeat `facts`."""

    sequence: int
    facts: Json


@dataclass(eq=False)
class Run:
    """One execution of a workflow. Payloads stay sealed: only workers and clients read them."""

    workflow_id: str
    workflow_type: str
    task_queue: str
    arguments: Any
    parent: tuple[Run, Step] | None = None
    run_id: str = field(default_factory=lambda: _new_id())
    status: str = "running"
    output: Any = None
    history: list[Json] = field(default_factory=list)
    open_steps: dict[int, Step] = field(default_factory=dict)
    steps_so_far: int = 0
    task: Task | None = None

    @property
    def closed(self) -> bool:
        return self.status != "running"

    @property
    def codec(self) -> str:
        return _codec(self.arguments)

    def record(self, event_type: str, **payload: Any) -> None:
        self.history.append({"id": _new_id(), "event_type": event_type, "payload": payload})


@dataclass(eq=False)
class Task:
    """Work for a worker. `kind`: workflow, activity, query or update_validation."""

    kind: str
    run: Run
    queue: str
    body: Json = field(default_factory=dict)
    step: Step | None = None
    attempt: int = 1
    id: str = field(default_factory=lambda: _new_id())
    leased_by: str | None = None
    answer: Json | Refusal | None = None  # for the client that waits: queries, validations, updates


@dataclass(frozen=True)
class RegisteredWorker:
    """What a worker told about itself. SDKs before 2.0 tell nothing about queries and updates."""

    task_queue: str
    protocol: str
    contracts: Json


def _new_id() -> str:
    return uuid.uuid4().hex


def _codec(envelope: Any) -> str:
    return str(envelope.get("codec", "avro")) if isinstance(envelope, dict) else "avro"


def _payload(value: Any) -> Json:
    return {"payload_codec": _codec(value), "result": value}


def _json_within(envelope: Json) -> str:
    """SDK 0.2.0 writes a workflow's result as Avro, yet reads it back only as JSON text.

    Its Avro is a thin wrapper: 0x00, the text's length as a zig-zag varint, the JSON text.
    """
    raw = base64.b64decode(envelope["blob"])
    zigzag, shift, position = 0, 0, 1
    while raw[position] & 0x80:
        zigzag |= (raw[position] & 0x7F) << shift
        shift, position = shift + 7, position + 1
    zigzag |= raw[position] << shift
    return raw[position + 1 : position + 1 + zigzag // 2].decode()


# ── The state machine ─────────────────────────────────────────────────────────────────────────


class Orchestrator:
    """Runs, and the tasks by which workers move them on.

        start ──► workflow task ──commands──┬──► open steps ──► resolved by a worker or the clock
                        ▲                   │                          │
                        └──── wake, when no step is open any more ◄────┘
                                            └──► complete, fail ──► closed, a step of its parent

    Every method runs under the lock of `changed`; each change wakes the waiting threads.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stopped = False
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.workers: dict[str, RegisteredWorker] = {}
        self._queues: defaultdict[tuple[str, str], deque[Task]] = defaultdict(deque)
        self._asked_for_queries: set[str] = set()
        self._leased: dict[str, Task] = {}
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._alarm_numbers = itertools.count()
        self._commands: dict[str, Callable[[Task, Json], None]] = {
            "schedule_activity": self._schedule_activity,
            "start_timer": self._start_timer,
            "start_child_workflow": self._start_child,
            "complete_update": self._complete_update,
            "fail_update": self._fail_update,
            "complete_workflow": self._complete_workflow,
            "fail_workflow": self._fail_workflow,
        }

    # Runs

    def start(self, run: Run, run_timeout_seconds: float | None = None) -> Run:
        self._forget_old_runs()
        self.runs[run.workflow_id] = run
        now = datetime.now(timezone.utc).isoformat()
        run.record("WorkflowStarted", workflow_type=run.workflow_type, timestamp=now)
        if run_timeout_seconds is not None:
            self._after(run_timeout_seconds, lambda: self._time_out(run))
        self.wake(run)
        return run

    def wake(self, run: Run) -> None:
        """Give the run a workflow task, unless it is closed, has one, or waits for a step."""
        if not run.closed and not run.open_steps and run.task is None:
            run.task = self.enqueue(Task("workflow", run, run.task_queue))

    def resolve(self, run: Run, step: Step, event_type: str, **payload: Any) -> None:
        if run.closed or run.open_steps.pop(step.sequence, None) is None:
            return
        run.record(event_type, **step.facts, **payload)
        self.wake(run)

    def close(self, run: Run, status: str, event_type: str, **payload: Any) -> None:
        if run.closed:
            return
        run.status = status
        run.open_steps.clear()
        run.record(event_type, **payload)
        if run.parent is not None:
            self._tell_parent(run, event_type, payload)

    def _tell_parent(self, run: Run, event_type: str, payload: Json) -> None:
        assert run.parent is not None
        parent, step = run.parent
        if event_type == "WorkflowCompleted":
            self.resolve(parent, step, "ChildRunCompleted", **_payload(run.output))
        else:
            kind = event_type.removeprefix("Workflow").replace("TimedOut", "Failed")
            failure = {"message": payload.get("message") or payload.get("reason"), **payload}
            self.resolve(parent, step, f"ChildRun{kind}", **failure)

    def _time_out(self, run: Run) -> None:
        message = "The workflow run timed out."
        # SDK 0.2.0 does not know this event, and would take it for success.
        event_type = "WorkflowFailed" if self.serves_0_2(run.task_queue) else "WorkflowTimedOut"
        self.close(run, "failed", event_type, message=message)

    def _forget_old_runs(self) -> None:
        while len(self.runs) >= MAX_RUNS:
            oldest = next((r for r in self.runs.values() if r.closed), None)
            if oldest is None:
                return
            del self.runs[oldest.workflow_id]

    # Workers

    def serves_0_2(self, task_queue: str) -> bool:
        """SDK 0.2.0 ignores the events that later versions added: the server decides for it."""
        return any(
            worker.protocol == PROTOCOL_OF_0_2
            for worker in self.workers.values()
            if worker.task_queue == task_queue
        )

    def declared(self, run: Run, what: str) -> set[str] | None:
        """The queries, updates or update_validators of the run's type; None: nobody serves it."""
        workers = [w for w in self.workers.values() if w.task_queue == run.task_queue]
        if not workers:
            return None
        contracts = (worker.contracts.get(run.workflow_type) or {} for worker in workers)
        return {name for contract in contracts for name in contract.get(what, ())}

    def answers_undeclared(self, run: Run) -> bool:
        """Whether a worker polls for queries that could not declare any: 0.4.106 does."""
        workers = [w for w in self.workers.values() if w.task_queue == run.task_queue]
        return run.task_queue in self._asked_for_queries and not any(w.contracts for w in workers)

    # Tasks

    def enqueue(self, task: Task) -> Task:
        self._queues[task.kind, task.queue].append(task)
        return task

    def _enqueue_again(self, task: Task) -> Task:
        again = replace(task, id=_new_id(), attempt=task.attempt + 1, leased_by=None)
        return self.enqueue(again)

    def lease(self, kinds: Sequence[str], queue: str, worker: str, seconds: float) -> Task | None:
        """A long poll: the next task of one of these kinds, or None when the time is up."""
        deadline = time.monotonic() + min(seconds, POLL_SECONDS)
        if "query" in kinds:
            self._asked_for_queries.add(queue)
        while not self.stopped and worker in self.workers:  # a worker that left takes no task
            task = self._next_task(kinds, queue)
            if task is not None:
                task.leased_by = worker
                self._leased[task.id] = task
                return task
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            self.changed.wait(remaining)
        return None

    def _next_task(self, kinds: Sequence[str], queue: str) -> Task | None:
        for kind in kinds:
            waiting = self._queues[kind, queue]
            while waiting:
                task = waiting.popleft()
                if kind == "query" or not task.run.closed:
                    return task
        return None

    def leased(self, task_id: str) -> Task:
        try:
            return self._leased[task_id]
        except KeyError:
            raise Refusal(404, "task_not_found", f"Task [{task_id}] not found.") from None

    def release(self, task_id: str) -> Task:
        task = self.leased(task_id)
        del self._leased[task_id]
        return task

    def ask(self, task: Task, seconds: float, otherwise: Refusal) -> Json:
        """Put a task to a worker, and wait until it answers."""
        self.enqueue(task)
        self.changed.notify_all()
        self.changed.wait_for(lambda: task.answer is not None or self.stopped, seconds)
        if isinstance(task.answer, dict):
            return task.answer
        with contextlib.suppress(ValueError):
            self._queues[task.kind, task.queue].remove(task)
        raise task.answer or otherwise

    # Workflow tasks

    def complete_workflow_task(self, task: Task, commands: Sequence[Json]) -> None:
        if task.run.closed:
            return
        unknown = [c["type"] for c in commands if c["type"] not in self._commands]
        if unknown:
            raise Refusal(422, "invalid_commands", f"Commands not supported here: {unknown}.")
        for command in commands:
            self._commands[command["type"]](task, command)
        self._finish(task)

    def fail_workflow_task(self, task: Task, failure: Json) -> None:
        """A replay that failed is tried again. The real server may block the run instead."""
        run = task.run
        if failure.get("type") == "WorkflowTaskWaitingForHistory":
            self._finish(task)
        elif task.attempt < MAX_TASK_ATTEMPTS:
            again = self._enqueue_again(task)
            run.task = again if run.task is task else run.task
        else:
            # No class: nothing of the workflow's own has been raised.
            self.close(run, "failed", "WorkflowFailed", message=failure.get("message"))

    def _finish(self, task: Task) -> None:
        if task.run.task is task:  # an update's task is not the run's own
            task.run.task = None

    # Commands

    def _open_step(self, task: Task, command: Json, **facts: Any) -> Step:
        run = task.run
        group = {key: value for key, value in command.items() if key.startswith("parallel_group")}
        run.steps_so_far += 1
        step = Step(run.steps_so_far, {"sequence": run.steps_so_far, **facts, **group})
        run.open_steps[step.sequence] = step
        return step

    def _schedule_activity(self, task: Task, command: Json) -> None:
        activity_type = command["activity_type"]
        execution_id = _new_id()
        step = self._open_step(
            task, command, activity_type=activity_type, activity_execution_id=execution_id
        )
        task.run.record("ActivityScheduled", **step.facts)
        body = {
            "activity_type": activity_type,
            "arguments": command["arguments"],
            "payload_codec": _codec(command["arguments"]),
        }
        if "retry_policy" in command:
            body["retry_policy"] = command["retry_policy"]
        queue = command.get("queue") or task.run.task_queue
        self.enqueue(Task("activity", task.run, queue, body, step))

    def _start_timer(self, task: Task, command: Json) -> None:
        delay = command["delay_seconds"]
        step = self._open_step(task, command, delay_seconds=delay)
        task.run.record("TimerScheduled", **step.facts)
        self._after(delay, lambda: self.resolve(task.run, step, "TimerFired"))

    def _start_child(self, task: Task, command: Json) -> None:
        run_id, workflow_type = _new_id(), command["workflow_type"]
        step = self._open_step(
            task, command, child_workflow_run_id=run_id, child_workflow_type=workflow_type
        )
        task.run.record("ChildWorkflowScheduled", **step.facts)
        child = Run(
            workflow_id=f"{task.run.workflow_id}-child-{step.sequence}",
            workflow_type=workflow_type,
            task_queue=command.get("queue") or task.run.task_queue,
            arguments=command["arguments"],
            parent=(task.run, step),
            run_id=run_id,
        )
        self.start(child)

    def _complete_update(self, task: Task, command: Json) -> None:
        update = task.body["update"]
        task.run.record("UpdateApplied", **update)
        task.run.record("UpdateCompleted", update_id=update["update_id"])
        task.answer = {
            "update_id": update["update_id"],
            "update_status": "completed",
            "result_envelope": command["result"],
        }

    def _fail_update(self, task: Task, command: Json) -> None:
        message = command["message"]
        details = {
            "update_id": command["update_id"],
            "update_status": "failed",
            "failure_message": message,
        }
        task.answer = Refusal(422, "update_failed", message, **details)

    def _complete_workflow(self, task: Task, command: Json) -> None:
        run = task.run
        run.output = command["result"]
        output = _json_within(run.output) if self.serves_0_2(run.task_queue) else run.output
        self.close(run, "completed", "WorkflowCompleted", output=output, payload_codec=run.codec)

    def _fail_workflow(self, task: Task, command: Json) -> None:
        failure = {key: value for key, value in command.items() if key != "type"}
        # SDK 0.2.0 sends no class; the real server, a PHP one, then records this.
        failure.setdefault("exception_class", "RuntimeException")
        self.close(task.run, "failed", "WorkflowFailed", **failure)

    # Activities

    def complete_activity(self, task: Task, result: Any) -> None:
        assert task.step is not None
        outcome = {"activity_attempt_id": task.id, **_payload(result)}
        self.resolve(task.run, task.step, "ActivityCompleted", **outcome)

    def fail_activity(self, task: Task, failure: Json) -> None:
        assert task.step is not None
        if task.run.closed:
            return
        policy = task.body.get("retry_policy") or {}
        if self._will_retry(task, failure, policy):
            self._enqueue_again(task)
            return
        outcome = {
            "message": failure.get("message"),
            "exception_type": failure.get("type"),
            "exception_class": failure.get("class"),
        }
        if self.serves_0_2(task.run.task_queue):
            self.close(task.run, "failed", "WorkflowFailed", **outcome)
            return
        outcome |= {
            "failure_id": _new_id(),
            "failure_category": "application",
            "activity_attempt_id": task.id,
            "non_retryable": failure.get("non_retryable", False),
        }
        self.resolve(task.run, task.step, "ActivityFailed", **outcome)

    def _will_retry(self, task: Task, failure: Json, policy: Json) -> bool:
        final_types = policy.get("non_retryable_error_types") or ()
        if failure.get("non_retryable") or failure.get("type") in final_types:
            return False
        return task.attempt < int(policy.get("max_attempts") or 1)

    # The clock

    def _after(self, seconds: float, ring: Callable[[], None]) -> None:
        when = time.monotonic() + seconds
        heapq.heappush(self._alarms, (when, next(self._alarm_numbers), ring))
        self.changed.notify_all()

    def run_clock(self) -> None:
        """Ring the alarms when their time comes, until the server stops."""
        with self.changed:
            while not self.stopped:
                while self._alarms and self._alarms[0][0] <= time.monotonic():
                    _, _, ring = heapq.heappop(self._alarms)
                    ring()
                    self.changed.notify_all()
                next_alarm = self._alarms[0][0] - time.monotonic() if self._alarms else None
                self.changed.wait(next_alarm)

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


# ── The HTTP API ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # without /api and without the query string
    headers: Mapping[str, str]
    body: Json


Answer = tuple[int, Any]


@dataclass(frozen=True)
class Rules:
    """What the server lets through."""

    token: str = TOKEN
    namespaces: Collection[str] = ("default",)
    broken_queues: Mapping[str, int] = field(
        default_factory=lambda: {"wholesale": 503, "flash-sale": 429}
    )


class Api:
    """One method for each route of the documented API. The routes are in ROUTES."""

    def __init__(self, orchestrator: Orchestrator, rules: Rules) -> None:
        self._orchestrator = orchestrator
        self._rules = rules
        self._schedules: dict[str, Json] = {}

    def handle(self, request: Request) -> Answer:
        with self._orchestrator.changed:
            try:
                return 200, self._route(request)
            except Refusal as refusal:
                return refusal.status, refusal.body
            except Exception as bug:
                return 500, {"reason": "internal_error", "message": repr(bug)}
            finally:
                self._orchestrator.changed.notify_all()

    def _route(self, request: Request) -> Any:
        self._check_token(request)
        for method, pattern, respond in ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                if request.path != "/cluster/info":
                    self._check_namespace(request)
                names = {key: unquote(value) for key, value in match.groupdict().items()}
                return respond(self, request, **names)
        raise Refusal(404, "route_not_found", f"No route for {request.method} {request.path}.")

    def _check_token(self, request: Request) -> None:
        if request.headers.get("Authorization") not in (None, f"Bearer {self._rules.token}"):
            raise Refusal(401, "unauthenticated", "Unauthenticated.")

    def _check_namespace(self, request: Request) -> None:
        namespace = request.headers.get("X-Namespace", "default")
        if namespace not in self._rules.namespaces:
            raise Refusal(404, "namespace_not_found", f"Namespace '{namespace}' does not exist.")

    def cluster_info(self, request: Request) -> Json:
        return CLUSTER_INFO

    # Workflows

    def start_workflow(self, request: Request) -> Json:
        body = request.body
        self._check_start(body)
        self._check_queue(body["task_queue"])
        existing = self._orchestrator.runs.get(body["workflow_id"])
        if existing is None:
            run = self._start(body)
        elif body.get("duplicate_policy") == "use-existing" and not existing.closed:
            run = existing
        else:
            raise Refusal(
                409,
                "duplicate_not_allowed",
                f"Workflow [{existing.workflow_id}] has already been started.",
                workflow_id=existing.workflow_id,
            )
        return {
            "workflow_id": run.workflow_id,
            "run_id": run.run_id,
            "workflow_type": run.workflow_type,
        }

    def _start(self, body: Json) -> Run:
        run = Run(body["workflow_id"], body["workflow_type"], body["task_queue"], body.get("input"))
        return self._orchestrator.start(run, body.get("run_timeout_seconds"))

    def _check_start(self, body: Json) -> None:
        errors = {
            name: [f"The {name.replace('_', ' ')} field is required."]
            for name in ("workflow_id", "workflow_type", "task_queue")
            if not body.get(name)
        }
        for name in ("execution_timeout_seconds", "run_timeout_seconds"):
            if body.get(name, 1) < 1:
                errors[name] = [f"The {name.replace('_', ' ')} field must be at least 1."]
        if errors:
            message = next(iter(errors.values()))[0]
            raise Refusal(422, "validation_failed", message, errors=errors)

    def _check_queue(self, task_queue: str) -> None:
        status = self._rules.broken_queues.get(task_queue)
        if status == 429:
            raise Refusal(429, "rate_limited", f"Task queue [{task_queue}] is over its limit.")
        if status is not None:
            raise Refusal(status, "backend_unavailable", f"Task queue [{task_queue}] is down.")

    def describe_workflow(self, request: Request, workflow_id: str) -> Json:
        return _describe(self._run(workflow_id))

    def history(self, request: Request, workflow_id: str, run_id: str) -> Json:
        return {"events": self._run(workflow_id).history}

    def _run(self, workflow_id: str) -> Run:
        run = self._orchestrator.runs.get(workflow_id)
        if run is None:
            raise Refusal(404, "instance_not_found", "Workflow not found.")
        return run

    def cancel(self, request: Request, workflow_id: str) -> Json:
        return self._end(request, workflow_id, "cancelled", "WorkflowCancelled")

    def terminate(self, request: Request, workflow_id: str) -> Json:
        return self._end(request, workflow_id, "terminated", "WorkflowTerminated")

    def _end(self, request: Request, workflow_id: str, status: str, event_type: str) -> Json:
        run = self._run(workflow_id)
        reason = request.body.get("reason") or f"workflow was {status}"
        self._orchestrator.close(run, status, event_type, reason=reason)
        return {"workflow_id": workflow_id, "outcome": status}

    def query(self, request: Request, workflow_id: str, name: str) -> Json:
        run = self._run(workflow_id)
        declared = self._orchestrator.declared(run, "queries")
        if declared is None:
            raise Refusal(409, "query_worker_unavailable", "No worker is available for the query.")
        if name not in declared and not self._orchestrator.answers_undeclared(run):
            message = f"Query [{name}] is not declared by workflow type [{run.workflow_type}]."
            raise Refusal(404, "query_not_found", message)
        task = Task("query", run, run.task_queue, _question(request, query=name))
        otherwise = Refusal(504, "query_worker_timeout", "The worker did not answer the query.")
        return self._orchestrator.ask(task, ANSWER_SECONDS, otherwise)

    def update(self, request: Request, workflow_id: str, name: str) -> Json:
        run = self._run(workflow_id)
        if run.closed:
            raise Refusal(409, "update_rejected", "The run is closed.")
        if name not in (self._orchestrator.declared(run, "updates") or ()):
            message = f"Update [{name}] is not declared by workflow type [{run.workflow_type}]."
            raise Refusal(409, "update_rejected", message)
        if name in (self._orchestrator.declared(run, "update_validators") or ()):
            self._validate_update(request, run, name)
        return self._accept_update(request, run, name)

    def _validate_update(self, request: Request, run: Run, name: str) -> None:
        task = Task("update_validation", run, run.task_queue, _question(request, update=name))
        reason, message = "update_validation_execution_timeout", "The validator did not answer."
        self._orchestrator.ask(task, ANSWER_SECONDS, Refusal(504, reason, message))

    def _accept_update(self, request: Request, run: Run, name: str) -> Json:
        update = {
            "update_id": _new_id(),
            "update_name": name,
            "arguments": request.body.get("input"),
            "payload_codec": run.codec,
        }
        run.record("UpdateAccepted", **update)
        body = {"workflow_update_id": update["update_id"], "update": update}
        task = Task("workflow", run, run.task_queue, body)
        if request.body.get("wait_for") == "completed":
            otherwise = Refusal(504, "update_timeout", "The worker did not apply the update.")
            return self._orchestrator.ask(task, ANSWER_SECONDS, otherwise)
        self._orchestrator.enqueue(task)
        return {"update_id": update["update_id"], "update_status": "accepted"}

    # Schedules

    def create_schedule(self, request: Request) -> Json:
        schedule_id = request.body.get("schedule_id") or _new_id()
        if schedule_id in self._schedules:
            message = f"Schedule [{schedule_id}] already exists in namespace [default]."
            raise Refusal(409, "schedule_already_exists", message, schedule_id=schedule_id)
        self._schedules[schedule_id] = {
            "schedule_id": schedule_id,
            "status": "paused" if request.body.get("paused") else "active",
            "spec": request.body["spec"],
            "action": request.body["action"],
            "fires_count": 0,
        }
        return self._schedules[schedule_id]

    def describe_schedule(self, request: Request, schedule_id: str) -> Json:
        return self._schedule(schedule_id)

    def delete_schedule(self, request: Request, schedule_id: str) -> Json:
        self._schedule(schedule_id)
        return self._schedules.pop(schedule_id)

    def trigger_schedule(self, request: Request, schedule_id: str) -> Json:
        schedule = self._schedule(schedule_id)
        schedule["fires_count"] += 1
        workflow_id = f"{schedule_id}-{schedule['fires_count']}"
        action = {"task_queue": "default", **schedule["action"], "workflow_id": workflow_id}
        run = self._start(action)
        return {
            "schedule_id": schedule_id,
            "outcome": "triggered",
            "workflow_id": run.workflow_id,
            "run_id": run.run_id,
        }

    def _schedule(self, schedule_id: str) -> Json:
        schedule = self._schedules.get(schedule_id)
        if schedule is None:
            raise Refusal(404, "schedule_not_found", f"Schedule [{schedule_id}] not found.")
        return schedule

    # Workers

    def register_worker(self, request: Request) -> Json:
        worker_id = request.body["worker_id"]
        self._orchestrator.workers[worker_id] = RegisteredWorker(
            task_queue=request.body["task_queue"],
            protocol=request.headers.get("X-Durable-Workflow-Protocol-Version", ""),
            contracts=request.body.get("workflow_command_contracts") or {},
        )
        return {"worker_id": worker_id, "registered": True}

    def deregister_worker(self, request: Request, worker_id: str) -> Json:
        self._orchestrator.workers.pop(worker_id, None)
        return {
            "worker_id": worker_id,
            "outcome": "deregistered",
            "recovered_workflow_task_count": 0,
        }

    def heartbeat_worker(self, request: Request) -> Json:
        return {"worker_id": request.body["worker_id"], "acknowledged": True}

    def poll_workflow_tasks(self, request: Request) -> Json:
        kinds = ("update_validation", "workflow")
        return self._poll(request, kinds if "task_kinds" in request.body else kinds[1:])

    def poll_activity_tasks(self, request: Request) -> Json:
        return self._poll(request, ("activity",))

    def poll_query_tasks(self, request: Request) -> Json:
        return self._poll(request, ("query",))

    def _poll(self, request: Request, kinds: Sequence[str]) -> Json:
        body = request.body
        seconds = body.get("timeout_seconds", 60)
        task = self._orchestrator.lease(kinds, body["task_queue"], body["worker_id"], seconds)
        return {"task": None if task is None else _task_for_worker(task)}

    def complete_workflow_task(self, request: Request, task_id: str) -> Json:
        task = self._orchestrator.release(task_id)
        self._orchestrator.complete_workflow_task(task, request.body["commands"])
        return {"task_id": task_id, "outcome": "completed"}

    def fail_workflow_task(self, request: Request, task_id: str) -> Json:
        task = self._orchestrator.release(task_id)
        self._orchestrator.fail_workflow_task(task, request.body["failure"])
        return {"task_id": task_id, "outcome": "failed"}

    def complete_activity_task(self, request: Request, task_id: str) -> Json:
        task = self._orchestrator.release(task_id)
        self._orchestrator.complete_activity(task, request.body["result"])
        return {"task_id": task_id, "outcome": "completed"}

    def fail_activity_task(self, request: Request, task_id: str) -> Json:
        task = self._orchestrator.release(task_id)
        self._orchestrator.fail_activity(task, request.body["failure"])
        return {"task_id": task_id, "outcome": "failed"}

    def heartbeat_activity_task(self, request: Request, task_id: str) -> Json:
        closed = self._orchestrator.leased(task_id).run.closed
        return {"task_id": task_id, "cancel_requested": closed, "can_continue": not closed}

    def complete_query_task(self, request: Request, task_id: str) -> Json:
        names = ("result", "result_envelope")
        answer = {name: request.body[name] for name in names if name in request.body}
        return self._give_answer(task_id, answer)

    def fail_query_task(self, request: Request, task_id: str) -> Json:
        failure = request.body["failure"]
        unavailable = failure["reason"] == "query_workflow_state_unavailable"
        reason = failure["reason"] if unavailable else "query_rejected"
        return self._give_answer(task_id, Refusal(409, reason, failure["message"]))

    def approve_update(self, request: Request, task_id: str) -> Json:
        return self._give_answer(task_id, {"outcome": "approved"})

    def reject_update(self, request: Request, task_id: str) -> Json:
        failure = request.body["failure"]
        details = {"validation_errors": failure.get("validation_errors")}
        refusal = Refusal(409, failure["reason"], failure["message"], **details)
        return self._give_answer(task_id, refusal)

    def _give_answer(self, task_id: str, answer: Json | Refusal) -> Json:
        self._orchestrator.release(task_id).answer = answer
        return {"task_id": task_id, "outcome": "recorded"}


def _describe(run: Run) -> Json:
    return {
        "workflow_id": run.workflow_id,
        "run_id": run.run_id,
        "workflow_type": run.workflow_type,
        "status": run.status,
        "namespace": "default",
        "task_queue": run.task_queue,
        "input_envelope": run.arguments,
        "output_envelope": run.output,
        "payload_codec": run.codec,
    }


def _question(request: Request, **name: str) -> Json:
    """A query or an update, as the worker wants to read it: query_name, query_arguments, ..."""
    ((kind, value),) = name.items()
    return {f"{kind}_name": value, f"{kind}_arguments": request.body.get("input")}


def _task_for_worker(task: Task) -> Json:
    """Each kind of task has its own names for its id and its attempt."""
    run = task.run
    id_name, attempt_name = {
        "workflow": ("task_id", "workflow_task_attempt"),
        "activity": ("task_id", "attempt_number"),
        "query": ("query_task_id", "query_task_attempt"),
        "update_validation": ("update_validation_task_id", "update_validation_attempt"),
    }[task.kind]
    description = {
        id_name: task.id,
        attempt_name: task.attempt,
        "task_kind": task.kind,
        "workflow_id": run.workflow_id,
        "run_id": run.run_id,
        "workflow_type": run.workflow_type,
        "task_queue": task.queue,
        "lease_owner": task.leased_by,
        "lease_expires_at": (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat(),
        "payload_codec": run.codec,
    }
    if task.kind == "activity":
        return {**description, "activity_attempt_id": task.id, **task.body}
    arguments = "arguments" if task.kind == "workflow" else "workflow_arguments"
    history = {"history_events": list(run.history), arguments: run.arguments}
    return {**description, **history, **task.body}


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Json]]] = [
    (method, _pattern(path), respond)
    for method, path, respond in (
        ("GET", "/cluster/info", Api.cluster_info),
        ("POST", "/workflows", Api.start_workflow),
        ("GET", "/workflows/{workflow_id}", Api.describe_workflow),
        ("GET", "/workflows/{workflow_id}/runs/{run_id}/history", Api.history),
        ("POST", "/workflows/{workflow_id}/cancel", Api.cancel),
        ("POST", "/workflows/{workflow_id}/terminate", Api.terminate),
        ("POST", "/workflows/{workflow_id}/query/{name}", Api.query),
        ("POST", "/workflows/{workflow_id}/update/{name}", Api.update),
        ("POST", "/schedules", Api.create_schedule),
        ("GET", "/schedules/{schedule_id}", Api.describe_schedule),
        ("DELETE", "/schedules/{schedule_id}", Api.delete_schedule),
        ("POST", "/schedules/{schedule_id}/trigger", Api.trigger_schedule),
        ("POST", "/worker/register", Api.register_worker),
        ("POST", "/worker/heartbeat", Api.heartbeat_worker),
        ("DELETE", "/worker/registrations/{worker_id}", Api.deregister_worker),
        ("POST", "/worker/workflow-tasks/poll", Api.poll_workflow_tasks),
        ("POST", "/worker/workflow-tasks/{task_id}/complete", Api.complete_workflow_task),
        ("POST", "/worker/workflow-tasks/{task_id}/fail", Api.fail_workflow_task),
        ("POST", "/worker/activity-tasks/poll", Api.poll_activity_tasks),
        ("POST", "/worker/activity-tasks/{task_id}/complete", Api.complete_activity_task),
        ("POST", "/worker/activity-tasks/{task_id}/fail", Api.fail_activity_task),
        ("POST", "/worker/activity-tasks/{task_id}/heartbeat", Api.heartbeat_activity_task),
        ("POST", "/worker/query-tasks/poll", Api.poll_query_tasks),
        ("POST", "/worker/query-tasks/{task_id}/complete", Api.complete_query_task),
        ("POST", "/worker/query-tasks/{task_id}/fail", Api.fail_query_task),
        ("POST", "/worker/update-validation-tasks/{task_id}/approve", Api.approve_update),
        ("POST", "/worker/update-validation-tasks/{task_id}/reject", Api.reject_update),
    )
]


# The least that SDK 2.12 accepts: it refuses to register a worker without any one of these.
CLUSTER_INFO: Json = {
    "version": "2.0.0",
    "control_plane": {
        "version": "2",
        "request_contract": {
            "schema": "durable-workflow.v2.control-plane-request.contract",
            "version": 1,
            "operations": {
                "update": {"fields": {"wait_for": {"canonical_values": ["accepted", "completed"]}}}
            },
        },
    },
    "worker_protocol": {
        "version": "1.20",
        "server_capabilities": {
            "query_tasks": True,
            "update_validation_tasks": True,
            "synchronous_update_validation": {
                "supported": True,
                "acceptance_boundary": "validator_approved",
                "worker_capability": "update_validation_tasks",
                "workflow_contract_field": "update_validators",
                "task_poll": {
                    "strategy": "multiplexed",
                    "endpoint": "/worker/workflow-tasks/poll",
                    "request_field": "task_kinds",
                    "response_discriminator": "task.task_kind",
                    "task_kinds": ["workflow", "update_validation"],
                },
            },
        },
    },
    "auth_composition_contract": {
        "schema": "durable-workflow.v2.auth-composition.contract",
        "version": 1,
        "precedence": {"connection_values": [], "profile_selection": []},
        "canonical_environment": {
            "server_url": "DURABLE_WORKFLOW_SERVER_URL",
            "namespace": "DURABLE_WORKFLOW_NAMESPACE",
            "auth_token": "DURABLE_WORKFLOW_AUTH_TOKEN",
            "tls_verify": "DURABLE_WORKFLOW_TLS_VERIFY",
            "profile": "DW_ENV",
        },
        "auth_material": {
            "token": {"status": "supported", "effective_config_value": "redacted"},
            "mtls": {"status": "reserved"},
            "signed_headers": {"status": "reserved"},
        },
        "effective_config": {
            "required_fields": ["server_url", "namespace", "profile", "auth", "tls", "identity"]
        },
        "redaction": {"never_echo": ["bearer_tokens", "private_keys", "raw_authorization_headers"]},
    },
}


# ── The server ────────────────────────────────────────────────────────────────────────────────


@dataclass
class _ScriptedAnswer:
    method: str
    path_pattern: str
    answer: Answer
    times: int | None

    def take(self, request: Request) -> Answer | None:
        wanted = request.method == self.method and fnmatchcase(request.path, self.path_pattern)
        if not wanted or self.times == 0:
            return None
        if self.times is not None:
            self.times -= 1
        return self.answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep their connections
    wbufsize = -1  # headers and body in one packet: a second would wait for an acknowledgement
    timeout = 60
    server: _HttpServer

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "{}")
        path = urlsplit(self.path).path.removeprefix("/api")
        headers = {key: str(value) for key, value in self.headers.items()}
        status, answer = self.server.respond(Request(self.command, path, headers, body))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


class _HttpServer(ThreadingHTTPServer):
    """Knows its open connections, so that stopping ends the threads that read from them."""

    daemon_threads = True

    def __init__(self, port: int, respond: Callable[[Request], Answer]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up while it polls is no error: workers stop that way."""

    def hang_up(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class DurableServer:
    """The server, on the loopback interface and on a free port, for as long as the `with` lasts."""

    def __init__(self, port: int = 0, rules: Rules | None = None) -> None:
        self._scripted: list[_ScriptedAnswer] = []
        self._orchestrator = Orchestrator()
        self._api = Api(self._orchestrator, rules or Rules())
        self._http = _HttpServer(port, self._respond)
        self._threads = [
            threading.Thread(target=target, name=f"durable-server-{name}", daemon=True)
            for name, target in (
                ("http", lambda: self._http.serve_forever(poll_interval=0.05)),
                ("clock", self._orchestrator.run_clock),
            )
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def answer(
        self, method: str, path_pattern: str, status: int, body: Any, *, times: int | None = None
    ) -> None:
        """Give this answer instead, `times` times or always.

        server.answer("POST", "/workflows/*/query/*", 409, {"reason": "query_rejected"})
        """
        scripted = _ScriptedAnswer(method, path_pattern, (status, body), times)
        self._scripted.append(scripted)

    def _respond(self, request: Request) -> Answer:
        for scripted in self._scripted:
            answer = scripted.take(request)
            if answer is not None:
                return answer
        return self._api.handle(request)

    def start(self) -> DurableServer:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._orchestrator.stop()
        self._http.shutdown()
        self._http.hang_up()
        self._http.server_close()
        for thread in self._threads:
            thread.join(timeout=2)

    def __enter__(self) -> DurableServer:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
