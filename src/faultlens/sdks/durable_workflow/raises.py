"""A raise, and where in the SDK it happened: by the frames on the stack, the raising one first.

A frame is known by the SDK's module and the function's name, and read by the names of its locals.
Only frames of the SDK are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from faultlens import guard

__all__ = [
    "CLIENT",
    "ERRORS",
    "FRAME_LIMIT",
    "TESTING",
    "TEXT_LIMIT",
    "WORKER",
    "WORKFLOW",
    "Raise",
    "Replay",
    "local",
    "message_of",
    "plain",
    "replay_in",
    "within",
]

ERRORS = "durable_workflow.errors"
CLIENT = "durable_workflow.client"
TESTING = "durable_workflow.testing"
WORKER = "durable_workflow.worker"
WORKFLOW = "durable_workflow.workflow"

FRAME_LIMIT = 128
"""How far up the stack is looked: nested generators of a workflow, an SDK's call chain."""
TEXT_LIMIT = 200


@dataclass(frozen=True)
class Replay:
    """A run of a workflow's code over its history, which happens at each task and each query."""

    run: tuple[int, str]
    """Which run is replayed: its id, and a number that tells apart those of a WorkflowEnvironment,
    which all have the same."""
    context: object
    """The workflow's context, an object made anew for each replay; None before there is one."""
    frame: FrameType


@dataclass(frozen=True)
class Raise:
    """An exception with its class's name in `durable_workflow.errors`, and its raise."""

    exc: BaseException
    name: str
    frames: tuple[FrameType, ...]
    replay: Replay | None
    raising: bool = True
    """Whether it is being raised just now."""

    def within(self, module: str, *functions: str) -> FrameType | None:
        """The innermost frame of one of the SDK's functions, if the raise is below it."""
        return within(self.frames, module, *functions)

    def text(self, attribute: str) -> str | None:
        """An attribute that is text and not empty."""
        return plain(guard.attribute(self.exc, attribute))


def within(
    frames: Iterator[FrameType] | tuple[FrameType, ...], module: str, *functions: str
) -> FrameType | None:
    """The first of the frames that is one of the functions of the SDK's module."""
    for frame in frames:
        if frame.f_code.co_name in functions and _module(frame) == module:
            return frame
    return None


def replay_in(
    frames: tuple[FrameType, ...], code: CodeType | None, environment: int
) -> Replay | None:
    """The replay that the frames are in.

    code: that of the SDK's replaying function.
    environment: the number of the WorkflowEnvironment's execution, 0 if there is none.
    """
    for frame in frames:
        if frame.f_code is code:
            run_id = plain(local(frame, "run_id"))
            # A history replayed by hand belongs to no run.
            context = local(frame, "ctx")
            return Replay((environment, run_id), context, frame) if run_id else None
    return None


def local(frame: FrameType | None, name: str) -> Any:
    """A local variable of a frame of the SDK's."""
    return frame.f_locals.get(name) if frame is not None else None


def plain(value: object) -> str | None:
    """`value` as a bounded str of our own, if it is text and not empty."""
    return (guard.text(value, TEXT_LIMIT) or None) if issubclass(type(value), str) else None


def message_of(exc: BaseException) -> str:
    """The exception's message, bounded."""
    return guard.message(exc, TEXT_LIMIT)


def _module(frame: FrameType) -> str | None:
    name = dict.get(frame.f_globals, "__name__")
    return name if type(name) is str else None
