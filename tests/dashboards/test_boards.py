"""The boards are well made: rules that hold for every panel, variable, link and annotation."""

from __future__ import annotations

import colorsys
import json
import re
import runpy
import subprocess
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from faultlens.sdks.adapters import installed, load
from tests.children import TIMEOUT
from tests.dashboards.panels import DIRECTORY, Board, Panel, View, boards
from tests.dashboards.promql import promql_parser as promql
from tests.servers import needs

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv" / "tools"

BOARDS = boards()
PANELS = [panel for board in BOARDS for panel in board.panels]
SHOWING = [panel for panel in PANELS if panel.type != "text"]
ROWS = [(board, raw) for board in BOARDS for raw in board.raw["panels"] if raw["type"] == "row"]
ANNOTATIONS = [(board, one) for board in BOARDS for one in board.annotations]

VARIABLES = {"datasource", "traces", "logs", "job", "worker", "class"}
SOURCES = {"prometheus": "${datasource}", "tempo": "${traces}", "loki": "${logs}"}
KINDS = ("system", "unknown", "user")

NASTY = ('say "hi"', "C:\\temp\\new", "it's", "a+b(c)|d.*", "${job}", "/")
CHOICES: dict[str, dict[str, Any]] = {
    "all": {},
    "one": dict.fromkeys(("job", "worker", "class"), "flyte.errors.OOMError"),
    "nasty": dict.fromkeys(("job", "worker", "class"), NASTY),
}

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board.name))
each_panel = pytest.mark.parametrize("panel", PANELS, ids=str)
each_showing = pytest.mark.parametrize("panel", SHOWING, ids=str)


def inside(raw: Any) -> Iterator[Any]:
    """Everything in a piece of JSON, at any depth."""
    yield raw
    for below in raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ():
        yield from inside(below)


def strings(raw: Any) -> list[str]:
    return [one for one in inside(raw) if isinstance(one, str)]


def expressions(board: Board) -> list[str]:
    """Every expression for Prometheus, of panels and annotations."""
    targets = [target for panel in board.panels for target in panel.raw.get("targets", ())]
    asked = [target["expr"] for target in targets if target["datasource"]["type"] == "prometheus"]
    return asked + [one["expr"] for one in board.annotations]


# ---- The script


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the SDK that builds them wants 3.11")
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
def test_the_committed_boards_are_what_the_script_builds() -> None:
    built = runpy.run_path(str(ROOT / "dashboards" / "build.py"))["boards"]()
    assert built == {file.name: file.read_text() for file in DIRECTORY.glob("*.json")}


# ---- Boards


def test_the_boards_are_these() -> None:
    assert {board.name: board.raw["title"] for board in BOARDS} == {
        "faultlens-overview": "Failures: overview",
        "faultlens-class": "Failures: class",
        "faultlens-workers": "Failures: workers",
    }


@each_board
def test_a_board_is_set_up(board: Board) -> None:
    raw = board.raw
    assert raw["schemaVersion"] == 42
    assert raw["editable"] is False
    assert raw["graphTooltip"] == 1, "the crosshair is shared"
    assert raw["tags"] == ["faultlens"]
    assert raw["description"]
    assert "id" not in raw, "it is one server's"
    for seconds in [raw["refresh"], *raw["timepicker"]["refresh_intervals"]]:
        assert seconds == "30s" or seconds[-1] in "mh", seconds


