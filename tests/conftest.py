from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import children


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on what the developer's shell has set for faultlens or OpenTelemetry."""
    import os

    for name in list(os.environ):
        if name.startswith(children.PREFIXES):
            monkeypatch.delenv(name)
    yield
