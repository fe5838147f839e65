"""What the dashboards are drawn with, so that all of them look and behave alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, logs, loki, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

# Where people read runbooks: RUNBOOKS_URL in .env, which dashboards cannot read.
RUNBOOKS_URL = "https://github.com/distributed-banking-ops/distributed-banking-ops/blob/main/docs/runbooks"
TAG = "bank"

PROMETHEUS = models.DataSourceRef(type_val="prometheus", uid="prometheus")
LOKI = models.DataSourceRef(type_val="loki", uid="loki")

Steps = Mapping[float, str]
Panel = timeseries.Panel | stat.Panel | statetimeline.Panel | logs.Panel


@dataclass(frozen=True)
class Query:
    """An expression and how its series are named; `{{label}}` stands for the value of a label."""

    expr: str
    legend: str = ""


def series(
    title: str,
    what: str,
    unit: str,
    *queries: Query,
    steps: Steps | None = None,
    runbook: str = "",
    soft_max: float | None = None,
    table_legend: bool = False,
    empty: str = "",
) -> Panel:
    """Return a graph over time; the steps (lower bound → color) are drawn as lines.

    With `soft_max` the axis reaches at least that value, with `table_legend` the legend has the last and the highest
    value of each series; `empty` is shown when there are no series.
    """
    style = common_models.GraphThresholdsStyleMode
    mode = common_models.LegendDisplayMode
    panel = (
        timeseries.Panel()
        .unit(unit)
        .min(0)
        .height(10 if table_legend else 8)
        .fill_opacity(8)
        .datasource(PROMETHEUS)
        .thresholds(_thresholds(steps or {}))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(style.DASHED if steps else style.OFF))
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(mode.TABLE if table_legend else mode.LIST)
            .calcs(["lastNotNull", "max"] if table_legend else [])
            .placement(common_models.LegendPlacement.BOTTOM)
        )
    )
    if soft_max is not None:
        panel.axis_soft_max(soft_max)
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend).range())
    return _described(panel, title, what, runbook, empty)


def number(
    title: str,
    what: str,
    unit: str,
    query: Query,
    *,
    steps: Steps | None = None,
    runbook: str = "",
    show_name: bool = False,
    empty: str = "",
) -> Panel:
    """Return current values, one for each series, in the color of the step that they have reached.

    With `show_name` the name of the series is the value that is shown; `empty` is shown when there are no series.
    """
    mode = common_models.BigValueTextMode
    panel = (
        stat.Panel()
        .unit(unit)
        .height(4)
        .datasource(PROMETHEUS)
        .thresholds(_thresholds(steps or {}))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE if steps else common_models.BigValueColorMode.NONE)
        .text_mode(mode.NAME if show_name else mode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().ref_id("A").expr(query.expr).legend_format(query.legend).instant())
    )
    return _described(panel, title, what, runbook, empty)


def states(title: str, what: str, query: Query, names: Mapping[int, tuple[str, str]], *, empty: str = "") -> Panel:
    """Return a timeline with a band per series, whose values have names and colors."""
    panel = (
        statetimeline.Panel()
        .unit("none")
        .height(8)
        .datasource(PROMETHEUS)
        .show_value(common_models.VisibilityMode.AUTO)
        .legend(common.VizLegendOptions().show_legend(False))
        .mappings(
            [
                models.ValueMap(
                    options={
                        str(value): models.ValueMappingResult(text=name, color=color, index=index)
                        for index, (value, (name, color)) in enumerate(names.items())
                    }
                )
            ]
        )
        .with_target(prometheus.Dataquery().ref_id("A").expr(query.expr).legend_format(query.legend).range())
    )
    return _described(panel, title, what, "", empty)


def lines_counted(title: str, what: str, query: Query) -> Panel:
    """Return a graph of how many log lines a LogQL query finds."""
    panel = timeseries.Panel().unit("short").min(0).height(8).fill_opacity(8).datasource(LOKI)
    panel.with_target(loki.Dataquery().ref_id("A").expr(query.expr).legend_format(query.legend))
    return _described(panel, title, what)


def lines(title: str, what: str, expr: str, *, height: int = 12) -> Panel:
    """Return log lines, newest first."""
    panel = (
        logs.Panel()
        .height(height)
        .datasource(LOKI)
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(common_models.LogsSortOrder.DESCENDING)
        .with_target(loki.Dataquery().ref_id("A").expr(expr))
    )
    return _described(panel, title, what)


def choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Return a template variable with the values that a Prometheus query finds; several or all may be chosen."""
    return (
        single_choice(name, label, query)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def single_choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Return a template variable of which one value is chosen, at first the first that the query finds."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def text_field(name: str, label: str) -> dashboard.TextBoxVariable:
    """Return a template variable that is typed in; empty at first."""
    return dashboard.TextBoxVariable(name).label(label).default_value("")


SERVICE = choice("service", "Service", "label_values(service:replicas:ready, service)")
TRACK = choice("track", "Track", "label_values(service:replicas:ready, track)")


def board(
    uid: str, title: str, description: str, rows: Mapping[str, Sequence[Panel]], variables: Sequence[Any] = ()
) -> models.Dashboard:
    """Return a dashboard; the panels of a row share its width."""
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .include_vars(True)
        )
        .link(dashboard.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK).url(RUNBOOKS_URL))
    )
    builder.annotation(_rollouts())
    for variable in variables:
        builder.with_variable(variable)
    ids = count(1)
    for name, panels in rows.items():
        builder.with_row(dashboard.Row(name).id(next(ids)))
        for panel in panels:
            builder.with_panel(panel.id(next(ids)).span(24 // len(panels)))
    return builder.build()


def _rollouts() -> dashboard.AnnotationQuery:
    """Return the annotation that marks on every graph when a rollout was in progress."""
    return (
        dashboard.AnnotationQuery()
        .name("Rollouts")
        .datasource(PROMETHEUS)
        .enable(True)
        .icon_color("purple")
        .expr('sum by (state) (rollout_state{state!~"idle|done"}) == 1')
    )


def _described(panel: Panel, title: str, what: str, runbook: str = "", empty: str = "") -> Panel:
    panel.title(title).description(what)
    if empty and not isinstance(panel, logs.Panel):
        panel.no_value(empty)
    if runbook:
        link = dashboard.DashboardLink(f"Runbook {runbook}").type(models.DashboardLinkType.LINK)
        panel.links([link.url(f"{RUNBOOKS_URL}/{runbook}.md").target_blank(True)])
    return panel


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    base: list[models.Threshold] = [models.Threshold(value=None, color="green")]
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps(base + [models.Threshold(value=value, color=color) for value, color in steps.items()])
    )
