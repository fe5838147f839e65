"""Compares two distributions that are given as histograms.

The Mann-Whitney U test (1947, Ann. Math. Statist. 18) corrected for ties (Kruskal and Wallis 1952, JASA 47); each
bucket of the histogram is one large tie. Its z is compared with the mixture boundary of Robbins (1970, Ann. Math.
Statist. 41), which a Brownian motion ever crosses with a probability below `alpha`.
"""

import math
from dataclasses import dataclass

# Number of pairs of requests at which the boundary is tightest.
_PAIRS = 20.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Probability that the first of a random pair is greater, its z and the boundary, and both means."""

    superiority: float
    z: float
    boundary: float
    mean: float
    other_mean: float


def compare(counts: list[float], other_counts: list[float], bounds: list[float], alpha: float) -> Comparison | None:
    """Compare two histograms, given as counts per bucket; None if one is empty."""
    total, other_total = sum(counts), sum(other_counts)
    both = total + other_total
    if not total or not other_total:
        return None
    below = wins = ties = 0.0
    for count, other_count in zip(counts, other_counts):
        wins += count * (below + other_count / 2)
        below += other_count
        ties += (count + other_count) ** 3 - (count + other_count)
    pairs = total * other_total / both
    variance = total * other_total / 12 * (both + 1 - ties / (both * max(both - 1, 1)))
    return Comparison(
        superiority=wins / (total * other_total),
        z=(wins - total * other_total / 2) / math.sqrt(variance) if variance > 0 else 0.0,
        boundary=math.sqrt((1 + _PAIRS / pairs) * math.log((pairs + _PAIRS) / _PAIRS / alpha**2)),
        mean=_mean(counts, bounds),
        other_mean=_mean(other_counts, bounds),
    )


def counts_per_bucket(cumulative: list[float]) -> list[float]:
    """Return counts per bucket from cumulative ones."""
    return [upper - lower for lower, upper in zip([0.0, *cumulative], cumulative)]


def _mean(counts: list[float], bounds: list[float]) -> float:
    """Return the mean, with each value at the middle of its bucket, or at the last finite bound."""
    edges = [0.0, *bounds]
    middles = [(lower + upper) / 2 if upper < math.inf else lower for lower, upper in zip(edges, bounds)]
    return sum(map(math.prod, zip(counts, middles))) / sum(counts)
