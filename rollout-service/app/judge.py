"""Judges a canary by hand, and again what was judged before.

    python -m app.judge --since SECONDS [--rollout SECONDS] [--prometheus URL] [--store DIR] [--set NAME=VALUE …]
        asks Prometheus, prints the verdict as JSON, and stores it with its samples and policy;
        ends with 0 for promote, 1 for rollback, 3 for hold (2: the command is wrong)
    python -m app.judge replay FILE…
        judges stored samples again; ends with 1 unless every answer is the stored one

Times are seconds since 1970; `--since now-90` is 90 seconds ago. `--set` changes the policy, e.g. bake_seconds=120.
"""

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.samples import Moments, PrometheusSamples
from app.verdict import Policy, Samples, ServiceCounts, TrackCounts, Verdict, judge

EXIT_CODES = {"promote": 0, "rollback": 1, "hold": 3}

_URL = "http://prometheus:9090"
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


async def judge_now(
    source: PrometheusSamples, moments: Moments, policy: Policy, about: Mapping[str, Any] | None = None
) -> Record:
    """Return the verdict on a step at `moments.now`, with its samples. Without an answer of Prometheus it is hold."""
    samples = await source.read(moments)
    return Record(moments.now, samples, policy, judge(samples, policy), about or {})


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


def _moment(text: str) -> float:
    ago = text.removeprefix("now-")
    moment = float(ago) if ago == text else time.time() - float(ago)
    if not math.isfinite(moment):
        raise ValueError(text)
    return moment


def _changed_policy(changes: Sequence[str]) -> Policy:
    values = dict(change.split("=", 1) for change in changes)
    return Policy(**{name: float(value) for name, value in values.items()})


async def _ask(options: argparse.Namespace, policy: Policy) -> Record:
    moments = Moments(options.since, time.time(), options.since if options.rollout is None else options.rollout)
    async with httpx.AsyncClient() as client:
        return await judge_now(PrometheusSamples(options.prometheus, client), moments, policy)


def _judge(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("app.judge", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--since", type=_moment, required=True, help="when the step began")
    parser.add_argument("--rollout", type=_moment, help="when the rollout began (default: with the step)")
    parser.add_argument("--prometheus", default=os.environ.get("PROMETHEUS_URL", _URL), help=f"default {_URL}")
    parser.add_argument("--store", type=Path, help="the folder for the record")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the policy")
    options = parser.parse_args(arguments)
    try:
        policy = _changed_policy(options.set)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    record = asyncio.run(_ask(options, policy))
    print(as_json(record.verdict))
    if options.store:
        write_record(options.store, record)
    return EXIT_CODES[record.verdict.verdict]


def _replay(paths: Sequence[str]) -> int:
    different = 0
    for path in paths:
        try:
            record = load_record(Path(path))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            different += 1
            continue
        again = judge(record.samples, record.policy)
        agrees = same(record.verdict, again)
        different += not agrees
        print(f"{path}: {record.verdict.verdict} ({record.verdict.reason})" + ("" if agrees else f", now {again}"))
    return int(different > 0)


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say."""
    match arguments:
        case ["replay", _, *_]:
            return _replay(arguments[1:])
        case ["replay"]:
            print(__doc__, file=sys.stderr)
            return 2
        case _:
            return _judge(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