@each_board
def test_the_boards_lead_to_one_another(board: Board) -> None:
    (link,) = board.raw["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["faultlens"])
    assert link["includeVars"]
    assert link["keepTime"]


@each_board
def test_links_and_annotations_are_in_sight(board: Board) -> None:
    assert "inControlsMenu" not in strings(board.raw)
    assert [one["hide"] for one in board.annotations] == [False, False]


@each_board
def test_no_panel_covers_another_and_there_are_no_holes(board: Board) -> None:
    assert holes_and_overlaps(board.raw["panels"]) == {}
    for row in (one for one in board.raw["panels"] if one["type"] == "row"):
        assert row["collapsed"], "what is below the fold is folded away"
        assert holes_and_overlaps(row["panels"], top=row["gridPos"]["y"] + 1) == {}


def holes_and_overlaps(panels: list[Mapping[str, Any]], top: int = 0) -> dict[tuple[int, int], int]:
    """How many panels cover each place that is not covered by one."""
    places = [panel["gridPos"] for panel in panels]
    covered = Counter(
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    bottom = max(place["y"] + place["h"] for place in places)
    grid = {(x, y) for x in range(24) for y in range(top, bottom)}
    return {place: covered[place] for place in grid | set(covered) if covered[place] != 1}


def test_holes_and_overlaps_are_found() -> None:
    left = {"gridPos": {"x": 0, "y": 0, "w": 12, "h": 2}}
    short = {"gridPos": {"x": 12, "y": 0, "w": 12, "h": 1}}
    wide = {"gridPos": {"x": 0, "y": 0, "w": 24, "h": 2}}
    assert holes_and_overlaps([left, short]) == {(x, 1): 0 for x in range(12, 24)}
    assert set(holes_and_overlaps([wide, short]).values()) == {2}


def test_the_overview_is_one_screen() -> None:
    """Of 900 pixels. Grafana's own bars take 150 if the variables and links need two lines."""
    (overview,) = [board for board in BOARDS if board.name == "faultlens-overview"]
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in overview.raw["panels"])
    assert 150 + rows * 38 <= 900


@each_board
def test_ids_and_titles_are_unique(board: Board) -> None:
    rows = [row for of, row in ROWS if of is board]
    assert not [of for of, n in Counter(panel.title for panel in board.panels).items() if n > 1]
    ids = [panel.raw["id"] for panel in board.panels] + [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert all(ids)


# ---- Panels


@each_panel
def test_a_panel_says_what_it_shows(panel: Panel) -> None:
    assert panel.title
    assert panel.raw["description"]


@each_showing
def test_a_panel_says_what_it_does_not_show(panel: Panel) -> None:
    assert "exclude" in panel.raw["description"]


LETTER, MARGINS = 7, 50
"""What they take of a panel's width, in pixels."""


@each_panel
def test_words_fit_on_a_small_screen(panel: Panel) -> None:
    """At 1100 pixels, which 24 columns and the gaps between them share."""
    columns = panel.raw["gridPos"]["w"]
    width = columns * 36.8 + (columns - 1) * 8
    assert LETTER * len(panel.title) + MARGINS <= width
    if panel.type == "bargauge":
        assert LETTER * len(panel.defaults["noValue"]) + MARGINS <= width, "it is one line there"


def test_the_columns_of_issues_fit_on_a_small_screen() -> None:
    """At 1100 pixels the last column is in sight, if nothing has an owner.

    Columns without a width share the rest, so what the widest needs each of them gets.
    """
    (overview,) = [board for board in BOARDS if board.name == "faultlens-overview"]
    widths = {
        of["matcher"]["options"]: option["value"]
        for of in overview.panel("Issues").raw["fieldConfig"]["overrides"]
        for option in of["properties"]
        if option["id"] in ("custom.width", "custom.minWidth")
    }
    assert len(widths) == 9
    assert sum(widths.values()) - widths["Owner"] <= 1050


@each_showing
def test_a_panel_has_a_unit_and_words_for_nothing(panel: Panel) -> None:
    assert panel.defaults.get("unit")
    assert panel.defaults.get("noValue")
    if panel.type != "stat":
        assert re.match(r"(No|Nothing) ", panel.defaults["noValue"])
    if panel.type == "table":
        # An empty cell does not say that there is nothing at all.
        titles = [of["matcher"]["options"] for of in panel.raw["fieldConfig"]["overrides"]]
        (renamed,) = [one for one in panel.raw["transformations"] if one["id"] == "organize"]
        assert ".*" in titles or set(titles) >= set(renamed["options"]["renameByName"].values())
        for of in panel.raw["fieldConfig"]["overrides"]:
            options = {option["id"]: option["value"] for option in of["properties"]}
            assert options.get("noValue") == "-"


@pytest.mark.parametrize("panel", [one for one in SHOWING if one.type == "bargauge"], ids=str)
def test_a_single_bar_has_its_name(panel: Panel) -> None:
    assert panel.defaults["displayName"] == "${__series.name}"


@each_showing
def test_thresholds_are_said(panel: Panel) -> None:
    steps = panel.defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert all(step["color"].startswith("#") or step["color"] == "transparent" for step in steps)
    assert all(low["value"] < high["value"] for low, high in pairwise(steps[1:]))


@pytest.mark.parametrize(
    "panel", [panel for panel in SHOWING if panel.defaults.get("unit") == "locale"], ids=str
)
def test_counts_are_whole_and_begin_at_zero(panel: Panel) -> None:
    assert panel.defaults["decimals"] == 0
    assert panel.defaults["min"] == 0


@pytest.mark.parametrize(
    "panel",
    [one for one in SHOWING if one.type == "timeseries" and one.defaults["unit"] == "locale"],
    ids=str,
)
def test_only_the_parts_of_a_total_are_stacked(panel: Panel) -> None:
    custom = panel.defaults["custom"]
    assert custom["stacking"]["mode"] == "normal"
    (target,) = panel.targets
    assert re.match(r"sum by \((kind|worker|reason)\) \(", target["expr"])


@each_board
def test_data_comes_from_the_chosen_sources(board: Board) -> None:
    for one in inside(board.raw):
        if isinstance(one, dict) and "datasource" in one and one["datasource"] is not None:
            source = one["datasource"]
            if isinstance(source, str):
                assert source in SOURCES.values()
            else:
                assert SOURCES[source["type"]] == source["uid"]
    for panel in board.panels:
        for target in panel.raw.get("targets", ()):
            assert target["datasource"] == panel.raw["datasource"]


def test_failures_over_time_lead_to_traces_of_what_was_chosen() -> None:
    found = {
        str(panel): [target for target in panel.raw["targets"] if target.get("exemplar")]
        for panel in SHOWING
        if "leads to a trace" in panel.raw["description"]
    }
    assert list(found) == [
        "faultlens-class: Failures by worker over time",
        "faultlens-overview: Failures by kind",
        "faultlens-workers: Failures by worker over time",
    ]
    for (target,) in found.values():
        # Prometheus takes the exemplars of every selector in a query.
        assert re.findall(r"\w+=~", target["expr"]) == ["job=~", "worker=~", "class=~"]


# ---- Colours


def is_red(color: str) -> bool:
    if not color.startswith("#"):
        return "red" in color
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    return saturation > 0.3 and (hue < 25 / 360 or hue > 335 / 360)


@pytest.mark.parametrize("color", ["#F2495C", "#D92B3A", "#C4162A", "#FF0000", "dark-red", "red"])
def test_red_is_red(color: str) -> None:
    assert is_red(color)


def colors(raw: Any, of: str = "") -> Iterator[tuple[str, str]]:
    """Each colour, and the series or the text that it is for; empty where it is for a value."""
    if isinstance(raw, list):
        for one in raw:
            yield from colors(one, of)
    elif isinstance(raw, dict):
        of = str(raw.get("matcher", {}).get("options") or raw.get("text") or of)
        for name, below in raw.items():
            if name in ("color", "fixedColor", "iconColor") and isinstance(below, str):
                yield below, of
            yield from colors(below, of)


def kind_colors(raw: Any) -> dict[str, set[str]]:
    """The colours of what is named after a kind."""
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for color, of in colors(raw):
        if of.lower() in found:
            found[of.lower()].add(color)
    return found


def test_a_kind_has_one_colour_on_all_boards() -> None:
    palette = kind_colors([board.raw for board in BOARDS])
    assert [len(found) for found in palette.values()] == [1, 1, 1]
    assert len(set.union(*palette.values())) == 3
    for panel in PANELS:
        if panel.title.lower() in KINDS:
            above = panel.defaults["thresholds"]["steps"][-1]["color"]
            assert {above} == palette[panel.title.lower()]


def test_only_system_failures_are_red() -> None:
    (system,) = kind_colors([board.raw for board in BOARDS])["system"]
    assert is_red(system)
    for panel in PANELS:
        for color, of in colors(panel.raw):
            if is_red(color):
                assert color == system
                assert of.lower() == "system" or panel.title in (
                    "System",
                    "Share of attempts the platform failed",
                )
    for _, annotation in ANNOTATIONS:
        assert not is_red(annotation["iconColor"])
    # A palette contains red, so only panels that do not show kinds use it.
    modes = {one["mode"] for one in inside([board.raw for board in BOARDS]) if is_color(one)}
    assert modes <= {"thresholds", "fixed", "palette-classic"}


def is_color(raw: Any) -> bool:
    return isinstance(raw, dict) and "mode" in raw and set(raw) <= {"mode", "fixedColor"}


GREY, NOTICE = "#6B7385", "#C04FA5"


@each_showing
def test_nothing_is_grey(panel: Panel) -> None:
    """What has no value has the first colour. That no target reports is to be noticed."""
    steps = panel.defaults["thresholds"]["steps"]
    assert steps[0]["color"] == (NOTICE if panel.title == "Reporting" else GREY)
    if panel.type == "stat":
        assert panel.raw["options"]["colorMode"] == "value", "a zero is no slab of colour"


def in_order(found: Iterable[str]) -> list[str]:
    """The kinds among these."""
    return [one.lower() for one in found if one.lower() in KINDS]


@each_board
def test_kinds_are_in_the_order_of_urgency(board: Board) -> None:
    assert in_order(panel.title for panel in board.panels) in ([], list(KINDS))
    for panel in board.panels:
        legends = in_order(target.get("refId", "") for target in panel.raw.get("targets", ()))
        assert legends in ([], list(KINDS))
        overrides = panel.raw.get("fieldConfig", {}).get("overrides", [])
        assert in_order(str(of["matcher"]["options"]) for of in overrides) in ([], list(KINDS))
        words = re.findall(r"\*\*(\w+)\*\*", panel.raw["options"].get("content", ""))
        assert in_order(words) in ([], list(KINDS))
    assert sorted(KINDS) == list(KINDS), "Prometheus and the tables sort by the alphabet"


# ---- Variables


@each_board
def test_a_board_has_the_variables(board: Board) -> None:
    raw = {variable.name: variable.raw for variable in board.variables}
    logs = ["logs"] if board.name == "faultlens-class" else []
    assert list(raw) == ["datasource", "traces", *logs, "job", "worker", "class"]
    assert (raw["datasource"]["type"], raw["datasource"]["query"]) == ("datasource", "prometheus")
    assert raw["datasource"]["label"] == "Data source"
    # Grafana's own default, and not the first by its name, if there are several.
    assert raw["datasource"]["current"] == {"text": "default", "value": "default"}
    assert (raw["traces"]["type"], raw["traces"]["query"]) == ("datasource", "tempo")
    for name in ("job", "worker", "class"):
        assert raw[name]["allValue"] == ".+"
        assert raw[name]["includeAll"]
        assert raw[name]["refresh"] == 2, "on a change of the time range"
        assert raw[name]["multi"] is (name != "class" or board.name != "faultlens-class")


@each_board
def test_a_variable_depends_on_those_before_it(board: Board) -> None:
    before: list[str] = []
    for variable in board.variables:
        if variable.is_asked:
            assert re.findall(r"\$\{(\w+):regex\}", variable.query) == before
            before.append(variable.name)


def test_a_new_version_of_any_sdk_is_marked() -> None:
    sdks = {load(module).package for module in installed()}
    for _, annotation in ANNOTATIONS:
        if annotation["name"] == "New versions":
            (labels,) = set(re.findall(r"group by \((.+?)\)", annotation["expr"]))
            assert set(labels.split(", ")) == {"job", "version"} | sdks
            assert set(re.findall(r"{{(\w+)}}", annotation["textFormat"])) == set(
                labels.split(", ")
            )


# What Grafana fills in itself, where we use it.
GIVEN = {
    "expression": {"__range", "__interval", "__from"},
    "link": {"__url_time_range", "__from", "__to", "__field", "__data"},
}


@each_board
def test_every_variable_that_is_used_exists(board: Board) -> None:
    for expression in expressions(board) + [variable.query for variable in board.variables]:
        assert used(expression) <= VARIABLES | GIVEN["expression"]
    for url in urls(board):
        assert used(url) <= VARIABLES | GIVEN["link"]


def used(text: str) -> set[str]:
    return {one or other for one, other in re.findall(r"\$\{(\w+)[^}]*\}|\$(\w+)", text)}


@each_board
def test_a_name_with_quotes_cannot_end_a_string(board: Board) -> None:
    for text in strings(board.raw):
        if ":regex}" in text:
            assert len(re.findall(r"[=|]~ ?`\$\{\w+:regex\}`", text)) == text.count(":regex}")


# ---- Expressions


@each_board
def test_expressions_are_short(board: Board) -> None:
    for expression in expressions(board) + [variable.query for variable in board.variables]:
        assert len(expression) <= 300
        assert "\n" not in expression


@pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)
@each_board
def test_expressions_are_promql(board: Board, chosen: dict[str, Any]) -> None:
    for expression in expressions(board):
        parsed(board, expression, chosen)
    for variable in board.variables:
        if variable.is_asked:
            inner = re.fullmatch(r"label_values\((.+), \w+\)", variable.query)
            assert inner
            parsed(board, inner[1], chosen)


def parsed(board: Board, expression: str, chosen: Mapping[str, Any] | None = None) -> Any:
    """The tree of an expression with its variables filled in."""
    text = board.fill(expression, View(end=1_800_000_000, chosen=chosen or {}), step=60)
    # The parser reads backslashes between backquotes, where PromQL has none.
    return promql.parse(re.sub(r"`([^`]*)`", lambda string: json.dumps(string[1]), text))


@each_board
def test_counters_are_only_where_resets_do_no_harm(board: Board) -> None:
    for expression in expressions(board):
        if not expression.endswith(" < 0"):  # which looks for exemplars
            assert misused(parsed(board, expression)) == []


def misused(node: Any, function: str = "") -> list[str]:
    """The counters, by their names, that are read in a way which is wrong for counters."""
    if isinstance(node, promql.VectorSelector):
        name = node.name or ""
        return [name] if name.endswith("_total") and function != "increase" else []
    if isinstance(node, promql.Call):
        function = node.func.name
    elif isinstance(node, promql.SubqueryExpr):
        function = ""  # it takes an instant's values, whatever is around it
    elif isinstance(node, promql.AggregateExpr) and str(node.op) == "group":
        return []  # it does not look at values
    return [name for child in children(node) for name in misused(child, function)]


def children(node: Any) -> list[Any]:
    if isinstance(node, promql.Call):
        return list(node.args)
    below = ("lhs", "rhs", "expr", "param", "vector_selector")
    return [child for name in below if (child := getattr(node, name, None)) is not None]


@pytest.mark.parametrize(
    "expression",
    [
        "sum(x_total)",
        "avg_over_time(x_total[5m])",
        'topk(3, x_total{a="1"}) / y',
        "last_over_time((x_total)[5m:1m])",
    ],
)
def test_a_misused_counter_is_found(expression: str) -> None:
    assert misused(promql.parse(expression)) == ["x_total"]


@each_board
def test_what_is_extrapolated_is_rounded(board: Board) -> None:
    for expression in expressions(board):
        assert expression.count("increase(") == expression.count("round(increase(")


# ---- Links


def urls(board: Board) -> list[str]:
    return [one["url"] for one in inside(board.raw) if isinstance(one, dict) and "url" in one]


@each_board
def test_links_to_boards_arrive(board: Board) -> None:
    there = {one.name: one for one in BOARDS}
    links = [url for url in urls(board) if url.startswith("/d/")]
    assert links
    for url in links:
        uid, _, query = url.removeprefix("/d/").partition("?")
        parts = query.split("&")
        assert parts.pop(0) == "${__url_time_range}"
        views = [part for part in parts if part.startswith("viewPanel=")]
        for view in views:
            parts.remove(view)
            assert view == f"viewPanel={there[uid].panel('Traces').raw['id']}"
        carried = [re.sub(r"^\$\{(\w+):queryparam\}$", r"var-\1=", part) for part in parts]
        assert [one.partition("=")[0] for one in carried] == [
            f"var-{variable.name}" for variable in there[uid].variables if variable.name != "logs"
        ]  # of Loki the first data source will do


@each_board
def test_links_to_values_quote_them(board: Board) -> None:
    for url in urls(board):
        for value in re.findall(r"var-\w+=([^&]+)", url):
            assert re.fullmatch(r"\$\{__(data\.fields|field\.labels)\.\w+:percentencode\}", value)


def panes(url: str) -> dict[str, Any]:
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    (pane,) = json.loads(query["panes"][0]).values()
    return dict(pane)


@each_board
def test_links_to_explore_carry_source_and_time(board: Board) -> None:
    for url in urls(board):
        assert url.startswith(("/d/", "/explore?schemaVersion=1&"))
        if url.startswith("/explore"):
            pane = panes(url)
            assert pane["datasource"] == pane["queries"][0]["datasource"]["uid"] == "${traces}"
            assert pane["range"] == {"from": "${__from}", "to": "${__to}"}


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel.title.lower() in KINDS], ids=str
)
def test_a_kind_leads_to_the_traces_of_what_was_chosen(panel: Panel) -> None:
    (url,) = [link["url"] for link in panel.defaults["links"] if link["url"].startswith("/explore")]
    query = panes(url)["queries"][0]["query"]
    assert f'event.faultlens.kind = "{panel.title.lower()}"' in query
    assert "event.exception.type =~ `${class:pipe}`" in query
    assert "event.faultlens.worker =~ `${worker:pipe}`" in query


