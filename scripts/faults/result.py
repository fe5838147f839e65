"""The result of a faulty release's rollout, and its thresholds: plain functions on plain data."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.faults.customers import USER_AGENT
from scripts.faults.stack import Request
from shared.testing.thresholds import Threshold

# Reasons of which one must be in the verdict, by fault; any rollback is right for other faults.
_REASONS = {
    "errors": "errors|retries|contract",
    "some-errors": "errors|retries|contract",
    "401-all": "outcomes|retries|contract|errors",
    "404-all": "outcomes|retries|contract|errors",
    "422-valid": "outcomes|retries|contract|errors",
    "409-half": "outcomes|retries|contract|errors",
    "wrong-balance-field": "contract",
    "no-events": "events|reconciliation|outcomes|contract",
    "no-history": "history",
    "wrong-amount-event": "events|reconciliation|outcomes|contract",
    "double-post": "ledger-violation|errors|retries|contract",
    "consumer": "consumer|dead-letters",
    "slow": "latency",
    "slow-1-in-50": "latency",
    "hang": "no-response",
    "leak": "memory|restart",
    "cpu-x3": "cpu|latency",
    # While the canaries start, before any analysis.
    "unready": "ready",
    "bad-config": "outcomes|retries|contract|errors",
}
# Rolled back, but not because of the fault.
_UNDECIDED = re.compile("no verdict within|lease expired|end of ")
MAX_SECONDS = 30.0
# Everything fails, so there is nothing to be counted first.
MAX_SECONDS_ALL = 10.0
MAX_FAILED = 0.01
LAST_WEIGHT = 50


@dataclass(frozen=True, slots=True)
class CanaryTraffic:
    """The requests that reached a canary first: all of them, customers' and failed ones of these, and their times."""

    requests: int = 0
    customers: int = 0
    failed: int = 0
    first: float | None = None
    first_failed: float | None = None
    last: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the first failed request, or the first of all if none failed, to the last request."""
        started = self.first if self.first_failed is None else self.first_failed
        return 0.0 if started is None or self.last is None else self.last - started

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / max(1.0, (self.last or 0) - (self.first or 0))


def count(requests: Iterable[Request], canaries: set[str]) -> CanaryTraffic:
    """Return the traffic of the canaries with these addresses."""
    canary_requests = [request for request in requests if request.upstream in canaries]
    # Contract probes contain refusals.
    customers = [request for request in canary_requests if request.user_agent == USER_AGENT]
    failed = [request for request in customers if request.upstream_status >= 400 or not request.upstream_status]
    return CanaryTraffic(
        len(canary_requests),
        len(customers),
        len(failed),
        min((request.at for request in canary_requests), default=None),
        min((request.at for request in failed), default=None),
        max((request.at for request in canary_requests), default=None),
    )


@dataclass
class RolloutResult:
    """Last state, highest weight and traffic of a rollout, and the customers' failed requests and wrong responses."""

    state: Mapping[str, Any] = field(default_factory=dict)
    weight: int = 0
    passed: bool = False
    traffic: CanaryTraffic = CanaryTraffic()
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why the release was rolled back."""
        return str(self.state.get("reason", ""))


def thresholds(fault: str, result: RolloutResult, max_failed: float = MAX_FAILED) -> list[Threshold]:
    """Return the thresholds of a faulty release; `max_failed` is the share of the canary's requests that may fail."""
    rolled_back = (
        result.state.get("outcome") == "rolled-back"
        and not _UNDECIDED.match(result.reason)
        and not result.passed
        and result.weight < LAST_WEIGHT
    )
    expected = _REASONS.get(fault, "")
    limit = MAX_SECONDS_ALL if fault.endswith("-all") else MAX_SECONDS
    traffic, allowed = result.traffic, int(max_failed * result.traffic.customers)
    thresholds_ = [
        Threshold(
            f"rolled back before {LAST_WEIGHT} %",
            f"highest weight {result.weight} %, {'passed the analysis' if result.passed else result.reason}",
            rolled_back,
        ),
        Threshold(
            f"reason is one of {expected.replace('|', ', ')}" if expected else "reason",
            result.reason,
            rolled_back and re.search(expected, result.reason) is not None,
        ),
        Threshold(
            f"first faulty response to last canary request, at most {limit:.0f} s",
            f"{traffic.seconds:.1f} s, {traffic.rate:.1f} canary requests/s",
            rolled_back and traffic.seconds <= limit,
        ),
        Threshold(
            # A canary that never gets a request fails none.
            f"failed customer requests, at most {allowed} of {result.sent}",
            f"{len(result.failed)}" + (f", {len(result.wrong)} wrong responses" if result.wrong else ""),
            len(result.failed) <= allowed,
        ),
        Threshold("release removed", "; ".join(result.leftovers) or "yes", not result.leftovers),
    ]
    return thresholds_ if fault != "unready" else [thresholds_[0], thresholds_[3], thresholds_[4]]
