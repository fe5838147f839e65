"""Queries of the rendered dashboards, for tests that compare them with existing series."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from monitoring.dashboards import FOLDER

# Values of Grafana's variables with everything selected; texts are examples.
_VARIABLES = {"$service": ".+", "$track": ".+", "$currency": "USD", "$request_id": "an-id", "$text": "a text"}


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of a panel with its variables replaced; the language is promql or logql."""

    panel: str
    language: str
    expr: str


def panel_queries() -> Iterator[PanelQuery]:
    """Yield every query of every rendered dashboard."""
    for path in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"]
                for name, value in _VARIABLES.items():
                    expr = expr.replace(name, value)
                language = "logql" if panel["datasource"]["type"] == "loki" else "promql"
                yield PanelQuery(f"{path.stem}: {panel['title']} {target['refId']}", language, expr)
