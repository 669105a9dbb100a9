"""The recording rules and alerts: when each fires, when it only nearly does, where it leads.

Prometheus' own `promtool` runs the rules on the histories of rule_cases.py. So that these are known
to see what goes wrong, every expression is then changed in each place in turn, and each change
must be noticed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from faultlens import series as metrics
from tests.children import TIMEOUT
from tests.dashboards.promql import promql_parser
from tests.dashboards.rule_cases import (
    BUDGET,
    BURN,
    BY_WORKER,
    CASES,
    DISK,
    INCREASE,
    NONE,
    OLD,
    OOM,
    SLOW,
    TARGET,
    WINDOWS,
    Case,
    Values,
    days,
    failures,
    info,
    issued,
    labels,
    seen,
    series,
    up,
)
from tests.servers import needs

DASHBOARDS = Path(__file__).parent.parent.parent / "dashboards"
FILE = DASHBOARDS / "prometheus" / "faultlens.rules.yml"
(GROUP,) = yaml.safe_load(FILE.read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {
    rule.get("record") or rule["alert"]: rule for rule in GROUP["rules"]
}
EXACT = {name for name in RULES if name.endswith(":increase1m")}
"""The rules that read counters; the others read them, and plain metrics."""
GIVEN = EXACT | {name for name in RULES if name.startswith(BURN)}
ALERTS = {name: rule for name, rule in RULES.items() if "alert" in rule}


def selectors(expression: str | promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    """What an expression reads."""
    expr = promql_parser.parse(expression) if isinstance(expression, str) else expression
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(expr, pre_visit=visit)
    yield from found


def needed_by(rule: str) -> list[str]:
    """The rules that a rule needs, and itself, in the file's order.

    What the exact ones and the burn rates record, its cases give.
    """
    needed, new = set(), {rule}
    while new:
        needed |= new
        read = {str(one.name) for name in new for one in selectors(RULES[name]["expr"])}
        new = read & RULES.keys() - needed - GIVEN
    return [name for name in RULES if name in needed]


def promtool(
    directory: Path, rules: Sequence[Mapping[str, Any]], tests: Sequence[Any], every: str = "1m"
) -> str:
    """What promtool says against rules that are evaluated every so often; nothing if they pass."""
    directory.mkdir(exist_ok=True)
    # JSON is YAML too, and written much faster.
    (directory / "rules.yml").write_text(json.dumps({"groups": [GROUP | {"rules": rules}]}))
    asked = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
    file = directory / "tests.yml"
    file.write_text(json.dumps(asked))
    command = ["promtool", "test", "rules", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    return result.stdout + result.stderr if result.returncode else ""


def inputs(history: Mapping[str, Values]) -> list[dict[str, str]]:
    return [
        {"series": name, "values": " ".join(map(str, values))} for name, values in history.items()
    ]


def as_test(rule: str, case: Case) -> dict[str, Any]:
    """A case as promtool takes it."""
    firing = "ALERTS" + labels(alertname=rule, alertstate="firing")
    same = ", ".join(RULES[rule].get("labels", ()))
    query = f"sum without (alertname, alertstate, {same}) ({firing})"
    asked = []
    for time, expected in case.at.items():
        values = expected if isinstance(expected, Mapping) else dict.fromkeys(expected, 1)
        name = "" if rule in ALERTS else rule
        samples = [{"labels": name + of, "value": value} for of, value in values.items()]
        asked.append(
            {"expr": query if rule in ALERTS else rule, "eval_time": time, "exp_samples": samples}
        )
    every = 300 if rule in SLOW else case.every
    return {
        "name": case.says,
        "interval": f"{every}s",
        "input_series": inputs(case.history),
        "promql_expr_test": asked,
    }


def run_cases(rule: str, directory: Path, changed: dict[str, Any] | None = None) -> str:
    """What promtool says against a rule, or against what it was changed to, by its cases.

    Annotations are left out: their queries take time.
    """
    rules = RULES | {rule: changed or RULES[rule]}
    bare = [
        {key: value for key, value in rules[name].items() if key != "annotations"}
        for name in needed_by(rule)
    ]
    tests = [as_test(rule, case) for case in CASES[rule]]
    return promtool(directory, bare, tests, "5m" if rule in SLOW else "1m")


@needs("promtool")
def test_promtool_accepts_the_file() -> None:
    command = ["promtool", "check", "rules", "--lint-fatal", str(FILE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(RULES)} rules found" in result.stdout


def test_what_is_exact_is_the_same_for_all_counters() -> None:
    first, *others = (
        re.sub(
            r"faultlens_[a-z]+_(total|created)", r"\1", re.sub(r"sum by \(.*\)", "", rule["expr"])
        )
        for name, rule in RULES.items()
        if name in EXACT
    )
    assert others == [first] * 3
    for name in EXACT:
        (counter,) = (metric for metric in metrics.COUNTERS if name.split(":")[1] == metric.name)
        assert RULES[name]["expr"].startswith(f"sum by (job, {', '.join(counter.labels)}) (")


def test_the_burn_rates_differ_in_their_windows_only() -> None:
    rates = {name: rule["expr"] for name, rule in RULES.items() if name.startswith(BURN)}
    assert list(rates) == [f"{BURN}{window}" for window in WINDOWS]
    for window in WINDOWS:
        assert rates[f"{BURN}{window}"] == rates[f"{BURN}30m"].replace("[30m]", f"[{window}]")


def test_all_others_are_one_short_line() -> None:
    for name, rule in RULES.items():
        if name not in EXACT:
            assert len(rule["expr"]) <= 300
            assert "\n" not in rule["expr"]


@needs("promtool")
@pytest.mark.parametrize("rule", CASES)
def test_a_rule_tells_what_happened(rule: str, tmp_path: Path) -> None:
    assert not (said := run_cases(rule, tmp_path)), said


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_seen_to_fire_and_nearly_to_fire(alert: str) -> None:
    cases = CASES[alert]
    assert any(any(case.at.values()) for case in cases)
    assert any(not any(case.at.values()) for case in cases)


# Changes to the rules.

TOKEN = re.compile(
    r"""(?P<matchers>\{[^}]*\})
    | (?P<offset>offset\s+\w+)
    | (?P<labels>\b(?:by|on)\s*\([^)]*\))
    | (?P<duration>\b\d+[smhd]\b)
    | (?P<number>\b\d+(?:\.\d+)?\b)
    | (?P<word>[a-zA-Z_:][\w:]*)
    | (?P<operator>[<>=]=|[-+*/<>])""",
    re.VERBOSE,
)
SWAPS = {
    ">": ("<=", ">="),
    ">=": ("<", ">"),
    "==": ("!=",),
    "-": ("+",),
    "*": ("+",),
    "/": ("*",),
    "and": ("or", "unless"),
    "or": ("and", "unless"),
    "unless": ("and", "or"),
    "sum": ("max",),
    "max": ("min", "sum"),
    "group": ("sum",),
    "quantile": ("max",),
    "sum_over_time": ("max_over_time", "last_over_time"),
    "max_over_time": ("last_over_time", "min_over_time"),
    "last_over_time": ("max_over_time", "min_over_time"),
    "count_over_time": ("sum_over_time",),
    "resets": ("changes",),
    "clamp_min": ("clamp_max",),
}
"""What may stand in a place instead; names of metrics stay."""


def otherwise(token: re.Match[str]) -> Iterator[str]:
    """What may stand there instead of a token."""
    text = token[0]
    if token["matchers"]:
        yield ""
        yield re.sub("!?=", lambda sign: "=" if sign[0] == "!=" else "!=", text)
    elif token["offset"]:
        yield ""
        yield from (f"offset {other}" for other in durations(text.split()[1]))
    elif token["labels"]:
        keyword, names = text.rstrip(")").split("(")
        for one in names.split(", "):
            yield f"{keyword}({', '.join(name for name in names.split(', ') if name != one)})"
    elif token["duration"]:
        yield from durations(text)
    elif token["number"]:
        number = float(text)
        step = 1 if number.is_integer() else number / 10
        yield from (f"{other:g}" for other in (number + step, number - step) if other >= 0)
    else:
        yield from SWAPS.get(text, ())


def durations(text: str) -> Iterator[str]:
    """Twice as long, and half as long."""
    seconds = int(promql_parser.parse_duration(text).total_seconds())
    yield f"{2 * seconds}s"
    yield f"{seconds // 2}s"


def changes(rule: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A rule, changed in each place in turn: what was changed, and the rule."""
    expression = rule["expr"]
    for token in TOKEN.finditer(expression):
        for other in otherwise(token):
            changed = expression[: token.start()] + other + expression[token.end() :]
            try:
                promql_parser.parse(changed)
            except ValueError:
                continue  # nobody would get that into a Prometheus
            # With as much of what comes before as tells the place.
            before = " ".join(expression[: token.start()].split())[-40:]
            yield f"{before}[{token[0]}: {other}]", {**rule, "expr": changed}
    for other in durations(rule["for"]) if "for" in rule else ():
        yield f"for: {other}", {**rule, "for": other}


