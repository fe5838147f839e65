"""Time of the last completed check; without it, a check that has stopped would look like one without findings."""

from prometheus_client import Gauge

from shared.prometheus.registry import REGISTRY

CHECKED = Gauge(
    "bank_check_completed_timestamp_seconds",
    "Time of the last completed ledger check or reconciliation, whatever its result; initially the process start.",
    ["check"],
    registry=REGISTRY,
)
