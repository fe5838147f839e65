"""Autoscaling: the load of a replica against what it should carry, and what the autoscaler does about it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, Query, board, number, series, states

_CHOSEN = 'service=~"$service"'
_DECIDED = "increase(autoscale_decisions_total{{" + _CHOSEN + ', direction="{}"}}[1m])'


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        "bank-autoscaling",
        "Autoscaling",
        "Load per replica, replicas wanted and there, decisions and failures.",
        {
            "Load": [
                number(
                    "Load of target",
                    "The worst of the measures; from 110 % on, replicas are added.",
                    "percentunit",
                    Query(f"autoscale:load:ratio{{{_CHOSEN}}}", "{{service}}"),
                    steps={1.1: "orange", 1.2: "red"},
                    runbook="ScaleOutNeeded",
                ),
                number(
                    "Failures",
                    "Scaling operations that failed in the last ten minutes.",
                    "short",
                    Query("sum(autoscale:failures:increase10m)"),
                    steps={1.0: "red"},
                    runbook="ScalingFailed",
                ),
            ],
            "Load against target": [
                series(
                    "Requests per replica",
                    "Requests per second that a stable replica answers, and how many it should.",
                    "reqps",
                    Query(f'autoscale:load:value{{{_CHOSEN}, metric="requests_per_second"}}', "{{service}}"),
                    Query(f'autoscale:load:target{{{_CHOSEN}, metric="requests_per_second"}}', "{{service}} target"),
                ),
                series(
                    "CPU per replica",
                    "Cores that a stable replica uses, and how many it should.",
                    "suffix: cores",
                    Query(f'autoscale:load:value{{{_CHOSEN}, metric="cpu_cores"}}', "{{service}}"),
                    Query(f'autoscale:load:target{{{_CHOSEN}, metric="cpu_cores"}}', "{{service}} target"),
                ),
                series(
                    "Load of target",
                    "Now, and as it would be with one replica less: below 90 % one may go.",
                    "percentunit",
                    Query(f"autoscale:load:ratio{{{_CHOSEN}}}", "{{service}}"),
                    Query(f"autoscale:load:ratio_with_one_less{{{_CHOSEN}}}", "{{service}} with one less"),
                    steps={0.9: "blue", 1.1: "orange"},
                    runbook="ScaleOutNeeded",
                ),
            ],
            "Replicas": [
                series(
                    "Replicas expected and ready",
                    "What should be there, and what answers.",
                    "short",
                    Query(f"service:replicas:expected{{{_CHOSEN}}}", "{{service}} expected"),
                    Query(f'service:replicas:ready{{{_CHOSEN}, track="stable"}}', "{{service}} ready"),
                    runbook="ScalingInsufficient",
                ),
                series(
                    "The autoscaler's view",
                    "Replicas that it counts, and that it wants.",
                    "short",
                    Query(f"max by (service, kind) (autoscale_replicas{{{_CHOSEN}}})", "{{service}} {{kind}}"),
                    runbook="AutoscalerDown",
                ),
                states(
                    "Decisions",
                    "When the autoscaler scaled each service up or down.",
                    Query(
                        f"sgn(sum by (service) ({_DECIDED.format('up')})) - "
                        f"sgn(sum by (service) ({_DECIDED.format('down')}))",
                        "{{service}}",
                    ),
                    {-1: ("scale down", "blue"), 0: ("no change", "transparent"), 1: ("scale up", "orange")},
                ),
                series(
                    "Failures by operation",
                    "Scaling operations that failed in the last ten minutes.",
                    "short",
                    Query(f"autoscale:failures:increase10m{{{_CHOSEN}}} > 0", "{{service}} {{operation}}"),
                    soft_max=1,
                    empty="no failures",
                ),
            ],
        },
        [SERVICE],
    )
