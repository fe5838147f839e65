"""Verdicts with everything that they rest on: made, stored, and read again to see that the answer is still the same."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.analysis.model import Policy, Samples, ServiceCounts, TrackCounts, Verdict

# Floats of another machine's mathematics library may differ in the last digits.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Record:
    """A verdict with everything that it rests on; `about` is what the reader should know (rollout, step, weight)."""

    at: float
    samples: Samples
    policy: Policy
    verdict: Verdict
    about: Mapping[str, Any] = field(default_factory=dict)


def write_record(folder: Path, record: Record) -> Path:
    """Store a record as the folder's next NNN.json and return its path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=0) + 1
    path = folder / f"{number:03}.json"
    half = path.with_suffix(".half")
    half.write_text(as_json(record) + "\n", encoding="utf-8")
    half.replace(path)
    return path


def load_record(path: Path) -> Record:
    """Return a stored record. Raises OSError, or ValueError when it is none."""
    try:
        stored = _restored(json.loads(path.read_text(encoding="utf-8")))
        samples = stored["samples"]
        return Record(
            stored["at"],
            Samples(samples["seconds"], tuple(map(_service, samples["services"])), samples["invariants"]),
            Policy(**stored["policy"]),
            Verdict(**stored["verdict"]),
            stored["about"],
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no stored verdict: {error!r}") from error


def same(stored: Verdict, again: Verdict) -> bool:
    """Tell whether two verdicts are the same answer for the same figures."""
    if (stored.verdict, stored.reason) != (again.verdict, again.reason):
        return False
    left, right = (_flat(verdict) for verdict in (stored, again))
    return left.keys() == right.keys() and all(_equal(left[name], right[name]) for name in left)


def as_json(value: Record | Verdict) -> str:
    """Return JSON that every reader takes: it has no NaN and no infinity, so they become {"float": "nan"}."""
    return json.dumps(_storable(asdict(value)), indent=2, allow_nan=False)


def _flat(verdict: Verdict) -> dict[tuple[str, str], float | None]:
    return {(of, name): value for of, figures in verdict.figures.items() for name, value in figures.items()}


def _equal(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) or (math.isnan(left) and math.isnan(right))


def _service(stored: Mapping[str, Any]) -> ServiceCounts:
    tracks = {name: TrackCounts(**stored[name]) if stored[name] else None for name in ("stable", "canary", "before")}
    return ServiceCounts(stored["service"], **tracks)


def _storable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {name: _storable(item) for name, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["float"]) if value.keys() == {"float"} else {name: _restored(v) for name, v in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value