UNNOTICED: dict[str, list[str]] = {
    INCREASE: [
        # It is subtracted from only where there is a value of this minute.
        "sum by (job, class, kind, worker) ( ([last_over_time: max_over_time]",
        "last_over_time(faultlens_failures_total[[1m: 120s]",
        # Zeros are left out for the cost only.
        *["faultlens_failures_total[1m] offset 15s)[>: >=]"] * 4,
        # When a series was created, and whether it is scraped, does not change within seconds.
        "ilures_total[1m] offset 15s) > 0) unless[last_over_time: max_over_time]",
        *["st_over_time(faultlens_failures_created[[1m: 120s]"] * 2,
        *["over_time(faultlens_failures_created[1m][offset 15s: ]"] * 2,
        *["over_time(faultlens_failures_created[1m][offset 15s: offset 30s]"] * 2,
        *["over_time(faultlens_failures_created[1m][offset 15s: offset 7s]"] * 2,
        "tlens_failures_created[1m] offset 15s) >[last_over_time: max_over_time]",
        " offset 15s) > 0) and on (job, instance)[last_over_time: max_over_time]",
        " offset 15s) > 0) and on (job, instance)[last_over_time: min_over_time]",
        "nd on (job, instance) last_over_time(up[[1m: 120s]",
        "on (job, instance) last_over_time(up[1m][offset 15s: ]",
        "on (job, instance) last_over_time(up[1m][offset 15s: offset 30s]",
        "on (job, instance) last_over_time(up[1m][offset 15s: offset 7s]",
        "_over_time(up[1h] offset 75s) > 0 unless[last_over_time: max_over_time]",
        "_over_time(up[1h] offset 75s) > 0 unless[last_over_time: min_over_time]",
        # A counter that was last seen longer ago is as good as new.
        "st_over_time(faultlens_failures_created[[1h: 7200s]",
        # A new target has no value from before this minute.
        "(min_over_time(faultlens_failures_total[[1m: 120s]",
        "n_over_time(faultlens_failures_total[1m][offset 15s: offset 7s]",
    ],
    # No one asks for the value.
    "FaultlensNewFailureClass": [
        "[sum: max]",
        "sum by (job, class, kind, owner) ([sum_over_time: max_over_time]",
        "sum by (job, class, kind, owner) ([sum_over_time: last_over_time]",
        # What failed longer ago is known, and so not new.
        "m_over_time(faultlens:issues:increase1m[[15m: 1800s]",
        "se1m[15m])) unless on (job, class, kind)[sum_over_time: max_over_time]",
        "se1m[15m])) unless on (job, class, kind)[sum_over_time: last_over_time]",
    ],
    "FaultlensDown": ["[group: sum]"],
    "FaultlensGone": [
        "[group: sum]",
        # What has been gone for longer is not asked for at the beginning.
        "tance) present_over_time(faultlens_info[[1d: 172800s]",
    ],
    # Nought times whatever.
    BY_WORKER: ['ncrease1m{worker!="_OTHER"}[1h])) or 0 *[group: sum]'],
    "FaultlensPlatformFailsOutsideAttempts": [
        'ncrease1m{outcome="system"}[1h])) or 0 *[sum: max]',
        'me="system"}[1h])) or 0 * sum by (job) ([sum_over_time: max_over_time]',
        'me="system"}[1h])) or 0 * sum by (job) ([sum_over_time: last_over_time]',
        "over_time(faultlens:failures:increase1m[[1h: 7200s]",
    ],
}
"""The changes that change nothing, and why."""


