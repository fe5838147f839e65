"""The contract probe: recorded requests with their exact responses, compared as plain data.

contract.json has the requests in order. Expected values are exact, types and field names included, apart from
placeholders in texts: `<uuid>`, `<time>`, `<account-number>` and `<cursor>`. `{name}` in a request or response is a
value that an earlier response has saved under this name, or `{run}`, which is unique to the run.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

_FILE = Path(__file__).with_name("contract.json")
_MAX_DIFFERENCE = 300
_PLACEHOLDERS = {
    "<uuid>": r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "<time>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z",
    "<account-number>": r"[A-Z0-9]{8,34}",
    "<cursor>": r"[A-Za-z0-9_-]{22}",
}
# Responses of an overloaded or unreachable replica say nothing about its contract, unless they are expected.
_TRANSIENT = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Probe:
    """A request, and the status, headers and body of its response; `save` has pointers to top-level fields by name.

    `token` is false for a request without credentials. `content` is a body that is not JSON. `eventually` is true for
    responses of the history, which lags behind, and is complete only as far as account-service has confirmed in time.
    """

    name: str
    service: str
    method: str
    path: str
    status: int
    response: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content: str | None = None
    token: bool = True
    eventually: bool = False
    response_headers: Mapping[str, str] = field(default_factory=dict)
    save: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of a probe on a track: the difference from the expected response, empty without one; None if unknown."""

    service: str
    track: str
    probe: str
    difference: str | None


@dataclass(frozen=True, slots=True)
class Response:
    """A response: headers by name in lower case; a JSON body is decoded."""

    status: int
    headers: Mapping[str, str]
    body: Any


def load() -> tuple[Probe, ...]:
    """Return the recorded probes."""
    return TypeAdapter(tuple[Probe, ...]).validate_json(_FILE.read_bytes())


def fill(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value with every `{name}` in its texts replaced. Raises KeyError for an unknown name."""
    if isinstance(value, str):
        return re.sub(r"\{([a-z_]+)\}", lambda match: names[match[1]], value)
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    return {key: fill(item, names) for key, item in value.items()} if isinstance(value, Mapping) else value


def compare(probe: Probe, track: str, response: Response, names: Mapping[str, str]) -> ProbeResult:
    """Compare a response with the expected one."""
    difference: str | None
    transient = response.status in _TRANSIENT and response.status != probe.status
    if transient or response.headers.get("x-app-track", track) != track:
        difference = None
    else:
        difference = _difference(probe, response, names)[:_MAX_DIFFERENCE]
    return ProbeResult(probe.service, track, probe.name, difference)


def regressions(results: list[ProbeResult]) -> list[ProbeResult]:
    """Return the differences of canaries in probes whose response from stable is as expected."""
    correct = {result.probe for result in results if result.track == "stable" and result.difference == ""}
    return [result for result in results if result.track == "canary" and result.difference and result.probe in correct]


def _difference(probe: Probe, response: Response, names: Mapping[str, str]) -> str:
    if response.status != probe.status:
        code = response.body.get("code", "") if isinstance(response.body, Mapping) else ""
        return f"status: expected {probe.status}, got {response.status} {code}".rstrip()
    if missing := {"x-app-track", "x-app-version"} - response.headers.keys():
        return f"header {min(missing)}: missing"
    for name, expected in fill(probe.response_headers, names).items():
        if difference := _first_difference(expected, response.headers.get(name.lower()), f"header {name}"):
            return difference
    return _first_difference(fill(probe.response, names), response.body, "body")


def _first_difference(expected: Any, actual: Any, location: str) -> str:
    """Return the first difference, empty without one."""
    if isinstance(expected, str) and isinstance(actual, str):
        parts = re.split(f"({'|'.join(_PLACEHOLDERS)})", expected)
        pattern = "".join(_PLACEHOLDERS.get(part, re.escape(part)) for part in parts)
        return "" if re.fullmatch(pattern, actual) else _message(location, expected, actual)
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if missing := expected.keys() - actual.keys():
            return f"{location}/{min(missing)}: missing"
        if surplus := actual.keys() - expected.keys():
            return f"{location}/{min(surplus)[:40]}: unexpected"
        return next(
            filter(None, (_first_difference(expected[key], actual[key], f"{location}/{key}") for key in expected)), ""
        )
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = enumerate(zip(expected, actual))
        return next(filter(None, (_first_difference(*pair, f"{location}/{number}") for number, pair in pairs)), "")
    # 1, 1.0 and true are equal for Python.
    return "" if type(expected) is type(actual) and expected == actual else _message(location, expected, actual)


def _message(location: str, expected: Any, actual: Any) -> str:
    return f"{location}: expected {json.dumps(expected)[:100]}, got {json.dumps(actual)[:100]}"
