"""The mix of outcomes of canary and stable, side by side, for the operations page."""

from typing import Any

from app.analysis.model import OutcomeCounts, Samples, ServiceCounts

# Per service; the rest is in "other".
_MAX_OUTCOMES = 6
SUCCESS, ERRORS, NO_RESPONSE, OTHER = "success", "5xx", "no response", "other"


def outcome_mix(samples: Samples) -> list[dict[str, Any]]:
    """Return the shares of each outcome of a step's requests or transactions: service, outcome, canary and stable.

    Without any of a version its share is None. The public page shows them, so there are no numbers of requests.
    """
    errors = {one.service: one for one in samples.services}
    return [row for counts in samples.outcomes or () for row in _of_service(counts, errors.get(counts.name))]


def _of_service(counts: OutcomeCounts, errors: ServiceCounts | None) -> list[dict[str, Any]]:
    canary, stable = dict(counts.canary), dict(counts.stable)
    if errors is not None:
        canary[ERRORS] = errors.canary.errors if errors.canary else 0.0
        stable[ERRORS] = errors.stable.errors if errors.stable else 0.0
    canary[NO_RESPONSE] = counts.unanswered
    totals = counts.canary_total + counts.unanswered, counts.stable_total
    most = {
        name: max(one.get(name, 0.0) / (total or 1) for one, total in zip((canary, stable), totals))
        for name in {*canary, *stable}
    }
    names = sorted((name for name in most if most[name] > 0), key=lambda name: (-most[name], name))
    rows: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in names[:_MAX_OUTCOMES]]
    if rest := tuple(names[_MAX_OUTCOMES:]):
        rows.append((OTHER, rest))
    found = [(SUCCESS, *(_share(total - sum(one.values()), total) for one, total in zip((canary, stable), totals)))]
    for outcome, among in rows:
        parts = (sum(one.get(name, 0.0) for name in among) for one in (canary, stable))
        found.append((outcome, *(_share(part, total) for part, total in zip(parts, totals))))
    return [{"service": counts.name, "outcome": name, "canary": own, "stable": other} for name, own, other in found]


def _share(count: float, total: float) -> float | None:
    # A request may be counted as failed a scrape before it is counted at all.
    return round(min(1.0, max(0.0, count / total)), 4) if total else None
