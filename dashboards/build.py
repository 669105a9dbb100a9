"""Builds Grafana's boards: ``python dashboards/build.py`` writes them into grafana/ beside it.

Needs grafana-foundation-sdk, in the version of tests/requirements (a plain install picks an older
one). From top to bottom: what is asked, where links lead, how it is shown, the three boards.
"""

from __future__ import annotations

import itertools
import json
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    tempo,
    text,
    timeseries,
)

__all__ = ["boards"]

OVERVIEW, CLASS, WORKERS = "faultlens-overview", "faultlens-class", "faultlens-workers"


class Kind(NamedTuple):
    """Whose fault, and how it looks on every board."""

    name: str
    title: str
    color: str
    meaning: str
    who_acts: str


# The most urgent first, which is the order of the alphabet too: tables sort by it. The colours
# differ in lightness as well, for those who do not tell red from green. Nothing else is red.
SYSTEM = Kind(
    name="system",
    title="System",
    color="#D92B3A",
    meaning="the platform is at fault: storage, leases, servers, installation",
    who_acts="The platform team is paged.",
)
UNKNOWN = Kind(
    name="unknown",
    title="Unknown",
    color="#D08700",
    meaning="nothing that can be seen decides whose fault it is",
    who_acts="Whoever owns the rules writes one.",
)
USER = Kind(
    name="user",
    title="User",
    color="#3F83F2",
    meaning="whoever wrote or called the workflow is at fault: code, input, credentials",
    who_acts="They act; nobody is paged.",
)
KINDS = (SYSTEM, UNKNOWN, USER)

ZERO = "#6B7385"
PLAIN = "#8F7BC9"  # a value that is about no kind
NOTICE = "#C04FA5"  # somebody should look, though nothing of theirs failed


# ---- What is asked

METRICS = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
TRACES = common.DataSourceRef(type_val="tempo", uid="${traces}")

RANGE = "$__range"
STEP = "$__interval"
SECONDS = {RANGE: "$__range_s", STEP: "$__interval_ms / 1000"}
FROM = "${__from:date:seconds}"
TO = "${__to:date:seconds}"
AT_END = " @ end()"


class Counter(NamedTuple):
    """A counter ``faultlens_<name>_total``, and which variables are labels of it."""

    name: str
    variables: Sequence[str]
    filters: Sequence[str] = ()
    """Other matchers of its series."""


FAILURES = Counter(name="failures", variables=["job", "worker", "class"])
SUPPRESSED = Counter(name="suppressed", variables=["job", "worker", "class"])
CODES = Counter(name="issues", variables=["job", "class"], filters=['code!=""'])
DROPPED = Counter(name="dropped", variables=["job"])


def series(
    name: str,
    *,
    variables: Sequence[str] = ("job",),
    kind: Kind | None = None,
    filters: Sequence[str] = (),
) -> str:
    """A selector that the variables filter.

    Their values are regular expressions in backquotes: what Grafana's ``:regex`` escapes needs no
    second escaping there, and a name may hold quotes and backslashes.
    """
    matchers = [f"{label}=~`${{{label}:regex}}`" for label in variables]
    if kind is not None:
        matchers.append(f'kind="{kind.name}"')
    return f"{name}{{{', '.join((*matchers, *filters))}}}"


def count(counter: Counter, *, window: str = RANGE, kind: Kind | None = None, at: str = "") -> str:
    """By how much each series of a counter grew within the window: exactly.

    Not ``increase()``: it extrapolates (8 become 8.3), and does not see the first value of a series
    that is born above 0, as those of your own classes and of new codes are. But what the series had
    last, less what it had when the window began. No plain offset tells that: a scrape that failed
    just then would hide it. If the series was not there yet, it began

    - at its first value, if it was in every scrape of a target that was not there either: what it
      had before is none of this window's;
    - else at 0: it came after its target, or says itself that it was born since, or its target has
      no ``up``, is not scraped but pushed, and so is one process, which counts from 0.

    Where a counter was reset, ``increase()`` does know what to add, and is rounded. Where that was
    before its first value in the window, this is less than it had before: it began at 0, too.

    Most series are 0 for ever. That they are left out where they change nothing (``> 0``) halves
    the cost: of 17,400 series, 300 workers with 58 classes, a graph takes 3 to 5 seconds on a
    small machine.

    at: `AT_END` for the window at the end of the range, whatever the step.
    """
    counted, born = (
        series(
            f"faultlens_{counter.name}_{suffix}",
            variables=counter.variables,
            kind=kind,
            filters=counter.filters,
        )
        for suffix in ("total", "created")
    )
    scrapes = f"max by (job, instance) (sum_over_time({series('up')}[{window}]{at}))"
    before = f"last_over_time({series('faultlens_failures_total')}[5m]{at} offset {window})"
    now = TO if at else "time()"
    return f"""\
round(increase({counted}[{window}]{at}) and resets({counted}[{window}]{at}) > 0)
or (last_over_time({counted}[{window}]{at}) > 0) - (
  last_over_time({counted}[5m]{at} offset {window}) > 0 <= min_over_time({counted}[{window}]{at})
  or min_over_time({counted}[{window}]{at})
    and count_over_time({counted}[{window}]{at}) == on (job, instance) group_left () (
      {scrapes} unless on (job, instance) {before}
    )
    unless last_over_time({born}[{window}]{at}) > {now} - {SECONDS[window]}
)
or last_over_time({counted}[{window}]{at})"""


