"""Canary: the new version beside the old one, and what the rollout makes of it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, Panel, Query, board, number, series


def _beside(track: str) -> list[Panel]:
    """Return the panels of one track; both rows look the same, so that eyes can compare them."""
    chosen = f'{{service=~"$service", track="{track}"}}'
    name = track.capitalize()
    return [
        series(
            f"{name}: requests",
            "Requests per second.",
            "reqps",
            Query(f"service_track:http_requests:rate1m{chosen}", "{{service}} {{version}}"),
        ),
        series(
            f"{name}: errors",
            "Share of requests that these replicas answered with a 5xx; clients got a stable answer instead.",
            "percentunit",
            Query(f"service_track:http_errors:ratio1m{chosen}", "{{service}} {{version}}"),
            steps={0.001: "red"},
        ),
        series(
            f"{name}: slowest 5 %",
            "95 % of requests are answered within this time.",
            "s",
            Query(f"service_track:http_request_duration_seconds:p95_1m{chosen}", "{{service}} {{version}}"),
            steps={0.25: "red"},
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        "bank-canary",
        "Canary",
        "The stable version against the canary, and the rollout that judges it.",
        {
            "Rollout": [
                number(
                    "State",
                    "What the rollout is doing.",
                    "short",
                    Query("rollout_state == 1", "{{state}}"),
                    runbook="CanaryStuck",
                ),
                number(
                    "Share wanted",
                    "Share of clients that NGINX is told to send to the canary.",
                    "percent",
                    Query("max(rollout_weight)"),
                ),
                number(
                    "Share served",
                    "Share of requests that canaries really answered in the last minute.",
                    "percentunit",
                    Query(
                        'sum(service_track:http_requests:rate1m{track="canary"}) '
                        "/ (sum(service_track:http_requests:rate1m) > 0)"
                    ),
                ),
                number(
                    "Time",
                    "How long rollouts take, on average.",
                    "s",
                    Query("sum(rollout_duration_seconds_sum) / sum(rollout_duration_seconds_count)"),
                ),
            ],
            "Stable": _beside("stable"),
            "Canary": _beside("canary"),
            "Split and verdicts": [
                series(
                    "Split by service",
                    "Share of each service's requests by track.",
                    "percentunit",
                    Query(
                        "sum by (service, track) (service_track:http_requests:rate1m) "
                        "/ on (service) group_left () (service:http_requests:rate1m > 0)",
                        "{{service}} {{track}}",
                    ),
                ),
                series(
                    "Verdicts",
                    "Promote, roll back or hold, and why; counted over ten minutes.",
                    "short",
                    Query(
                        "sum by (verdict, reason) (increase(rollout_verdicts_total[10m]))", "{{verdict}}: {{reason}}"
                    ),
                    runbook="CanaryStuck",
                ),
            ],
        },
        [SERVICE],
    )
