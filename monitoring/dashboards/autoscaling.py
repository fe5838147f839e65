"""Autoscaling: load per replica against its target, and the decisions of the autoscaler."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import (
    SERVICE,
    Query,
    build_dashboard,
    stat_panel,
    state_timeline_panel,
    time_series_panel,
)

_SELECTED = 'service=~"$service"'
# A service without a decision in that direction has no such counter yet: that is 0, not "no data".
_DECIDED = (
    "sgn(sum by (service) (increase(autoscale_decisions_total{{"
    + _SELECTED
    + ', direction="{}"}}[1m]))'
    + " or 0 * max by (service) (autoscale_replicas{{"
    + _SELECTED
    + "}}))"
)


def build() -> Dashboard:
    """Return the dashboard."""
    return build_dashboard(
        "bank-autoscaling",
        "Autoscaling",
        "Load per replica, desired and ready replicas, scaling decisions and failures.",
        {
            "Load": [
                stat_panel(
                    "Load vs. target",
                    "Highest ratio of load to target; replicas are added above 110 %.",
                    "percentunit",
                    Query(f"autoscale:load:ratio{{{_SELECTED}}}", "{{service}}"),
                    thresholds={1.1: "orange", 1.2: "red"},
                    runbook="ScaleOutNeeded",
                ),
                stat_panel(
                    "Failures",
                    "Scaling operations that failed in the last ten minutes.",
                    "short",
                    Query("sum(autoscale:failures:increase10m)"),
                    thresholds={1.0: "red"},
                    runbook="ScalingFailed",
                ),
            ],
            "Load and target": [
                time_series_panel(
                    "Requests per replica",
                    "Requests per second and stable replica, and the target.",
                    "reqps",
                    Query(f'autoscale:load:value{{{_SELECTED}, metric="requests_per_second"}}', "{{service}}"),
                    Query(f'autoscale:load:target{{{_SELECTED}, metric="requests_per_second"}}', "{{service}} target"),
                    runbook="ScaleOutNeeded",
                ),
                time_series_panel(
                    "CPU per replica",
                    "CPU cores used per stable replica, and the target.",
                    "suffix: cores",
                    Query(f'autoscale:load:value{{{_SELECTED}, metric="cpu_cores"}}', "{{service}}"),
                    Query(f'autoscale:load:target{{{_SELECTED}, metric="cpu_cores"}}', "{{service}} target"),
                    runbook="ScaleOutNeeded",
                ),
                time_series_panel(
                    "Load vs. target",
                    "Current ratio, and the ratio with one replica fewer: below 90 % a replica may be removed.",
                    "percentunit",
                    Query(f"autoscale:load:ratio{{{_SELECTED}}}", "{{service}}"),
                    Query(f"autoscale:load:ratio_with_one_less{{{_SELECTED}}}", "{{service}} with one replica fewer"),
                    thresholds={0.9: "blue", 1.1: "orange"},
                    runbook="ScaleOutNeeded",
                ),
            ],
            "Replicas": [
                time_series_panel(
                    "Replicas expected and ready",
                    "Desired replicas, and replicas that respond to Prometheus.",
                    "short",
                    Query(f"service:replicas:expected{{{_SELECTED}}}", "{{service}} expected"),
                    Query(f'service:replicas:ready{{{_SELECTED}, track="stable"}}', "{{service}} ready"),
                    runbook="ScalingInsufficient",
                ),
                time_series_panel(
                    "Current and desired replicas",
                    "Replicas as seen and as decided by the autoscaler.",
                    "short",
                    Query(f"max by (service, kind) (autoscale_replicas{{{_SELECTED}}})", "{{service}} {{kind}}"),
                    Query(f"max by (service) (autoscale_dry_run_replicas{{{_SELECTED}}})", "{{service}} by dry run"),
                    runbook="AutoscalerDown",
                ),
                state_timeline_panel(
                    "Decisions",
                    "Scale-ups and scale-downs of each service.",
                    Query(
                        f"{_DECIDED.format('up')} - {_DECIDED.format('down')}",
                        "{{service}}",
                    ),
                    {-1: ("scale down", "blue"), 0: ("no change", "transparent"), 1: ("scale up", "orange")},
                    runbook="ScalingInsufficient",
                ),
                time_series_panel(
                    "Failures by operation",
                    "Scaling operations that failed in the last ten minutes.",
                    "short",
                    Query(f"autoscale:failures:increase10m{{{_SELECTED}}} > 0", "{{service}} {{operation}}"),
                    soft_max=1,
                    empty="no failures",
                    runbook="ScalingFailed",
                ),
            ],
        },
        [SERVICE],
    )
