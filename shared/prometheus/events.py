"""Metrics of the outbox and of event consumers."""

from collections import Counter as CountOf
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from shared.events import DATA_MODELS, Event
from shared.prometheus.registry import REGISTRY

OUTBOX_PENDING = Gauge("bank_outbox_pending", "Number of committed events not yet published.", registry=REGISTRY)
OUTBOX_OLDEST = Gauge(
    "bank_outbox_oldest_seconds", "Age of the oldest event not yet published, in seconds.", registry=REGISTRY
)
PUBLISHED = Counter("bank_events_published", "Number of published events by type.", ["type"], registry=REGISTRY)
CONSUMED = Counter(
    "bank_events_consumed",
    "Number of consumed events by outcome: processed, duplicate or dead; in a canary's dry run: dry_run or failed.",
    ["type", "outcome"],
    registry=REGISTRY,
)
RECOVERED = Counter(
    "bank_events_recovered",
    "Number of events read from the producer's feed because the broker has not delivered them.",
    registry=REGISTRY,
)
CONSUMER_LAG = Gauge(
    "bank_consumer_lag_seconds",
    "Age of the last event when it was processed, plus the time since the last success while the consumer is stalled.",
    registry=REGISTRY,
)


def init_outcome(outcome: str) -> None:
    """Initialize the counters of an outcome to 0, so that `increase` sees the first event."""
    for type_ in (*DATA_MODELS, "unknown"):
        CONSUMED.labels(type_, outcome)


def count_published(events: Iterable[Event]) -> None:
    """Count events that consumers can read from now on."""
    for type_, count in CountOf(event["type"] for event in events).items():
        PUBLISHED.labels(type_).inc(count)
