"""For tests, of an adapter or of a program: what faultlens records::

from faultlens.testing import recorded

def test_a_lost_connection_is_the_system_s_fault():
    with recorded() as failures:
        with pytest.raises(acme.errors.Unavailable):
            acme.call()
    assert [(f.type, f.kind, f.role) for f in failures] == [
        ("acme.errors.Unavailable", Kind.SYSTEM, Role.ORIGIN)
    ]
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import faultlens
from faultlens import imports, pipeline
from faultlens.failure import Failure
from faultlens.sdks import Sdk, adapters

__all__ = ["recorded"]

_ALONE = {"FAULTLENS_STORE": "off", "FAULTLENS_SERVE": "0"}


@contextmanager
def recorded(*extra: type[Sdk]) -> Iterator[list[Failure]]:
    """Gives a list that gets the record of each SDK exception raised within the block.

    Carriers and control flow are among them: `Failure.role` tells. If faultlens is not enabled, it
    is for the block, in memory and without a port.

    extra: adapters that no entry point names yet.
    """
    for adapter in extra:
        adapters.add(dict.fromkeys(adapter.errors_modules, adapter))
    failures: list[Failure] = []
    pipeline.recordings.append(failures)
    enabled = imports.installed()
    before = {name: os.environ.get(name) for name in _ALONE}
    try:
        if not enabled:
            os.environ.update(_ALONE)
            faultlens.enable()
        yield failures
        running = pipeline.running()
        if running is not None:
            running.hook.poll()
    finally:
        pipeline.recordings[:] = [kept for kept in pipeline.recordings if kept is not failures]
        if not enabled:
            faultlens.disable()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
