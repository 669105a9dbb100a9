"""``faultlens dashboards``: writes what Grafana and Prometheus load, so that nobody needs a clone.

The files are in the wheel, beside this module; in a checkout they are where they are made.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

__all__ = ["FILES", "write"]

_RULES = "prometheus/faultlens.rules.yml"

FILES = (
    "grafana/overview.json",
    "grafana/class.json",
    "grafana/workers.json",
    "grafana/provisioning/dashboards/faultlens.yml",
    "grafana/provisioning/datasources/faultlens.yml",
    _RULES,
)
"""What is written. What else is in the checkout belongs to its demo."""

_GRAFANA = "http://localhost:3000"
"""How the links of the alerts begin."""

# No character that means something in YAML or in Prometheus' templates, and no password.
_URL = re.compile(
    r"https?://(\[[\da-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w.~%+-]+)*", re.ASCII | re.IGNORECASE
)


def write(directory: Path, grafana_url: str, *, force: bool) -> int:
    """Write the files; returns the exit status.

    grafana_url: where the alerts link to.
    force: overwrite files that have other content; without it nothing is written then.
    """
    try:
        files = _files(directory, grafana_url)
        written = _write(files, force)
    except _Refused as error:
        print(f"faultlens dashboards: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = error.filename or directory
        print(f"faultlens dashboards: {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    for path in files:
        print("wrote" if path in written else "same ", path)
    print(_next_steps(directory, grafana_url))
    return 0


class _Refused(Exception):
    """Why nothing is written; one line."""


def _files(directory: Path, grafana_url: str) -> dict[Path, bytes]:
    url = grafana_url.rstrip("/")
    if not _URL.fullmatch(url):
        raise _Refused(f"--grafana-url {grafana_url!r}: expected something like {_GRAFANA}")
    if directory.exists() and not directory.is_dir():
        raise _Refused(f"{directory} is no directory")
    files = {name: (_source() / name).read_bytes() for name in FILES}
    files[_RULES] = files[_RULES].replace(_GRAFANA.encode(), url.encode())
    return {directory / name: content for name, content in files.items()}


def _source() -> Path:
    package = Path(__file__).parents[1]
    share = package / "share"
    return share if share.is_dir() else package.parents[1] / "dashboards"


def _write(files: dict[Path, bytes], force: bool) -> list[Path]:
    """Write the files whose content is not there yet; returns which."""
    missing = [path for path in files if not path.exists()]
    others = [path for path in files if path not in missing and path.read_bytes() != files[path]]
    if others and not force:
        more = f", and so have {len(others) - 1} more" if len(others) > 1 else ""
        raise _Refused(f"{others[0]} has other content{more}. --force overwrites")
    for path in (*missing, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[path])
    return [*missing, *others]


def _next_steps(directory: Path, grafana_url: str) -> str:
    grafana = shlex.quote(str(directory / "grafana"))
    return f"""
Grafana: cp -r {grafana}/. /etc/grafana/faultlens
         cp {grafana}/provisioning/dashboards/faultlens.yml /etc/grafana/provisioning/dashboards
         or, by hand, each board at {grafana_url.rstrip("/")}/dashboard/import
         The other provisioning file is for a Grafana that has no data sources yet.
Prometheus: rule_files: [{(directory / _RULES).absolute()}]
         The boards are empty without these rules."""
