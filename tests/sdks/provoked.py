"""Provokes every class of an SDK in this process and reports what faultlens counted for each.

A program for `tests.children`: ``python -m tests.sdks.provoked MODULE``.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tests import inside


def main(module: str) -> None:
    provocations = importlib.import_module(f"tests.sdks.{module}").PROVOCATIONS
    errors = importlib.import_module(module.removeprefix("provoke_") + ".errors")
    found: dict[str, dict[str, Any]] = {}
    for name, provocation in provocations.items():
        if hasattr(errors, name):
            failures, raises = inside.failures(), inside.raises()
            provocation.provoke()
            # A class that is only provoked as a carrier counts no failure.
            counted = inside.more(inside.failures(), failures) or inside.more(
                inside.raises(), raises
            )
            found[name] = {"counted": counted, "by_hand": provocation.by_hand}
    inside.report(found)


if __name__ == "__main__":
    main(sys.argv[1])