def total(what: str, *, by: str = "") -> str:
    """The sum of it, for each value of those labels."""
    return f"{f'sum by ({by}) ' if by else 'sum'}(\n{indented(what)}\n)"


def or_zero(what: str) -> str:
    return f"{what} or vector(0)"


def change(what: str) -> str:
    """`what`, which counts in the range, less the same in the range before.

    An offset cannot be twice the range, but a subquery of a single instant is offset as a whole.
    """
    return f"({what})\n- last_over_time(\n  ({what})[1ms:1ms] offset {RANGE}\n)"


def busiest(number: int) -> str:
    """The workers with the most failures in the range."""
    return f"topk({number}, {total(count(FAILURES, at=AT_END), by='worker')} > 0)"


def indented(what: str) -> str:
    return "\n".join(f"  {line}" for line in what.splitlines())


INFO = series("faultlens_info")
LAST_FAILURE = series(
    "faultlens_last_failure_timestamp_seconds", variables=["job", "worker", "class"]
)
# In milliseconds, as Grafana wants them. The first in the range is the least of the last ones that
# were known at its steps or are known at its end.
LAST_SEEN = f"1000 * (last_over_time({LAST_FAILURE}[{RANGE}]) >= {FROM})"
FIRST_SEEN = f"""\
1000 * (
  min_over_time(({LAST_FAILURE} >= {FROM})[{RANGE}:{STEP}])
  or last_over_time({LAST_FAILURE}[{RANGE}]) >= {FROM}
)"""


def instant(expr: str, *, legend: str = "__auto", ref: str = "A") -> prometheus.Dataquery:
    """The values at the end of the range."""
    return prometheus.Dataquery(
        ref_id=ref,
        datasource=METRICS,
        editor_mode=prometheus.QueryEditorMode.CODE,
        expr=expr,
        instant=True,
        range_val=False,
        legend_format=legend,
    )


def rows(expr: str, *, ref: str) -> prometheus.Dataquery:
    """The same as a table, with a column for each label."""
    query = instant(expr, ref=ref)
    query.format_val = prometheus.PromQueryFormat.TABLE
    return query


def steps(expr: str, *, legend: str, exemplars: bool = False) -> prometheus.Dataquery:
    """The values at each step of the range."""
    return prometheus.Dataquery(
        ref_id="A",
        datasource=METRICS,
        editor_mode=prometheus.QueryEditorMode.CODE,
        expr=expr,
        instant=False,
        range_val=True,
        exemplar=exemplars,
        legend_format=legend,
    )


def origins(condition: str) -> str:
    """TraceQL: the spans on which a failure was first seen."""
    return f'{{ event:name = "exception" && event.faultlens.role = "origin" && {condition} }}'


# ---- Where links lead

TRACES_PANEL = 100  # the id of a panel of the Class board to which the others lead


def board_link(
    title: str, *, to: str, worker: str = "", class_: str = "", view: int | None = None
) -> dashboard.DashboardLink:
    """To a board, with the time and all variables, or with another worker or class.

    view: the id of a panel to open there.
    """
    others = {"worker": worker, "class": class_}
    carried = [
        f"var-{name}={others[name]}" if others.get(name) else f"${{{name}:queryparam}}"
        for name in ("datasource", "traces", "job", "worker", "class")
    ]
    if view is not None:
        carried.append(f"viewPanel={view}")
    return link(title, url=f"/d/{to}?${{__url_time_range}}&{'&'.join(carried)}")


def traces_link(title: str, *, traceql: str) -> dashboard.DashboardLink:
    """To what TraceQL finds, within the time of the board."""
    source = {"type": "tempo", "uid": "${traces}"}
    query = {"refId": "A", "datasource": source, "queryType": "traceql", "tableType": "spans"}
    pane = {
        "datasource": "${traces}",
        "queries": [query | {"limit": 100, "query": traceql}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # Grafana replaces variables in the link as it stands: their signs must not be quoted.
    panes = urllib.parse.quote(json.dumps({"faultlens": pane}), safe="${}:")
    return link(title, url=f"/explore?schemaVersion=1&panes={panes}")


def link(title: str, *, url: str) -> dashboard.DashboardLink:
    return shown(dashboard.DashboardLink(title=title, url=url))


Control = TypeVar("Control", dashboard.DashboardLink, dashboard.AnnotationQuery)


def shown(control: Control) -> Control:
    """The same in sight: by default the SDK puts it into a menu of controls."""
    control.placement = None  # type: ignore[assignment, unused-ignore]
    return control


# ---- How it is shown

COUNT = "locale"  # all digits, where "short" makes 12 K of 12,345
NO_FAILURES = "No failures recorded"
NO_NEW_FAILURE = "Raised exceptions that are no new failure (carriers, replays, ...) are excluded."
BARS = 60  # at most, beside each other

BY_THRESHOLDS = dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS)
LAST_VALUE = common.ReduceDataOptions(calcs=["lastNotNull"], fields="", values=False)


def fixed(color: str) -> dashboard.FieldColor:
    return dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=color)


