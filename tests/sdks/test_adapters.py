"""Adapters are found by entry point: ours and those of other distributions."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from faultlens.entry_points import installed
from faultlens.sdks import INTERFACE, Sdk
from tests import children
from tests.sdks import acme


def test_our_adapters_are_found_as_importlib_finds_them() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="faultlens.sdks")}
    assert found.items() >= installed().items()
    assert installed()["flyte.errors"] == "faultlens.sdks.flyte:Flyte"
    for name, entry in ((entry.name, entry) for entry in entry_points(group="faultlens.sdks")):
        adapter = entry.load()
        assert issubclass(adapter, Sdk)
        assert adapter.interface == INTERFACE
        assert name in adapter.errors_modules


@pytest.mark.parametrize("order", ["before", "after"])
def test_an_adapter_of_another_distribution(order: str, tmp_path: Path) -> None:
    imported = "import acme.errors, acme.more, flyte.errors"
    enabled = "import faultlens; faultlens.enable()"
    first, second = (enabled, imported) if order == "before" else (imported, enabled)
    done = children.run(
        f"""
        {first}
        {second}
        import inside
        from catching import catch
        catch(acme.errors.Refused)
        catch(acme.errors.Lost)
        catch(acme.more.MoreError)
        catch(flyte.errors.LogsNotYetAvailableError)
        print(sorted(inside.failures().items()))
        faultlens.disable()
        """,
        env={**acme.install(tmp_path), "FAULTLENS": "0"},
    )
    assert done.stdout.splitlines() == [
        "hooked 1",
        "[('acme.errors.Lost|system|w', 1), ('acme.errors.Refused|user|w', 1), "
        "('acme.more.MoreError|system|w', 1), "
        "('flyte.errors.LogsNotYetAvailableError|system|w', 1)]",
        "undone",
    ]
    assert done.stderr == ""


def test_its_modules_have_their_own_loaders_and_others_are_not_touched(tmp_path: Path) -> None:
    found = children.report(
        """
        import acme.errors, inside
        import importlib.util
        inside.report([type(module.__spec__.loader).__name__ for module in
                       (acme, acme.client, acme.errors)]
                      + [type(importlib.util.find_spec("acme.more").loader).__name__,
                         type(importlib.util.find_spec("acme.__init__").loader).__name__])
        """,
        env=acme.install(tmp_path),
    )
    assert found[:3] == ["SourceFileLoader"] * 3
    assert found[4] == "SourceFileLoader"  # its adapter does not ask for it


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("Other = 1", "AttributeError: module 'acme_faultlens' has no attribute 'Acme'"),
        ("Acme = 1", "TypeError: expected a subclass of faultlens.sdks.Sdk"),
        (
            acme.ADAPTER.replace("interface = 1", "interface = 99"),
            "TypeError: it is written for version 99 of the interface, and this is 1; install "
            "versions of both that fit",
        ),
        (
            acme.ADAPTER.replace('"acme.errors", ', ""),
            "TypeError: its errors_modules do not name acme.errors, as its entry point does",
        ),
        (acme.ADAPTER.replace('package = "acme"', ""), "TypeError: it has no package"),
    ],
)
def test_a_broken_adapter_is_one_warning_and_the_others_work(
    adapter: str, why: str, tmp_path: Path
) -> None:
    done = children.run(
        """
        import acme.errors, acme.more, flyte.errors, inside
        from catching import catch
        catch(acme.errors.Refused)
        catch(flyte.errors.LogsNotYetAvailableError)
        print(inside.failures())
        """,
        env=acme.install(tmp_path, adapter=adapter),
    )
    assert done.stdout == "{'flyte.errors.LogsNotYetAvailableError|system|w': 1}\n"
    assert done.stderr.splitlines() == [
        "faultlens: the adapter acme_faultlens:Acme of acme.errors cannot be used, and exceptions "
        f"of that SDK are not recorded: {why}"
    ]


def test_an_exception_of_an_adapter_never_reaches_the_program(tmp_path: Path) -> None:
    env = acme.install(tmp_path, adapter=acme.ADAPTER + "\n    def code(self, exc):\n        1/0\n")
    done = children.run(
        """
        import acme.errors, inside
        inside.expect_dropped()
        from catching import catch
        catch(acme.errors.Refused)
        print(inside.samples("faultlens_dropped_total"))
        """,
        env=env,
    )
    assert done.stdout.splitlines() == ["hooked 1", "{'internal_error': 1}"]
    assert "ZeroDivisionError" in done.stderr


def test_a_process_that_imports_only_the_standard_library_does_not_look_for_adapters() -> None:
    source = "import json, sys, email, asyncio; print('faultlens.entry_points' in sys.modules)"
    assert children.run(source).stdout == "False\n"
    assert children.run(source.replace("json", "prometheus_client")).stdout == "True\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("acme.errors=a:A", {"acme.errors": "a:A"}),
        ("# acme.errors = b:B\n ; no\n  acme.errors = a:A  ", {"acme.errors": "a:A"}),
        ("acme.errors = a:A\n[other]\nacme.more = b:B", {"acme.errors": "a:A"}),
        ("\xff", {}),
        ("", {}),
    ],
)
def test_how_entry_points_are_written(
    text: str, found: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.install(tmp_path, text)
    path = [str(tmp_path), str(tmp_path / "missing"), __file__, "a\0b", "\ud800"]
    monkeypatch.setattr("sys.path", path)
    assert installed() == found


def test_the_first_on_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        acme.install(tmp_path / name, f"acme.errors = {name}:Acme")
    monkeypatch.setattr("sys.path", [str(tmp_path / "one"), str(tmp_path / "two")])
    assert installed() == {"acme.errors": "one:Acme"}


@pytest.mark.parametrize("entry", ["object()", "1", "b'{}'"])
def test_an_odd_entry_of_the_path_breaks_no_import(entry: str, tmp_path: Path) -> None:
    if entry[0] == "b" and sys.version_info < (3, 11):
        pytest.skip("Python itself fails")
    done = children.run(
        f"""
        import sys
        sys.path.insert(0, {entry.format(tmp_path)})
        import acme.errors, inside
        from catching import catch
        catch(acme.errors.Refused)
        print(inside.failures())
        """,
        env=acme.install(tmp_path),
    )
    assert done.stdout.splitlines() == ["hooked 1", "{'acme.errors.Refused|user|w': 1}"]
    assert done.stderr == ""


def test_threads_that_import_at_once_never_wait_for_each_other_without_end(tmp_path: Path) -> None:
    adapter = "import meeting\nmeeting.in_adapter.set()\nimport acme.client\n" + acme.ADAPTER
    env = acme.install(tmp_path, adapter=adapter)
    (tmp_path / "acme/__init__.py").write_text("")
    (tmp_path / "acme/client.py").write_text(
        "import meeting\nmeeting.in_client.set()\nmeeting.in_adapter.wait()\n"
        "meeting.until_another_thread_waits_for_it()\nCALLS = 1\n"
    )
    (tmp_path / "meeting.py").write_text(
        "import sys, threading, time\n"
        "in_adapter, in_client = threading.Event(), threading.Event()\n"
        "def until_another_thread_waits_for_it():\n"
        "    import importlib._bootstrap as bootstrap\n"
        "    while not bootstrap._blocking_on: time.sleep(0.01)\n"
    )
    done = children.run(
        """
        import threading
        import meeting
        def other():
            import acme.client
        thread = threading.Thread(target=other)
        thread.start()
        meeting.in_client.wait()
        import acme.errors, inside
        thread.join()
        from catching import catch
        catch(acme.errors.Refused)
        print(inside.failures())
        """,
        env=env,
    )
    assert done.stdout.splitlines()[-1] == "{'acme.errors.Refused|user|w': 1}"
    assert done.stderr == ""


def test_a_module_of_ours_that_cannot_be_imported_breaks_no_import(tmp_path: Path) -> None:
    env = acme.install(tmp_path)
    (tmp_path / "platform.py").write_text("raise ValueError('not the one')")
    done = children.run("import acme.errors; print('imported')", env=env)
    assert done.stdout == "imported\n"
    assert done.stderr == ("faultlens: could not start and stays off: ValueError: not the one\n")


def test_a_spec_with_our_loader_can_be_copied(tmp_path: Path) -> None:
    done = children.run(
        """
        import copy, importlib.util
        print(copy.copy(importlib.util.find_spec("acme.more").loader).path.endswith("more.py"))
        """,
        env=acme.install(tmp_path),
    )
    assert done.stdout.splitlines()[-1] == "True"


def test_a_sandbox_that_imports_an_sdk_anew_brings_in_no_second_faultlens(tmp_path: Path) -> None:
    pytest.importorskip("temporalio.worker.workflow_sandbox")
    done = children.run(
        """
        import sys
        import acme.errors, inside
        from catching import catch
        from temporalio.worker.workflow_sandbox import SandboxRestrictions
        from temporalio.worker.workflow_sandbox._importer import Importer, RestrictionContext
        importer = Importer(SandboxRestrictions.default, RestrictionContext())
        outside = acme.errors
        with importer.applied():
            import acme.errors
            print(acme.errors is outside, [name for name in sys.modules if "faultlens" in name])
        catch(acme.errors.Lost)  # the sandbox's
        catch(outside.Refused)
        print(inside.failures())
        """,
        env=acme.install(tmp_path),
    )
    assert done.stdout.splitlines() == [
        "hooked 1",
        "False []",
        "{'acme.errors.Refused|user|w': 1}",
    ]


def test_what_a_signal_handler_raises_while_an_sdk_is_hooked_reaches_the_program(
    tmp_path: Path,
) -> None:
    adapter = acme.ADAPTER.replace(
        'print("hooked", module.CALLS)', "import signal; signal.raise_signal(signal.SIGUSR1)"
    )
    done = children.run(
        """
        import signal
        class Stop(Exception): pass
        def stop(*_): raise Stop
        signal.signal(signal.SIGUSR1, stop)
        try:
            import acme.client
        except Stop:
            print("stopped")
        """,
        env=acme.install(tmp_path, adapter=adapter),
    )
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_an_older_form_of_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.install(tmp_path)
    (tmp_path / "acme_faultlens-1.0.dist-info").rename(tmp_path / "acme_faultlens.egg-info")
    (tmp_path / "other.egg-info").touch()  # a file, as of distutils
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert installed() == {"acme.errors": "acme_faultlens:Acme"}
