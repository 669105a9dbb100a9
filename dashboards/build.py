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
    logs,
    loki,
    prometheus,
    stat,
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
    meaning="it cannot be determined whose fault it is",
    who_acts="The owner of the rules adds one.",
)
USER = Kind(
    name="user",
    title="User",
    color="#3F83F2",
    meaning="the author or caller of the workflow is at fault: code, input, credentials",
    who_acts="The author or caller acts; nobody is paged.",
)
KINDS = (SYSTEM, UNKNOWN, USER)

ZERO = "#6B7385"  # nothing, or nothing to worry about
PLAIN = "#8F7BC9"  # a value that is about no kind
NOTICE = "#C04FA5"  # somebody should look, though nothing of theirs failed


# ---- What is asked

METRICS = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
TRACES = common.DataSourceRef(type_val="tempo", uid="${traces}")
LOGS = common.DataSourceRef(type_val="loki", uid="${logs}")

# What prometheus/faultlens.rules.yml records: exact increases of each minute, which add up.
FAILURES = "faultlens:failures:increase1m"
ISSUES = "faultlens:issues:increase1m"
ATTEMPTS = "faultlens:attempts:increase1m"
SUPPRESSED = "faultlens:suppressed:increase1m"
BY_WORKER = "job_worker:faultlens_failures:increase1h"
BUDGET = "faultlens:error_budget:ratio"

RANGE, STEP, BEFORE = "[$__range]", "[$__interval]", "[$__range] offset $__range"
CHOSEN = ("job", "worker", "class")
"""The variables that filter failures."""
INFO = "faultlens_info"
SDKS = ("flyte", "durable_workflow", "temporalio")
"""Its labels for the versions of the SDKs."""


def series(name: str, *filters: str, variables: Sequence[str] = CHOSEN) -> str:
    """A selector that the variables filter.

    Their values are regular expressions in backquotes: what Grafana's ``:regex`` escapes needs no
    second escaping there, and a name may hold quotes and backslashes.
    """
    matchers = [f"{label}=~`${{{label}:regex}}`" for label in variables]
    return f"{name}{{{', '.join((*matchers, *filters))}}}"


def of_job(name: str, *filters: str) -> str:
    return series(name, *filters, variables=["job"])


def of_issues(*filters: str) -> str:
    return series(ISSUES, *filters, variables=["job", "class"])


def count(selector: str, *, by: str = "", within: str = RANGE) -> str:
    """How often something happened in the time range: the sum of what each minute recorded."""
    return f"{f'sum by ({by}) ' if by else 'sum'}(sum_over_time({selector}{within}))"


def or_zero(what: str, within: str = "") -> str:
    """0 where there is nothing, but only if the rules are loaded."""
    zero = f"last_over_time({BUDGET}{within})" if within else BUDGET
    return f"{what} or 0 * max({zero})"


def kind_is(kind: Kind) -> str:
    return f'kind="{kind.name}"'


def share_of_attempts(within: str = RANGE) -> str:
    """The share that the platform failed; 0 where it failed none."""
    failed = count(of_job(ATTEMPTS, 'outcome="system"'), within=within)
    every = count(of_job(ATTEMPTS), within=within)
    return f"({failed} or 0 * {every}) / {every}"


def highest(number: int, what: str) -> str:
    return f"sort_desc(topk({number}, {what} > 0))"


def seen(selector: str, *, by: str = "", last: bool = False) -> str:
    """When something happened first or last in the time range, to the minute, in milliseconds."""
    pick = "max" if last else "min"
    times = f"timestamp({selector}) >= ${{__from:date:seconds}}"
    return f"1000 * {pick}{f' by ({by}) ' if by else ''}({pick}_over_time(({times})[$__range:1m]))"


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


def steps(
    expr: str, *, legend: str, ref: str = "A", exemplars: bool = False
) -> prometheus.Dataquery:
    """The values at each step of the range."""
    return prometheus.Dataquery(
        ref_id=ref,
        datasource=METRICS,
        editor_mode=prometheus.QueryEditorMode.CODE,
        expr=expr,
        instant=False,
        range_val=True,
        exemplar=exemplars,
        legend_format=legend,
    )


