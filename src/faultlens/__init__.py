"""faultlens tells a platform team whose fault a failure is: the user's, the system's, or unknown.

With ``FAULTLENS=1`` in the environment nothing here needs to be called. By hand::

    import faultlens

    faultlens.enable()
"""

from __future__ import annotations

__all__ = ["Failure", "Kind", "Role", "__version__", "collector", "disable", "enable"]

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers know the name; importing typing takes its milliseconds
if TYPE_CHECKING:
    from faultlens.exposition.families import Collector
    from faultlens.exposition.ledgers import Reading
    from faultlens.failure import Failure, Kind, Role


def enable() -> None:
    """Record every SDK exception raised in this process from now on.

    Does by hand what ``FAULTLENS=1`` does at start-up, whatever that variable says. SDKs that are
    already imported are covered at once, the others when they are imported. Settings are read
    from the environment by this call. Enabling twice is enabling once. Never raises: what cannot
    be done is logged in one line and the rest goes on.
    """
    from faultlens import startup

    startup.enable()


def disable() -> None:
    """Stop recording and restore everything that `enable` patched.

    What was counted stays counted: enabling again goes on from there. Does nothing when faultlens
    is not enabled.
    """
    from faultlens import startup

    startup.disable()


def collector() -> Collector:
    """The metrics of ``/metrics``, for a `prometheus_client.CollectorRegistry` of the program's::

        prometheus_client.REGISTRY.register(faultlens.collector())

    For a program that serves its own metrics and sets ``FAULTLENS_SERVE=0``: if both are scraped,
    each failure is there twice. Empty while faultlens is not running.
    """
    from faultlens.background import no_fork
    from faultlens.pipeline import running

    with no_fork:  # a child that is forked in the middle of an import could never import it
        from faultlens.exposition.families import Collector

    def read() -> Reading | None:
        pipeline = running()
        return pipeline.read() if pipeline is not None else None

    def info() -> dict[str, str]:
        pipeline = running()
        return pipeline.info() if pipeline is not None else {}

    return Collector(read, info)


def __getattr__(name: str) -> object:
    # Every process with FAULTLENS=1 imports this package at start-up: the record's module, with
    # dataclasses and enum, is loaded when somebody asks for it.
    if name in ("Failure", "Kind", "Role"):
        from faultlens import failure

        return getattr(failure, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
