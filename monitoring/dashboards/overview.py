"""Bank overview: transactions, ledger consistency and service level objectives."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import Query, build_dashboard, single_select, stat_panel, time_series_panel

BUDGET = {0.0: "orange", 0.25: "green"}
BURN = {1.0: "yellow", 6.0: "orange", 14.4: "red"}
BROKEN = {1.0: "red"}


def build() -> Dashboard:
    """Return the dashboard."""
    return build_dashboard(
        "bank-overview",
        "Bank overview",
        "Transactions, ledger consistency and service level objectives.",
        {
            "Health": [
                stat_panel(
                    "Transactions",
                    "Money movements posted per second.",
                    "ops",
                    Query('sum(rate(bank_transactions_total{status="posted"}[1m]))'),
                    runbook="ApiUnreachable",
                ),
                stat_panel(
                    "Failed requests",
                    "Share of client requests answered with a 5xx in the last five minutes; the worse service.",
                    "percentunit",
                    Query("max(slo:availability_errors:ratio_rate5m)"),
                    thresholds={0.001: "orange", 0.01: "red"},
                    runbook="SustainedErrors",
                ),
                stat_panel(
                    "p95 latency",
                    "95th percentile of the request duration; the slower service.",
                    "s",
                    Query("max(service_track:http_request_duration_seconds:p95_1m)"),
                    thresholds={0.25: "red"},
                    runbook="LatencyBudgetBurnsFast",
                ),
                stat_panel(
                    "Replicas down",
                    "Replicas that are expected and do not respond.",
                    "short",
                    Query("sum(service:replicas:down)"),
                    thresholds=BROKEN,
                    runbook="ReplicaDown",
                ),
                stat_panel(
                    "Ledger errors",
                    "Ledger imbalance and reconciliation mismatches; must be 0.",
                    "short",
                    Query("max(abs(ledger:imbalance:max)) + max(ledger:reconciliation_mismatches:max)"),
                    thresholds=BROKEN,
                    runbook="LedgerImbalance",
                ),
                stat_panel(
                    "Firing alerts",
                    "Firing alerts with severity page or ticket.",
                    "short",
                    Query('count(ALERTS{alertstate="firing", severity=~"page|ticket"}) or vector(0)'),
                    thresholds=BROKEN,
                ),
            ],
            "Trends and changes": [
                time_series_panel(
                    "Transactions by type",
                    "Money movements posted per second.",
                    "ops",
                    Query('sum by (type) (rate(bank_transactions_total{status="posted"}[1m]))', "{{type}}"),
                    runbook="ApiUnreachable",
                ),
                time_series_panel(
                    "Failed requests by service",
                    "Share of client requests answered with a 5xx.",
                    "percentunit",
                    Query("slo:availability_errors:ratio_rate5m", "{{service}}"),
                    thresholds={0.001: "red"},
                    runbook="SustainedErrors",
                    soft_max=0.01,
                ),
                time_series_panel(
                    "Versions in service",
                    "Replicas by version: a change is a deployment, a rollout or scaling.",
                    "short",
                    Query(
                        'count by (service, track, version) (http_requests_in_progress{job="services"})',
                        "{{service}} {{track}} {{version}}",
                    ),
                    runbook="ReplicaDown",
                ),
            ],
            "Money": [
                time_series_panel(
                    "Money moved",
                    "Amount per second in the selected currency.",
                    "short",
                    Query('currency_type:money_moved:rate1m{currency="$currency"}', "{{type}}"),
                    runbook="ApiUnreachable",
                ),
                time_series_panel(
                    "Refusals",
                    "Money movements refused per second: insufficient funds, frozen accounts and the like.",
                    "ops",
                    Query('sum by (type) (rate(bank_transactions_total{status="refused"}[1m]))', "{{type}}"),
                    runbook="ClientErrorsHigh",
                ),
                time_series_panel(
                    "Fraud flags",
                    "Transactions flagged by fraud rules in the last five minutes.",
                    "short",
                    Query("sum by (rule) (increase(bank_flags_total[5m]))", "{{rule}}"),
                ),
            ],
            "Ledger": [
                time_series_panel(
                    "Ledger imbalance",
                    "Sum of all balances per currency; must be 0.",
                    "short",
                    Query("ledger:imbalance:max != 0", "{{currency}}"),
                    runbook="LedgerImbalance",
                    empty="balanced in every currency",
                ),
                time_series_panel(
                    "Reconciliation mismatches",
                    "Accounts whose history differs from the balance in the ledger.",
                    "short",
                    Query("ledger:reconciliation_mismatches:max", "mismatches"),
                    thresholds=BROKEN,
                    runbook="ReconciliationMismatch",
                    soft_max=1,
                ),
            ],
            "Error budgets": [
                stat_panel(
                    "Availability budget",
                    "Remaining error budget: 99.9 % of requests in 30 days without a 5xx.",
                    "percentunit",
                    Query("slo:availability:budget_remaining", "{{service}}"),
                    thresholds=BUDGET,
                    runbook="AvailabilityBudgetBurnsFast",
                ),
                stat_panel(
                    "Latency budget",
                    "Remaining latency budget: 95 % of requests in 30 days within 250 ms.",
                    "percentunit",
                    Query("slo:latency:budget_remaining", "{{service}}"),
                    thresholds=BUDGET,
                    runbook="LatencyBudgetBurnsFast",
                ),
            ],
            "Service level objectives": [
                time_series_panel(
                    "Availability burn rate",
                    "Burn rate of the error budget, 1 is sustainable; no data at low traffic.",
                    "none",
                    Query("slo:availability:burn_rate", "{{service}} {{window}}"),
                    thresholds=BURN,
                    runbook="AvailabilityBudgetBurnsFast",
                    soft_max=2,
                ),
                time_series_panel(
                    "Latency burn rate",
                    "Burn rate of the latency budget, 1 is sustainable; no data at low traffic.",
                    "none",
                    Query("slo:latency:burn_rate", "{{service}} {{window}}"),
                    thresholds=BURN,
                    runbook="LatencyBudgetBurnsFast",
                    soft_max=2,
                ),
                time_series_panel(
                    "Requests",
                    "Client requests per second.",
                    "reqps",
                    Query("service:http_requests:rate1m", "{{service}}"),
                    runbook="ApiUnreachable",
                ),
            ],
        },
        [single_select("currency", "Currency", "label_values(currency_type:money_moved:rate1m, currency)")],
    )
