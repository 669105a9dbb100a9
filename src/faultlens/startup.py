"""What ``faultlens.pth`` calls in every Python process of an environment.

Until ``FAULTLENS`` is set this imports nothing but `os` and `sys`; when it is, nothing more than an
import hook is installed, and the rest waits until a supported SDK is imported.
"""

import os
import sys

_ON = ("1", "true", "yes", "on")
_OFF = ("", "0", "false", "no", "off")

_activated = False


def switch() -> "bool | None":
    """Whether ``FAULTLENS`` is set to on; None if its value is neither on nor off."""
    return on_or_off(os.environ.get("FAULTLENS", ""))


def on_or_off(value: str) -> "bool | None":
    """What a switch's value says; None if it is neither."""
    word = value.strip().lower()
    return True if word in _ON else False if word in _OFF else None


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
            f"FAULTLENS={os.environ['FAULTLENS']!r} is neither on ({', '.join(_ON)}) nor off "
            f"({', '.join(filter(None, _OFF))}): faultlens stays off."
        )
    elif on:
        enable()


def obstacle() -> "str | None":
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
        _warn(f"faultlens stays off and records nothing: {why}.")
        return
    try:
        from faultlens import imports

        imports.install()
    except Exception as error:
        _warn(f"faultlens could not start and stays off: {type(error).__name__}: {error}")


def disable() -> None:
    """Take out everything that `enable` put in; see `faultlens.disable`."""
    from faultlens import imports

    imports.uninstall()


def _warn(message: str) -> None:
    import logging

    logging.getLogger("faultlens").warning("%s", message)