def test_every_class_leads_to_its_board_and_its_traces() -> None:
    (overview,) = [board for board in BOARDS if board.name == "faultlens-overview"]
    links = [
        link["url"]
        for of in overview.panel("Issues").raw["fieldConfig"]["overrides"]
        for name in of["properties"]
        if name["id"] == "links"
        for link in name["value"]
    ]
    assert [url.partition("?")[0] for url in links] == ["/d/faultlens-class"] * 2
    assert all("var-class=${__data.fields.class:percentencode}" in url for url in links)


# ---- TraceQL


def traceql() -> list[str]:
    """Every query for traces, of panels and of links."""
    asked = [
        board.fill(target["query"], View(end=1_800_000_000, chosen=chosen), step=60)
        for board in BOARDS
        for panel in board.panels
        for target in panel.raw.get("targets", ())
        if target.get("queryType") == "traceql"
        for chosen in CHOICES.values()
    ]
    linked = [
        panes(url)["queries"][0]["query"]
        for board in BOARDS
        for url in urls(board)
        if url.startswith("/explore")
    ]
    return asked + linked


@pytest.mark.parametrize(
    "panel",
    [one for one in PANELS if one.raw.get("datasource", {}).get("type") == "tempo"],
    ids=str,
)
def test_traces_are_the_newest_and_have_names_for_what_is_asked(panel: Panel) -> None:
    (target,) = panel.raw["targets"]
    query = target["query"]
    assert query.endswith(" with (most_recent=true)"), "otherwise it is any hundred"
    (selected,) = re.findall(r"select\((.+?)\)", query)
    (renamed,) = [one["options"]["renameByName"] for one in panel.raw["transformations"]]
    # Tempo gives the attributes of an event without their scope.
    assert {name.removeprefix("event.") for name in selected.split(", ")} == {
        name for name in renamed if "." in name
    }


