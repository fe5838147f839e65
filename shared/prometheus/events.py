"""Metrics of outbox and consumers."""

from collections import Counter as CountOf
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from shared.events import DATA_MODELS, Event
from shared.prometheus.registry import REGISTRY

OUTBOX_PENDING = Gauge("bank_outbox_pending", "Events committed and not yet published.", registry=REGISTRY)
OUTBOX_OLDEST = Gauge("bank_outbox_oldest_seconds", "Age of the oldest event not yet published.", registry=REGISTRY)
PUBLISHED = Counter("bank_events_published", "Events published, by type.", ["type"], registry=REGISTRY)
CONSUMED = Counter(
    "bank_events_consumed",
    "Events consumed: processed, duplicate or dead; by a canary, which takes everything back: rehearsed or failed.",
    ["type", "outcome"],
    registry=REGISTRY,
)
CONSUMER_LAG = Gauge(
    "bank_consumer_lag_seconds",
    "Age of the last event when it was processed, and the time since then while the consumer gets nothing done.",
    registry=REGISTRY,
)


def expect_failures(outcome: str) -> None:
    """Start the counters of an outcome at 0: an increase from nothing to the first one would not be seen."""
    for type_ in (*DATA_MODELS, "unknown"):
        CONSUMED.labels(type_, outcome)


def count_published(events: Iterable[Event]) -> None:
    """Count events that others can read from now on."""
    for type_, count in CountOf(event["type"] for event in events).items():
        PUBLISHED.labels(type_).inc(count)