# What is recorded has no exemplars. This finds those of the counter, and no value.
EXEMPLARS = steps(
    f"{series('faultlens_failures_total')} < 0", legend="Exemplar", ref="B", exemplars=True
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
NOT_LOADED = "or faultlens.rules.yml is not in rule_files of Prometheus"
NO_FAILURES = f"No failures, {NOT_LOADED}"
NOT_COUNTED = "Raised exceptions that are not counted again (carriers, replays, ...) are excluded."
NO_RULES = "rules not loaded"  # where there is no room for more; RULES_NEEDED is in its description
RULES_NEEDED = (
    "If the rules are not loaded: `faultlens dashboards DIR` writes faultlens.rules.yml, for "
    "`rule_files` in Prometheus' configuration."
)
BARS = 120  # at most; the fewer there are, the later the last one is complete

POSITIVE = 1e-9
"""The least value that is more than nothing. What has no value has the colour of 0."""
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
    name: str | None = None,
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
        interval="1m",  # the rules record a value for each minute
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=decimals,
                min_val=lowest,
                max_val=highest,
                display_name=name,
                no_value=nothing,
                color=color,
                thresholds=colors or thresholds(ZERO, (POSITIVE, PLAIN)),
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
) -> dashboard.Panel:
    """A big number, or several with their `names`."""
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
            color_mode=common.BigValueColorMode.VALUE,
            text_mode=name_mode.VALUE_AND_NAME if names else name_mode.VALUE,
            justify_mode=common.BigValueJustifyMode.CENTER,
            reduce_options=LAST_VALUE,
        ),
    )


def counts_over_time(
    *,
    title: str,
    description: str,
    targets: Sequence[Dataquery],
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
        targets=targets,
        nothing=nothing,
        color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC),
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
    nothing: str = f"No failures, or {NO_RULES}",
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
        name="${__series.name}",  # also where there is only one
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


def columns(names: Mapping[str, str], *, without: Sequence[str]) -> dashboard.DataTransformerConfig:
    """The columns in this order under these names, without some."""
    return dashboard.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": dict.fromkeys(without, True),
            "indexByName": {name: index for index, name in enumerate(names)},
            "renameByName": dict(names),
        },
    )


def column(name: str, options: Mapping[str, object]) -> Override:
    return override("byName", name, {"noValue": "-", **options})


KIND_COLUMN = column(
    "Kind",
    {
        "custom.width": 75,
        "custom.cellOptions": {"type": "color-text"},
        "mappings": [mapping({kind.name: (kind.title, kind.color) for kind in KINDS})],
    },
)


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
    """Whose fault, is it getting worse, since when, and what."""
    before = number(
        title="Previous range",
        description=(
            "Failures in the time range of the same length just before. "
            f"{RULES_NEEDED} {NOT_COUNTED}"
        ),
        targets=[
            instant(
                or_zero(count(series(FAILURES, kind_is(kind)), within=BEFORE), within=BEFORE),
                legend=kind.name,
                ref=kind.title,
            )
            for kind in KINDS
        ],
        nothing="Not recorded",
        colors=thresholds(ZERO),
        overrides=[override("byName", k.name, {"displayName": k.title}) for k in KINDS],
        names=True,
    )
    share = number(
        title="Platform failed",
        description=(
            "Attempts of tasks, activities and workflow runs in the time range that ended with a "
            "system failure, as a share of all attempts. Failures outside of attempts are "
            "excluded. All workers and classes are included, whichever are chosen. "
            f"{RULES_NEEDED}"
        ),
        targets=[instant(share_of_attempts(), legend="Platform failed")],
        unit="percentunit",
        decimals=2,
        highest=1,
        nothing="No attempts",
    )
    reporting = number(
        title="Reporting",
        description=(
            "How many targets report to Prometheus at the end of the time range. If it is 0, the "
            "zeros beside it mean nothing. Targets without faultlens are excluded."
        ),
        targets=[
            instant(
                f"count(group by (job, instance) ({of_job(INFO)} or "
                f"{of_job('faultlens_failures_total')})) or vector(0)",
                legend="Reporting",
            )
        ],
        colors=thresholds(NOTICE, (1, ZERO)),
        links=[board_link("Health of faultlens", to=WORKERS)],
    )
    by_kind = counts_over_time(
        title="Failures by kind",
        description=(
            "Each bar counts the failures of its interval. The dots are exemplars, each of which "
            f"leads to a trace. {NOT_COUNTED}"
        ),
        targets=[
            steps(count(series(FAILURES), by="kind", within=STEP), legend="{{kind}}"),
            EXEMPLARS,
        ],
        overrides=KIND_COLORS,
        legend=common.LegendPlacement.BOTTOM,
    )
    return board(
        uid=OVERVIEW,
        title="overview",
        description="Whose fault, is it getting worse, since when, and what failed.",
        parts=[
            Strip(
                height=4,
                panels=[
                    *((4, failures_of(kind)) for kind in KINDS),
                    (5, before),
                    (4, share),
                    (3, reporting),
                ],
            ),
            Strip(height=6, panels=[(15, by_kind), (9, attempts_over_time())]),
            Strip(height=9, panels=[(24, issues())]),  # all that one screen still has room for
        ],
    )


