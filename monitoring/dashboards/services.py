"""Services: rate, errors, duration and saturation per service, version and track."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, TRACK, Query, build_dashboard, stat_panel, time_series_panel

_SELECTED = 'service=~"$service", track=~"$track"'
_VERSION = "{{service}} {{track}} {{version}}"
_PUBLIC = f'job="services", {_SELECTED}, handler!~"/health/.*|/metrics|/internal/.*|/docs.*"'
FULL = {0.8: "yellow", 0.9: "red"}


def build() -> Dashboard:
    """Return the dashboard."""
    return build_dashboard(
        "bank-services",
        "Services",
        "Client requests as seen by the replicas, without health checks and internal calls.",
        {
            "Replicas": [
                stat_panel(
                    "Ready",
                    "Replicas that respond to Prometheus.",
                    "short",
                    Query(f"service:replicas:ready{{{_SELECTED}}}", "{{service}} {{track}}"),
                    thresholds={0.0: "red", 1.0: "green"},
                    runbook="ServiceDown",
                ),
                stat_panel(
                    "Down",
                    "Expected replicas that do not respond.",
                    "short",
                    Query('service:replicas:down{service=~"$service"}', "{{service}}"),
                    thresholds={1.0: "red"},
                    runbook="ReplicaDown",
                ),
            ],
            "Rate, errors, duration": [
                time_series_panel(
                    "Requests",
                    "Requests per second.",
                    "reqps",
                    Query(f"service_track:http_requests:rate1m{{{_SELECTED}}}", _VERSION),
                    runbook="ApiUnreachable",
                ),
                time_series_panel(
                    "Errors",
                    "Share of requests answered with a 5xx; NGINX retries most of them on another replica.",
                    "percentunit",
                    Query(f"service_track:http_errors:ratio1m{{{_SELECTED}}}", _VERSION),
                    thresholds={0.001: "red"},
                    runbook="SustainedErrors",
                    soft_max=0.01,
                ),
                time_series_panel(
                    "Duration",
                    "Median, p95 and p99 latency of requests.",
                    "s",
                    Query(f"service_track:http_request_duration_seconds:p50_1m{{{_SELECTED}}}", f"p50 {_VERSION}"),
                    Query(f"service_track:http_request_duration_seconds:p95_1m{{{_SELECTED}}}", f"p95 {_VERSION}"),
                    Query(f"service_track:http_request_duration_seconds:p99_1m{{{_SELECTED}}}", f"p99 {_VERSION}"),
                    thresholds={0.25: "red"},
                    runbook="LatencyBudgetBurnsFast",
                    table_legend=True,
                ),
            ],
            "By route": [
                time_series_panel(
                    "Requests by route",
                    "Requests per second.",
                    "reqps",
                    Query(
                        f"sum by (method, handler) (rate(http_requests_total{{{_PUBLIC}}}[1m]))",
                        "{{method}} {{handler}}",
                    ),
                    table_legend=True,
                    runbook="ApiUnreachable",
                ),
                time_series_panel(
                    "p95 latency by route",
                    "95th percentile of the request duration, by route.",
                    "s",
                    Query(
                        "histogram_quantile(0.95, sum by (method, handler, le) "
                        f"(rate(http_request_duration_seconds_bucket{{{_PUBLIC}}}[5m]))) >= 0",
                        "{{method}} {{handler}}",
                    ),
                    table_legend=True,
                    runbook="LatencyBudgetBurnsFast",
                ),
                time_series_panel(
                    "Responses by status",
                    "Responses per second.",
                    "reqps",
                    Query(f"sum by (status) (public:http_requests:rate1m{{{_SELECTED}}})", "{{status}}"),
                    table_legend=True,
                    runbook="ClientErrorsHigh",
                ),
            ],
            "Saturation": [
                time_series_panel(
                    "CPU",
                    "CPU use of the busiest replica, as a share of its limit.",
                    "percentunit",
                    Query('service:cpu:max_ratio{service=~"$service"}', "{{service}}"),
                    thresholds=FULL,
                    runbook="CpuSaturated",
                ),
                time_series_panel(
                    "Memory",
                    "Memory use of the largest replica, as a share of its limit.",
                    "percentunit",
                    Query('service:memory:max_ratio{service=~"$service"}', "{{service}}"),
                    thresholds=FULL,
                    runbook="MemorySaturated",
                ),
                time_series_panel(
                    "Database pool",
                    "Connections in use on the busiest replica, as a share of its pool.",
                    "percentunit",
                    Query('service:database_pool:max_ratio{service=~"$service"}', "{{service}}"),
                    thresholds=FULL,
                    runbook="DatabasePoolSaturated",
                ),
                time_series_panel(
                    "Group commit",
                    "Average number of requests (a transfer batch is one) per database transaction; grows with load.",
                    "short",
                    Query(
                        "sum by (service) (rate(bank_group_commit_batch_size_sum[1m])) "
                        "/ (sum by (service) (rate(bank_group_commit_batch_size_count[1m])) > 0)",
                        "{{service}}",
                    ),
                ),
            ],
        },
        [SERVICE, TRACK],
    )
