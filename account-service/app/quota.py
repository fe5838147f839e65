"""How many operations a subject may ask for: it bounds what one subject can make us store, and others wait for."""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.http.problems import Problem

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


class FairQueue:
    """Keeps one subject from filling the queue with batches: one may wait, or several with up to `most` operations.

    Single operations are bounded by the edge, which gives a replica few requests at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: Counter[str] = Counter()

    @contextmanager
    def place(self, subject: str, operations: int) -> Iterator[None]:
        """Count operations as waiting for the time of the block. Raises Problem (rate-limited) for too many."""
        waiting = self._waiting[subject]
        if operations > 1 and waiting and waiting + operations > self._most:
            detail = "Too many operations of one subject are waiting; send the rest when these are done."
            raise Problem("rate-limited", detail, headers={"Retry-After": "1"})
        self._waiting[subject] = waiting + operations
        try:
            yield
        finally:
            self._waiting[subject] -= operations
            if not self._waiting[subject]:
                del self._waiting[subject]
