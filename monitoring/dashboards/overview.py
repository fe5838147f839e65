"""Bank overview: is money moving, are the books right, is the service that was promised delivered."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import Query, board, number, series

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
            "Now": [
                number(
                    "Transactions",
                    "Money movements posted per second.",
                    "ops",
                    Query('sum(rate(bank_transactions_total{status="posted"}[1m]))'),
                ),
                number(
                    "Ledger imbalance",
                    "Sum of all balances; anything but 0 is a broken ledger.",
                    "short",
                    Query("ledger:imbalance:max", "{{currency}}"),
                    steps=BROKEN,
                    runbook="LedgerImbalance",
                ),
                number(
                    "Reconciliation mismatches",
                    "Accounts whose history differs from the balance in the ledger.",
                    "short",
                    Query("ledger:reconciliation_mismatches:max"),
                    steps=BROKEN,
                    runbook="ReconciliationMismatch",
                ),
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
                number(
                    "Alerts firing",
                    "Alerts that fire now, without those that only wake the autoscaler or say that alerting works.",
                    "short",
                    Query('count(ALERTS{alertstate="firing", severity=~"page|ticket"}) or vector(0)'),
                    steps=BROKEN,
                ),
            ],
            "Money": [
                series(
                    "Transactions by type",
                    "Money movements posted per second.",
                    "ops",
                    Query('sum by (type) (rate(bank_transactions_total{status="posted"}[1m]))', "{{type}}"),
                ),
                series(
                    "Money moved",
                    "Per second, in minor units of the currency (cents, for example).",
                    "short",
                    Query(
                        "sum by (currency, type) (rate(bank_transaction_amount_minor_total[1m]))",
                        "{{type}} {{currency}}",
                    ),
                ),
                series(
                    "Refusals",
                    "Money movements refused per second: insufficient funds, frozen accounts and the like.",
                    "ops",
                    Query('sum by (type) (rate(bank_transactions_total{status="refused"}[1m]))', "{{type}}"),
                ),
                series(
                    "Findings of the fraud rules",
                    "Transactions flagged in the last five minutes.",
                    "short",
                    Query("sum by (rule) (increase(bank_flags_total[5m]))", "{{rule}}"),
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
                ),
                series(
                    "Latency burn rate",
                    "How many times faster than allowed the latency budget burns.",
                    "none",
                    Query("slo:latency:burn_rate", "{{service}} {{window}}"),
                    steps=BURN,
                    runbook="LatencyBudgetBurnsFast",
                ),
                series(
                    "Requests",
                    "Requests of clients per second.",
                    "reqps",
                    Query("service:http_requests:rate1m", "{{service}}"),
                ),
            ],
        },
    )
