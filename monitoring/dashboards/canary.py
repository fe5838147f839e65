"""Canary: the new version compared with stable, and the progress of the rollout."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, Panel, Query, build_dashboard, stat_panel, time_series_panel

_NO_ROLLOUT = "no rollout in progress"
# Over a week, so that a restart of rollout-service does not lose it.
_LAST_VERDICT = "max_over_time(rollout_last_verdict_timestamp_seconds[7d])"


def _track_row(track: str) -> list[Panel]:
    """Return the panels of one track; both rows have the same layout for comparison."""
    selector = f'{{service=~"$service", track="{track}"}}'
    outcome = f'{selector[:-1]}, job="services", handler=~"/api/.*|unmatched", status=~"[45].."}}'
    name = track.capitalize()
    empty = _NO_ROLLOUT if track == "canary" else ""
    return [
        time_series_panel(
            f"{name}: requests",
            "Requests per second.",
            "reqps",
            Query(f"service_track:http_requests:rate1m{selector}", "{{service}} {{version}}"),
            empty=empty,
            runbook="CanaryStuck",
        ),
        time_series_panel(
            f"{name}: errors",
            "Share of requests answered with a 5xx by these replicas; NGINX retries them on stable.",
            "percentunit",
            Query(f"service_track:http_errors:ratio1m{selector}", "{{service}} {{version}}"),
            thresholds={0.001: "red"},
            soft_max=0.01,
            empty=empty,
            runbook="CanaryStuck",
        ),
        time_series_panel(
            f"{name}: outcomes",
            "Share of responses that are no success, by status and problem code; canary and stable should be alike.",
            "percentunit",
            Query(
                f"sum by (service, status, code) (rate(http_requests_total{outcome}[1m])) "
                f"/ on (service) group_left () sum by (service) (service_track:http_requests:rate1m{selector} > 0)",
                "{{service}} {{status}} {{code}}",
            ),
            soft_max=0.1,
            empty=empty,
            runbook="CanaryStuck",
        ),
        time_series_panel(
            f"{name}: CPU per request",
            "CPU time of requests that no other one overlaps.",
            "s",
            Query(
                f"sum by (service) (rate(http_request_cpu_seconds_sum{selector}[1m])) "
                f"/ (sum by (service) (rate(http_request_cpu_seconds_count{selector}[1m])) > 0)",
                "{{service}}",
            ),
            empty=empty,
            runbook="CanaryStuck",
        ),
        time_series_panel(
            f"{name}: p95 latency",
            "95th percentile of the request duration.",
            "s",
            Query(f"service_track:http_request_duration_seconds:p95_1m{selector}", "{{service}} {{version}}"),
            thresholds={0.25: "red"},
            soft_max=0.25,
            empty=empty,
            runbook="CanaryStuck",
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    return build_dashboard(
        "bank-canary",
        "Canary",
        "Stable and canary side by side, and the rollout with its analysis.",
        {
            "Rollout": [
                stat_panel(
                    "State",
                    "Phase of the rollout.",
                    "short",
                    Query("sum by (state) (rollout_state) == 1", "{{state}}"),
                    runbook="CanaryStuck",
                    show_name=True,
                ),
                stat_panel(
                    "Canary weight",
                    "Percentage of clients that NGINX sends to the canary.",
                    "percent",
                    Query("max(rollout_weight)"),
                    runbook="CanaryStuck",
                ),
                stat_panel(
                    "Canary traffic",
                    "Share of requests that canaries answered in the last minute.",
                    "percentunit",
                    Query(
                        'sum(service_track:http_requests:rate1m{track="canary"}) '
                        "/ (sum(service_track:http_requests:rate1m) > 0)"
                    ),
                    empty=_NO_ROLLOUT,
                    runbook="CanaryStuck",
                ),
                stat_panel(
                    "Last verdict",
                    "Verdict and reason of the last analysis in the last seven days.",
                    "dateTimeFromNow",
                    Query(f"topk(1, max by (verdict, reason) ({_LAST_VERDICT}) * 1000)", "{{verdict}}: {{reason}}"),
                    runbook="CanaryStuck",
                    show_name=True,
                    empty="no rollout yet",
                ),
                stat_panel(
                    "Average duration",
                    "Average time from the start of a rollout to its promotion or rollback.",
                    "s",
                    Query("sum(rollout_duration_seconds_sum) / sum(rollout_duration_seconds_count)"),
                    empty="no rollout yet",
                    runbook="CanaryStuck",
                ),
            ],
            "Stable": _track_row("stable"),
            "Canary": _track_row("canary"),
            "Traffic split and verdicts": [
                time_series_panel(
                    "Traffic split by service",
                    "Share of each service's requests by track.",
                    "percentunit",
                    Query(
                        "sum by (service, track) (service_track:http_requests:rate1m) "
                        "/ on (service) group_left () (service:http_requests:rate1m > 0)",
                        "{{service}} {{track}}",
                    ),
                    runbook="CanaryStuck",
                ),
                time_series_panel(
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