def test_traces_are_asked_for_by_their_events() -> None:
    queries = traceql()
    assert queries
    for query in queries:
        assert query.startswith('{ event:name = "exception" && event.faultlens.role = "origin" && ')
        bare = re.sub(r'`[^`]*`|"[^"]*"', "", query.removesuffix(" with (most_recent=true)"))
        assert set(re.findall(r"[\w.:]+", bare)) <= {
            "event:name",
            "event.exception.message",
            "event.exception.type",
            "event.faultlens.code",
            "event.faultlens.kind",
            "event.faultlens.reason",
            "event.faultlens.role",
            "event.faultlens.worker",
            "select",
        }


def logql() -> list[str]:
    return [
        target["expr"]
        for panel in PANELS
        for target in panel.raw.get("targets", ())
        if target["datasource"]["type"] == "loki"
    ]


def test_log_lines_are_asked_for_by_the_fields_of_a_record() -> None:
    (query,) = logql()
    asked = set(re.findall(r"(?:\| |\.)(\w+)(?= =|\}\})", query))
    assert asked == {"exception_type", "faultlens_worker", "faultlens_role", "exception_message"}
    docs = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", docs, re.DOTALL)
    assert asked <= {name.replace(".", "_") for name in json.loads(example)}


@needs("node")
@needs("lezer-traceql", TOOLS / "node_modules" / "@grafana" / "lezer-traceql")
@needs("lezer-logql", TOOLS / "node_modules" / "@grafana" / "lezer-logql")
@pytest.mark.parametrize(
    ("language", "queries", "wrong"),
    [
        (
            "traceql",
            traceql(),
            ['{ event:nam = "exception" }', '{ event.exception.type =~ "a" && }'],
        ),
        ("logql", logql(), ['{job="a"} | json | a ~ `b`', "{job=~`a`} | line_format"]),
    ],
    ids=["traceql", "logql"],
)
def test_queries_are_what_grafana_reads(
    language: str, queries: list[str], wrong: list[str]
) -> None:
    ran = subprocess.run(
        ["node", str(Path(__file__).with_name("queries.mjs")), str(TOOLS), language],
        input=json.dumps(queries + wrong),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == wrong
