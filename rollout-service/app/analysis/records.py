"""Stores each analysis with its samples and policy, so that its verdict can be replayed."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from app.analysis.model import (
    Criterion,
    CriterionValues,
    OutcomeCounts,
    Policy,
    ResourceCounts,
    ResourceUse,
    Samples,
    ServiceCounts,
    TrackCounts,
    Verdict,
)

Part = TypeVar("Part")

# Another machine's math library may differ in the last digits of a float.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class AnalysisRecord:
    """A verdict with its samples and policy; `about` is context for the reader (rollout, step, weight)."""

    at: float
    samples: Samples
    policy: Policy
    verdict: Verdict
    about: Mapping[str, Any] = field(default_factory=dict)


def write_record(folder: Path, record: AnalysisRecord) -> Path:
    """Store a record as the folder's next NNN.json and return its path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=0) + 1
    path = folder / f"{number:03}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(as_json(record) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def load_record(path: Path) -> AnalysisRecord:
    """Load a record. Raises OSError, or ValueError if it is invalid."""
    try:
        stored = _decode(json.loads(path.read_text(encoding="utf-8")))
        samples = stored["samples"]
        return AnalysisRecord(
            stored["at"],
            Samples(
                samples["seconds"],
                tuple(map(_service_counts, samples["services"])),
                samples["invariants"],
                outcomes=_tuple_of(_part(OutcomeCounts), samples.get("outcomes", ())),
                resources=_tuple_of(_resource_counts, samples.get("resources", ())),
                criteria=tuple(map(_criterion_values, samples.get("criteria", ()))),
                contract=samples.get("contract", ""),
            ),
            # Records of earlier releases have least_… instead of min_….
            Policy(**{re.sub("^least_", "min_", name): value for name, value in stored["policy"].items()}),
            Verdict(**stored["verdict"]),
            stored["about"],
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an analysis record: {error!r}") from error


def equal_verdicts(stored: Verdict, replayed: Verdict) -> bool:
    """Return whether two verdicts and their figures are equal."""
    if (stored.verdict, stored.reason) != (replayed.verdict, replayed.reason):
        return False
    left, right = (_flatten(verdict) for verdict in (stored, replayed))
    return left.keys() == right.keys() and all(_equal(left[name], right[name]) for name in left)


def as_json(value: AnalysisRecord | Verdict) -> str:
    """Return standard JSON, which has no NaN or infinity: these become {"float": "nan"}."""
    return json.dumps(_encode(asdict(value)), indent=2, allow_nan=False)


def _flatten(verdict: Verdict) -> dict[tuple[str, str], float | None]:
    return {(group, name): value for group, figures in verdict.figures.items() for name, value in figures.items()}


def _equal(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) or (math.isnan(left) and math.isnan(right))


def _service_counts(stored: Mapping[str, Any]) -> ServiceCounts:
    tracks = {name: TrackCounts(**stored[name]) if stored[name] else None for name in ("stable", "canary", "before")}
    return ServiceCounts(stored["service"], **tracks)


def _tuple_of(
    load: Callable[[Mapping[str, Any]], Part], stored: Iterable[Mapping[str, Any]] | None
) -> tuple[Part, ...] | None:
    return None if stored is None else tuple(map(load, stored))


def _part(kind: Callable[..., Part]) -> Callable[[Mapping[str, Any]], Part]:
    return lambda stored: kind(**stored)


def _resource_counts(stored: Mapping[str, Any]) -> ResourceCounts:
    tracks = {}
    for name in ("canary", "stable"):
        memory = tuple(tuple((point[0], point[1]) for point in replica) for replica in stored[name]["memory"])
        tracks[name] = ResourceUse(**{**stored[name], "memory": memory})
    return ResourceCounts(stored["service"], **tracks, baseline=stored["baseline"])


def _criterion_values(stored: Mapping[str, Any]) -> CriterionValues:
    return CriterionValues(Criterion(**stored["criterion"]), tuple(stored["canary"]), tuple(stored["stable"]))


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    return [_encode(item) for item in value] if isinstance(value, (list, tuple)) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["float"]) if value.keys() == {"float"} else {name: _decode(v) for name, v in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value
