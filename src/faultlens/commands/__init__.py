"""The command ``faultlens``: see it work, see that it is on, see how it judges.

Each command's module is imported only when it runs: ``--help`` needs no SDK and is quick.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import faultlens

__all__ = ["main"]

_DEMO_NEEDS = ("flyte", "durable_workflow")

_DESCRIPTION = """\
Whose fault is a failure? With FAULTLENS=1 in a process's environment, every exception that an
SDK (Flyte, Durable Workflow, Temporal or another) raises there is counted by class, by kind
(system, unknown or user) and by worker, for Prometheus and on OpenTelemetry spans."""

_TOP = """\
Shows the failures that the programs of this host have counted, also those of programs that have
ended. It only reads. Without a terminal it shows them once.

Rows are grouped by kind, the most urgent first, and keep their places while counts change.
keys: q quit; k kind; s SDK; o order (name, count, last minute, last seen); arrows, space scroll

--url reads the /metrics of another host. There the worker of an issue, and when it was last seen,
show only where the page leaves one answer.

exit status: 0; 1 if the counts cannot be read."""

_RESET = """\
Forgets all that was counted in the store, after a question. Prometheus takes it for a restart.
Refuses while a process counts there, since it would go on from its own counts.

exit status: 0; 1 if nothing was forgotten though there was something."""

_DOCTOR = """\
Says for this environment whether faultlens is on, what it would do and what is in its way:
run it with the Python and the environment variables of the program in question.

exit status: 0 if faultlens is on and nothing FAILs; 1 if it is off or something FAILs.
A warn changes what is recorded, or how well, and fails nothing."""

_DEMO = """\
Runs an ordinary Flyte pipeline and an ordinary Durable Workflow order service, in one process
with FAULTLENS=1 and nothing else, and shows what its /metrics says about their failures.
Needs no cluster and no network. Ctrl-C ends it."""

_EXPLAIN = """\
Says whose fault such a failure is, and what decides: a rule of FAULTLENS_RULES or of
FAULTLENS_PROFILE, or the SDK itself. A native exception that ends a Flyte task is a
flyte.errors.RuntimeUserError with a cause:

  faultlens explain flyte.errors.RuntimeUserError --cause builtins.ConnectionError

exit status: 0; 1 if there is no such class."""

_KINDS = ("system", "unknown", "user")
_FORMATS = ("plain", "kubernetes")

_CLASSES = """\
Every exception class of the installed SDKs, the kind that its failures get, and why.
FAULTLENS_RULES and FAULTLENS_PROFILE are taken into account."""

_DASHBOARDS = """\
Writes what your own Grafana, Prometheus and Alertmanager load: the boards, how Grafana finds them
and its data sources (provisioning), the recording rules and alerts, who gets which alert, and the
objective for sloth and pyrra. --format kubernetes writes instead what kubectl apply -k takes:
a DaemonSet that serves each node's store, PodMonitor, PrometheusRule and the boards.

A file that is there with other content stays, and nothing is written, unless you say --force.