def is_prometheus_2() -> bool:
    """Whether ranges include their start. From version 3 on, more of the changes change nothing."""
    if shutil.which("promtool") is None:
        return True
    done = subprocess.run(
        ["promtool", "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    return "version 2." in done.stdout + done.stderr


@needs("promtool")
@pytest.mark.skipif(not is_prometheus_2(), reason="the list of changes is for Prometheus 2")
def test_each_change_to_a_rule_is_noticed(tmp_path: Path) -> None:
    mutated = CASES.keys() - {f"{BURN}{window}" for window in WINDOWS if window != "30m"}
    made = [(name, *change) for name in mutated for change in changes(RULES[name])]

    def noticed(number: int) -> bool:
        name, _, changed = made[number]
        return bool(run_cases(name, tmp_path / str(number), changed))

    with ThreadPoolExecutor() as threads:
        results = list(threads.map(noticed, range(len(made))))
    unnoticed: dict[str, list[str]] = {}
    for (name, what, _), told in zip(made, results, strict=True):
        if not told:
            unnoticed.setdefault(name, []).append(what)
    print(f"{len(made)} changes, {sum(results)} noticed, the others change nothing")
    assert {name: sorted(of) for name, of in unnoticed.items()} == {
        name: sorted(of) for name, of in UNNOTICED.items()
    }


# All rules together.


@needs("promtool")
@pytest.mark.parametrize("history", [{}, up([1] * 6 + [0] * 30)], ids=["nothing", "others"])
def test_without_faultlens_nothing_is_told(history: dict[str, Values], tmp_path: Path) -> None:
    names = f'{{__name__=~".+", __name__!~"up|{BUDGET}"}}'
    asked = {"expr": names, "eval_time": "30m", "exp_samples": []}
    test = {"interval": "1m", "input_series": inputs(history), "promql_expr_test": [asked]}
    assert not (said := promtool(tmp_path, list(RULES.values()), [test])), said


@needs("promtool")
def test_users_who_fail_massively_page_nobody_and_are_nobodys_ticket(tmp_path: Path) -> None:
    history = (
        failures([minute**3 for minute in range(90)], kind="user")
        | failures([NONE] * 5 + [1000] * 85, kind="user", class_="app.Broken")
        | failures([0, 1000] * 45, kind="user", class_=OOM)
        | failures([0] * 90)
        | failures([0] * 90, worker="v")
        | failures([0] * 90, worker="u")
        | series("faultlens_attempts_total", range(0, 9000, 100), TARGET, outcome="user")
        | series("faultlens_attempts_total", range(90), TARGET, outcome="ok")
        | info([1] * 90)
        | up([1] * 90)
    )
    quiet = [
        {"expr": 'ALERTS{severity!="info"}', "eval_time": f"{minute}m", "exp_samples": []}
        for minute in range(90)
    ]
    told = {
        "expr": 'count by (alertname) (ALERTS{severity="info"})',
        "eval_time": "80m",
        "exp_samples": [{"labels": '{alertname="FaultlensWorkerOutlier"}', "value": 1}],
    }
    test = {
        "interval": "1m",
        "input_series": inputs(history),
        "promql_expr_test": [*quiet, told],
    }
    assert not (said := promtool(tmp_path, list(RULES.values()), [test])), said


@needs("promtool")
def test_a_platform_that_fails_its_attempts_pages(tmp_path: Path) -> None:
    attempts = "faultlens_attempts_total"
    history = (
        series(attempts, range(0, 3000, 100), TARGET, outcome="ok")
        | series(attempts, [0, *[NONE] * 4, *range(1, 626, 25)], TARGET, outcome="system")
        | up([1] * 30)
    )
    asked = [
        {
            "expr": 'count by (alertname) (ALERTS{severity="page"})',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f"{{alertname={json.dumps(alert)}}}", "value": 1}] * fires,
        }
        for alert in ["FaultlensPlatformFailsAttempts"]
        for minute, fires in ((5, False), (20, True))
    ]
    test = {"interval": "1m", "input_series": inputs(history), "promql_expr_test": asked}
    assert not (said := promtool(tmp_path, list(RULES.values()), [test])), said


