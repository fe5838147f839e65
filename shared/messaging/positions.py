"""Positions of processed events in a producer's outbox, as ranges: plain functions on plain data.

The producer assigns positions from 1 without gaps, so a few ranges describe any number of consumed events.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Range(NamedTuple):
    """The positions `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Consumed positions as sorted ranges that are not adjacent."""

    ranges: tuple[Range, ...] = ()

    def __contains__(self, position: int) -> bool:
        return any(first <= position <= last for first, last in self.ranges)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def add(self, added: Iterable[Range]) -> "Positions":
        """Return these positions and those added."""
        merged: list[Range] = []
        for first, last in sorted((*self.ranges, *added)):
            if merged and first <= merged[-1].last + 1:
                merged[-1] = Range(merged[-1].first, max(last, merged[-1].last))
            else:
                merged.append(Range(first, last))
        return Positions(tuple(merged))

    @property
    def gapless_end(self) -> int:
        """The last position up to which none is missing; 0 if the first one is."""
        return self.ranges[0].last if self.ranges and self.ranges[0].first == 1 else 0

    @property
    def gap_end(self) -> int | None:
        """The last position of the first gap; None if nothing is known to be missing."""
        following = [first for first, _ in self.ranges if first > self.gapless_end + 1]
        return following[0] - 1 if following else None

    def dumps(self) -> str:
        """Return the ranges as JSON, e.g. `[[1,500],[800,900]]`."""
        return json.dumps(self.ranges, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> "Positions":
        """Return the ranges in what `dumps` returned."""
        return cls(tuple(Range(first, last) for first, last in json.loads(text)))
