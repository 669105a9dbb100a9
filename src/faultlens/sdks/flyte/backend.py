"""Tells which errors of a child task only Flyte's backend can have written.

A parent gets its child's error as code, kind and message. Either the child's process wrote the
error and has counted it, or the backend wrote it and no process saw the failure. Nothing in the
error says which: the backend sets neither ``error_uri`` nor ``timestamp`` nor ``worker``. So the
code decides, and if a Python class may have the same name, the message:

    code                                              written by
    in `CODES`                                        the backend
    a condition, ``|``, and the reason why a
      container waits:
      ``ContainersNotReady|ImagePullBackOff``         the backend
    ``RetriesExhausted|`` and a code                  as for that code alone
    any, if the message says that a container
      ``terminated with exit code``                   the backend: Kubernetes has many reasons
    ``MaxSystemFailuresExceeded``                     as for the code in the brackets of the
                                                      message, which may be that of a child's
                                                      RuntimeSystemError
      without brackets                                the backend
      nested in its own brackets                      a process, which passed on an error it got
    anything else                                     a process: it is the name of a native
                                                      exception or the code of an SDK exception

Some cases are ambiguous. They are treated like this:

    an OOM kill, or another error of the backend,
      that a process passed on to its own parent      counted again there: counting one failure too
                                                      many is better than missing an outage
    ``ImagePullBackOff`` and the like without a
      condition                                       a process passed it on: the SDK removes the
                                                      part before the bar
    ``FailedJobs`` of a clustered task                a process: this is also the end of a rank that
                                                      raised, which has counted. So the kill of a
                                                      rank is missed
    ``Interrupted`` of a program that ended by
      itself (a segmentation fault, ``sys.exit``)     the backend; the exit code gives the reason

The Go files are in flyteorg/flyte, v2.0.43. See also docs/flyte_backend.md.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["CODES", "EXCEEDED", "SHARED", "WAITING", "Report", "read"]

EXCEEDED = "MaxSystemFailuresExceeded"
"""The code of every failure of kind system (executor/pkg/controller/taskaction_controller.go)."""

CODES = {
    # code                        reason         what happened
    # executor/pkg/controller/taskaction_controller.go
    "MaxRetriesExceeded": "platform",  # the plugin gave no error
    # executor/pkg/plugin/k8s/plugin_manager.go
    "ResourceDeletedExternally": "platform",  # the pod is gone
    "UnexpectedObjectDeletion": "platform",
    "CorruptedPluginState": "platform",
    "RuntimeFailure": "scheduling",  # Kubernetes forbids the pod: mostly a quota
    "EntityTooLarge": "config",
    "InvalidResource": "config",
    "BadTaskDefinition": "config",
    # flyteplugins/go/tasks/errors/errors.go, by way of the plugins
    "BadTaskSpecification": "config",
    "MetadataTooLarge": "config",
    "TaskFailedWithError": "code",  # a Ray job, a connector's job
    "TaskFailedUnknownError": "platform",
    "DownstreamSystemError": "platform",  # a Spark, Dask or Kubeflow job
    "AutoRefreshCacheFailed": "platform",
    "PluginInitializationFailed": "platform",
    "ResourceManagerFailure": "platform",
    "BackOffError": "throttled",
    # flyteplugins/go/tasks/pluginmachinery/secret/embedded_secret_manager.go
    "SecretNotFound": "auth",
    "SecretNotFoundAcrossAllScopes": "auth",
    "SecretReadFailure": "auth",
    "SecretNil": "auth",
    "SecretRequirementsError": "auth",
    # flyteplugins/go/tasks/pluginmachinery/ioutils/remote_file_output_reader.go
    "ErrorFileNotFound": "storage",
    "ErrorFileBadFormat": "storage",
    # flyteplugins/go/tasks/plugins/k8s/clustered/phase.go
    "HostMaintenance": "preempted",
    # flyteplugins/go/tasks/pluginmachinery/flytek8s/pod_helper.go
    "OOMKilled": "oom",
    "Interrupted": "preempted",  # killed, a node shutdown, or unknown: see `_reason`
    "PodPendingTimeout": "scheduling",
    "PrimaryContainerNotFound": "platform",
    # the same file, which passes on the kubelet's reason for a pod
    "Evicted": "disk",  # or memory: see `_reason`
    "NodeLost": "platform",
    "ContainerStatusUnknown": "platform",
    "UnexpectedAdmissionError": "scheduling",
    "TopologyAffinityError": "scheduling",
    "Preempting": "preempted",
    "ContainerCannotRun": "config",
    "StartError": "config",
    # source not public; flyte/_internal/runtime/convert.py and flyte/errors.py have them
    "RetriesExhausted": "",
    "QUEUED_TIMEOUT_EXCEEDED": "scheduling",
    "MAX_RUNTIME_EXCEEDED": "timeout",
    "DEADLINE_EXCEEDED": "timeout",
    "GpuXidError": "gpu",
    "GpuFallenOffBus": "gpu",
    "GpuEccUncorrectable": "gpu",
    "GpuRowRemapPending": "gpu",
    "GpuNvlinkError": "gpu",
    "GpuGspError": "gpu",
}
"""Codes that only the backend writes, and what went wrong."""

WAITING = {
    "ImagePullBackOff": "image",
    "InvalidImageName": "image",
    "ImageInspectError": "image",
    "ErrImageNeverPull": "image",
    "RegistryUnavailable": "image",
    "CreateContainerError": "config",
    "CreateContainerConfigError": "config",
    "CrashLoopBackOff": "code",
    "RunContainerError": "config",
}
"""Why a container waits that never starts (pod_helper.go, classifyWaitingContainer)."""

# Codes that are also names of Python classes, a text that identifies the backend's message, and
# what went wrong.
SHARED = {
    "DeadlineExceeded": ("active on the node longer", "timeout"),  # google.api_core
    "BadRequest": ("admission webhook", "config"),  # google.api_core, werkzeug
    "Unknown": ("Unknown error message", "platform"),  # pluginmachinery/core/phase.go
}

_ATTEMPTS = re.compile(r'plugin "[^"]*" failed with system error \d+ times: ')
_IN_BRACKETS = re.compile(r"\[([^\[\]\r\n]*)\] ?")
_ENDED = re.compile(r"\r\n\[[^\]]*\] terminated with (?:exit code \((-?\d+)\)|ExitCode 0)")
_OUT_OF = re.compile(r"OutOf[a-z][\w./-]*")
"""The kubelet found too few resources, e.g. ``OutOfcpu``."""
_KILLED = ("137", "247", "143")
_LIMIT = 8
"""How many levels of brackets are read; each pod that passes an error on adds one."""


class Report(NamedTuple):
    """What a child's error says."""

    code: str
    """The most specific code."""
    reason: str
    """What went wrong: one of `faultlens.rules.REASONS`, or empty."""
    unseen: bool
    """Whether only the backend can have written it."""


