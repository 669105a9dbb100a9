"""faultlens under ``opentelemetry-instrument``.

The interface of OpenTelemetry's ``BaseInstrumentor``, without a dependency on its package.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from faultlens import startup

__all__ = ["FaultlensInstrumentor"]


class FaultlensInstrumentor:
    """Enables faultlens, unless ``FAULTLENS`` is set to off or to nonsense."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing that must be installed: without an SDK there is nothing to do."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """As `faultlens.enable`; the arguments that OpenTelemetry hands out are not needed."""
        if "FAULTLENS" not in os.environ or startup.switch():
            startup.enable()

    def uninstrument(self, **kwargs: Any) -> None:
        """As `faultlens.disable`."""
        startup.disable()
