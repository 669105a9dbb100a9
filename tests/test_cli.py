"""The command line, run as users run it, and ``faultlens classes``."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import faultlens
from tests import children

COMMANDS = ("top", "reset", "demo", "dashboards", "doctor", "classes", "explain", "serve")


def command(
    *args: str, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faultlens", *args],
        env=children.environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=children.TIMEOUT,
        check=False,
    )


def test_says_its_version() -> None:
    done = command("--version")

    assert (done.returncode, done.stdout) == (0, f"faultlens {faultlens.__version__}\n")


def test_without_a_command_it_explains_itself() -> None:
    done = command()

    assert done.returncode == 2
    assert done.stdout == ""
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str) -> None:
    done = command(name, "--help")

    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: faultlens {name}")


@pytest.mark.parametrize(
    "args",
    [
        ("demo", "--seconds", "-1"),
        ("demo", "--seconds", "nan"),
        ("demo", "--seconds", "x"),
        ("demo", "--port", "65536"),
        ("serve", "--port", "x"),
    ],
)
def test_a_number_that_makes_no_sense_is_a_usage_error(args: tuple[str, ...]) -> None:
    done = command(*args)

    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"faultlens: argument {args[1]}: expected a number from 0 ")
    assert last.endswith(f", not {args[2]}")


def test_the_help_imports_nothing_heavy() -> None:
    program = """
        import contextlib, sys
        from faultlens import commands
        with contextlib.suppress(SystemExit):
            commands.main(["--version"])
        heavy = {"flyte", "durable_workflow", "rich", "prometheus_client", "opentelemetry"}
        print(sorted(heavy & set(sys.modules)))
    """

    done = children.run(program, env={"FAULTLENS": None})

    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "faultlens", "classes"],
        env=children.environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=children.TIMEOUT,
        check=False,
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (1, "")


class TestClasses:
    def test_lists_every_exception_class_of_the_sdks(self) -> None:
        program = """
            import json, sys
            import flyte.errors, durable_workflow.errors
            import temporalio.client, temporalio.exceptions, temporalio.workflow
            def of_an_sdk(name):
                return name in ("flyte.errors", "durable_workflow.errors") or name.startswith((
                    "temporalio.client", "temporalio.exceptions", "temporalio.service",
                    "temporalio.workflow"))
            def is_declared(value, name):
                if not (isinstance(value, type) and issubclass(value, BaseException)):
                    return False
                root = temporalio.exceptions.TemporalError  # without ContinueAsNewError
                return value.__module__ == name and (
                    not name.startswith("temporalio") or issubclass(value, root))
            print(json.dumps([
                f"{name}.{value.__name__}"
                for name, module in list(sys.modules.items()) if of_an_sdk(name)
                for value in vars(module).values() if is_declared(value, name)
            ]))
        """
        declared = json.loads(children.run(program, env={"FAULTLENS": None}).stdout)

        listed = json.loads(command("classes", "--json").stdout)

        assert sorted(entry["class"] for entry in listed) == sorted(declared)

    def test_an_entry_says_kinds_and_why(self) -> None:
        entries = {
            entry["class"]: entry for entry in json.loads(command("classes", "--json").stdout)
        }

        oom = entries["flyte.errors.OOMError"]
        assert set(oom) == {"class", "kinds", "reason", "owner", "why", "sdk", "version"}
        assert (oom["kinds"], oom["sdk"]) == (["user"], "flyte")
        server_error = entries["durable_workflow.errors.ServerError"]
        assert server_error["kinds"] == ["system", "unknown", "user"]
        assert "status" in server_error["why"]

    def test_the_text_is_aligned_and_says_the_same(self) -> None:
        entries = json.loads(command("classes", "--json").stdout)

        lines = command("classes").stdout.splitlines()

        rows = [line.split(maxsplit=3) for line in lines if line.startswith("  ")]
        assert rows == [
            [e["class"], "/".join(e["kinds"]), e["reason"] or "-", e["why"]] for e in entries
        ]
        versions = [line for line in lines if line and not line.startswith("  ")]
        assert len(versions) == 3
        flyte = next(entry for entry in entries if entry["sdk"] == "flyte")
        assert any(line.startswith(f"flyte {flyte['version']}: ") for line in versions)

    @pytest.mark.parametrize(
        ("args", "number", "of"),
        [
            (["NamespaceNot"], 1, "durable_workflow.errors.NamespaceNotFound"),
            (["flyte.errors.OOM*"], 1, "flyte.errors.OOMError"),
            (["--sdk", "flyte", "--kind", "system", "Gpu"], 0, ""),
            (["--sdk", "durable_workflow", "ServerError"], 1, "durable_workflow.errors.Ser"),
            (["RuntimeSystem", "--kind", "system"], 1, "flyte.errors.RuntimeSystemError"),
        ],
    )
    def test_shows_only_what_is_asked_for(self, args: list[str], number: int, of: str) -> None:
        done = command("classes", *args)

        rows = [line for line in done.stdout.splitlines() if line.startswith("  ")]
        assert len(rows) == number
        assert not rows or rows[0].startswith(f"  {of}")
        assert done.returncode == (0 if rows else 1)

    def test_asks_back_for_a_class_that_there_is_not(self) -> None:
        done = command("classes", "OOMErorr")

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "faultlens: there is no class called OOMErorr: did you mean flyte.errors.OOMError?\n"
        )

    def test_takes_the_users_rules_into_account(self, tmp_path: Path) -> None:
        rules = tmp_path / "rules.toml"
        rules.write_text('flyte.errors.OOMError = "system"\n')

        done = command("classes", "--json", env={"FAULTLENS_RULES": str(rules)})

        entries = {entry["class"]: entry for entry in json.loads(done.stdout)}
        assert entries["flyte.errors.OOMError"]["kinds"] == ["system"]
        assert entries["flyte.errors.OOMError"]["why"].startswith("FAULTLENS_RULES")

    def test_a_bad_rules_file_is_told_and_changes_nothing(self, tmp_path: Path) -> None:
        rules = tmp_path / "rules.toml"
        rules.write_text('flyte.errors.OOMError = "platform"\n')

        done = command("classes", env={"FAULTLENS_RULES": str(rules)})

        assert done.returncode == 0
        assert f"{rules}, line 1" in done.stderr
        assert done.stdout == command("classes").stdout

    def test_opens_no_port_even_if_faultlens_is_on(self) -> None:
        with socket.create_server(("localhost", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = command("classes", env={"OTEL_EXPORTER_PROMETHEUS_PORT": port})

        assert (done.returncode, done.stderr) == (0, "")

    def test_one_sdk_is_enough(self, tmp_path: Path) -> None:
        absent(tmp_path, "flyte")

        done = command("classes", env={"PYTHONPATH": str(tmp_path)})

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("durable-workflow ")

    def test_an_sdk_that_is_asked_for_must_be_installed(self, tmp_path: Path) -> None:
        absent(tmp_path, "flyte")

        done = command("classes", "--sdk", "flyte", env={"PYTHONPATH": str(tmp_path)})

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "faultlens: flyte: not installed (pip install flyte)\n"

    def test_an_sdk_that_cannot_be_imported_is_told(self, tmp_path: Path) -> None:
        package(tmp_path, "flyte", "raise OSError('libfoo.so\\nis missing')")

        done = command("classes", env={"PYTHONPATH": str(tmp_path)})

        assert done.returncode == 0
        expected = "faultlens: flyte: cannot be imported: OSError: libfoo.so is missing\n"
        assert done.stderr == expected

    def test_without_an_sdk_there_is_nothing_to_list(self, tmp_path: Path) -> None:
        absent(tmp_path, "flyte")
        absent(tmp_path, "durable_workflow")
        absent(tmp_path, "temporalio")

        done = command("classes", "--json", env={"PYTHONPATH": str(tmp_path)})

        assert done.returncode == 1
        assert json.loads(done.stdout) == []
        assert len(done.stderr.splitlines()) == 3


def package(directory: Path, name: str, source: str) -> None:
    """A package that comes before the installed one."""
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text(source)


def absent(directory: Path, name: str) -> None:
    """Have a package fail to be imported as one that is not installed."""
    package(directory, name, f"raise ModuleNotFoundError('No module named {name}', name={name!r})")
