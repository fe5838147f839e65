"""How many operations a subject may ask for: a token bucket for each. It bounds what one subject can make us store."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from shared.problems import Problem

# Subjects that have been away longest are forgotten first; a bucket is full again by then, or nearly so.
_MAX_SUBJECTS = 10_000


class Quota:
    """Admits `burst` operations of a subject at once, and `per_second` in the long run; 0 admits all."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, subject: str, operations: int) -> None:
        """Count operations of a subject. Raises Problem (rate-limited), and counts none, when there are too many."""
        if not self._per_second:
            return
        now = self._clock()
        left, since = self._buckets.pop(subject, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = operations <= left
        self._buckets[subject] = (left - operations if allowed else left, now)
        if len(self._buckets) > _MAX_SUBJECTS:
            self._buckets.popitem(last=False)
        if not allowed:
            seconds = math.ceil((operations - left) / self._per_second)
            raise Problem(
                "rate-limited",
                f"Too many operations of one subject; a batch counts as its transfers. Try again in {seconds} s.",
                headers={"Retry-After": str(seconds)},
            )
