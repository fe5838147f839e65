"""Contract probes, and operators' own criteria."""

import math

from app.analysis.model import CriterionValues, Finding, ProbeFailures


def compare_probe(failures: ProbeFailures) -> Finding:
    """Compare a contract probe: the canary must not fail where stable does not."""
    name = f"{failures.service} {failures.probe}"
    worse = failures.canary > 0 and not failures.stable > 0
    return Finding(worse, True, {f"canary {name}": failures.canary, f"stable {name}": failures.stable}, name)


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
