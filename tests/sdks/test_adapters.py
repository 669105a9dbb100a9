"""Adapters are found by entry point: ours and those of other distributions."""

from __future__ import annotations

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
    monkeypatch.setattr("sys.path", [str(tmp_path), str(tmp_path / "missing"), __file__])
    assert installed() == found


def test_the_first_on_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        acme.install(tmp_path / name, f"acme.errors = {name}:Acme")
    monkeypatch.setattr("sys.path", [str(tmp_path / "one"), str(tmp_path / "two")])
    assert installed() == {"acme.errors": "one:Acme"}
