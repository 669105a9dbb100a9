"""Which adapters are installed, by their entry points::

    [project.entry-points."faultlens.sdks"]
    "acme.errors" = "acme_faultlens:Acme"

The name is the module whose import brings the SDK in, the value is the adapter's class.

Every process with ``FAULTLENS=1`` that imports a third-party module looks here. That takes 25 µs
for each installed distribution; `importlib.metadata` takes 80 ms, most of it for its own import.
"""

from __future__ import annotations

import sys
from os import listdir
from os.path import join

TYPE_CHECKING = False  # typing is not imported in every process
if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTION = b"[faultlens.sdks]"


def installed() -> dict[str, str]:
    """The value of each entry point by its name. The first on `sys.path` wins, as for imports."""
    found: dict[str, str] = {}
    for text in _files():
        if _SECTION in text:
            for name, value in _section(text.decode("utf-8", "replace")):
                found.setdefault(name, value)
    return found


def _files() -> Iterator[bytes]:
    for directory in sys.path:
        if not isinstance(directory, str):  # Python's own finders pass over it too
            continue
        try:
            names = listdir(directory or ".")
        except (OSError, ValueError):  # not there, an archive, or no possible path
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    with open(join(directory, name, "entry_points.txt"), "rb") as file:
                        yield file.read()
                except OSError:  # most have none
                    continue


def _section(text: str) -> Iterator[tuple[str, str]]:
    inside = False
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.strip() == _SECTION.decode()
        elif inside and "=" in line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
