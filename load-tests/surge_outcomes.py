"""What a surge of load is, and what became of its requests: plain functions on plain data, without Locust."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Seconds and multiple of the calm number of customers; the number changes linearly in `ramp` and at once otherwise.
CALM, RAMP, PEAK, AFTER = 60, 30, 180, 90
FACTOR = 10
_REFUSED = (429, 503)
_DEPOSITS = "/deposits"
COUNTS = ("ok", "refused", "failed")


def customers_at(seconds: float, calm: int, scale: float) -> int | None:
    """Return the number of customers at a time of the surge, None when it is over; `scale` multiplies all durations."""
    at = seconds / scale
    if at < CALM:
        return calm
    if at < CALM + RAMP:
        return calm + round(calm * (FACTOR - 1) * (at - CALM) / RAMP)
    if at < CALM + RAMP + PEAK:
        return calm * FACTOR
    return calm if at < CALM + RAMP + PEAK + AFTER else None


class Post(NamedTuple):
    """A request that moves money, and the status of its response; 0 if there was none."""

    path: str
    account: str
    body: Mapping[str, Any]
    token: str
    status: int = 0

    @property
    def is_unknown(self) -> bool:
        """Whether it may or may not have moved money; other 4xx than 409 have moved none."""
        return self.status == 0 or self.status >= 500 or self.status == 409


def expected_balances(posts: Iterable[Post]) -> dict[str, int]:
    """Return the balance of each account that follows from the acknowledged requests."""
    balances: dict[str, int] = defaultdict(int)
    for post in posts:
        if post.status != 201:
            continue
        if post.path.endswith(_DEPOSITS):
            balances[post.account] += post.body["amount"]
        else:
            balances[post.body["from_account"]] -= post.body["amount"]
            balances[post.body["to_account"]] += post.body["amount"]
    return dict(balances)


def money_lost(expected: Mapping[str, int], found: Mapping[str, int]) -> int:
    """Return the sum of all differences between two sets of balances, in minor units."""
    return sum(abs(expected.get(name, 0) - found.get(name, 0)) for name in expected.keys() | found.keys())


@dataclass
class Second:
    """The responses of one second."""

    users: int = 0
    ok: int = 0
    refused: int = 0
    bare_refusals: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    def count(self, status: int, has_retry_after: bool, milliseconds: float) -> None:
        """Count a response; 4xx other than 429 and a missing response (status 0) are failures."""
        if 200 <= status < 300:
            self.ok += 1
            self.latencies.append(milliseconds)
        elif status in _REFUSED:
            self.refused += 1
            self.bare_refusals += not has_retry_after
        else:
            self.failed += 1


def p95(latencies: list[float]) -> float | None:
    """Return the 95th percentile, None without values."""
    return sorted(latencies)[max(0, -(-95 * len(latencies) // 100) - 1)] if latencies else None


def timeline(seconds: Mapping[int, Second], step: int = 5) -> list[dict[str, Any]]:
    """Return counts per second and the p95 in milliseconds of every `step` seconds."""
    rows = []
    for start in range(0, max(seconds, default=-1) + 1, step):
        part = [seconds[at] for at in range(start, start + step) if at in seconds]
        row: dict[str, Any] = {name: sum(getattr(one, name) for one in part) / step for name in COUNTS}
        latencies = [value for one in part for value in one.latencies]
        rows.append({"at": start, "users": max((one.users for one in part), default=0), **row, "p95": p95(latencies)})
    return rows


def missed(seconds: Iterable[Second], lost: int, mismatches: int, unresolved: int) -> list[str]:
    """Return the thresholds that a surge has missed."""
    every = list(seconds)
    bare, ok = sum(one.bare_refusals for one in every), sum(one.ok for one in every)
    thresholds = {
        "no request succeeded": ok == 0,
        f"{lost} minor units of money are lost or doubled": lost != 0,
        f"the history of {mismatches} accounts differs from the ledger": mismatches != 0,
        f"{unresolved} requests got no answer, even when they were repeated": unresolved != 0,
        f"{bare} refusals have no Retry-After": bare != 0,
    }
    return [line for line, is_missed in thresholds.items() if is_missed]
