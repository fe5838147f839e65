"""Load profile of a surge, and evaluation of its requests: pure functions on plain data, without Locust."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Durations in seconds: baseline load, linear ramp, peak, and baseline load again.
BASELINE, RAMP, PEAK, RECOVERY = 60, 30, 180, 90
PEAK_FACTOR = 10
_REJECTED = (429, 503)
_DEPOSITS = "/deposits"
COUNTS = ("ok", "rejected", "failed")


def customers_at(seconds: float, baseline: int, scale: float) -> int | None:
    """Return the number of customers at a time of the surge, None when it is over; `scale` multiplies all durations."""
    at = seconds / scale
    if at < BASELINE:
        return baseline
    if at < BASELINE + RAMP:
        return baseline + round(baseline * (PEAK_FACTOR - 1) * (at - BASELINE) / RAMP)
    if at < BASELINE + RAMP + PEAK:
        return baseline * PEAK_FACTOR
    return baseline if at < BASELINE + RAMP + PEAK + RECOVERY else None


class SentRequest(NamedTuple):
    """A request that moves money, and the status of its response; 0 without a response."""

    path: str
    account: str
    body: Mapping[str, Any]
    token: str
    status: int = 0

    @property
    def is_uncertain(self) -> bool:
        """Whether it may or may not have moved money; a 4xx other than 409 means that it has not."""
        return self.status == 0 or self.status >= 500 or self.status == 409


def expected_balances(requests: Iterable[SentRequest]) -> dict[str, int]:
    """Return the balance of each account according to the acknowledged requests."""
    balances: dict[str, int] = defaultdict(int)
    for request in requests:
        if request.status != 201:
            continue
        if request.path.endswith(_DEPOSITS):
            balances[request.account] += request.body["amount"]
        else:
            balances[request.body["from_account"]] -= request.body["amount"]
            balances[request.body["to_account"]] += request.body["amount"]
    return dict(balances)


def balance_difference(expected: Mapping[str, int], actual: Mapping[str, int]) -> int:
    """Return the sum of the absolute differences between expected and actual balances, in minor units."""
    return sum(abs(expected.get(name, 0) - actual.get(name, 0)) for name in expected.keys() | actual.keys())


@dataclass
class Second:
    """The responses of one second; latencies in milliseconds."""

    users: int = 0
    ok: int = 0
    rejected: int = 0
    rejections_without_retry_after: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    def count(self, status: int, has_retry_after: bool, milliseconds: float) -> None:
        """Count a response; a 4xx other than 429 and a missing response (status 0) are failures."""
        if 200 <= status < 300:
            self.ok += 1
            self.latencies.append(milliseconds)
        elif status in _REJECTED:
            self.rejected += 1
            self.rejections_without_retry_after += not has_retry_after
        else:
            self.failed += 1


def p95(latencies: list[float]) -> float | None:
    """Return the 95th percentile; None without values."""
    return sorted(latencies)[max(0, -(-95 * len(latencies) // 100) - 1)] if latencies else None


def timeline(seconds: Mapping[int, Second], step: int = 5) -> list[dict[str, Any]]:
    """Return the requests per second by result, and the p95 in milliseconds, for each interval of `step` seconds."""
    rows = []
    for start in range(0, max(seconds, default=-1) + 1, step):
        interval = [seconds[at] for at in range(start, start + step) if at in seconds]
        row: dict[str, Any] = {name: sum(getattr(second, name) for second in interval) / step for name in COUNTS}
        latencies = [latency for second in interval for latency in second.latencies]
        users = max((second.users for second in interval), default=0)
        rows.append({"at": start, "users": users, **row, "p95": p95(latencies)})
    return rows


def missed_thresholds(seconds: Iterable[Second], difference: int, mismatches: int, unresolved: int) -> list[str]:
    """Return a message for each threshold that the surge has missed.

    `difference` is that of the balances in minor units, `mismatches` the number of accounts that the reconciliation
    reports, and `unresolved` the number of requests without a final response.
    """
    every = list(seconds)
    ok = sum(second.ok for second in every)
    without_retry_after = sum(second.rejections_without_retry_after for second in every)
    thresholds = {
        "no request succeeded": ok == 0,
        f"balance differences: {difference} minor units": difference != 0,
        f"reconciliation mismatches: {mismatches} accounts": mismatches != 0,
        f"requests without a final response after retries: {unresolved}": unresolved != 0,
        f"rejections without Retry-After: {without_retry_after}": without_retry_after != 0,
    }
    return [message for message, is_missed in thresholds.items() if is_missed]