def thresholds(base: str, *above: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """A colour, and others from a value on. Every panel says them: by default 80 is red."""
    return dashboard.ThresholdsConfig(
        mode=dashboard.ThresholdsMode.ABSOLUTE,
        steps=[
            dashboard.Threshold(value=None, color=base),
            *(dashboard.Threshold(value=value, color=color) for value, color in above),
        ],
    )


def mapping(texts: Mapping[str, tuple[str, str]]) -> dashboard.ValueMap:
    """What to show for a value: a text in a colour."""
    return dashboard.ValueMap(
        options={
            value: dashboard.ValueMappingResult(text=shown_as, color=color, index=index)
            for index, (value, (shown_as, color)) in enumerate(texts.items())
        }
    )


Override: TypeAlias = dashboard.DashboardFieldConfigSourceOverrides


def override(matcher: str, of: object, options: Mapping[str, object]) -> Override:
    """Other field options, for the fields that match."""
    return Override(
        matcher=dashboard.MatcherConfig(id_val=matcher, options=of),
        properties=[
            dashboard.DynamicConfigValue(id_val=name, value=value)
            for name, value in options.items()
        ],
    )


def last_value(operator: str, than: float) -> Mapping[str, object]:
    """What `override` matches: fields whose last value is so."""
    return {"reducer": "lastNotNull", "op": operator, "value": than}


KIND_COLORS = [
    override("byName", kind.name, {"color": fixed(kind.color), "displayName": kind.title})
    for kind in KINDS
]


def panel(
    plugin: str,
    *,
    title: str,
    description: str,
    targets: Sequence[Dataquery],
    options: object,
    source: common.DataSourceRef = METRICS,
    unit: str = COUNT,
    decimals: int | None = 0,
    lowest: float | None = 0,
    highest: float | None = None,
    nothing: str = NO_FAILURES,
    color: dashboard.FieldColor = BY_THRESHOLDS,
    colors: dashboard.ThresholdsConfig | None = None,
    mappings: Sequence[dashboard.ValueMapping] = (),
    links: Sequence[dashboard.DashboardLink] = (),
    overrides: Iterable[Override] = (),
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
    points: int | None = None,
    custom: object = None,
) -> dashboard.Panel:
    """A panel, with all that each must have; unless told otherwise, its values are counts.

    nothing: what it says if there is nothing to show.
    points: how many steps at most.
    """
    return dashboard.Panel(
        type_val=plugin,
        title=title,
        description=description,
        datasource=source,
        targets=list(targets),
        options=options,
        transformations=list(transformations),
        max_data_points=points,
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=decimals,
                min_val=lowest,
                max_val=highest,
                no_value=nothing,
                color=color,
                thresholds=colors or thresholds(PLAIN),
                mappings=list(mappings),
                links=list(links),
                custom=custom if custom is not None else {},
            ),
            overrides=list(overrides),
        ),
    )


def number(
    *,
    title: str,
    description: str,
    targets: Sequence[Dataquery],
    unit: str = COUNT,
    decimals: int | None = 0,
    lowest: float | None = 0,
    highest: float | None = None,
    nothing: str = "0",
    colors: dashboard.ThresholdsConfig | None = None,
    overrides: Iterable[Override] = (),
    links: Sequence[dashboard.DashboardLink] = (),
    names: bool = False,
    solid: bool = False,
) -> dashboard.Panel:
    """A big number, or several with their `names`; `solid`: on a ground of its colour."""
    mode = common.BigValueColorMode
    name_mode = common.BigValueTextMode
    return panel(
        "stat",
        title=title,
        description=description,
        targets=targets,
        unit=unit,
        decimals=decimals,
        lowest=lowest,
        highest=highest,
        nothing=nothing,
        colors=colors,
        overrides=overrides,
        links=links,
        options=stat.Options(
            graph_mode=common.BigValueGraphMode.NONE,
            color_mode=mode.BACKGROUND_SOLID if solid else mode.VALUE,
            text_mode=name_mode.VALUE_AND_NAME if names else name_mode.VALUE,
            justify_mode=common.BigValueJustifyMode.CENTER,
            reduce_options=LAST_VALUE,
        ),
    )


def counts_over_time(
    *,
    title: str,
    description: str,
    target: prometheus.Dataquery,
    nothing: str = NO_FAILURES,
    overrides: Iterable[Override] = (),
    links: Sequence[dashboard.DashboardLink] = (),
    legend: common.LegendPlacement = common.LegendPlacement.RIGHT,
) -> dashboard.Panel:
    """A bar for each step, stacked, as its parts make a total.

    The legend has no sum of the bars: they begin and end at whole steps, not with the range.
    """
    return panel(
        "timeseries",
        title=title,
        description=description,
        targets=[target],
        nothing=nothing,
        color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.SHADES, fixed_color=PLAIN),
        overrides=overrides,
        links=links,
        points=BARS,
        custom=common.GraphFieldConfig(
            draw_style=common.GraphDrawStyle.BARS,
            bar_alignment=common.BarAlignment.BEFORE,  # a step's value is about the time before it
            bar_width_factor=0.8,
            line_width=0,
            fill_opacity=90,
            stacking=common.StackingConfig(mode=common.StackingMode.NORMAL, group="A"),
            axis_soft_max=4,  # below that, decimals: 0 would write one number at several lines
        ),
        options=timeseries.Options(
            legend=common.VizLegendOptions(show_legend=True, placement=legend),
            tooltip=common.VizTooltipOptions(
                mode=common.TooltipDisplayMode.MULTI,
                sort=common.SortOrder.DESCENDING,
                hide_zeros=True,
            ),
        ),
    )


