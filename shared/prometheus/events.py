"""Metrics of outbox and consumers."""

from collections import Counter as CountOf
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from shared.events import Event
from shared.prometheus.registry import REGISTRY

OUTBOX_PENDING = Gauge("bank_outbox_pending", "Events committed and not yet published.", registry=REGISTRY)
OUTBOX_OLDEST = Gauge("bank_outbox_oldest_seconds", "Age of the oldest event not yet published.", registry=REGISTRY)
PUBLISHED = Counter("bank_events_published", "Events published, by type.", ["type"], registry=REGISTRY)
CONSUMED = Counter(
    "bank_events_consumed", "Events consumed: processed, duplicate or dead.", ["type", "outcome"], registry=REGISTRY
)
CONSUMER_LAG = Gauge("bank_consumer_lag_seconds", "Age of the last event when it was processed.", registry=REGISTRY)


def count_published(events: Iterable[Event]) -> None:
    """Count events that others can read from now on."""
    for type_, count in CountOf(event["type"] for event in events).items():
        PUBLISHED.labels(type_).inc(count)
