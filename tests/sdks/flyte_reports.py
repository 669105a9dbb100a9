"""Errors as Flyte's backend reports them for a child, built as its Go code does.

There is a row for each code of `faultlens.sdks.flyte.backend`, and for errors that a process wrote
and the backend only passes on. The files are in flyteorg/flyte, v2.0.43.
"""

from __future__ import annotations

from typing import NamedTuple

import flyte.errors
from flyteidl2.core import execution_pb2

__all__ = ["REPORTS", "Report"]

UNKNOWN = execution_pb2.ExecutionError.UNKNOWN
USER = execution_pb2.ExecutionError.USER
SYSTEM = execution_pb2.ExecutionError.SYSTEM


class Report(NamedTuple):
    """An error as a parent gets it, and the truth about it."""

    kind: execution_pb2.ExecutionError.ErrorKind
    code: str
    message: str
    counts_as: str | None
    """The code and reason that it counts as; None: a process wrote the error and has counted it."""

    @property
    def error(self) -> execution_pb2.ExecutionError:
        """Built as by errorStateToExecutionError in actions/service/actions_service.go."""
        return execution_pb2.ExecutionError(code=self.code, kind=self.kind, message=self.message)


def exceeded(inner: str) -> str:
    """executor/pkg/controller/taskaction_controller.go, recordSystemError."""
    return f'plugin "container" failed with system error 4 times: {inner}'


def system(code: str, message: str, counts_as: str | None) -> Report:
    """A retryable failure of kind system, whose code systemErrorFromPhaseInfo puts in brackets."""
    return Report(SYSTEM, "MaxSystemFailuresExceeded", exceeded(f"[{code}] {message}"), counts_as)


def ended(exit_code: int, reason: str) -> str:
    """pod_helper.go, DemystifyFailure and DeterminePrimaryContainerPhase, of a container."""
    return (
        f"\r\n[r7x-a1-0] terminated with exit code ({exit_code}). Reason [{reason}]. Message: \n."
    )