def failures_of(kind: Kind) -> dashboard.Panel:
    # Not :regex, whose backslashes would be no JSON in the link.
    condition = (
        f'event.faultlens.kind = "{kind.name}" && event.exception.type =~ `${{class:pipe}}` && '
        "event.faultlens.worker =~ `${worker:pipe}`"
    )
    return number(
        title=kind.title,
        description=(
            f"How often, in the time range, {kind.meaning}. {kind.who_acts} An exact count, a "
            f"minute late. {RULES_NEEDED} {NOT_COUNTED}"
        ),
        targets=[
            instant(or_zero(count(series(FAILURES, kind_is(kind)))), legend=kind.title),
        ],
        nothing="Rules not loaded",
        colors=thresholds(ZERO, (1, kind.color)),
        links=[
            traces_link(f"Traces of {kind.name} failures", traceql=origins(condition)),
            board_link("Workers", to=WORKERS),
        ],
    )


def attempts_over_time() -> dashboard.Panel:
    return panel(
        "timeseries",
        title="Share of attempts the platform failed",
        description=(
            "In each interval: attempts that ended with a system failure, divided by all attempts. "
            "The objective is what the rules allow. Failures outside of attempts are excluded. All "
            "workers and classes are included, whichever are chosen."
        ),
        targets=[
            steps(share_of_attempts(STEP), legend="Platform failed"),
            steps(
                f"max({BUDGET}) and on () sum_over_time({of_job(ATTEMPTS)}{STEP})",
                legend="Objective",
                ref="B",
            ),
        ],
        unit="percentunit",
        decimals=None,
        nothing=f"No attempts, {NOT_LOADED}",
        color=fixed(SYSTEM.color),
        overrides=[
            override(
                "byName",
                "Objective",
                {
                    "color": fixed(ZERO),
                    "custom.fillOpacity": 0,
                    "custom.lineStyle": {"fill": "dash", "dash": [8, 8]},
                },
            )
        ],
        points=BARS,
        custom=common.GraphFieldConfig(
            draw_style=common.GraphDrawStyle.LINE,
            line_width=2,
            fill_opacity=10,
            show_points=common.VisibilityMode.AUTO,
            axis_soft_max=0.01,
        ),
        options=timeseries.Options(
            legend=common.VizLegendOptions(
                show_legend=True, placement=common.LegendPlacement.BOTTOM
            ),
            tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI),
        ),
    )


def issues() -> dashboard.Panel:
    labels = "class, code, task, kind, reason, owner"
    what = of_issues()
    name = "${__data.fields.class:percentencode}"
    return listing(
        title="Issues",
        description=(
            "What failed in the time range, system failures first: how often, when first and when "
            "last, to the minute. Workers are not told apart here, whichever are chosen. "
            f"{NOT_COUNTED}"
        ),
        targets=[
            rows(f"{count(what, by=labels)} > 0", ref="A"),
            rows(seen(what, by=labels), ref="B"),
            rows(seen(what, by=labels, last=True), ref="C"),
        ],
        nothing=NO_FAILURES,
        transformations=[
            MERGED,
            columns(
                {
                    "kind": "Kind",
                    "Value #A": "Failures",
                    "class": "Class",
                    "code": "Code",
                    "task": "Task",
                    "reason": "Reason",
                    "owner": "Owner",
                    "Value #B": "First seen",
                    "Value #C": "Last seen",
                },
                without=["Time"],
            ),
        ],
        overrides=[
            KIND_COLUMN,
            column("Failures", {"custom.width": 75}),
            column(
                "Class",
                {
                    "custom.minWidth": 220,
                    "links": [
                        board_link("Open the class", to=CLASS, class_=name),
                        board_link("Traces of the class", to=CLASS, class_=name, view=TRACES_PANEL),
                    ],
                },
            ),
            column("Code", {"custom.width": 130}),
            column("Task", {"custom.minWidth": 220}),
            column("Reason", {"custom.width": 80}),
            column("Owner", {"custom.width": 80}),
            column("First seen", {"custom.width": 105, "unit": "time:MM-DD HH:mm"}),
            column("Last seen", {"custom.width": 140, "unit": "dateTimeFromNow"}),
        ],
        sort_by=[
            common.TableSortByFieldState(display_name="Kind", desc=False),
            common.TableSortByFieldState(display_name="Failures", desc=True),
        ],
    )