def moved_by_users(expression: str) -> list[str]:
    """What an expression reads that failures of the kind user can raise above 0.

    What it divides by they can only raise, and so lower the result.
    """

    def without_divisors(node: promql_parser.Expr) -> promql_parser.Expr | None:
        if isinstance(node, promql_parser.BinaryExpr) and str(node.op) == "/":
            return node.lhs
        return None

    expr, before = promql_parser.parse(expression), ""
    while str(expr) != before:  # the left side may be a division too
        before = str(expr)
        expr = promql_parser.transform(expr, pre_visit=without_divisors)
    found = []
    for selector in selectors(expr):
        only_system = any(
            (matcher.name, matcher.op, matcher.value)
            in [(label, promql_parser.MatchOp.Equal, "system") for label in ("kind", "outcome")]
            for matcher in selector.matchers.matchers
        )
        if only_system:
            continue
        if selector.name in RULES:
            found += moved_by_users(RULES[selector.name]["expr"])
        else:
            found.append(str(selector))
    return found


def test_nothing_that_pages_reads_user_failures() -> None:
    pages = [name for name, alert in ALERTS.items() if alert["labels"]["severity"] == "page"]
    assert pages == ["FaultlensPlatformFailsAttempts"]
    for name in pages:
        assert moved_by_users(ALERTS[name]["expr"]) == []
    # A kind that an expression made up itself would be none.
    assert "label_" not in "".join(rule["expr"] for rule in RULES.values())


