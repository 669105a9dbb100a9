"""Parses environment variables that switch something on or off.

Imports nothing, since every process may read such a variable.
"""

from __future__ import annotations

__all__ = ["OFF", "ON", "on_or_off"]

ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


def on_or_off(value: str) -> bool | None:
    """True for on, False for off or an empty value, None for anything else."""
    word = value.strip().lower()
    return True if word in ON else False if word in ("", *OFF) else None
