"""A workflow in a module that enables faultlens: the SDK's sandbox imports both anew."""

from __future__ import annotations

import opentelemetry.sdk.trace
from temporalio import workflow
from temporalio.exceptions import ApplicationError

import faultlens

faultlens.enable()

assert opentelemetry.sdk.trace


@workflow.defn(name="enabling")
class Enabling:
    @workflow.run
    async def run(self) -> None:
        try:
            raise ApplicationError("the card is declined", type="Declined")
        except ApplicationError:
            pass
