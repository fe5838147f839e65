"""Services: rate, errors and duration per service, version and track, and what they run out of."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, TRACK, Query, board, number, series

_CHOSEN = 'service=~"$service", track=~"$track"'
_VERSION = "{{service}} {{track}} {{version}}"
_PUBLIC = f'job="services", {_CHOSEN}, handler!~"/health/.*|/metrics|/internal/.*|/docs.*"'
FULL = {0.8: "yellow", 0.9: "red"}


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        "bank-services",
        "Services",
        "Requests of clients as the replicas answer them; health checks and internal calls are left out.",
        {
            "Replicas": [
                number(
                    "Ready",
                    "Replicas that answer Prometheus.",
                    "short",
                    Query(f"service:replicas:ready{{{_CHOSEN}}}", "{{service}} {{track}}"),
                    steps={0.0: "red", 1.0: "green"},
                    runbook="ServiceDown",
                ),
                number(
                    "Down",
                    "Replicas that should be there and do not answer.",
                    "short",
                    Query('service:replicas:down{service=~"$service"}', "{{service}}"),
                    steps={1.0: "red"},
                    runbook="ReplicaDown",
                ),
            ],
            "Rate, errors, duration": [
                series(
                    "Requests",
                    "Requests per second.",
                    "reqps",
                    Query(f"service_track:http_requests:rate1m{{{_CHOSEN}}}", _VERSION),
                ),
                series(
                    "Errors",
                    "Share of requests answered with a 5xx; NGINX hides most of them from clients.",
                    "percentunit",
                    Query(f"service_track:http_errors:ratio1m{{{_CHOSEN}}}", _VERSION),
                    steps={0.001: "red"},
                    runbook="SustainedErrors",
                    soft_max=0.01,
                ),
                series(
                    "Duration",
                    "Median, p95 and p99 latency of requests.",
                    "s",
                    Query(f"service_track:http_request_duration_seconds:p50_1m{{{_CHOSEN}}}", f"p50 {_VERSION}"),
                    Query(f"service_track:http_request_duration_seconds:p95_1m{{{_CHOSEN}}}", f"p95 {_VERSION}"),
                    Query(f"service_track:http_request_duration_seconds:p99_1m{{{_CHOSEN}}}", f"p99 {_VERSION}"),
                    steps={0.25: "red"},
                    runbook="LatencyBudgetBurnsFast",
                    table_legend=True,
                ),
            ],
            "By route": [
                series(
                    "Requests by route",
                    "Requests per second.",
                    "reqps",
                    Query(
                        f"sum by (method, handler) (rate(http_requests_total{{{_PUBLIC}}}[1m]))",
                        "{{method}} {{handler}}",
                    ),
                    table_legend=True,
                ),
                series(
                    "p95 latency by route",
                    "95 % of the requests to a route take at most this long.",
                    "s",
                    Query(
                        "histogram_quantile(0.95, sum by (method, handler, le) "
                        f"(rate(http_request_duration_seconds_bucket{{{_PUBLIC}}}[5m]))) >= 0",
                        "{{method}} {{handler}}",
                    ),
                    table_legend=True,
                ),
                series(
                    "Responses by status",
                    "Responses per second.",
                    "reqps",
                    Query(f"sum by (status) (public:http_requests:rate1m{{{_CHOSEN}}})", "{{status}}"),
                    table_legend=True,
                ),
            ],
            "Saturation": [
                series(
                    "CPU",
                    "CPU use of the busiest replica, as a share of its limit.",
                    "percentunit",
                    Query('service:cpu:max_ratio{service=~"$service"}', "{{service}}"),
                    steps=FULL,
                    runbook="CpuSaturated",
                ),
                series(
                    "Memory",
                    "Memory use of the fullest replica, as a share of its limit.",
                    "percentunit",
                    Query('service:memory:max_ratio{service=~"$service"}', "{{service}}"),
                    steps=FULL,
                    runbook="MemorySaturated",
                ),
                series(
                    "Database pool",
                    "Connections in use on the busiest replica, as a share of its pool.",
                    "percentunit",
                    Query('service:database_pool:max_ratio{service=~"$service"}', "{{service}}"),
                    steps=FULL,
                    runbook="DatabasePoolSaturated",
                ),
                series(
                    "Group commit",
                    "Average number of operations per database transaction; it grows with the load.",
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
