"""``faultlens dashboards``: writes what Grafana and Prometheus load, so that nobody needs a clone.

The files are in the wheel, beside this module; in a checkout they are where they are made.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent

__all__ = ["FILES", "write"]

_RULES = "prometheus/faultlens.rules.yml"
_PROMETHEUS_RULE = "kubernetes/prometheusrule.yaml"
_ALERTMANAGER = "alertmanager/alertmanager.yml"
_BOARDS = ("grafana/overview.json", "grafana/class.json", "grafana/workers.json")

_PLAIN = (
    *_BOARDS,
    "grafana/provisioning/dashboards/faultlens.yml",
    "grafana/provisioning/datasources/faultlens.yml",
    _RULES,
    _ALERTMANAGER,
    "slo/sloth.yml",
    "slo/pyrra.yml",
)
_KUBERNETES = (
    "kubernetes/kustomization.yaml",
    "kubernetes/daemonset.yaml",
    "kubernetes/podmonitor.yaml",
    _PROMETHEUS_RULE,
    _ALERTMANAGER,
    *_BOARDS,
)

FILES: Mapping[str, Mapping[str, str]] = {
    "plain": {name: name for name in _PLAIN},
    # One directory, since a kustomization reads nothing outside of its own.
    "kubernetes": {name.rpartition("/")[2]: name for name in _KUBERNETES},
}
"""For each format, what is written, and which file here it is. The others belong to the demo."""

_GRAFANA = "http://localhost:3000"
"""How the links of the alerts begin."""

# No character that means something in YAML or in Prometheus' templates, and no password.
_URL = re.compile(
    r"https?://(\[[\da-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w.~%+-]+)*", re.ASCII | re.IGNORECASE
)


def write(directory: Path, grafana_url: str, *, format: str = "plain", force: bool = False) -> int:
    """Write the files; returns the exit status.

    grafana_url: where the alerts link to.
    format: one of `FILES`.
    force: overwrite files that have other content; without it nothing is written then.
    """
    try:
        files = _files(directory, grafana_url, format)
        written = _write(files, force)
    except _Refused as error:
        print(f"faultlens: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = error.filename or directory
        print(f"faultlens: {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    for path in files:
        print("wrote" if path in written else "same ", path)
    print(_NEXT_STEPS[format](directory, grafana_url.rstrip("/")))
    return 0


class _Refused(Exception):
    """Why nothing is written; one line."""


def _files(directory: Path, grafana_url: str, format: str) -> dict[Path, bytes]:
    url = grafana_url.rstrip("/")
    if not _URL.fullmatch(url):
        raise _Refused(f"--grafana-url {grafana_url!r}: expected something like {_GRAFANA}")
    if directory.exists() and not directory.is_dir():
        raise _Refused(f"{directory} is not a directory")
    return {
        directory / name: _content(source, url).encode() for name, source in FILES[format].items()
    }


def _content(source: str, grafana_url: str) -> str:
    """What is written for one of the files here."""
    text = (_source() / source).read_text(encoding="utf-8")
    if source == _RULES:
        return text.replace(_GRAFANA, grafana_url)
    if source == _PROMETHEUS_RULE:
        return text + indent(_content(_RULES, grafana_url), "  ")
    return text


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


def _plain_steps(directory: Path, grafana_url: str) -> str:
    grafana = shlex.quote(str(directory / "grafana"))
    return f"""
Grafana: cp -r {grafana}/. /etc/grafana/faultlens
         cp {grafana}/provisioning/dashboards/faultlens.yml /etc/grafana/provisioning/dashboards
         or, by hand, each board at {grafana_url}/dashboard/import
         The other provisioning file is for a Grafana that has no data sources yet.
Prometheus: rule_files: [{(directory / _RULES).absolute()}]
         The boards are empty without these rules.
Alertmanager: {directory / _ALERTMANAGER} routes the alerts; fill in its receivers."""


def _kubernetes_steps(directory: Path, grafana_url: str) -> str:
    pack = shlex.quote(str(directory))
    return f"""
1. Set the namespace, the image and the label in {directory / "kustomization.yaml"}.
2. kubectl apply -k {pack}
3. {directory / "alertmanager.yml"} routes the alerts; it is not applied.
   Fill in its receivers, then merge it into your Alertmanager's configuration."""


_NEXT_STEPS: Mapping[str, Callable[[Path, str], str]] = {
    "plain": _plain_steps,
    "kubernetes": _kubernetes_steps,
}
