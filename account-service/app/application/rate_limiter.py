"""Limits per subject: on its rate of operations, and on its share of the queue."""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.http.problems import Problem

# The least recently seen subjects are evicted first; their buckets are full again by then, or nearly so.
_MAX_SUBJECTS = 10_000


class RateLimiter:
    """A token bucket per subject: `burst` operations at once and `per_second` on average; 0 disables the limit."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        # Tokens left and the time of the last update, least recently seen subject first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def acquire(self, subject: str, operations: int) -> None:
        """Take a token for each operation. Raises Problem (rate-limited), and takes none, if too few are left."""
        if not self._per_second:
            return
        now = self._clock()
        tokens, updated_at = self._buckets.pop(subject, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - updated_at) * self._per_second)
        allowed = operations <= tokens
        self._buckets[subject] = (tokens - operations if allowed else tokens, now)
        if len(self._buckets) > _MAX_SUBJECTS:
            self._buckets.popitem(last=False)
        if not allowed:
            seconds = math.ceil((operations - tokens) / self._per_second)
            raise Problem(
                "rate-limited",
                f"Too many operations of one subject; a batch counts as its transfers. Retry in {seconds} s.",
                headers={"Retry-After": str(seconds)},
            )


class QueueQuota:
    """Keeps one subject from filling the queue with batches: it may queue one, or several of up to `limit` operations.

    Single operations need no limit here: each is a request in flight, and NGINX limits those per replica.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queued: Counter[str] = Counter()

    @contextmanager
    def reserve(self, subject: str, operations: int) -> Iterator[None]:
        """Count operations as queued while the block runs. Raises Problem (rate-limited) if there are too many."""
        queued = self._queued[subject]
        if operations > 1 and queued and queued + operations > self._limit:
            detail = "Too many operations of one subject are queued; send the rest when these are done."
            raise Problem("rate-limited", detail, headers={"Retry-After": "1"})
        self._queued[subject] = queued + operations
        try:
            yield
        finally:
            self._queued[subject] -= operations
            if not self._queued[subject]:
                del self._queued[subject]
