"""Event flow: outbox, broker, consumers and dead letters."""

from collections.abc import Callable

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, Panel, Query, build_dashboard, stat_panel, time_series_panel

_SELECTED = 'service=~"$service"'
OUTBOX = {30.0: "red"}
LAG = {60.0: "red"}


def _delay_panels(panel: Callable[..., Panel]) -> list[Panel]:
    """Return panels of this kind for outbox and consumers."""
    return [
        panel(
            "Outbox size",
            "Events committed and not yet published.",
            "short",
            Query(f"service:outbox_pending:max{{{_SELECTED}}}", "{{service}}"),
            runbook="OutboxStalled",
        ),
        panel(
            "Oldest event in the outbox",
            "Age of the oldest unpublished event.",
            "s",
            Query(f"service:outbox_oldest_seconds:max{{{_SELECTED}}}", "{{service}}"),
            thresholds=OUTBOX,
            runbook="OutboxStalled",
        ),
        panel(
            "Consumer lag",
            "Age of the last event when it was processed; grows while the consumer is stuck.",
            "s",
            Query(f"service:consumer_lag_seconds:max{{{_SELECTED}}}", "{{service}}"),
            thresholds=LAG,
            runbook="ConsumerLagging",
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    return build_dashboard(
        "bank-events",
        "Event flow",
        "Events from the outbox through the broker to the consumers.",
        {
            "Now": [
                *_delay_panels(stat_panel),
                stat_panel(
                    "Dead letters",
                    "Events moved to the dead-letter queue after five attempts, in the last hour.",
                    "short",
                    Query(f"service:dead_letters:increase1h{{{_SELECTED}}}", "{{service}}"),
                    thresholds={1.0: "red"},
                    runbook="DeadLetters",
                ),
            ],
            "Flow": [
                time_series_panel(
                    "Published",
                    "Events per second, by type.",
                    "ops",
                    Query(
                        f"sum by (service, type) (rate(bank_events_published_total{{{_SELECTED}}}[1m]))",
                        "{{service}} {{type}}",
                    ),
                    runbook="OutboxStalled",
                ),
                time_series_panel(
                    "Consumed",
                    "Events per second, by outcome.",
                    "ops",
                    Query(f"service:events_consumed:rate1m{{{_SELECTED}}}", "{{service}} {{outcome}}"),
                    runbook="ConsumerLagging",
                ),
            ],
            "Delay": _delay_panels(time_series_panel),
            "Webhooks": [
                time_series_panel(
                    "Deliveries",
                    "Attempts to deliver events to webhooks per second, by result.",
                    "ops",
                    Query(f"service:webhook_deliveries:rate5m{{{_SELECTED}}}", "{{result}}"),
                    runbook="WebhooksStalled",
                ),
                time_series_panel(
                    "Oldest pending event",
                    "Age of the oldest event that waits for a webhook without failures.",
                    "s",
                    Query(f"service:webhook_oldest_pending_seconds:max{{{_SELECTED}}}", "{{service}}"),
                    runbook="WebhooksStalled",
                ),
                time_series_panel(
                    "Webhooks",
                    "Subscriptions by state; failing ones are tried again for three days, then disabled.",
                    "short",
                    Query(f"max by (state) (bank_webhooks{{{_SELECTED}}})", "{{state}}"),
                    runbook="WebhooksStalled",
                ),
            ],
        },
        [SERVICE],
    )