@pytest.mark.parametrize(
    "expression",
    [
        "sum(rate(faultlens_failures_total[5m]))",
        'sum(faultlens_failures_total{kind!="system"})',
        'sum(faultlens_failures_total{kind=~"system|user"})',
        f'{INCREASE}{{kind="user"}}',
        f"1 * {BY_WORKER} > 3",
        "sum(faultlens:attempts:increase1m)",
        'a{outcome="ok"} / b',
    ],
)
def test_what_reads_user_failures_is_recognised(expression: str) -> None:
    assert moved_by_users(expression)


def known_labels() -> dict[str, set[str]]:
    """Every metric that faultlens has, Prometheus' own and the recorded ones, with its labels."""
    known = {
        f"faultlens_{metric.name}_{suffix}": set(metric.labels) | {"job", "instance"}
        for metric in metrics.COUNTERS
        for suffix in ("total", "created")
    }
    known |= {"up": {"job", "instance"}, "faultlens_info": {"job", "instance"}}
    for name, rule in RULES.items():
        by = re.match(r"sum by \(([^)]*)\)", rule["expr"])
        known[name] = set(by[1].split(", ")) if by else set()
    return known


def test_every_name_that_is_used_is_one() -> None:
    known = known_labels()
    every_label = set().union(*known.values())
    for name, rule in RULES.items():
        annotations = "\n".join(rule.get("annotations", {}).values())
        queries = [q.replace("%q", '"x"') for q in re.findall("`([^`]*sum[^`]*)`", annotations)]
        assert len(queries) == annotations.count("| query")
        for expression in (rule["expr"], *queries):
            for selector in selectors(expression):
                matched = {matcher.name for matcher in selector.matchers.matchers}
                assert matched <= known[str(selector.name)], (name, str(selector))
            for token in TOKEN.finditer(expression):
                if token["labels"]:
                    listed = token[0].rstrip(")").split("(")[1].split(", ")
                    assert set(listed) <= every_label, (name, token[0])
        assert set(re.findall(r"[lL]abels\.(\w+)", annotations)) <= every_label, name


def test_the_windows_of_a_minute_are_as_long_as_the_time_between_evaluations() -> None:
    assert GROUP["interval"] == "1m"
    assert "[1m] offset 15s" in RULES[INCREASE]["expr"]
    assert "[1h] offset 75s" in RULES[INCREASE]["expr"]


# Where alerts lead.

