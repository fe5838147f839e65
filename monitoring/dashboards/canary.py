"""Canary: the new version beside the old one, and what the rollout makes of it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, Panel, Query, board, number, series

_NO_ROLLOUT = "no rollout in progress"
# Over a week, so that a restart of rollout-service does not hide it.
_LAST_VERDICT = "max_over_time(rollout_last_verdict_timestamp_seconds[7d])"


def _beside(track: str) -> list[Panel]:
    """Return the panels of one track; both rows look the same, so that eyes can compare them."""
    chosen = f'{{service=~"$service", track="{track}"}}'
    name = track.capitalize()
    empty = _NO_ROLLOUT if track == "canary" else ""
    return [
        series(
            f"{name}: requests",
            "Requests per second.",
            "reqps",
            Query(f"service_track:http_requests:rate1m{chosen}", "{{service}} {{version}}"),
            empty=empty,
        ),
        series(
            f"{name}: errors",
            "Share of requests that these replicas answered with a 5xx; clients got a stable answer instead.",
            "percentunit",
            Query(f"service_track:http_errors:ratio1m{chosen}", "{{service}} {{version}}"),
            steps={0.001: "red"},
            soft_max=0.01,
            empty=empty,
        ),
        series(
            f"{name}: p95 latency",
            "95 % of requests take at most this long.",
            "s",
            Query(f"service_track:http_request_duration_seconds:p95_1m{chosen}", "{{service}} {{version}}"),
            steps={0.25: "red"},
            soft_max=0.25,
            empty=empty,
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
                    "Phase of the rollout.",
                    "short",
                    Query("sum by (state) (rollout_state) == 1", "{{state}}"),
                    runbook="CanaryStuck",
                    show_name=True,
                ),
                number(
                    "Canary weight",
                    "Percentage of clients that NGINX sends to the canary.",
                    "percent",
                    Query("max(rollout_weight)"),
                ),
                number(
                    "Canary traffic",
                    "Share of requests that canaries answered in the last minute.",
                    "percentunit",
                    Query(
                        'sum(service_track:http_requests:rate1m{track="canary"}) '
                        "/ (sum(service_track:http_requests:rate1m) > 0)"
                    ),
                    empty=_NO_ROLLOUT,
                ),
                number(
                    "Last verdict",
                    "Verdict and reason of the last analysis in the last seven days.",
                    "dateTimeFromNow",
                    Query(f"topk(1, max by (verdict, reason) ({_LAST_VERDICT}) * 1000)", "{{verdict}}: {{reason}}"),
                    runbook="CanaryStuck",
                    show_name=True,
                    empty="no rollout yet",
                ),
                number(
                    "Average duration",
                    "Average time from the start of a rollout to its promotion or rollback.",
                    "s",
                    Query("sum(rollout_duration_seconds_sum) / sum(rollout_duration_seconds_count)"),
                    empty="no rollout yet",
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
                    "Number of verdicts in the last ten minutes, by verdict and reason.",
                    "short",
                    Query(
                        "sum by (verdict, reason) (increase(rollout_verdicts_total[10m]))", "{{verdict}}: {{reason}}"
                    ),
                    runbook="CanaryStuck",
                    empty=_NO_ROLLOUT,
                ),
            ],
        },
        [SERVICE],
    )
