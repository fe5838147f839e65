"""Operators' own criteria."""

import math
from typing import TypeGuard

from app.analysis.model import CriterionValues, Finding


def compare_criterion(values: CriterionValues) -> Finding:
    """Compare an operator's criterion over its last analyses."""
    criterion = values.criterion
    pairs = list(zip(values.canary, values.stable, strict=True))[-criterion.analyses :]
    worse = [
        criterion.is_worse(canary, stable) for canary, stable in pairs if _is_number(canary) and _is_number(stable)
    ]
    return Finding(
        worse=len(worse) == criterion.analyses and all(worse),
        acceptable=len(worse) == len(pairs) > 0 and not worse[-1],
        figures={
            f"canary {criterion.name}": pairs[-1][0] if pairs else None,
            f"stable {criterion.name}": pairs[-1][1] if pairs else None,
        },
        detail=criterion.name,
    )


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