def bars(
    *,
    title: str,
    description: str,
    target: prometheus.Dataquery,
    unit: str = COUNT,
    decimals: int = 0,
    nothing: str = NO_FAILURES,
    colors: dashboard.ThresholdsConfig | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
    names: common.BarGaugeNamePlacement = common.BarGaugeNamePlacement.LEFT,
) -> dashboard.Panel:
    """A horizontal bar for each series, with its name beside or above it."""
    return panel(
        "bargauge",
        title=title,
        description=description,
        targets=[target],
        unit=unit,
        decimals=decimals,
        nothing=nothing,
        colors=colors,
        links=links,
        options=bargauge.Options(
            display_mode=common.BarGaugeDisplayMode.BASIC,
            value_mode=common.BarGaugeValueMode.TEXT,
            name_placement=names,
            orientation=common.VizOrientation.HORIZONTAL,
            sizing=common.BarGaugeSizing.MANUAL,
            min_viz_height=20,
            max_viz_height=24 if names is common.BarGaugeNamePlacement.LEFT else 48,
            show_unfilled=True,
            text=common.VizTextDisplayOptions(value_size=14),
            reduce_options=LAST_VALUE,
        ),
    )


def listing(
    *,
    title: str,
    description: str,
    targets: Sequence[Dataquery],
    nothing: str,
    source: common.DataSourceRef = METRICS,
    unit: str = COUNT,
    overrides: Iterable[Override] = (),
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
    sort_by: Sequence[common.TableSortByFieldState] = (),
) -> dashboard.Panel:
    """A table."""
    return panel(
        "table",
        title=title,
        description=description,
        source=source,
        targets=targets,
        unit=unit,
        nothing=nothing,
        overrides=overrides,
        transformations=transformations,
        options=table.Options(
            show_header=True, cell_height=common.TableCellHeight.SM, sort_by=list(sort_by)
        ),
    )


MERGED = dashboard.DataTransformerConfig(id_val="merge", options={})


def columns(
    names: Mapping[str, str], *, without: Sequence[str] = ()
) -> dashboard.DataTransformerConfig:
    """The columns in this order under these names, without some and the time of the query."""
    return dashboard.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": dict.fromkeys(["Time", *without], True),
            "indexByName": {name: index for index, name in enumerate(names)},
            "renameByName": dict(names),
        },
    )


def column(name: str, options: Mapping[str, object]) -> Override:
    return override("byName", name, {"noValue": "-", **options})


def words(*, title: str, description: str, content: str) -> dashboard.Panel:
    return dashboard.Panel(
        type_val="text",
        title=title,
        description=description,
        options=text.Options(mode=text.TextMode.MARKDOWN, content=content),
    )


class Strip(NamedTuple):
    """Panels beside each other, of one height: no holes. Their widths add up to 24."""

    height: int
    panels: Sequence[tuple[int, dashboard.Panel]]


class Fold(NamedTuple):
    """Panels that are folded away until somebody asks for them."""

    title: str
    strip: Strip


def laid_out(parts: Iterable[Strip | Fold]) -> list[dashboard.Panel | dashboard.RowPanel]:
    """The panels from top to bottom, each with its place and its id."""
    placed: list[dashboard.Panel | dashboard.RowPanel] = []
    ids = itertools.count(1)
    y = 0
    for part in parts:
        if isinstance(part, Fold):
            row = dashboard.RowPanel(id_val=next(ids), title=part.title, collapsed=True)
            row.grid_pos = dashboard.GridPos(x=0, y=y, w=24, h=1)
            y += 1  # what is folded away takes no place
            row.panels = beside(part.strip, y=y, ids=ids)
            placed.append(row)
        else:
            placed += beside(part, y=y, ids=ids)
            y += part.height
    return placed


def beside(strip: Strip, *, y: int, ids: Iterator[int]) -> list[dashboard.Panel]:
    x = 0
    for width, made in strip.panels:
        made.id_val = made.id_val or next(ids)
        made.grid_pos = dashboard.GridPos(x=x, y=y, w=width, h=strip.height)
        x += width
    return [made for _, made in strip.panels]


# ---- The boards


