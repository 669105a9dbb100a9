from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests import isolation

# No example fails for being slow.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the developer's shell has set for faultlens or OpenTelemetry."""
    for name in list(os.environ):
        if name.startswith(isolation.PREFIXES):
            monkeypatch.delenv(name)
    for name, value in isolation.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session", autouse=True)
def _the_users_store_stays_as_it_is() -> Iterator[None]:
    before = isolation.users_store()
    yield
    assert isolation.users_store() == before, "a test, or a program of yours, has counted there"
