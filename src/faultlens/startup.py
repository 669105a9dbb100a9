"""What ``faultlens.pth`` calls in every Python process of an environment.

It is imported only if ``FAULTLENS`` is set. It then installs an import hook and nothing more; the
rest waits until a supported SDK is imported.
"""

from __future__ import annotations

import os
import sys

from faultlens.switch import OFF, ON, on_or_off

TYPE_CHECKING = False  # typing is not imported in every process
if TYPE_CHECKING:
    from types import ModuleType

_activated = False


def switch() -> bool | None:
    """Whether ``FAULTLENS`` is set to on; None if its value is neither on nor off."""
    return on_or_off(os.environ.get("FAULTLENS", ""))


def activate() -> None:
    """Enable faultlens if ``FAULTLENS`` says so. Idempotent, and never raises.

    Python runs the lines of a ``.pth`` file twice when it starts in a virtual environment.
    """
    global _activated
    if _activated:
        return
    _activated = True
    on = switch()
    if on is None:
        _warn(
            f"FAULTLENS={os.environ['FAULTLENS']!r} is neither on ({', '.join(ON)}) nor off "
            f"({', '.join(OFF)}); faultlens stays off."
        )
    elif on:
        enable()


def obstacle() -> str | None:
    """What keeps faultlens from counting in this Python; None if nothing does."""
    if sys.version_info >= (3, 13) and not sys._is_gil_enabled():
        return (
            "this free-threaded Python runs without the global interpreter lock, and failures "
            "would be counted wrong; PYTHON_GIL=1 or -X gil=1 turns the lock on"
        )
    return None


def enable() -> None:
    """Install the import hooks; see `faultlens.enable`."""
    why = obstacle()
    if why is not None:
        _warn(f"stays off and records nothing: {why}.")
        return
    try:
        from faultlens import imports

        if imports.elsewhere():
            return
        _declare()
        imports.install(_imported)
    except Exception as error:
        _warn(f"could not start and stays off: {type(error).__name__}: {error}")


def _declare() -> None:
    """Watch for the SDKs that the user's rules file declares."""
    path = os.environ.get("FAULTLENS_RULES", "").strip()
    try:
        with open(path, "rb") as file:  # noqa: PTH123, pathlib is slow to import
            declares = any(line.lstrip(b" \t[\"'").startswith(b"sdk") for line in file)
    except OSError:  # said when an SDK is imported
        return
    if declares:
        from faultlens.sdks import declared

        declared.add_from(path)


def disable() -> None:
    """Take out everything that `enable` put in; see `faultlens.disable`."""
    from faultlens import imports

    imports.uninstall()
    pipeline = sys.modules.get("faultlens.pipeline")
    if pipeline is not None:
        pipeline.stop()


def _imported(module: ModuleType) -> None:
    """Hand a module to the pipeline."""
    try:
        from faultlens import pipeline
    except Exception as error:  # half-installed, or a dependency that does not fit
        disable()
        _warn(f"could not start and stays off: {type(error).__name__}: {error}")
        return
    pipeline.imported(module)


def _warn(message: str) -> None:
    import logging

    logging.getLogger("faultlens").warning("faultlens: %s", message)
