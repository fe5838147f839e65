"""Operators' own criteria."""

import math

from app.analysis.model import CriterionValues, Finding


def compare_criterion(values: CriterionValues) -> Finding:
    """Compare an operator's criterion over its last analyses."""
    criterion = values.criterion
    pairs = list(zip(values.canary, values.stable, strict=True))[-criterion.analyses :]
    known = [(one, other) for one, other in pairs if _is_number(one) and _is_number(other)]
    worse = [criterion.is_worse(one, other) for one, other in known if one is not None and other is not None]
    return Finding(
        worse=len(worse) == criterion.analyses and all(worse),
        acceptable=len(worse) == len(pairs) > 0 and not worse[-1],
        figures={
            f"canary {criterion.name}": pairs[-1][0] if pairs else None,
            f"stable {criterion.name}": pairs[-1][1] if pairs else None,
        },
        detail=criterion.name,
    )


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