def overview() -> dashboard.Dashboard:
    """How many failures, whose, is it getting worse, which class, since when."""
    changes = [
        instant(
            change(or_zero(total(count(FAILURES, kind=kind)))), legend=kind.name, ref=kind.title
        )
        for kind in KINDS
    ]
    getting_worse = number(
        title="Change",
        description=(
            "Failures in the time range, less those in the range of the same length before it: "
            f"above 0 it is getting worse. {NO_NEW_FAILURE}"
        ),
        targets=changes,
        lowest=None,
        overrides=[
            *KIND_COLORS,
            override("byValue", last_value("gt", 0), {"unit": "prefix:+"}),
            override("byValue", last_value("lte", 0), {"color": fixed(ZERO)}),
        ],
        names=True,
    )
    unknown, every = total(count(FAILURES, kind=UNKNOWN)), total(count(FAILURES))
    unknown_share = number(
        title="Unknown share",
        description=(
            "Which part of the failures in the time range is of unknown kind; 0 if nothing failed. "
            f"From 10 % on, the rules are out of date. {NO_NEW_FAILURE}"
        ),
        targets=[instant(or_zero(f"{unknown}\n/ ({every} > 0)"), legend="Unknown share")],
        unit="percentunit",
        decimals=1,
        highest=1,
        nothing="0 %",
        colors=thresholds(ZERO, (0.1, UNKNOWN.color)),
    )
    any_metric = f"{INFO} or {series('faultlens_failures_total')}"
    reporting = number(
        title="Reporting",
        description=(
            "How many targets report to Prometheus at the end of the time range. If it is 0, the "
            "zeros beside it mean nothing. Targets without faultlens are excluded."
        ),
        targets=[
            instant(or_zero(f"count(group by (job, instance) ({any_metric}))"), legend="Reporting")
        ],
        colors=thresholds(NOTICE, (1, ZERO)),
        links=[board_link("Health of faultlens", to=WORKERS)],
    )
    by_kind = counts_over_time(
        title="Failures by kind",
        description=(
            "Each bar counts the failures of its interval; the dots are exemplars, each of which "
            f"leads to a trace. {NO_NEW_FAILURE}"
        ),
        target=steps(
            total(count(FAILURES, window=STEP), by="kind"), legend="{{kind}}", exemplars=True
        ),
        overrides=KIND_COLORS,
        legend=common.LegendPlacement.BOTTOM,
    )
    return board(
        uid=OVERVIEW,
        title="Overview",
        description="How many failures, whose, is it getting worse, which class, since when.",
        parts=[
            Strip(
                height=4,
                panels=[
                    (4, failures_of(SYSTEM)),
                    (3, failures_of(UNKNOWN)),
                    (3, failures_of(USER)),
                    (7, getting_worse),
                    (4, unknown_share),
                    (3, reporting),
                ],
            ),
            Strip(height=8, panels=[(16, by_kind), (8, who_acts())]),
            Strip(height=11, panels=[(24, issues())]),
        ],
    )


def failures_of(kind: Kind) -> dashboard.Panel:
    condition = f'event.faultlens.kind = "{kind.name}"'
    return number(
        title=kind.title,
        description=(
            f"How often, in the time range, {kind.meaning}. {kind.who_acts} An exact count. "
            f"{NO_NEW_FAILURE}"
        ),
        targets=[instant(or_zero(total(count(FAILURES, kind=kind))), legend=kind.title)],
        colors=thresholds(ZERO, (1, kind.color)),
        links=[
            traces_link(f"Traces of {kind.name} failures", traceql=origins(condition)),
            board_link("Workers", to=WORKERS),
        ],
        solid=kind is SYSTEM,
    )


def who_acts() -> dashboard.Panel:
    return words(
        title="Whose fault, and who acts",
        description="What the kinds mean. The SDK gives them, or faultlens, or your rules.",
        content="\n\n".join(f"**{kind.title}**: {kind.meaning}. {kind.who_acts}" for kind in KINDS),
    )


def issues() -> dashboard.Panel:
    failed = f"{total(count(FAILURES), by='class, kind')} > 0"
    failed_by_worker = f"{total(count(FAILURES), by='class, kind, worker')} > 0"
    # A target that is new here may have failed just before: that is its last failure, but none of
    # this range. Such rows have no count.
    counted = dashboard.DataTransformerConfig(
        id_val="filterByValue",
        options={
            "type": "include",
            "match": "all",
            "filters": [
                {"fieldName": "Value #A", "config": {"id": "greater", "options": {"value": 0}}}
            ],
        },
    )
    name = "${__data.fields.class:percentencode}"
    return listing(
        title="Issues",
        description=(
            "The classes that failed in the time range, system failures first: how often, on how "
            "many workers, when first and when last in the range. Other classes are excluded, and "
            "raised exceptions that are no new failure."
        ),
        targets=[
            rows(f'label_replace(\n{indented(failed)},\n  "traces", "Show", "", "")', ref="A"),
            rows(f"count by (class, kind) (\n{indented(failed_by_worker)}\n)", ref="B"),
            rows(f"min by (class, kind) (\n{indented(FIRST_SEEN)}\n)", ref="C"),
            rows(f"max by (class, kind) (\n{indented(LAST_SEEN)}\n)", ref="D"),
        ],
        nothing=NO_FAILURES,
        transformations=[
            MERGED,
            counted,
            columns(
                {
                    "class": "Class",
                    "kind": "Kind",
                    "Value #A": "Failures",
                    "Value #B": "Workers",
                    "Value #C": "First seen",
                    "Value #D": "Last seen",
                    "traces": "Traces",
                }
            ),
        ],
        overrides=[
            column(
                "Class",
                {
                    "custom.minWidth": 240,
                    "links": [board_link("Open the class", to=CLASS, class_=name)],
                },
            ),
            column(
                "Kind",
                {
                    "custom.width": 100,
                    "custom.cellOptions": {"type": "color-text"},
                    "mappings": [mapping({kind.name: (kind.title, kind.color) for kind in KINDS})],
                },
            ),
            column("Failures", {"custom.width": 100}),
            column("Workers", {"custom.width": 90}),
            column("First seen", {"custom.width": 170, "unit": "dateTimeAsIsoNoDateIfToday"}),
            column("Last seen", {"custom.width": 165, "unit": "dateTimeFromNow"}),
            column(
                "Traces",
                {
                    "custom.width": 80,
                    "links": [
                        board_link("Traces of the class", to=CLASS, class_=name, view=TRACES_PANEL)
                    ],
                },
            ),
        ],
        sort_by=[
            common.TableSortByFieldState(display_name="Kind", desc=False),
            common.TableSortByFieldState(display_name="Failures", desc=True),
        ],
    )


