"""The registry of the process; every sample is labelled with service, version and track."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the number of series
REGISTRY = CollectorRegistry()
CONTENT_TYPE = CONTENT_TYPE_LATEST

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


class _Labelled:
    """A view of the registry that adds the same labels to every sample.

    A sample's own service and track are kept: the autoscaler and rollout-service export metrics about other services.
    """

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics with the labels added."""
        for metric in REGISTRY.collect():
            metric.samples = [
                Sample(sample.name, {**sample.labels, **self._labels_for(sample)}, *sample[2:])
                for sample in metric.samples
            ]
            yield metric

    def _labels_for(self, sample: Sample) -> dict[str, str]:
        labels = {name: value for name, value in sample.labels.items() if name in ("service", "track")}
        return {**self._labels, **labels}


def render(service: str, version: str, track: str) -> bytes:
    """Return all metrics in the text format."""
    labelled: Any = _Labelled({"service": service, "version": version, "track": track})
    return generate_latest(labelled)
