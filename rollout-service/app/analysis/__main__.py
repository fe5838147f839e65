"""Judges a canary by hand, and again what was judged before.

    python -m app.analysis --since SECONDS [--rollout SECONDS] [--prometheus URL] [--store DIR] [--set NAME=VALUE …]
        asks Prometheus, prints the verdict as JSON, and stores it with its samples and policy;
        ends with 0 for promote, 1 for rollback, 3 for hold (2: the command is wrong)
    python -m app.analysis replay FILE…
        judges stored samples again; ends with 1 unless every answer is the stored one

Times are seconds since 1970; `--since now-90` is 90 seconds ago. `--set` changes the policy, e.g. bake_seconds=120.
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
from app.analysis.records import Record, as_json, load_record, same, write_record
from app.analysis.runner import judge_now
from app.analysis.samples import Moments, PrometheusSamples
from app.analysis.verdict import judge

EXIT_CODES = {"promote": 0, "rollback": 1, "hold": 3}

_URL = "http://prometheus:9090"


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
    parser = argparse.ArgumentParser("app.analysis", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
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
