"""Series selected by PromQL expressions, and series that exist."""

import importlib.util
from functools import cache
from typing import Any

import promql_parser

from shared.testing.paths import ROOT
from monitoring.tests.test_rules import RECORDED
from shared.prometheus import database, events, http
from shared.prometheus.registry import REGISTRY

_ENDINGS = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
# Imported because they register the common metrics.
_COMMON = (database, events, http)


@cache
def known() -> frozenset[str]:
    """Return the names of all series: recorded, exported by the services, or built into Prometheus."""
    for path in ROOT.glob("*-service/app/prometheus/__init__.py"):
        # Each service has a package called `app`, so they are imported by path under different names.
        spec = importlib.util.spec_from_file_location(f"metrics of {path.parents[2].name}", path)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    exported = {metric.name + ending for metric in REGISTRY.collect() for ending in _ENDINGS.get(metric.type, [""])}
    return frozenset(exported | RECORDED | {"ALERTS"})


def selected(expression: str) -> set[str]:
    """Return the names of the series that an expression selects. Raises ValueError for invalid PromQL."""
    names = set()

    def visit(node: Any) -> None:
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector):
            names.add(str(selector.name))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names
