"""Flyte 2 (`flyte.errors`), 2.0.0b33 to 2.12.1.

Every exception carries its own ``.kind``, and that decides:

    RuntimeUserError and below      user      set by the class
    RuntimeSystemError and below    system    set by the class
    RuntimeUnknownError and below   unknown   set by the class
    LogsNotYetAvailableError        system    set by the class
    BaseRuntimeError and the rest   any       set at each raise
    ActionNotFoundError             unknown   a plain RuntimeError, without a kind
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from faultlens import guard
from faultlens.failure import Kind
from faultlens.sdks import ANY_KIND, SYSTEM, UNKNOWN, USER, Rule, Sdk

# The classes whose constructor fixes the kind; by name, since a version may lack one.
_CLASS_KINDS = {
    "flyte.errors.RuntimeUserError": USER,
    "flyte.errors.RuntimeSystemError": SYSTEM,
    "flyte.errors.RuntimeUnknownError": UNKNOWN,
    "flyte.errors.LogsNotYetAvailableError": SYSTEM,
    "flyte.errors.BaseRuntimeError": ANY_KIND,
}


class Flyte(Sdk):
    """See `faultlens.sdks.Sdk`."""

    package = "flyte"
    distribution = "flyte"

    def own_rule(self, cls: type) -> Rule:
        for base in guard.mro(cls):
            name = guard.class_name(base)
            if name in _CLASS_KINDS:
                kinds = _CLASS_KINDS[name]
                by = "at each raise" if kinds == ANY_KIND else f"by {name.rpartition('.')[2]}"
                return Rule(kinds, f"its .kind, set {by}", _own_kind)
        return Rule(UNKNOWN, "no .kind and no rule")

    def context(self, exc: BaseException) -> Mapping[str, object]:
        # In a task's own code this is the task's action; where a parent gets its child's failure,
        # the parent's. Local mode has neither project nor domain.
        action = guard.attribute(_current_task(), "action")
        return {
            "flyte.project": guard.attribute(action, "project"),
            "flyte.domain": guard.attribute(action, "domain"),
            "flyte.run": guard.attribute(action, "run_name"),
            "flyte.action": guard.attribute(action, "name"),
        }


def _current_task() -> object:
    """Flyte's task context: None or an empty one outside of a task, depending on the version."""
    try:
        return sys.modules["flyte"].ctx()
    except Exception:  # flyte is being imported still
        return None


def _own_kind(exc: BaseException) -> Kind:
    kind = guard.attribute(exc, "kind")
    # Compared by type first: a stranger's __eq__ may raise.
    return Kind(kind) if type(kind) is str and kind in ("user", "system") else Kind.UNKNOWN
