"""A made-up SDK with an adapter, as files in a folder on the path."""

from __future__ import annotations

from pathlib import Path

ERRORS = """
class AcmeError(Exception):
    pass

class Refused(AcmeError):
    pass

class Lost(AcmeError):
    pass
"""

ADAPTER = """
from faultlens.sdks import SYSTEM, USER, Rule, Sdk

class Acme(Sdk):
    interface = 1
    package = "acme"
    distribution = "acme-sdk"
    errors_modules = ("acme.errors", "acme.more")
    hooked_modules = ("acme.client",)

    def own_rule(self, cls):
        return Rule(USER if cls.__name__ == "Refused" else SYSTEM, "its name")

    def hook_into(self, module, recorder):
        if module.__name__ != "acme.client":
            return None
        print("hooked", module.CALLS)
        return lambda: print("undone")
"""

MORE = """
class MoreError(Exception):
    pass
"""

CLIENT = """
import acme.errors  # before this module is whole
CALLS = 1
"""


CATCHING = """
def catch(cls):
    try:
        raise cls("m")
    except cls:
        pass
"""


def install(
    folder: Path, entry_points: str = "acme.errors = acme_faultlens:Acme", adapter: str = ADAPTER
) -> dict[str, str | None]:
    """Write the SDK and its adapter below `folder`; returns the environment that finds them."""
    files = {
        "acme/__init__.py": "from acme import client\n",
        "acme/client.py": CLIENT,
        "acme/errors.py": ERRORS,
        "acme/more.py": MORE,
        "acme_faultlens.py": adapter,
        "catching.py": CATCHING,
        "acme_faultlens-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-faultlens\n"
        "Version: 1.0\n",
        "acme_faultlens-1.0.dist-info/entry_points.txt": "[console_scripts]\nacme = acme:main\n\n"
        f"[faultlens.sdks]\n{entry_points}\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    tests = Path(__file__).parents[1]
    return {"PYTHONPATH": f"{folder}:{tests}", "FAULTLENS_SERVE": "0"}
