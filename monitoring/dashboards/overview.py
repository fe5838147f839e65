"""Bank overview: is money moving, are the books right, is the service that was promised delivered."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import Query, board, number, series, single_choice

BUDGET = {0.0: "orange", 0.25: "green"}
BURN = {1.0: "yellow", 6.0: "orange", 14.4: "red"}
BROKEN = {1.0: "red"}


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        "bank-overview",
        "Bank overview",
        "Money moved and refused, the books, and the service level objectives.",
        {
            "Is money moving, is anyone affected": [
                number(
                    "Transactions",
                    "Money movements posted per second.",
                    "ops",
                    Query('sum(rate(bank_transactions_total{status="posted"}[1m]))'),
                ),
                number(
                    "Failed requests",
                    "Share of client requests answered with a 5xx in the last five minutes; the worse service.",
                    "percentunit",
                    Query("max(slo:availability_errors:ratio_rate5m)"),
                    steps={0.001: "orange", 0.01: "red"},
                    runbook="SustainedErrors",
                ),
                number(
                    "p95 latency",
                    "95 % of client requests take at most this long; the slower service.",
                    "s",
                    Query("max(service_track:http_request_duration_seconds:p95_1m)"),
                    steps={0.25: "red"},
                    runbook="LatencyBudgetBurnsFast",
                ),
                number(
                    "Replicas down",
                    "Replicas that are expected and do not respond.",
                    "short",
                    Query("sum(service:replicas:down)"),
                    steps=BROKEN,
                    runbook="ReplicaDown",
                ),
                number(
                    "Ledger errors",
                    "Ledger imbalance and reconciliation mismatches; anything but 0 is a broken ledger.",
                    "short",
                    Query("max(abs(ledger:imbalance:max)) + max(ledger:reconciliation_mismatches:max)"),
                    steps=BROKEN,
                    runbook="LedgerImbalance",
                ),
                number(
                    "Firing alerts",
                    "Firing alerts with severity page or ticket.",
                    "short",
                    Query('count(ALERTS{alertstate="firing", severity=~"page|ticket"}) or vector(0)'),
                    steps=BROKEN,
                ),
            ],
            "Since when, what changed": [
                series(
                    "Transactions by type",
                    "Money movements posted per second.",
                    "ops",
                    Query('sum by (type) (rate(bank_transactions_total{status="posted"}[1m]))', "{{type}}"),
                ),
                series(
                    "Failed requests by service",
                    "Share of client requests answered with a 5xx.",
                    "percentunit",
                    Query("slo:availability_errors:ratio_rate5m", "{{service}}"),
                    steps={0.001: "red"},
                    runbook="SustainedErrors",
                    soft_max=0.01,
                ),
                series(
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
                series(
                    "Money moved",
                    "Amount per second in the selected currency.",
                    "short",
                    Query('currency_type:money_moved:rate1m{currency="$currency"}', "{{type}}"),
                ),
                series(
                    "Refusals",
                    "Money movements refused per second: insufficient funds, frozen accounts and the like.",
                    "ops",
                    Query('sum by (type) (rate(bank_transactions_total{status="refused"}[1m]))', "{{type}}"),
                ),
                series(
                    "Fraud flags",
                    "Transactions flagged by fraud rules in the last five minutes.",
                    "short",
                    Query("sum by (rule) (increase(bank_flags_total[5m]))", "{{rule}}"),
                ),
            ],
            "Ledger": [
                series(
                    "Ledger imbalance",
                    "Sum of all balances per currency; anything but 0 is a broken ledger.",
                    "short",
                    Query("ledger:imbalance:max != 0", "{{currency}}"),
                    runbook="LedgerImbalance",
                    empty="balanced in every currency",
                ),
                series(
                    "Reconciliation mismatches",
                    "Accounts whose history differs from the balance in the ledger.",
                    "short",
                    Query("ledger:reconciliation_mismatches:max", "mismatches"),
                    steps=BROKEN,
                    runbook="ReconciliationMismatch",
                    soft_max=1,
                ),
            ],
            "Error budgets": [
                number(
                    "Availability budget",
                    "Share of the error budget that is left: 99.9 % of requests in 30 days without a 5xx.",
                    "percentunit",
                    Query("slo:availability:budget_remaining", "{{service}}"),
                    steps=BUDGET,
                    runbook="AvailabilityBudgetBurnsFast",
                ),
                number(
                    "Latency budget",
                    "Share of the budget that is left: 95 % of requests in 30 days within 250 ms.",
                    "percentunit",
                    Query("slo:latency:budget_remaining", "{{service}}"),
                    steps=BUDGET,
                    runbook="LatencyBudgetBurnsFast",
                ),
            ],
            "Service level objectives": [
                series(
                    "Availability burn rate",
                    "How many times faster than allowed the error budget burns; nothing while there are few requests.",
                    "none",
                    Query("slo:availability:burn_rate", "{{service}} {{window}}"),
                    steps=BURN,
                    runbook="AvailabilityBudgetBurnsFast",
                    soft_max=2,
                ),
                series(
                    "Latency burn rate",
                    "How many times faster than allowed the latency budget burns.",
                    "none",
                    Query("slo:latency:burn_rate", "{{service}} {{window}}"),
                    steps=BURN,
                    runbook="LatencyBudgetBurnsFast",
                    soft_max=2,
                ),
                series(
                    "Requests",
                    "Requests of clients per second.",
                    "reqps",
                    Query("service:http_requests:rate1m", "{{service}}"),
                ),
            ],
        },
        [single_choice("currency", "Currency", "label_values(currency_type:money_moved:rate1m, currency)")],
    )