def one_class() -> dashboard.Dashboard:
    """A class: how often, since when, on which workers, with which codes, in which traces."""
    workers_affected = number(
        title="Workers affected",
        description=(
            "Workers on which the class failed in the time range. Those that only passed a failure "
            "on are excluded."
        ),
        targets=[
            instant(
                or_zero(f"count({total(count(FAILURES), by='worker')} > 0)"),
                legend="Workers affected",
            )
        ],
        colors=thresholds(ZERO, (1, PLAIN)),
        links=[board_link("Workers", to=WORKERS)],
    )
    first_seen, last_seen = (
        number(
            title=title,
            description=f"When the class {what} in the time range; what was before is excluded.",
            targets=[instant(f"{function}(\n{indented(seen)}\n)", legend=title)],
            unit=unit,
            decimals=None,
            lowest=None,
            nothing="Not in this range",
        )
        for title, what, function, seen, unit in (
            ("First seen", "failed first", "min", FIRST_SEEN, "dateTimeAsIsoNoDateIfToday"),
            ("Last seen", "failed last", "max", LAST_SEEN, "dateTimeFromNow"),
        )
    )
    by_worker = counts_over_time(
        title="Failures by worker",
        description=(
            "Each bar counts the failures of its interval; the dots are exemplars, each of which "
            "leads to a trace. All but the ten workers that failed most in the time range are "
            "excluded, and raised exceptions that are no new failure."
        ),
        target=steps(
            f"{total(count(FAILURES, window=STEP), by='worker')}\nand on (worker) {busiest(10)}",
            legend="{{worker}}",
            exemplars=True,
        ),
        links=[only_worker()],
    )
    codes = bars(
        title="Codes",
        description=(
            "Failures in the time range by the code of their exception, the twenty commonest. "
            "Those without a code are excluded; all workers are included, whichever are chosen."
        ),
        target=instant(
            f"sort_desc(topk(20, {total(count(CODES), by='code')} > 0))", legend="{{code}}"
        ),
        nothing="No codes recorded",
        names=common.BarGaugeNamePlacement.TOP,  # they may be long
    )
    condition = (
        "event.exception.type =~ `${class:regex}` && event.faultlens.worker =~ `${worker:regex}`"
    )
    attributes = (
        "exception.type",
        "exception.message",
        *(f"faultlens.{name}" for name in ("kind", "worker", "code")),
    )
    traces = listing(
        title="Traces",
        description=(
            "Spans on which the class failed, a hundred of them. Failures outside of sampled spans "
            "are excluded, and exceptions that only passed a failure on."
        ),
        source=TRACES,
        targets=[
            tempo.Dataquery(
                ref_id="A",
                datasource=TRACES,
                query_type="traceql",
                table_type=tempo.SearchTableType.SPANS,
                query=origins(condition)
                + f" | select({', '.join(f'event.{name}' for name in attributes)})",
                limit=100,
                spss=10,
            )
        ],
        nothing="No traces recorded",
    )
    traces.id_val = TRACES_PANEL
    return board(
        uid=CLASS,
        title="Class",
        description=(
            "An exception class: how often, since when, on which workers, with which codes, in "
            "which traces."
        ),
        parts=[
            Strip(
                height=4,
                panels=[
                    *((4, failures_of(kind)) for kind in KINDS),
                    (4, workers_affected),
                    (4, first_seen),
                    (4, last_seen),
                ],
            ),
            Strip(height=9, panels=[(16, by_worker), (8, what_to_do())]),
            Strip(height=11, panels=[(8, codes), (16, traces)]),
        ],
    )


def what_to_do() -> dashboard.Panel:
    return words(
        title="What to do",
        description="By kind, which is that of each failure: a class may have several.",
        content="""\
**System**: the platform acts. On one worker only: take it out, look at its node. On all: look at
storage, the control plane, the last deploy. Then at a trace below.

**Unknown**: look at a trace, decide, and write a line into the file that `FAULTLENS_RULES` names.

**User**: whoever wrote or called the workflow acts. Page nobody; if many fail alike, improve the
documentation.""",
    )


