"""How an environment variable says on or off. Imports nothing: every process may read it."""

from __future__ import annotations

__all__ = ["OFF", "ON", "on_or_off"]

ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


def on_or_off(value: str) -> bool | None:
    """What a switch's value says, empty for off; None if it says neither."""
    word = value.strip().lower()
    return True if word in ON else False if word in ("", *OFF) else None
