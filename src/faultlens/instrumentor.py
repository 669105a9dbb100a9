"""Support for ``opentelemetry-instrument``.

Has the interface of OpenTelemetry's ``BaseInstrumentor``, without a dependency on its package.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from faultlens import startup

__all__ = ["FaultlensInstrumentor"]


class FaultlensInstrumentor:
    """Enables faultlens, unless ``FAULTLENS`` is set to off or to an invalid value."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Returns no packages: faultlens requires none, and without an SDK it does nothing."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """As `faultlens.enable`; OpenTelemetry's arguments are ignored."""
        if "FAULTLENS" not in os.environ or startup.switch():
            startup.enable()

    def uninstrument(self, **kwargs: Any) -> None:
        """As `faultlens.disable`."""
        startup.disable()