def only_worker() -> dashboard.DashboardLink:
    return board_link(
        "Only this worker", to=WORKERS, worker="${__field.labels.worker:percentencode}"
    )


def workers() -> dashboard.Dashboard:
    """Which worker is worse than the others of its job, and is faultlens itself well."""
    by_worker = bars(
        title="Failures by worker",
        description=f"Failures in the time range, the thirty highest. {NO_NEW_FAILURE}",
        target=instant(
            f"sort_desc(topk(30, {total(count(FAILURES), by='worker')} > 0))", legend="{{worker}}"
        ),
        links=[only_worker()],
    )
    each = total(count(FAILURES), by="job, worker")
    ratio = f"{each}\n/ on (job) group_left ()\nclamp_min(quantile by (job) (0.5, {each}), 1)"
    ratios = bars(
        title="Ratio to the median of the job",
        description=(
            "Failures in the time range, divided by the median of all workers of the job (by 1 if "
            "that is less); the thirty highest. 3 stands out. Workers without failures are "
            "excluded, though not from the median."
        ),
        target=instant(f"sort_desc(topk(30, {ratio} > 0))", legend="{{worker}} ({{job}})"),
        unit="suffix:\N{MULTIPLICATION SIGN}",
        decimals=1,
        colors=thresholds(PLAIN, (3, NOTICE)),
        links=[only_worker()],
    )
    suppressed = bars(
        title="Suppressed by reason",
        description=(
            "Raised SDK exceptions in the time range that are no new failure, and why. Failures "
            "themselves are excluded."
        ),
        target=instant(
            f"sort_desc({total(count(SUPPRESSED), by='reason')} > 0)", legend="{{reason}}"
        ),
        nothing="Nothing suppressed",
    )
    suppressed_over_time = counts_over_time(
        title="Suppressed over time",
        description="Each bar counts what was suppressed in its interval. Failures are excluded.",
        target=steps(total(count(SUPPRESSED, window=STEP), by="reason"), legend="{{reason}}"),
        nothing="Nothing suppressed",
    )
    dropped = bars(
        title="Dropped by reason",
        description=(
            "What faultlens could not record as it should in the time range: `faultlens doctor` "
            "tells more. All that was recorded is excluded."
        ),
        target=instant(f"sort_desc({total(count(DROPPED), by='reason')} > 0)", legend="{{reason}}"),
        nothing="Nothing dropped",
        colors=thresholds(NOTICE),
    )
    return board(
        uid=WORKERS,
        title="Workers",
        description="Which worker is worse than the others of its job; is faultlens itself well.",
        parts=[
            Strip(height=10, panels=[(12, by_worker), (12, ratios)]),
            Strip(height=11, panels=[(24, worst_kinds())]),
            Fold(
                title="Raised, but no new failure",
                strip=Strip(height=8, panels=[(8, suppressed), (16, suppressed_over_time)]),
            ),
            Fold(
                title="Health of faultlens",
                strip=Strip(height=8, panels=[(18, targets()), (6, dropped)]),
            ),
        ],
    )


def worst_kinds() -> dashboard.Panel:
    ranks = {SYSTEM: 3, UNKNOWN: 2, USER: 1}
    happened = f"({total(count(FAILURES, window=STEP), by='worker, kind')} > bool 0)"
    rank = "\nor ".join(
        f'label_replace(vector({rank}), "kind", "{kind.name}", "", "")'
        for kind, rank in ranks.items()
    )
    worst = f"{happened}\n* on (kind) group_left () (\n{indented(rank)}\n)"
    return panel(
        "state-timeline",
        title="Worst kind",
        description=(
            "Of the failures of a worker in an interval: system is worse than unknown, unknown "
            "than user. All but the twenty workers that failed most in the time range are "
            "excluded, and raised exceptions that are no new failure."
        ),
        targets=[
            steps(
                f"max by (worker) (\n{indented(worst)}\n)\nand on (worker) {busiest(20)}",
                legend="{{worker}}",
            )
        ],
        unit="none",
        highest=max(ranks.values()),
        points=BARS,
        mappings=[
            mapping(
                {
                    **{str(rank): (kind.title, kind.color) for kind, rank in ranks.items()},
                    "0": ("No failure", "transparent"),
                }
            )
        ],
        colors=thresholds(
            "transparent", *((rank, kind.color) for kind, rank in reversed(ranks.items()))
        ),
        links=[only_worker()],
        custom=statetimeline.FieldConfig(line_width=0, fill_opacity=90),
        options=statetimeline.Options(
            show_value=common.VisibilityMode.NEVER,
            merge_values=False,
            row_height=0.85,
            per_page=20,
            legend=common.VizLegendOptions(show_legend=True),
            tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.SINGLE),
        ),
    )


