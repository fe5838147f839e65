"""PromQL queries to a running Prometheus: which series an expression selects, and how many.

For contract tests: a selector without series has a metric that is not exported, or a label that is not set.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from harness.client import REQUEST_SECONDS

_SELECTORS = {"vectorSelector", "matrixSelector"}


@dataclass(frozen=True, slots=True)
class Count:
    """Number of series of an expression and of each of its selectors."""

    where: str
    expression: str
    series: int
    selectors: dict[str, int]

    @property
    def empty(self) -> list[str]:
        """The selectors without series."""
        return [selector for selector, series in self.selectors.items() if not series]


class Prometheus:
    """A Prometheus 3 by its HTTP API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=REQUEST_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a response; an invalid expression fails with Prometheus' error message."""
        response = self._client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, f"{parameters}: {response.text}"
        return response.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query, each with `metric` and `value`; a scalar is one without labels."""
        found = self.get("query", query=expression)
        if found["resultType"] == "vector":
            return list(found["result"])
        return [{"metric": {}, "value": found["result"]}]

    def value(self, expression: str) -> float | None:
        """Return the first value of an instant query, None without one."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def selectors(self, expression: str) -> list[str]:
        """Return the selectors of an expression without their ranges, each once."""
        return list(dict.fromkeys(_selector(node) for node in _nodes(self.get("parse_query", query=expression))))

    def count(self, where: str, expression: str) -> Count:
        """Count the current series of an expression and of its selectors."""
        selectors = {selector: len(self.query(selector)) for selector in self.selectors(expression)}
        return Count(where, expression, len(self.query(expression)), selectors)


def table(counts: Iterable[Count]) -> str:
    """Return `where → series` lines, with the selectors that have no series."""
    return "\n".join(
        f"{count.where:60} {count.series:5} series" + "".join(f"  nothing in {name}" for name in count.empty)
        for count in counts
    )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the selectors of a syntax tree, in order."""
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)
    elif isinstance(tree, dict):
        if tree.get("type") in _SELECTORS:
            yield tree
        for item in tree.values():
            yield from _nodes(item)


def _selector(node: dict[str, Any]) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    matchers = [f"{item['name']}{item['type']}{quoted(item['value'])}" for item in node["matchers"]]
    named = [item for item in matchers if not item.startswith("__name__=")]
    if node["name"]:
        return f"{node['name']}{{{', '.join(named)}}}" if named else str(node["name"])
    return f"{{{', '.join(matchers)}}}"
