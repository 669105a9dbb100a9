"""A program whose store cannot be used is warned once and goes on counting in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import children

FAIL = """
    import flyte.errors, inside
    from faultlens import pipeline
    inside.expect_dropped()
    try:
        raise flyte.errors.OOMError("OOM", "m")
    except flyte.errors.OOMError:
        pass
    inside.report([inside.failures(), inside.dropped()])
"""


@pytest.mark.parametrize("what", ["symlink", "file", "below a file", "another's"])
def test_an_unusable_directory(tmp_path: Path, what: str) -> None:
    place, words = tmp_path / "store", ""
    if what == "symlink":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
        words = f"{place} is a symbolic link; expected a directory"
    elif what == "file":
        place.write_text("")
        words = f"{place} is not a directory; expected a directory"
    elif what == "below a file":
        place.write_text("")
        place, words = place / "store", f"{place}/store is not a directory"
    elif os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    else:
        place.mkdir()
        os.chown(place, 12345, -1)
        words = f"{place} belongs to user 12345; expected user 0 or root"
    done = children.run(FAIL, env={"FAULTLENS_STORE": str(place)})
    counted = '[{"flyte.errors.OOMError|user|w": 1}, {"store_error": 1}]'
    assert done.stdout.splitlines()[-1] == counted
    assert done.stderr.count("faultlens: the store") == 1, done.stderr
    assert words in done.stderr
    if what == "symlink":
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_is_one_warning_and_nothing_is_lost(tmp_path: Path) -> None:
    done = children.run(
        """
        import resource, time
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # nothing can be written
        import flyte.errors, inside
        from faultlens import pipeline

        def fail():
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                pass

        fail()
        full = inside.failures()
        inside.expect_dropped()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        while pipeline.running().ledger.unsaved():
            time.sleep(0.1)
        fail()
        inside.report([full, inside.failures(), inside.dropped()])
        """,
        env={"FAULTLENS_STORE": str(tmp_path / "store")},
    )
    assert done.stdout.splitlines()[-1] == (
        '[{"flyte.errors.OOMError|user|w": 1}, {"flyte.errors.OOMError|user|w": 2}, '
        '{"store_error": 1}]'
    )
    assert done.stderr.count("faultlens: the store") == 1, done.stderr
    assert "cannot create a ledger in" in done.stderr