def targets() -> dashboard.Panel:
    versions = {
        "version": "faultlens",
        "detector": "Detector",
        "python": "Python",
        "flyte": "Flyte",
        "durable_workflow": "Durable",
    }
    up = f"{series('up')} and on (job, instance) last_over_time({INFO}[{RANGE}])"
    about = f"last_over_time({INFO}[{RANGE}])"
    return listing(
        title="Targets",
        description=(
            "The targets that had faultlens in the time range: whether Prometheus reaches them at "
            "its end, and what runs there. Targets without faultlens are excluded."
        ),
        targets=[
            rows(f"max by (job, instance) ({up})", ref="A"),
            rows(f"group by (job, instance, {', '.join(versions)}) ({about})", ref="B"),
        ],
        nothing="No faultlens found",
        transformations=[
            MERGED,
            columns(
                {"job": "Job", "instance": "Instance", "Value #A": "State"} | versions,
                without=["Value #B"],
            ),
        ],
        overrides=[
            column("Job", {"custom.minWidth": 75}),
            column("Instance", {"custom.minWidth": 130}),
            column(
                "State",
                {
                    "custom.width": 70,
                    "custom.align": "left",
                    "custom.cellOptions": {"type": "color-text"},
                    "noValue": "Gone",
                    "mappings": [mapping({"0": ("Down", NOTICE), "1": ("Up", ZERO)})],
                },
            ),
            *(column(title, {"custom.minWidth": 75}) for title in versions.values()),
            column("Detector", {"custom.minWidth": 120}),
        ],
    )


# ---- What the boards share


def board(
    *, uid: str, title: str, description: str, parts: Iterable[Strip | Fold]
) -> dashboard.Dashboard:
    others = dashboard.DashboardLink(
        title="faultlens",
        type_val=dashboard.DashboardLinkType.DASHBOARDS,
        tags=["faultlens"],
        include_vars=True,
        keep_time=True,
    )
    return dashboard.Dashboard(
        uid=uid,
        title=f"faultlens / {title}",
        description=description,
        tags=["faultlens"],
        editable=False,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        refresh="30s",
        time=dashboard.DashboardDashboardTime(from_val="now-6h", to="now"),
        timepicker=dashboard.TimePickerConfig(refresh_intervals=["30s", "1m", "5m", "15m", "1h"]),
        schema_version=42,
        panels=laid_out(parts),
        templating=dashboard.DashboardDashboardTemplating(
            list_val=[
                source_variable("datasource", label="Data source", plugin="prometheus"),
                source_variable("traces", label="Traces", plugin="tempo"),
                label_variable("job", within=[]),
                label_variable("worker", within=["job"]),
                label_variable("class", within=["job", "worker"], multi=uid != CLASS),
            ]
        ),
        annotations=dashboard.AnnotationContainer(list_val=[new_classes(), deploys()]),
        links=[shown(others)],
    )


def source_variable(name: str, *, label: str, plugin: str) -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE, name=name, label=label, query=plugin
    )


def label_variable(
    name: str, *, within: Sequence[str], multi: bool = True
) -> dashboard.VariableModel:
    """The values of a label, among what the variables before it leave."""
    among = series("faultlens_failures_total", variables=within)
    query = f"label_values({among.removesuffix('{}')}, {name})"
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=name.capitalize(),
        datasource=METRICS,
        query={"query": query, "refId": name},
        definition=query,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.ALPHABETICAL_ASC,
        multi=multi,
        include_all=True,
        all_value=".+",
        current=dashboard.VariableOption(selected=True, text="All", value="$__all"),
    )


def new_classes() -> dashboard.AnnotationQuery:
    """A class fails for the first time: none of its failures was known in the hour before.

    A class that never failed has no last failure, so few series are looked at.
    """
    return annotation(
        "New classes",
        color=NOTICE,
        expr=new(f"group by (job, class, kind) ({LAST_FAILURE})", LAST_FAILURE, "job, class, kind"),
        title="New failure class",
        body="{{class}} ({{kind}}) in {{job}}",
    )


def deploys() -> dashboard.AnnotationQuery:
    return annotation(
        "Deploys",
        color=ZERO,
        expr=new(f"group by (job, version) ({INFO})", INFO, "job, version"),
        title="Deploy",
        body="faultlens {{version}} in {{job}}",
    )


def new(what: str, of: str, labels: str) -> str:
    """What was not there a step before nor in the hour before that, although its job was."""
    return (
        f"{what}\n"
        f"unless on ({labels}) last_over_time({of}[1h] offset {STEP})\n"
        f"and on (job) last_over_time({INFO}[1h] offset {STEP})"
    )


def annotation(
    name: str, *, color: str, expr: str, title: str, body: str
) -> dashboard.AnnotationQuery:
    return shown(
        dashboard.AnnotationQuery(
            name=name,
            datasource=METRICS,
            enable=True,
            icon_color=color,
            expr=expr,
            title_format=title,
            text_format=body,
        )
    )


def boards() -> dict[str, str]:
    """The JSON of each board, by the name of its file."""
    built = {"overview": overview(), "class": one_class(), "workers": workers()}
    return {
        f"{name}.json": json.dumps(made, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
        for name, made in built.items()
    }


if __name__ == "__main__":
    for name, content in boards().items():
        (Path(__file__).parent / "grafana" / name).write_text(content, encoding="utf-8")