def one_class() -> dashboard.Dashboard:
    """A class: how often, since when, where, why, in which traces, and what to do about it."""
    workers_affected = number(
        title="Workers affected",
        description=(
            "Workers on which the class failed in the time range. Those that only passed a failure "
            f"on are excluded. {RULES_NEEDED}"
        ),
        targets=[
            instant(
                or_zero(f"count({count(series(FAILURES), by='worker')} > 0)"),
                legend="Workers affected",
            )
        ],
        nothing="Rules not loaded",
        links=[board_link("Workers", to=WORKERS)],
    )
    first_seen, last_seen = (
        number(
            title=title,
            description=(
                f"When the class {what} in the time range, to the minute; what was before is "
                f"excluded. {RULES_NEEDED}"
            ),
            targets=[instant(seen(series(FAILURES), last=last), legend=title)],
            unit=unit,
            decimals=None,
            lowest=None,
            nothing="Not in this range",
        )
        for title, what, last, unit in (
            ("First seen", "failed first", False, "dateTimeAsIsoNoDateIfToday"),
            ("Last seen", "failed last", True, "dateTimeFromNow"),
        )
    )
    by_worker = failures_by_worker()
    details = [
        bars(
            title=title,
            description=(
                f"Failures in the time range by {what}, the twenty commonest. Those without one "
                f"are excluded; all workers are included, whichever are chosen. {RULES_NEEDED}"
            ),
            target=instant(
                highest(20, count(of_issues(f'{label}!=""'), by=label)),
                legend=f"{{{{{label}}}}}",
            ),
            nothing=f"No {label}s recorded",  # the numbers above tell if the rules are not loaded
            names=common.BarGaugeNamePlacement.TOP,  # they may be long
        )
        for title, label, what in (
            ("Tasks", "task", "the task that failed"),
            ("Codes", "code", "the code of their exception"),
            ("Reasons", "reason", "what went wrong"),
        )
    ]
    condition = (
        "event.exception.type =~ `${class:regex}` && event.faultlens.worker =~ `${worker:regex}`"
    )
    fields = {
        "Start time": ("Start", {"custom.width": 165}),
        "Span ID": ("Span", {"custom.width": 160}),
        "faultlens.kind": ("Kind", {}),
        "exception.message": ("Message", {"custom.minWidth": 300}),
        "faultlens.reason": ("Reason", {"custom.width": 95}),
        "faultlens.code": ("Code", {"custom.width": 140}),
        "faultlens.worker": ("Worker", {"custom.width": 140}),
        "exception.type": ("Class", {"custom.minWidth": 230}),
        "Trace Name": ("Trace", {"custom.width": 150}),
        "Duration": ("Duration", {"custom.width": 90}),
    }
    attributes = ", ".join(f"event.{name}" for name in fields if "." in name)
    traces = listing(
        title="Traces",
        description=(
            "The newest spans on which the class failed, a hundred of them. Failures outside of "
            "sampled spans are excluded, and exceptions that only passed a failure on. Jobs are "
            "not told apart here, whichever are chosen: a trace does not know Prometheus' jobs."
        ),
        source=TRACES,
        targets=[
            tempo.Dataquery(
                ref_id="A",
                datasource=TRACES,
                query_type="traceql",
                table_type=tempo.SearchTableType.SPANS,
                query=f"{origins(condition)} | select({attributes}) with (most_recent=true)",
                limit=100,
                spss=10,
            )
        ],
        nothing="No traces recorded",
        transformations=[
            columns(
                {name: title for name, (title, _) in fields.items()},
                without=["Trace Service", "Name", "event:name", "faultlens.role"],
            ),
        ],
        overrides=[
            override("byRegexp", ".*", {"noValue": "-"}),
            KIND_COLUMN,
            *(column(title, options) for title, options in fields.values() if options),
        ],
    )
    traces.id_val = TRACES_PANEL
    return board(
        uid=CLASS,
        title="class",
        description="An exception class: how often, since when, where, why, and what to do.",
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
            Strip(height=7, panels=[(16, by_worker), (8, what_to_do())]),
            Strip(height=6, panels=[(8, one) for one in details]),
            Strip(height=10, panels=[(24, traces)]),
            # Folded: without Loki, users see one line and no error.
            Fold("Log lines, from a Loki data source", Strip(height=10, panels=[(24, lines())])),
        ],
    )


