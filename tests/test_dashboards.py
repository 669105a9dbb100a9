"""``faultlens dashboards``: it writes what the checkout has, and nothing of yours is lost."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from faultlens.commands import dashboards
from tests import test_packaging
from tests.servers import needs
from tests.test_cli import command

ROOT = Path(__file__).parent.parent
RULES = "prometheus/faultlens.rules.yml"
FILES = dashboards.FILES["plain"]

# A virtual environment with nothing but faultlens in it: by its wheel, and editable.
wheel, python = test_packaging.wheel, test_packaging.python


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_text() for path in files}


def test_an_installation_has_what_the_checkout_has(python: Path, tmp_path: Path) -> None:
    done = test_packaging.start(
        python, "-m", "faultlens", "dashboards", str(tmp_path / "out"), value=None
    )

    assert (done.returncode, done.stderr) == (0, "")
    source = ROOT / "dashboards"
    copied = {
        f"{folder}/{name}": text
        for folder in ("grafana", "alertmanager", "slo")
        for name, text in contents(source / folder).items()
    }
    assert contents(tmp_path / "out") == {**copied, RULES: (source / RULES).read_text()}


def test_an_installation_writes_the_kubernetes_format_too(python: Path, tmp_path: Path) -> None:
    args = ("dashboards", str(tmp_path / "out"), "--format", "kubernetes")
    done = test_packaging.start(python, "-m", "faultlens", *args, value=None)

    assert (done.returncode, done.stderr) == (0, "")
    assert set(contents(tmp_path / "out")) == set(dashboards.FILES["kubernetes"])


def test_says_what_it_wrote_and_what_to_do_with_it(tmp_path: Path) -> None:
    done = command("dashboards", str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    written, _, steps = done.stdout.partition("\n\n")
    assert written.splitlines() == [f"wrote {tmp_path / name}" for name in FILES]
    assert len(steps.splitlines()) == 7
    assert f"rule_files: [{tmp_path / RULES}]" in steps
    for source in re.findall(r"cp (?:-r )?(\S+) /etc/grafana", steps):
        assert Path(source).exists()


def test_the_commands_that_it_proposes_make_grafana_find_the_boards(tmp_path: Path) -> None:
    out, etc = tmp_path / "o u t", tmp_path / "etc"
    (etc / "provisioning" / "dashboards").mkdir(parents=True)

    steps = command("dashboards", str(out)).stdout

    for line in re.findall(r"cp .*", steps):
        subprocess.run(line.replace("/etc/grafana", str(etc)), shell=True, check=True)
    (provider,) = (etc / "provisioning" / "dashboards").iterdir()
    (found,) = yaml.safe_load(provider.read_text())["providers"]
    boards = Path(found["options"]["path"].replace("/etc/grafana", str(etc)))
    expected = {path.name for path in (ROOT / "dashboards" / "grafana").glob("*.json")}
    assert {path.name for path in boards.rglob("*.json")} == expected


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    command("dashboards", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    done = command("dashboards", str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote" not in done.stdout
    assert done.stdout.count("same ") == len(FILES)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


class TestOtherContent:
    def test_is_kept_and_nothing_is_written(self, tmp_path: Path) -> None:
        (tmp_path / RULES).parent.mkdir()
        (tmp_path / RULES).write_text("groups: []  # mine\n")

        done = command("dashboards", str(tmp_path))

        assert (done.returncode, done.stdout) == (1, "")
        expected = f"{tmp_path / RULES} has other content. --force overwrites"
        assert done.stderr == f"faultlens: {expected}\n"
        assert contents(tmp_path) == {RULES: "groups: []  # mine\n"}

    def test_of_several_files_is_one_line(self, tmp_path: Path) -> None:
        command("dashboards", str(tmp_path))
        for name in FILES:
            (tmp_path / name).write_text("mine")

        done = command("dashboards", str(tmp_path))

        more = len(FILES) - 1
        assert done.stderr.endswith(
            f"has other content, and so have {more} more. --force overwrites\n"
        )
        assert len(done.stderr.splitlines()) == 1
        assert set(contents(tmp_path).values()) == {"mine"}

    def test_gives_way_to_force(self, tmp_path: Path) -> None:
        command("dashboards", str(tmp_path))
        (tmp_path / RULES).write_text("mine")

        done = command("dashboards", str(tmp_path), "--force")

        assert (done.returncode, done.stderr) == (0, "")
        assert f"wrote {tmp_path / RULES}\n" in done.stdout
        assert done.stdout.count("same ") == len(FILES) - 1
        assert contents(tmp_path)[RULES] == (ROOT / "dashboards" / RULES).read_text()


def test_the_documented_step_gives_each_alert_its_data_source(tmp_path: Path) -> None:
    command("dashboards", str(tmp_path))
    (step,) = re.findall(r"^sed .*", (ROOT / "docs" / "dashboards.md").read_text(), re.MULTILINE)

    step = step.replace("DIR", shlex.quote(str(tmp_path))).replace("UID", "abc-1")
    subprocess.run(step, shell=True, check=True)

    (group,) = yaml.safe_load((tmp_path / RULES).read_text())["groups"]
    links = [one["annotations"]["dashboard_url"] for one in group["rules"] if "alert" in one]
    assert links
    for link in links:
        assert re.search(r"/d/[\w-]+\?var-datasource=abc-1&var-job=", link)


class TestGrafanaUrl:
    @pytest.mark.parametrize(
        ("given", "prefix"),
        [
            ("https://grafana.example.com", "https://grafana.example.com/d/"),
            ("https://example.com/grafana/", "https://example.com/grafana/d/"),
            ("http://[::1]:3001", "http://[::1]:3001/d/"),
        ],
    )
    def test_is_where_all_alerts_link_to(self, given: str, prefix: str, tmp_path: Path) -> None:
        done = command("dashboards", str(tmp_path), "--grafana-url", given)

        assert (done.returncode, done.stderr) == (0, "")
        written = contents(tmp_path)
        links = [
            rule["annotations"]["dashboard_url"]
            for group in yaml.safe_load(written[RULES])["groups"]
            for rule in group["rules"]
            if "alert" in rule
        ]
        assert links
        assert all(link.startswith(prefix) for link in links)
        assert "localhost:3000" not in written[RULES]
        assert prefix.replace("/d/", "/dashboard/import") in done.stdout

    @needs("promtool")
    def test_leaves_rules_that_prometheus_takes(self, tmp_path: Path) -> None:
        command("dashboards", str(tmp_path), "--grafana-url", "https://example.com/a%20b/~c")

        subprocess.run(["promtool", "check", "rules", tmp_path / RULES], check=True)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "grafana.example.com",
            "ftp://example.com",
            "https://",
            "https://example.com:port",
            "https://example.com/?orgId=1",
            "https://example.com/#top",
            "https://me:secret@example.com",
            "https://example.com/{{ .Value }}",
            'https://example.com/"',
            "https://example.com/\nlabels:",
        ],
    )
    def test_that_is_none_is_told(self, url: str, tmp_path: Path) -> None:
        done = command("dashboards", str(tmp_path), "--grafana-url", url)

        assert (done.returncode, done.stdout) == (1, "")
        expected = "expected something like http://localhost:3000"
        assert done.stderr == f"faultlens: --grafana-url {url!r}: {expected}\n"
        assert contents(tmp_path) == {}


class TestDirectory:
    def test_that_is_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()

        done = command("dashboards", str(file))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"faultlens: {file} is not a directory\n"

    def test_with_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "grafana").touch()

        done = command("dashboards", str(tmp_path))

        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(
            rf"faultlens: {tmp_path}/grafana\S*: (File exists|Not a directory)\n",
            done.stderr,
        )

    def test_with_a_directory_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / RULES).mkdir(parents=True)

        done = command("dashboards", str(tmp_path))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"faultlens: {tmp_path / RULES}: Is a directory\n"
        assert contents(tmp_path) == {}

    @pytest.mark.skipif(
        os.name == "nt" or os.geteuid() == 0, reason="this user may write everywhere"
    )
    def test_that_must_not_be_written(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)

        done = command("dashboards", str(tmp_path))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"faultlens: {tmp_path}/grafana: Permission denied\n"
