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

import faultlens

__all__ = ["main"]

_DEMO_NEEDS = ("rich", "flyte", "durable_workflow")

_DESCRIPTION = """\
Whose fault is a failure? With FAULTLENS=1 in a process's environment, every exception that an
SDK (Flyte, Durable Workflow and others) raises there is counted by class, by kind (user, system
or unknown) and by worker, for Prometheus and on OpenTelemetry spans."""

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

_KINDS = ("user", "system", "unknown")
_FORMATS = ("plain", "kubernetes")

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
    except BrokenPipeError:  # `faultlens classes | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    return status


def _run(arguments: argparse.Namespace) -> int:
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
            f"faultlens demo: not installed: {', '.join(missing)}. pip install 'faultlens[demo]'",
            file=sys.stderr,
        )
        return 1
    from faultlens.commands.demo import run

    return run.demo(once=arguments.once, seconds=arguments.seconds, port=arguments.port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faultlens", description=_DESCRIPTION, formatter_class=_Raw
    )
    parser.add_argument("--version", action="version", version=f"faultlens {faultlens.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    demo = commands.add_parser(
        "demo",
        help="watch failures being counted, in example programs that run here",
        description=_DEMO,
        formatter_class=_Raw,
    )
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
    demo.add_argument(
        "--port",
        type=_port,
        metavar="P",
        help="where to serve /metrics, 0 for any (OTEL_EXPORTER_PROMETHEUS_PORT, or 9464)",
    )

    dashboards = commands.add_parser(
        "dashboards",
        help="write the Grafana boards and the Prometheus rules, also for Kubernetes",
        description=_DASHBOARDS,
        formatter_class=_Raw,
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

    serve = commands.add_parser(
        "serve",
        help="serve what all processes of this host have counted",
        description=_SERVE,
        formatter_class=_Raw,
    )
    serve.add_argument(
        "--host", help="where to serve /metrics (OTEL_EXPORTER_PROMETHEUS_HOST, or localhost)"
    )
    serve.add_argument(
        "--port",
        type=_port,
        metavar="P",
        help="its port, 0 for any (OTEL_EXPORTER_PROMETHEUS_PORT, or 9464)",
    )
    serve.add_argument(
        "--store", metavar="DIR", help="the store (FAULTLENS_STORE, or the user's own)"
    )

    doctor = commands.add_parser(
        "doctor",
        help="is it on, and does everything work",
        description=_DOCTOR,
        formatter_class=_Raw,
    )
    doctor.add_argument(
        "--record",
        action="store_true",
        help="also raise a test failure of each SDK and see that it is counted once; it is not "
        "scraped, but sent as a span if an exporter is configured",
    )

    classes = commands.add_parser(
        "classes",
        help="every exception class of the installed SDKs, its kind and why",
        description="Every exception class of the installed SDKs, the kind that its failures get, "
        "and why. FAULTLENS_RULES and FAULTLENS_PROFILE are taken into account.",
    )
    classes.add_argument(
        "name", nargs="?", default="", metavar="CLASS", help="part of a class's name, or a glob"
    )
    classes.add_argument(
        "--kind", choices=_KINDS, default="", help="only those that can get this kind"
    )
    classes.add_argument("--sdk", default="", help="only those of this SDK, by its import name")
    classes.add_argument("--json", action="store_true", help="the same as JSON")

    explain = commands.add_parser(
        "explain",
        help="whose fault such a failure is, and which rule says so",
        description=_EXPLAIN,
        formatter_class=_Raw,
    )
    explain.add_argument(
        "name", metavar="CLASS", help="an SDK's exception class, or yours below it"
    )
    explain.add_argument(
        "--cause", default="", metavar="CLASS", help="the native class that it came from"
    )
    explain.add_argument("--code", default="", help="its code")
    explain.add_argument("--message", default="", help="its message")
    explain.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the descriptions above."""


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, not {text}")
    return seconds or math.inf


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, not {text}")
    return port
