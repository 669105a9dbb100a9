"""The program that the demo watches: both examples in one process, which knows nothing of metrics.

    FAULTLENS=1 python -m faultlens.demo.workload

makes failures for ever and has them on http://localhost:9464/metrics; ``--rounds 1`` goes through
each example once.
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

__all__ = ["DONE", "READY", "WARNED", "main"]

READY = "faultlens demo: the examples are imported"
DONE = "faultlens demo: the examples have ended"
WARNED = "WARNING of faultlens: "
"""How the lines that it prints begin: what the demo waits for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the examples; returns the exit status."""
    parser = argparse.ArgumentParser(prog="faultlens.demo.workload", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often (for ever)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds after each scenario")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="go on serving /metrics when the examples have ended; end when stdin does",
    )
    arguments = parser.parse_args(argv)
    _log_what_faultlens_says()
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
    print(DONE, flush=True)
    if arguments.until_stdin_closes:
        threading.Event().wait()
    return 0


def _examples(rounds: int | None, pause: float) -> tuple[Callable[[], None], ...]:
    from faultlens.demo import durable_orders, flyte_tasks
    from faultlens.demo.durable_server import DurableServer

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
