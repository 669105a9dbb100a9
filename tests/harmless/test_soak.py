"""A short soak test; `python -m tests.harmless.soak` is the long one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.harmless import soak


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_many_rounds_leave_no_more_than_a_few_and_every_count_is_exact(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    assert soak.problems(list(islice(soak.rounds(tmp_path), 2 * soak.WARM_UP))) == []