def lines() -> dashboard.Panel:
    """What `FAULTLENS_LOG=json` has written, and log records that came by OTLP."""
    return panel(
        "logs",
        title="Log lines",
        description=(
            "The newest failures of the class, a hundred of them, as FAULTLENS_LOG=json or "
            "OpenTelemetry's log records brought them to Loki. Exceptions that only passed a "
            "failure on are excluded."
        ),
        source=LOGS,
        targets=[
            loki.Dataquery(
                ref_id="A",
                datasource=LOGS,
                query_type="range",
                max_lines=100,
                # A record has these as structured metadata, a line gets them by `json`.
                expr=" ".join(
                    (
                        '{service_name=~".+"} |~ `${class:regex}` | json',
                        "| exception_type =~ `${class:regex}`",
                        "| faultlens_worker =~ `${worker:regex}`",
                        "| faultlens_role = `origin`",
                        "| drop __error__, __error_details__",
                        "| line_format `{{.faultlens_worker}}: {{.exception_message}}`",
                    )
                ),
            )
        ],
        nothing="No log lines recorded",
        options=logs.Options(
            show_time=True,
            wrap_log_message=True,
            enable_log_details=True,
            sort_order=common.LogsSortOrder.DESCENDING,
            dedup_strategy=common.LogsDedupStrategy.NONE,
        ),
    )


def failures_by_worker() -> dashboard.Panel:
    # The same ten workers in every interval. Only they are filtered by the chosen workers, which is
    # enough for both sides of the `and`.
    count_each = count(series(FAILURES, variables=["job", "class"]), by="worker", within=STEP)
    most = f"topk(10, {count(series(FAILURES), by='worker', within=f'{RANGE} @ end()')})"
    return counts_over_time(
        title="Failures by worker over time",
        description=(
            "Each bar counts the failures of its interval. The dots are exemplars, each of which "
            "leads to a trace. All but the ten workers that failed most in the time range are "
            f"excluded. {NOT_COUNTED}"
        ),
        targets=[
            steps(f"{count_each} and {most}", legend="{{worker}}"),
            EXEMPLARS,
        ],
        links=[only_worker()],
    )


def what_to_do() -> dashboard.Panel:
    return words(
        title="What to do",
        description="By kind, which is that of each failure: a class may have several.",
        content="""\
**System**: the platform team acts. One worker only: take it out of service, check its machine.
All: check storage, the control plane, the last deployment.

**Unknown**: look at a trace, decide, and add a rule to the file that `FAULTLENS_RULES` names.

**User**: the author or caller acts; nobody is paged. If many fail alike, improve the
documentation.""",
    )


def only_worker() -> dashboard.DashboardLink:
    return board_link(
        "Only this worker", to=WORKERS, worker="${__field.labels.worker:percentencode}"
    )


