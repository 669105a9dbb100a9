"""Clocks, threads and sockets stay the interpreter's own, whatever patches them, and when."""

from __future__ import annotations

import sys

import pytest

from tests import children

USES_THEM = """
def uses_them():
    import os, threading, _socket
    from faultlens import natives
    done = natives.allocate_lock()
    done.acquire()
    seen = []

    def thread():
        seen.append(natives.get_ident())
        done.release()

    natives.start_new_thread(thread, ())
    # A greenlet would not run while the native thread is blocked.
    assert done.acquire(timeout=600)
    assert seen != [natives.get_ident()]
    assert type(natives.time()) is type(natives.monotonic()) is float
    before = natives.monotonic()
    natives.sleep(0.001)
    assert natives.monotonic() > before

    listener = natives.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    number = listener.fileno()
    assert natives.wait({number: natives.POLLIN}, 0) == {}
    client = natives.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    client.connect(listener.getsockname())
    assert natives.wait({number: natives.POLLIN}, 600) == {number: natives.POLLIN}
    listener.close()
    client.close()
"""


@pytest.mark.parametrize(
    "both", ["patch()\nimport faultlens.natives", "import faultlens.natives\npatch()"]
)
def test_a_program_that_patches_the_modules(both: str) -> None:
    """As gevent and eventlet do."""
    children.run(f"""{USES_THEM}
import _thread, select, socket, threading, time

def patched(function):
    def theirs(*args, **kwargs):
        assert not counting, function  # only the import may use it
        return function(*args, **kwargs)

    return theirs

def patch():
    for module, names in [
        (_thread, ["start_new_thread", "allocate_lock", "get_ident", "RLock"]),
        (time, ["time", "monotonic", "sleep"]),
        (socket, ["socket", "getaddrinfo", "socketpair"]),
    ]:
        for name in names:
            setattr(module, name, patched(getattr(module, name)))
    del select.poll

counting = False
{both}
counting = True
uses_them()
""")


def test_a_program_that_replaces_a_clock_in_every_module_that_has_it() -> None:
    """As freezegun does."""
    children.run(f"""{USES_THEM}
import sys, time
from faultlens import natives

def frozen():
    raise AssertionError("this is the host's")

real = [time.time, time.monotonic, time.sleep]
for module in list(sys.modules.values()):
    for name, value in list(vars(module).items()):
        if any(value is one for one in real):
            setattr(module, name, frozen)
assert time.time is frozen
uses_them()
""")


@pytest.mark.parametrize("first", ["patch", "import"])
@pytest.mark.parametrize(
    ("package", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
        ("freezegun", "import freezegun; freezegun.freeze_time('1970-01-02').start()"),
        ("pyfakefs", "from pyfakefs.fake_filesystem_unittest import Patcher; Patcher().setUp()"),
    ],
)
def test_the_packages_that_patch(package: str, patch: str, first: str) -> None:
    pytest.importorskip(package)
    ours = "import faultlens.sockets, faultlens.background"
    order = [patch, ours] if first == "patch" else [ours, patch]
    children.run(
        "\n".join([USES_THEM, *order, "uses_them()"])
        + """
from faultlens.sockets import Socket
one, other = Socket.pair()
assert one.fileno() > 100, one.fileno()
other.send(b"x")
assert natives.wait({one.fileno(): natives.POLLIN}, 600)
assert one.recv(1) == b"x"
""".replace("natives.", "faultlens.natives.")
        + "assert faultlens.natives.time() > 10 ** 9\n"
    )


def test_without_poll_there_is_select() -> None:
    """As on Windows."""
    children.run(f"""{USES_THEM}
from faultlens import natives
assert natives._wait_by_select({{}}, 0) == {{}}
natives.wait = natives._wait_by_select
uses_them()
""")


def test_a_second_instance_is_not_entered_among_the_modules() -> None:
    import time

    from faultlens import natives

    assert sys.modules["time"] is time
    assert natives.pristine("time") is not time
    assert natives.time is not time.time
