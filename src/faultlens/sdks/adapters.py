"""Which SDKs there are, and the adapter of each."""

from __future__ import annotations

from faultlens.sdks import Sdk

__all__ = ["ERRORS_MODULES", "adapter_for"]

ERRORS_MODULES = ("flyte.errors", "durable_workflow.errors")
"""The modules whose import brings an SDK in."""


def adapter_for(errors_module: str) -> type[Sdk]:
    """The adapter of the SDK whose errors module has this name, one of `ERRORS_MODULES`."""
    if errors_module == "flyte.errors":
        from faultlens.sdks.flyte import Flyte

        return Flyte
    from faultlens.sdks.durable_workflow import DurableWorkflow

    return DurableWorkflow