def workers() -> dashboard.Dashboard:
    """Which worker is out of line, and is faultlens itself well."""
    by_worker = bars(
        title="Failures by worker",
        description=f"Failures in the time range, the thirty highest. {RULES_NEEDED} {NOT_COUNTED}",
        target=instant(highest(30, count(series(FAILURES), by="worker")), legend="{{worker}}"),
        links=[only_worker()],
    )
    mine = series(BY_WORKER, variables=["job", "worker"])
    median = f"quantile by (job) (0.5, {BY_WORKER})"
    ratios = bars(
        title="Out of line",
        description=(
            "Failures in the hour before the end of the time range, divided by the median of all "
            "workers of the job (by 1 if that is less); the thirty highest. An alert fires above "
            "3. Workers without failures are excluded, though not from the median. "
            f"{RULES_NEEDED}"
        ),
        target=instant(
            highest(30, f"{mine} / on (job) group_left () clamp_min({median}, 1)"),
            legend="{{worker}} ({{job}})",
        ),
        unit="suffix:\N{MULTIPLICATION SIGN}",
        decimals=1,
        colors=thresholds(ZERO, (POSITIVE, PLAIN), (3, NOTICE)),
        links=[only_worker()],
    )
    suppressed = bars(
        title="Suppressed by reason",
        description=(
            "Raised SDK exceptions in the time range that are not counted again, and why. Failures "
            f"themselves are excluded. {RULES_NEEDED}"
        ),
        target=instant(
            f"sort_desc({count(series(SUPPRESSED), by='reason')} > 0)", legend="{{reason}}"
        ),
        nothing=f"Nothing suppressed, or {NO_RULES}",
    )
    suppressed_over_time = counts_over_time(
        title="Suppressed over time",
        description="Each bar counts what was suppressed in its interval. Failures are excluded.",
        targets=[
            steps(count(series(SUPPRESSED), by="reason", within=STEP), legend="{{reason}}"),
        ],
        nothing=f"Nothing suppressed, {NOT_LOADED}",
    )
    dropped = bars(
        title="Dropped by reason",
        description=(
            "What faultlens could not record as it should in the time range: `faultlens doctor` "
            "tells more. All that was recorded is excluded."
        ),
        target=instant(
            "sort_desc(sum by (reason) (round(increase("
            f"{of_job('faultlens_dropped_total')}{RANGE}))) > 0)",
            legend="{{reason}}",
        ),
        nothing="Nothing dropped",
        colors=thresholds(ZERO, (1, NOTICE)),
    )
    return board(
        uid=WORKERS,
        title="workers",
        description="Which worker is out of line; is faultlens itself well.",
        parts=[
            Strip(height=10, panels=[(12, by_worker), (12, ratios)]),
            Strip(height=10, panels=[(24, failures_by_worker())]),
            Fold(
                title="Raised, but not counted again",
                strip=Strip(height=8, panels=[(8, suppressed), (16, suppressed_over_time)]),
            ),
            Fold(
                title="Health of faultlens",
                strip=Strip(height=8, panels=[(18, targets()), (6, dropped)]),
            ),
        ],
    )


def targets() -> dashboard.Panel:
    versions = {
        "version": "faultlens",
        "detector": "Detector",
        "python": "Python",
    }
    about = of_job(INFO)
    return listing(
        title="Targets",
        description=(
            "What ran faultlens in the time range, whether it still answers at its end, and its "
            "versions: faultlens', Python's, and those of its SDKs. Targets without faultlens are "
            "excluded."
        ),
        targets=[
            rows(
                f"{about} or 0 * (last_over_time({about}{RANGE}) unless on (job, instance) {INFO})",
                ref="A",
            )
        ],
        nothing="No faultlens found",
        transformations=[
            columns(
                {"job": "Job", "instance": "Instance", "Value": "State"} | versions,
                without=["Time", "__name__"],
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
                    "mappings": [mapping({"0": ("Gone", NOTICE), "1": ("Up", ZERO)})],
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
    metrics_variable = source_variable("datasource", label="Data source", plugin="prometheus")
    # Grafana's default one if it is a Prometheus; otherwise, or if not said, the first by its name.
    metrics_variable.current = dashboard.VariableOption(text="default", value="default")
    others = dashboard.DashboardLink(
        title="faultlens",
        type_val=dashboard.DashboardLinkType.DASHBOARDS,
        tags=["faultlens"],
        include_vars=True,
        keep_time=True,
    )
    return dashboard.Dashboard(
        uid=uid,
        title=f"Failures: {title}",
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
                metrics_variable,
                source_variable("traces", label="Traces", plugin="tempo"),
                *([source_variable("logs", label="Logs", plugin="loki")] if uid == CLASS else ()),
                label_variable("job", within=[]),
                label_variable("worker", within=["job"]),
                label_variable("class", within=["job", "worker"], multi=uid != CLASS),
            ]
        ),
        annotations=dashboard.AnnotationContainer(list_val=[new_classes(), new_versions()]),
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
    """A class fails that has not failed in the day before."""
    labels = "job, class, kind"
    before = f"count_over_time({of_job(FAILURES)}[1d] offset $__interval)"
    return annotation(
        "New classes",
        color=NOTICE,
        expr=f"{count(series(FAILURES), by=labels, within=STEP)} unless on ({labels}) {before}",
        title="New failure class",
        body="{{class}} ({{kind}}) in {{job}}",
    )


def new_versions() -> dashboard.AnnotationQuery:
    """A version of faultlens or of an SDK that was not there in the hour before."""
    labels = ", ".join(("job", "version", *SDKS))
    about = of_job(INFO)
    before = f"last_over_time({about}[1h] offset $__interval)"
    return annotation(
        "New versions",
        color=ZERO,
        expr=f"group by ({labels}) ({about}) unless on ({labels}) {before}",
        title="New version",
        body=", ".join(
            ("{{job}}: faultlens {{version}}", *(f"{sdk} {{{{{sdk}}}}}" for sdk in SDKS))
        ),
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