NO_MESSAGE = "Pod failed. No message received from kubernetes."
GRACE = "Grace period [3m0s] exceeded|containers with unready status: [r7x-a1-0]|"
BACK_OFF = 'Back-off pulling image "sales:v1"'
GPU_CODES = (
    "GpuXidError",
    "GpuFallenOffBus",
    "GpuEccUncorrectable",
    "GpuRowRemapPending",
    "GpuNvlinkError",
    "GpuGspError",
)
SECRET_CODES = (
    "SecretNotFound",
    "SecretNotFoundAcrossAllScopes",
    "SecretReadFailure",
    "SecretNil",
    "SecretRequirementsError",
)
TIME_OUTS = (  # since 2.10.7 the SDK replaces the code with the name of a class
    ("QUEUED_TIMEOUT_EXCEEDED", "MaxQueuedTimeExceededError", "scheduling"),
    ("MAX_RUNTIME_EXCEEDED", "MaxRuntimeExceededError", "timeout"),
    ("DEADLINE_EXCEEDED", "DeadlineExceededError", "timeout"),
)
# fmt: off
REPORTS = [
    # executor/pkg/controller/taskaction_controller.go
    Report(USER, "MaxRetriesExceeded", "task failed after 3 attempt(s)",
           "MaxRetriesExceeded platform"),
    Report(SYSTEM, "MaxSystemFailuresExceeded",
           exceeded("failed to read error file @[s3://bucket/error.pb]: timeout"),
           "MaxSystemFailuresExceeded platform"),
    Report(SYSTEM, "MaxSystemFailuresExceeded", exceeded("system retryable failure"),
           "MaxSystemFailuresExceeded platform"),
    # executor/pkg/plugin/k8s/plugin_manager.go
    system("ResourceDeletedExternally", "resource not found, name [sales/r7x-a1-0]. reason: pods",
           "ResourceDeletedExternally platform"),
    system("UnexpectedObjectDeletion",
           "object [sales/r7x-a1-0] terminated unexpectedly in the background",
           "UnexpectedObjectDeletion platform"),
    Report(SYSTEM, "CorruptedPluginState", "plugin state version mismatch expected [1] got [0]",
           "CorruptedPluginState platform"),
    system("CorruptedPluginState", "Failed to read unmarshal custom state, caused by: EOF",
           "CorruptedPluginState platform"),
    Report(USER, "RuntimeFailure", 'pods "r7x-a1-0" is forbidden: exceeded quota: cpu',
           "RuntimeFailure scheduling"),
    Report(USER, "EntityTooLarge", "Request entity too large: limit is 3145728",
           "EntityTooLarge config"),
    Report(USER, "InvalidResource", 'Pod "r7x-a1-0" is invalid: metadata.labels',
           "InvalidResource config"),
    Report(USER, "BadRequest", 'admission webhook "policy.test" denied the request: no limits',
           "BadRequest config"),
    Report(USER, "BadTaskDefinition", "Failed to build resource, caused by: no name",
           "BadTaskDefinition config"),
    system("InternalError", "failed to create resource, caused by: Internal error occurred",
           "InternalError platform"),
    system("", "failed to create resource, caused by: dial tcp: connection refused",
           "MaxSystemFailuresExceeded platform"),
    # flyteplugins/go/tasks/errors/errors.go
    Report(USER, "BadTaskSpecification", "[BadTaskSpecification] mount name is not set",
           "BadTaskSpecification config"),
    Report(USER, "MetadataTooLarge", "[MetadataTooLarge] plugin state is too large",
           "MetadataTooLarge config"),
    Report(USER, "TaskFailedWithError", "failed to run the job: no such table",
           "TaskFailedWithError code"),
    system("TaskFailedWithError", "Failed to run Ray job r7x with error: [] ",
           "TaskFailedWithError code"),
    Report(USER, "TaskFailedUnknownError", "m", "TaskFailedUnknownError platform"),
    Report(USER, "DownstreamSystemError", "Spark Job Failed with Error: driver",
           "DownstreamSystemError platform"),
    Report(USER, "AutoRefreshCacheFailed", "m", "AutoRefreshCacheFailed platform"),
    system("PluginInitializationFailed", "m", "PluginInitializationFailed platform"),
    system("ResourceManagerFailure", "m", "ResourceManagerFailure platform"),
    system("BackOffError", "m", "BackOffError throttled"),
    # flyteplugins/go/tasks/pluginmachinery/secret/embedded_secret_manager.go
    *(system(code, "m", f"{code} auth") for code in SECRET_CODES),
    # flyteplugins/go/tasks/pluginmachinery/ioutils/remote_file_output_reader.go
    system("ErrorFileNotFound", "path:s3://bucket/error.pb: not found",
           "ErrorFileNotFound storage"),
    system("ErrorFileBadFormat", "error not formatted correctly, nil error @path [s3://bucket]",
           "ErrorFileBadFormat storage"),
    # flyteplugins/go/tasks/plugins/k8s/clustered/phase.go
    system("HostMaintenance", "pod evicted due to host maintenance; retrying",
           "HostMaintenance preempted"),
    # flyteplugins/go/tasks/pluginmachinery/core/phase.go
    Report(UNKNOWN, "Unknown", "Unknown error message", "Unknown platform"),
    # flyteplugins/go/tasks/pluginmachinery/flytek8s/pod_helper.go
    Report(USER, "OOMKilled", ended(137, "OOMKilled"), "OOMKilled oom"),
    Report(USER, "OOMKilled", "Pod reported success despite being OOMKilled", "OOMKilled oom"),
    Report(USER, "Interrupted", NO_MESSAGE + ended(137, "Error"), "Interrupted preempted"),
    system("Interrupted", NO_MESSAGE + ended(137, "Error"), "Interrupted preempted"),
    system("Interrupted", "Pod Node is in progress of shutting down, not admitting any new pods",
           "Interrupted preempted"),
    system("Interrupted", NO_MESSAGE, "Interrupted preempted"),
    system("Interrupted", NO_MESSAGE + ended(139, "Error"), "Interrupted code"),
    system("Error", ended(247, "Error"), "Error code"),
    system("PodPendingTimeout", "Unschedulable:0/3 nodes are available: 3 Insufficient memory.",
           "PodPendingTimeout scheduling"),
    Report(USER, "PrimaryContainerNotFound",
           "Primary container [r7x-a1-0] not found in pod's container statuses",
           "PrimaryContainerNotFound platform"),
    Report(USER, "Error", ended(1, "Error"), "Error code"),
    Report(USER, "DeadlineExceeded", "Pod was active on the node longer than the specified "
           "deadline", "DeadlineExceeded timeout"),
    Report(USER, "Evicted", "The node was low on resource: ephemeral-storage.", "Evicted disk"),
    Report(USER, "Evicted", "The node was low on resource: memory.", "Evicted oom"),
    Report(USER, "NodeLost", "Node n3 which was running pod is unresponsive", "NodeLost platform"),
    Report(USER, "UnexpectedAdmissionError", "Allocate failed due to no healthy devices present",
           "UnexpectedAdmissionError scheduling"),
    Report(USER, "TopologyAffinityError", "Resources cannot be allocated with Topology locality",
           "TopologyAffinityError scheduling"),
    Report(USER, "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu",
           "OutOfcpu scheduling"),
    Report(USER, "OutOfnvidia.com/gpu", "Node didn't have enough resource: nvidia.com/gpu",
           "OutOfnvidia.com/gpu scheduling"),
    Report(USER, "Preempting", "Preempted in order to admit critical pod", "Preempting preempted"),
    Report(USER, "ContainerCannotRun", ended(127, "ContainerCannotRun"),
           "ContainerCannotRun config"),
    Report(USER, "StartError", ended(128, "StartError"), "StartError config"),
    system("ContainerStatusUnknown", ended(137, "ContainerStatusUnknown"),
           "ContainerStatusUnknown platform"),
    # the same, classifyWaitingContainer
    Report(USER, "ContainersNotReady|ImagePullBackOff", GRACE + BACK_OFF,
           "ImagePullBackOff image"),
    system("ContainersNotReady|ImagePullBackOff",
           GRACE + BACK_OFF + ": 429 Too Many Requests - You have reached your pull rate limit",
           "ImagePullBackOff throttled"),
    Report(USER, "ContainersNotReady|InvalidImageName", "|couldn't parse image name",
           "InvalidImageName image"),
    Report(USER, "ContainersNotReady|CreateContainerError", GRACE + "no command specified",
           "CreateContainerError config"),
    Report(USER, "ContainersNotReady|CreateContainerConfigError",
           GRACE + 'secret "token" not found', "CreateContainerConfigError config"),
    system("ContainersNotReady|ImageInspectError", "|", "ImageInspectError image"),
    system("ContainersNotReady|ErrImageNeverPull", "|", "ErrImageNeverPull image"),
    system("ContainersNotReady|RegistryUnavailable", "|", "RegistryUnavailable image"),
    system("ContainersNotReady|CrashLoopBackOff", "|back-off 5m0s restarting failed container",
           "CrashLoopBackOff code"),
    system("ContainersNotReady|RunContainerError", "|", "RunContainerError config"),
    system("ContainersNotReady|PostStartHookError", "|", "PostStartHookError platform"),
    # source not public; the SDK knows these
    Report(USER, "RetriesExhausted", "3/3", "RetriesExhausted "),
    Report(USER, "RetriesExhausted|OOMKilled", ended(137, "OOMKilled"), "OOMKilled oom"),
    *(Report(USER, code, "m", f"{name if hasattr(flyte.errors, name) else code} {reason}")
      for code, name, reason in TIME_OUTS),
    *(Report(SYSTEM, code, "Xid 79", f"{code} gpu") for code in GPU_CODES),
    *(Report(USER, code, "Xid 31", f"{code} gpu") for code in GPU_CODES),
    *(system(code, "Xid 79", f"{code} gpu") for code in GPU_CODES),

    # Errors that the child's process wrote.
    Report(USER, "ValueError", "a bad row", None),
    Report(USER, "RoomFullError", "Flyte reads OOM in it", None),
    Report(USER, "UnknownCustomerError", "Flyte reads Unknown in it", None),
    Report(USER, "SystemError", "a bug in an extension module", None),
    Report(USER, "Error", "sqlite3.Error: no such table", None),
    Report(USER, "DeadlineExceeded", "504 Deadline Exceeded", None),
    Report(USER, "BadRequest", "400 Bad Request", None),
    Report(USER, "DataValidationError", "In task t variable o0", None),
    Report(USER, "RetriesExhausted|ValueError", "a bad row", None),
    Report(UNKNOWN, "ModuleNotFoundError", "No module named 'sales'", None),
    Report(UNKNOWN, "Unknown", "no reply", None),
    Report(SYSTEM, "FilesystemIOError", "EIO", None),
    system("SYSCODE", "no disk", None),
    system("UploadFailed", "Failed to upload", None),
    system("NotFound", "404 no such bucket", None),
    # Errors that a process got from its own child and passed on.
    Report(USER, "ImagePullBackOff", GRACE + BACK_OFF, None),
    Report(USER, "MaxRuntimeExceededError", "Action a2 timed out", None),
    system("MaxSystemFailuresExceeded", exceeded("[Interrupted] " + NO_MESSAGE), None),
    # A clustered task whose ranks have counted; phase.go gives JobSet's reason.
    Report(USER, "FailedJobs", "jobset failed due to one or more job failures", None),
    Report(USER, "ReachedMaxRestarts", "jobset failed due to reaching max number of restarts",
           None),
]
# fmt: on
