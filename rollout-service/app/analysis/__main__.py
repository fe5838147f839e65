"""Analyzes a canary from the command line, or replays stored analyses.

    python -m app.analysis --since SECONDS [--rollout SECONDS] [--prometheus URL] [--store DIR] [--set NAME=VALUE …]
        queries Prometheus, prints the verdict as JSON, and stores it with its samples and policy;
        exits with 0 for promote, 1 for rollback, 3 for hold (2: usage error)
    python -m app.analysis replay FILE…
        evaluates stored samples again; exits with 1 unless every verdict equals the stored one

Times are Unix timestamps; `--since now-90` is 90 seconds ago. `--set` changes the policy, e.g. bake_seconds=120.
"""

import argparse
import asyncio
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from app.analysis.model import Policy
from app.analysis.records import AnalysisRecord, as_json, load_record, equal_verdicts, write_record
from app.analysis.queries import AnalysisWindow
from app.analysis.runner import analyze
from app.analysis.samples import PrometheusSamples
from app.analysis.verdict import evaluate

EXIT_CODES = {"promote": 0, "rollback": 1, "hold": 3}

_URL = "http://prometheus:9090"


def _timestamp(text: str) -> float:
    ago = text.removeprefix("now-")
    timestamp = float(ago) if ago == text else time.time() - float(ago)
    if not math.isfinite(timestamp):
        raise ValueError(text)
    return timestamp


def _changed_policy(changes: Sequence[str]) -> Policy:
    values = dict(change.split("=", 1) for change in changes)
    return Policy(**{name: float(value) for name, value in values.items()})


async def _run(options: argparse.Namespace, policy: Policy) -> AnalysisRecord:
    window = AnalysisWindow(options.since, time.time(), options.since if options.rollout is None else options.rollout)
    async with httpx.AsyncClient() as client:
        return await analyze(PrometheusSamples(options.prometheus, client), window, policy)


def _analyze(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("app.analysis", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--since", type=_timestamp, required=True, help="start of the step")
    parser.add_argument("--rollout", type=_timestamp, help="start of the rollout (default: start of the step)")
    parser.add_argument("--prometheus", default=os.environ.get("PROMETHEUS_URL", _URL), help=f"default {_URL}")
    parser.add_argument("--store", type=Path, help="directory for the record")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the policy")
    options = parser.parse_args(arguments)
    try:
        policy = _changed_policy(options.set)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    record = asyncio.run(_run(options, policy))
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
        replayed = evaluate(record.samples, record.policy)
        agrees = equal_verdicts(record.verdict, replayed)
        different += not agrees
        print(f"{path}: {record.verdict.verdict} ({record.verdict.reason})" + ("" if agrees else f", now {replayed}"))
    return int(different > 0)


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code."""
    match arguments:
        case ["replay", _, *_]:
            return _replay(arguments[1:])
        case ["replay"]:
            print(__doc__, file=sys.stderr)
            return 2
        case _:
            return _analyze(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