exit status: 0 if all is there; 1 if not."""

_SERVE = """\
Serves /metrics for all processes of this host that count in the store: as a sidecar, a DaemonSet
or a service. Needs no SDK. Without it the first process that counts does the same, and another
one when that ends. Ctrl-C or SIGTERM ends it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no … or █ gets a ? for it
            stream.reconfigure(errors="replace")
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `faultlens classes | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    return status


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "top":
        from faultlens.commands import top

        return top.top(
            url=arguments.url,
            store=arguments.store,
            once=arguments.once,
            as_json=arguments.json,
            only=top.Filter(arguments.kind, arguments.sdk),
        )
    if arguments.command == "reset":
        from faultlens.commands import reset

        return reset.reset(store=arguments.store, yes=arguments.yes)
    if arguments.command == "demo":
        return _demo(arguments)
    if arguments.command == "serve":
        from faultlens.commands import serve

        return serve.serve(host=arguments.host, port=arguments.port, store=arguments.store)
    if arguments.command == "dashboards":
        from faultlens.commands import dashboards

        return dashboards.write(
            arguments.directory,
            arguments.grafana_url,
            format=arguments.format,
            force=arguments.force,
        )
    # What follows imports the SDKs to look at them: a server of our own would be in the way.
    enabled = "faultlens.imports" in sys.modules
    faultlens.disable()
    if arguments.command == "classes":
        from faultlens.commands import classes

        return classes.show(arguments.name, arguments.sdk, arguments.kind, as_json=arguments.json)
    if arguments.command == "explain":
        from faultlens.commands import explain

        return explain.explain(
            arguments.name,
            arguments.cause,
            arguments.code,
            arguments.message,
            as_json=arguments.json,
        )
    from faultlens.commands import doctor

    return doctor.examine(enabled=enabled, record=arguments.record)


def _demo(arguments: argparse.Namespace) -> int:
    missing = [name for name in _DEMO_NEEDS if find_spec(name) is None]
    if missing:
        print(
            f"faultlens: the demo needs {' and '.join(missing)}: pip install 'faultlens[demo]'",
            file=sys.stderr,
        )
        return 1
    from faultlens.commands.demo import run

    return run.demo(once=arguments.once, seconds=arguments.seconds, port=arguments.port)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="faultlens", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"faultlens {faultlens.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    # Options of several commands.
    store, port, as_json, filters = (_Parser(add_help=False) for _ in range(4))
    store.add_argument(
        "--store", metavar="DIR", help="the store (FAULTLENS_STORE, or the user's own)"
    )
    port.add_argument(
        "--port",
        type=_port,
        metavar="P",
        help="where to serve /metrics, 0 for any (OTEL_EXPORTER_PROMETHEUS_PORT, or 9464)",
    )
    as_json.add_argument("--json", action="store_true", help="the same as JSON")
    filters.add_argument("--kind", choices=_KINDS, default="", help="only this kind")
    filters.add_argument("--sdk", default="", help="only this SDK, by its import name")

    def add(name: str, brief: str, description: str, *parents: _Parser) -> _Parser:
        return commands.add_parser(name, help=brief, description=description, parents=parents)

    top = add("top", "what was counted, as a live table", _TOP, store, filters, as_json)
    top.add_argument("--once", action="store_true", help="show it once and end")
    top.add_argument(
        "--url", default="", help="another host's /metrics, as http://node:9464, not the store"
    )

    reset = add("reset", "forget what was counted", _RESET, store)
    reset.add_argument("--yes", action="store_true", help="do not ask")

    demo = add("demo", "watch failures being counted, in example programs", _DEMO, port)
    demo.add_argument(
        "--once", action="store_true", help="go through the examples once, print the table, end"
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=60.0,
        metavar="N",
        help="how long to run (60); 0: until it is stopped",
    )

    dashboards = add(
        "dashboards",
        "write the Grafana boards and the Prometheus rules, also for Kubernetes",
        _DASHBOARDS,
    )
    dashboards.add_argument("directory", type=Path, metavar="DIR", help="where to write them")
    dashboards.add_argument(
        "--format",
        choices=_FORMATS,
        default="plain",
        help="as files (plain), or for kubectl apply -k (kubernetes)",
    )
    dashboards.add_argument(
        "--grafana-url",
        default="http://localhost:3000",
        metavar="URL",
        help="your Grafana, where the alerts link to (http://localhost:3000)",
    )
    dashboards.add_argument(
        "--force", action="store_true", help="overwrite files with other content"
    )

    serve = add("serve", "serve what all processes of this host have counted", _SERVE, store, port)
    serve.add_argument(
        "--host", help="where to serve /metrics (OTEL_EXPORTER_PROMETHEUS_HOST, or localhost)"
    )

    doctor = add("doctor", "is it on, and does everything work", _DOCTOR)
    doctor.add_argument(
        "--record",
        action="store_true",
        help="also raise a test failure of each SDK and see that it is counted once; it is not "
        "scraped, but sent as a span if an exporter is configured",
    )

    classes = add(
        "classes", "every exception class of the SDKs, its kind and why", _CLASSES, filters, as_json
    )
    classes.add_argument(
        "name", nargs="?", default="", metavar="CLASS", help="part of a class's name, or a glob"
    )

    explain = add("explain", "whose fault a failure is, and why", _EXPLAIN, as_json)
    explain.add_argument(
        "name", metavar="CLASS", help="an SDK's exception class, or yours below it"
    )
    explain.add_argument(
        "--cause", default="", metavar="CLASS", help="the native class that it came from"
    )
    explain.add_argument("--code", default="", help="its code")
    explain.add_argument("--message", default="", help="its message")
    return parser


class _Parser(argparse.ArgumentParser):
    """Keeps the line breaks of the descriptions above; its errors begin as all messages do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"faultlens: {message}\n")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, not {text}")
    return seconds or math.inf


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, not {text}")
    return int(text)
