"""The program that the demo watches: both examples in one process, which knows nothing of metrics.

    FAULTLENS=1 python -m faultlens.commands.demo.workload

makes failures for ever and has them on http://localhost:9464/metrics; ``--rounds 1`` goes through
each example once. With OTEL_TRACES_EXPORTER=otlp, or an OTLP endpoint, its spans are sent there.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

from opentelemetry import trace

__all__ = ["DONE", "READY", "WARNED", "main"]

READY = "faultlens demo: the examples are imported"
DONE = "faultlens demo: the examples have ended"
WARNED = "WARNING of faultlens: "
"""How the lines that it prints begin: what the demo waits for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the examples; returns the exit status."""
    parser = argparse.ArgumentParser(prog="faultlens.commands.demo.workload", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often (for ever)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds after each scenario")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="go on serving /metrics when the examples have ended; end when stdin does",
    )
    arguments = parser.parse_args(argv)
    _log_what_faultlens_says()
    _set_up_tracing()
    if arguments.until_stdin_closes:
        # A terminal's Ctrl-C comes here too, but the demo still wants the last numbers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    examples = _examples(arguments.rounds, arguments.pause)
    print(READY, flush=True)
    threads = [threading.Thread(target=_run, args=(example,), daemon=True) for example in examples]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        os._exit(130)  # the examples' threads and event loops would hold up any other exit
    _send_what_is_left()
    print(DONE, flush=True)
    if arguments.until_stdin_closes:
        threading.Event().wait()
    return 0


def _set_up_tracing() -> None:
    """Set OpenTelemetry up if the environment asks for it, as any traced program does."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    default = "otlp" if any(map(os.environ.get, endpoints)) else "none"
    if os.environ.get("OTEL_TRACES_EXPORTER", default) != "otlp":
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:  # faultlens, which would use it too, warns of it
        return
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def _send_what_is_left() -> None:
    force_flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force_flush is not None:
        flushing = threading.Thread(target=force_flush, daemon=True)
        flushing.start()
        flushing.join(2)  # a collector that does not answer would take ten seconds and more


def _examples(rounds: int | None, pause: float) -> tuple[Callable[[], None], ...]:
    from faultlens.commands.demo import durable_orders, flyte_tasks
    from faultlens.commands.demo.durable_server import DurableServer

    def orders() -> None:
        with DurableServer() as server:
            durable_orders.main(server.url, rounds, pause)

    return lambda: flyte_tasks.main(rounds, pause), orders


def _run(example: Callable[[], None]) -> None:
    """Run one example; if it fails in a way that it does not expect, all of the demo has failed."""
    try:
        example()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def _log_what_faultlens_says() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s of %(name)s: %(message)s"))
    log = logging.getLogger("faultlens")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # an SDK's handler on the root logger would wrap the lines


if __name__ == "__main__":
    sys.exit(main())
