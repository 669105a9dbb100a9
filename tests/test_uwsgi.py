"""A real uWSGI: all its workers count and are served, whichever process has loaded the program."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.exposition.hosts import Host
from tests.servers import answers, free_port, get, until

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 15), reason="there is no pyuwsgi for Python 3.15"
)

APP = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        fail()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]

wait_until_flyte_is_idle()  # otherwise the workers' threads could hang: see docs/limits.md
"""

MODES = {
    "one process": (),
    "workers": ("--processes=2",),
    "workers of a master": ("--master", "--processes=2"),
    "workers that may have threads": ("--master", "--processes=2", "--enable-threads"),
    "several requests at once": ("--master", "--processes=2", "--threads=3"),
    "each worker loads": ("--master", "--processes=2", "--enable-threads", "--lazy-apps"),
}


@pytest.mark.parametrize("fails_when_loaded", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_all_failures_are_counted_and_served(
    tmp_path: Path, mode: str, fails_when_loaded: bool
) -> None:
    host = Host(tmp_path)
    host.file(APP + "fail()\n" * fails_when_loaded, "web.py")
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "import pyuwsgi; pyuwsgi.run()", "--module=web:app"]
    command += [f"--http-socket={url.removeprefix('http://')}", *MODES[mode]]
    loads = 2 if "--lazy-apps" in command else 1
    expected = 40 + loads * fails_when_loaded
    with host.running(command) as server, host.scraping():
        server.until(lambda: answers(url), "uWSGI")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: get(f"{url}/fail"), range(40)))
        until(lambda: host.failures() == expected, "all failures to be served")
    assert host.counted() == {"failures": expected}
