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

# Each failure adds a byte to a file, with which the counts are compared.
APP = """
raised = os.open("raised", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def work():
    fail()
    os.write(raised, b".")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]

wait_until_flyte_is_idle()  # otherwise the workers' threads could hang: see docs/limits.md
if os.environ["FAILS_WHEN_LOADED"]:
    work()
"""

MODES = {
    "one process": (),
    "workers": ("--processes=2",),
    "workers of a master": ("--master", "--processes=2"),
    "workers that may have threads": ("--master", "--processes=2", "--enable-threads"),
    "several requests at once": ("--master", "--processes=2", "--threads=3"),
    "each worker loads": ("--master", "--processes=2", "--enable-threads", "--lazy-apps"),
}


@pytest.mark.parametrize("loaded", ["", "1"], ids=["fails at requests", "fails when loaded, too"])
@pytest.mark.parametrize("mode", MODES)
def test_all_failures_are_counted_and_served(tmp_path: Path, mode: str, loaded: str) -> None:
    host = Host(tmp_path)
    host.file(APP, "web.py")
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "import pyuwsgi; pyuwsgi.run()", "--module=web:app"]
    command += [f"--http-socket={url.removeprefix('http://')}", *MODES[mode]]
    with host.running(command, FAILS_WHEN_LOADED=loaded) as server, host.scraping():
        until(lambda: server.ended() or answers(url), "uWSGI")
        assert not server.ended(), host.log.read_text()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: get(f"{url}/fail"), range(40)))
        raised = (host.folder / "raised").stat().st_size
        assert raised in ((41, 42) if loaded else (40,))
        until(lambda: host.failures() == raised, "all failures to be served")
    assert host.counted() == {"failures": raised}