BOARDS = {
    "faultlens-overview": "overview",
    "faultlens-class": "class",
    "faultlens-workers": "workers",
}
JOB, CLASS, WORKER = 'jobs of "A&B" + 1%', 'app.Größe"', "queue\\1 #2?"
TELLS = {
    "FaultlensPlatformFailsAttempts": f"in the last hour: {CLASS} on w (39); see",
    "FaultlensPlatformFailsSomeAttempts": f"in the last day: {CLASS} on w (39); see",
    "FaultlensPlatformFailsOutsideAttempts": f"Most often: {CLASS} (3);",
    "FaultlensNewFailureClass": "The platform team should look at what was changed",
    "FaultlensUnknownFailures": f"Most often: {CLASS} (5); see",
    "FaultlensWorkerOutlier": "median of its job: system 31; what",
    "FaultlensDown": "Nobody sees failures there",
    "FaultlensGone": f"Nobody sees the failures of {JOB}.",
    "FaultlensDropping": f"1 times so far. The numbers of {JOB} may be too low",
}
"""A part of each description, with what it looked up."""


def told_by(
    alert: str, directory: Path, case: Case | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations of an alert that fires, where names are not simple."""
    case = case or next(case for case in CASES[alert] if any(case.at.values()))
    time = next(time for time, firing in case.at.items() if firing)
    renamed = {'"flyte"': JOB, f'"{DISK}"': CLASS, '"a"': WORKER}
    history = dict(case.history)
    for old, new in renamed.items():
        history = {name.replace(old, json.dumps(new)): v for name, v in history.items()}
    asked = {"alertname": alert, "eval_time": time, "exp_alerts": []}
    test = as_test(alert, case) | {
        "input_series": inputs(history),
        "promql_expr_test": [],
        "alert_rule_test": [asked],
    }
    rules = [RULES[name] for name in needed_by(alert)]
    got = promtool(directory, rules, [test], "5m" if alert in SLOW else "1m")
    quoted = r'(\w+)=("(?:[^"\\]|\\.)*")'
    found = re.findall(r"Labels:(.*)\n\s*Annotations:(.*)", got)
    assert len(found) == 1, got
    labelled, annotated = (
        {name: json.loads(text) for name, text in re.findall(quoted, part)} for part in found[0]
    )
    return labelled, annotated


@needs("promtool")
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do_and_leads_to_its_board(alert: str, tmp_path: Path) -> None:
    of, annotations = told_by(alert, tmp_path)
    assert of["severity"] in ("page", "ticket", "info")
    assert of["kind"] in ("user", "system", "unknown")
    assert set(annotations) == {"summary", "description", "runbook", "dashboard_url"}
    for text in annotations.values():
        assert text == text.strip()
        assert not re.search("error expanding|no value|%!|  |\n", text), text
    assert TELLS[alert] in annotations["description"]

    url = annotations["dashboard_url"]
    assert url.startswith("http://localhost:3000/d/faultlens-")
    parts = urlsplit(url)
    uid = parts.path.removeprefix("/d/")
    board = json.loads((DASHBOARDS / "grafana" / f"{BOARDS[uid]}.json").read_text())
    assert board["uid"] == uid
    variables = {variable["name"] for variable in board["templating"]["list"]}
    values = dict(parse_qsl(parts.query, strict_parsing=True))
    assert values == {f"var-{name}": of[name] for name in ("job", "class", "worker") if name in of}
    assert {name.removeprefix("var-") for name in values} <= variables


@needs("promtool")
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"kind": "user"}, "The owner of the code should look:"),
        ({"kind": "user", "owner": "team-a"}, "The owner of the code, team-a, should look:"),
        ({"kind": "unknown"}, "The platform team should give it a kind"),
    ],
)
def test_a_new_class_says_whom_it_concerns(
    other: dict[str, str], expected: str, tmp_path: Path
) -> None:
    history = OLD | issued([*days(1.1), 1], **other)
    case = Case("new", history, {"1585m": [seen(**other)]})

    of, annotations = told_by("FaultlensNewFailureClass", tmp_path, case)

    assert of.items() >= other.items()
    assert expected in annotations["description"]