def read(code: str, message: str) -> Report:
    """Interpret the code and message of an error as the parent gets them."""
    pods = 0
    while code == EXCEEDED and pods < _LIMIT:
        start = _ATTEMPTS.match(message)
        inner = _IN_BRACKETS.match(message, start.end()) if start is not None else None
        if inner is None:
            return Report(EXCEEDED, "platform", unseen=pods == 0)
        code, message = inner[1], message[inner.end() :]
        pods += 1
        if pods == 1 and message.startswith("failed to create resource"):
            return Report(code or EXCEEDED, "platform", unseen=True)  # Kubernetes' own code
    passed_on = pods > 1
    before, bar, code = code.rpartition("|")
    waiting = bool(bar) and before != "RetriesExhausted"
    reason = _reason(code, message, waiting)
    return Report(code, reason or "", unseen=reason is not None and not passed_on)


def _reason(code: str, message: str, waiting: bool) -> str | None:
    """What went wrong; None if a Python process may have written it."""
    if waiting:
        if "429 Too Many Requests" in message:
            return "throttled"
        return WAITING.get(code, "platform")
    if code in SHARED and SHARED[code][0] in message:
        return SHARED[code][1]
    ended = _ENDED.search(message)
    if code == "Interrupted" and ended is not None and ended[1] not in (None, *_KILLED):
        return "code"
    if code == "Evicted" and "memory" in message:
        return "oom"
    if _OUT_OF.fullmatch(code):
        return "scheduling"
    if code in CODES:
        return CODES[code]
    return "code" if ended is not None else None
