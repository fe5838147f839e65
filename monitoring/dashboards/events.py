"""Event flow: outbox, bus, consumers and what they could not digest."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, Query, board, number, series

_CHOSEN = 'service=~"$service"'
OUTBOX = {30.0: "red"}
LAG = {60.0: "red"}


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        "bank-events",
        "Event flow",
        "Events on their way from the ledger to the history.",
        {
            "Now": [
                number(
                    "Waiting in the outbox",
                    "Events committed and not yet published.",
                    "short",
                    Query(f"service:outbox_pending:max{{{_CHOSEN}}}", "{{service}}"),
                    runbook="OutboxStalled",
                ),
                number(
                    "Oldest in the outbox",
                    "How long the oldest unpublished event has waited.",
                    "s",
                    Query(f"service:outbox_oldest_seconds:max{{{_CHOSEN}}}", "{{service}}"),
                    steps=OUTBOX,
                    runbook="OutboxStalled",
                ),
                number(
                    "Consumer lag",
                    "Age of the last event when it was processed.",
                    "s",
                    Query(f"service:consumer_lag_seconds:max{{{_CHOSEN}}}", "{{service}}"),
                    steps=LAG,
                    runbook="ConsumerLagging",
                ),
                number(
                    "Dead letters",
                    "Events set aside after five tries, in the last hour.",
                    "short",
                    Query(f"service:dead_letters:increase1h{{{_CHOSEN}}}", "{{service}}"),
                    steps={1.0: "red"},
                    runbook="DeadLetters",
                ),
            ],
            "Flow": [
                series(
                    "Published",
                    "Events per second, by type.",
                    "ops",
                    Query(
                        f"sum by (service, type) (rate(bank_events_published_total{{{_CHOSEN}}}[1m]))",
                        "{{service}} {{type}}",
                    ),
                ),
                series(
                    "Consumed",
                    "Events per second, by outcome.",
                    "ops",
                    Query(f"service:events_consumed:rate1m{{{_CHOSEN}}}", "{{service}} {{outcome}}"),
                ),
            ],
            "Delay": [
                series(
                    "Outbox",
                    "Events waiting to be published.",
                    "short",
                    Query(f"service:outbox_pending:max{{{_CHOSEN}}}", "{{service}}"),
                ),
                series(
                    "Oldest in the outbox",
                    "How long the oldest unpublished event has waited.",
                    "s",
                    Query(f"service:outbox_oldest_seconds:max{{{_CHOSEN}}}", "{{service}}"),
                    steps=OUTBOX,
                ),
                series(
                    "Consumer lag",
                    "Age of the last event when it was processed; grows while nothing is.",
                    "s",
                    Query(f"service:consumer_lag_seconds:max{{{_CHOSEN}}}", "{{service}}"),
                    steps=LAG,
                ),
            ],
        },
        [SERVICE],
    )
