"""When the checks of the books last came to a result: one that stopped would look like books that are in order."""

from prometheus_client import Gauge

from shared.prometheus.registry import REGISTRY

CHECKED = Gauge(
    "bank_check_completed_timestamp_seconds",
    "When a check of the books last came to a result, whatever it was; at first, when the process began to check.",
    ["check"],
    registry=REGISTRY,
)
