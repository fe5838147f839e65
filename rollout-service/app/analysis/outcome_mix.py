"""The mix of outcomes of canary and stable, side by side, for the operations page."""

from typing import Any

from app.analysis.model import OutcomeCounts, Samples, ServiceCounts

# Per service; the rest is in "other".
_MAX_OUTCOMES = 6
SUCCESS, ERRORS, NO_RESPONSE, OTHER = "success", "5xx", "no response", "other"


def outcome_mix(samples: Samples) -> list[dict[str, Any]]:
    """Return the share of each outcome of a step's requests or transactions: service, outcome, canary and stable.

    The share of a version without requests is None. There are no numbers of requests, because the page is public.
    """
    by_service = {counts.service: counts for counts in samples.services}
    return [row for counts in samples.outcomes or () for row in _rows(counts, by_service.get(counts.name))]


def _rows(counts: OutcomeCounts, requests: ServiceCounts | None) -> list[dict[str, Any]]:
    canary, stable = dict(counts.canary), dict(counts.stable)
    if requests is not None:
        canary[ERRORS] = requests.canary.errors if requests.canary else 0.0
        stable[ERRORS] = requests.stable.errors if requests.stable else 0.0
    canary[NO_RESPONSE] = counts.unanswered
    canary_total, stable_total = counts.canary_total + counts.unanswered, counts.stable_total

    def row(outcome: str, canary_count: float, stable_count: float) -> dict[str, Any]:
        shares = {"canary": _share(canary_count, canary_total), "stable": _share(stable_count, stable_total)}
        return {"service": counts.name, "outcome": outcome, **shares}

    def largest_share(name: str) -> float:
        return max(canary.get(name, 0.0) / (canary_total or 1), stable.get(name, 0.0) / (stable_total or 1))

    names = sorted({*canary, *stable}, key=lambda name: (-largest_share(name), name))
    names = [name for name in names if largest_share(name) > 0]
    listed, rest = names[:_MAX_OUTCOMES], names[_MAX_OUTCOMES:]
    rows = [row(SUCCESS, canary_total - sum(canary.values()), stable_total - sum(stable.values()))]
    rows += [row(name, canary.get(name, 0.0), stable.get(name, 0.0)) for name in listed]
    if rest:
        canary_rest, stable_rest = (sum(track.get(name, 0.0) for name in rest) for track in (canary, stable))
        rows.append(row(OTHER, canary_rest, stable_rest))
    return rows


def _share(count: float, total: float) -> float | None:
    # Failures may be scraped before the total, so a share could be slightly outside 0 to 1.
    return round(min(1.0, max(0.0, count / total)), 4) if total else None
