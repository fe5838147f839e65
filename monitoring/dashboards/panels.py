"""Builders for panels, variables and dashboards with a common style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, logs, loki, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

# Same as RUNBOOKS_URL in .env, which dashboards cannot read.
RUNBOOKS_URL = "https://github.com/distributed-banking-ops/distributed-banking-ops/blob/main/docs/runbooks"
TAG = "bank"
# The logs of the panel's time range and of the selected services.
_LOGS_URL = "/d/bank-logs?${__url_time_range}&${__all_variables}"

PROMETHEUS = models.DataSourceRef(type_val="prometheus", uid="prometheus")
LOKI = models.DataSourceRef(type_val="loki", uid="loki")

Thresholds = Mapping[float, str]
Panel = timeseries.Panel | stat.Panel | statetimeline.Panel | logs.Panel


@dataclass(frozen=True)
class Query:
    """An expression and the legend of its series; `{{label}}` is replaced by the value of a label."""

    expr: str
    legend: str = ""


def time_series_panel(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    thresholds: Thresholds | None = None,
    runbook: str = "",
    soft_max: float | None = None,
    table_legend: bool = False,
    empty: str = "",
) -> Panel:
    """Return a time series panel; thresholds (lower bound → color) are drawn as lines.

    `soft_max` is the minimum upper bound of the axis; `table_legend` shows the last and maximum value of each series in
    the legend; `empty` is shown without data.
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
        .thresholds(_thresholds(thresholds or {}))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(style.DASHED if thresholds else style.OFF))
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
    return _describe(panel, title, description, runbook, empty)


def stat_panel(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    thresholds: Thresholds | None = None,
    runbook: str = "",
    show_name: bool = False,
    empty: str = "",
) -> Panel:
    """Return a stat panel with the current value of each series, colored by threshold.

    `show_name` shows the name of the series instead of its value; `empty` is shown without data.
    """
    mode = common_models.BigValueTextMode
    panel = (
        stat.Panel()
        .unit(unit)
        .height(4)
        .datasource(PROMETHEUS)
        .thresholds(_thresholds(thresholds or {}))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE if thresholds else common_models.BigValueColorMode.NONE)
        .text_mode(mode.NAME if show_name else mode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().ref_id("A").expr(query.expr).legend_format(query.legend).instant())
    )
    return _describe(panel, title, description, runbook, empty)


def state_timeline_panel(
    title: str, description: str, query: Query, names: Mapping[int, tuple[str, str]], *, runbook: str
) -> Panel:
    """Return a state timeline with a band per series; `names` maps values to text and color."""
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
    return _describe(panel, title, description, runbook)


def log_volume_panel(title: str, description: str, query: Query) -> Panel:
    """Return a graph of the number of log lines that a LogQL query counts."""
    panel = timeseries.Panel().unit("short").min(0).height(8).fill_opacity(8).datasource(LOKI)
    panel.with_target(loki.Dataquery().ref_id("A").expr(query.expr).legend_format(query.legend))
    return _describe(panel, title, description)


def logs_panel(title: str, description: str, expr: str, *, height: int = 12) -> Panel:
    """Return a logs panel, newest lines first."""
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
    return _describe(panel, title, description)


def multi_select(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Return a template variable with the values of a Prometheus query; several or all can be selected."""
    return (
        single_select(name, label, query)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def single_select(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Return a template variable with the values of a Prometheus query; one can be selected, the first by default."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def text_box(name: str, label: str) -> dashboard.TextBoxVariable:
    """Return a template variable with a text box, empty by default."""
    return dashboard.TextBoxVariable(name).label(label).default_value("")


SERVICE = multi_select("service", "Service", "label_values(service:replicas:ready, service)")
TRACK = multi_select("track", "Track", "label_values(service:replicas:ready, track)")


def build_dashboard(
    uid: str, title: str, description: str, rows: Mapping[str, Sequence[Panel]], variables: Sequence[Any] = ()
) -> models.Dashboard:
    """Return a dashboard; the panels of a row have equal widths and fill it."""
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
    builder.annotation(_rollout_annotation())
    for variable in variables:
        builder.with_variable(variable)
    ids = count(1)
    for name, panels in rows.items():
        builder.with_row(dashboard.Row(name).id(next(ids)))
        for index, panel in enumerate(panels):
            left, right = (24 * edge // len(panels) for edge in (index, index + 1))
            builder.with_panel(panel.id(next(ids)).span(right - left))
    return builder.build()


def _rollout_annotation() -> dashboard.AnnotationQuery:
    """Return the annotation that marks rollouts on every graph."""
    return (
        dashboard.AnnotationQuery()
        .name("Rollouts")
        .datasource(PROMETHEUS)
        .enable(True)
        .icon_color("purple")
        .expr('sum by (state) (rollout_state{state!~"idle|done"}) == 1')
    )


def _describe(panel: Panel, title: str, description: str, runbook: str = "", empty: str = "") -> Panel:
    panel.title(title).description(description)
    if empty and not isinstance(panel, logs.Panel):
        panel.no_value(empty)
    name, path = (f"Runbook {runbook}", f"/{runbook}.md") if runbook else ("Runbooks", "")
    links = [_link(name, RUNBOOKS_URL + path)]
    if not isinstance(panel, logs.Panel):
        links.append(_link("Logs", _LOGS_URL))
    return panel.links(links)


def _link(title: str, url: str) -> Builder[models.DashboardLink]:
    return dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url).target_blank(True)


def _thresholds(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    base: list[models.Threshold] = [models.Threshold(value=None, color="green")]
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps(base + [models.Threshold(value=value, color=color) for value, color in thresholds.items()])
    )
