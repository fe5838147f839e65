"""Grafana's dashboards, as code; `make dashboards` renders them to monitoring/grafana-dashboards."""

from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.dashboards import autoscaling, canary, events, logs, overview, services

FOLDER = Path(__file__).resolve().parent.parent / "grafana-dashboards"


def rendered() -> Iterator[tuple[Path, str]]:
    """Yield the path and the JSON of each dashboard."""
    for module in (overview, services, canary, autoscaling, events, logs):
        dashboard = module.build()
        name = str(dashboard.uid).removeprefix("bank-")
        yield FOLDER / f"{name}.json", JSONEncoder(indent=2, sort_keys=True).encode(dashboard) + "\n"
