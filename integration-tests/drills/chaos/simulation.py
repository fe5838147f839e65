"""Simulate the bank under faults, seed by seed, and check its guarantees.

    make drills DRILL=simulation [ARGS="--seeds 10000 --seed 1"]
    make drills DRILL=simulation ARGS="--seed 42 --seeds 1 --trace"    one seed with its trace
    make drills DRILL=simulation ARGS="--mutations"                      seeds until each mutation is found

Deterministic simulation in one process: group commit, outbox, relay, consumers and repositories are the real ones, on
SQLite; the seed determines scheduler, clock, network, broker and crashes, which may happen between any two steps. It
checks that every acknowledged request has exactly one effect and every other one at most one, that the ledger's
invariants hold, and that history and ledger agree once the bank is idle. Prints violations; exits 1 if there is any.
"""

import argparse
import itertools
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from harness.commands import check
from simulation.mutations import MUTATIONS, find
from simulation.run import Outcome, run

# Every mutation must be found within this number of seeds.
MUTATION_SEEDS = 1000
_SHOWN = 5
_SECONDS_BETWEEN_LINES = 30


def simulate(seeds: range, jobs: int) -> int:
    """Simulate the seeds and print the result; return the number of seeds with violations."""
    started = printed_at = time.monotonic()
    faults: Counter[str] = Counter()
    done = requests = steps = broken = 0
    simulated = 0.0
    with ProcessPoolExecutor(jobs) as pool:
        for outcome in pool.map(run, seeds, chunksize=5):
            done, requests, steps = done + 1, requests + outcome.requests, steps + outcome.steps
            simulated += outcome.seconds
            faults += outcome.faults
            broken += bool(outcome.findings)
            _print_violations(outcome, broken)
            if time.monotonic() - printed_at > _SECONDS_BETWEEN_LINES:
                printed_at = time.monotonic()
                print(f"  {done} seeds, {printed_at - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    print(", ".join(f"{count} × {fault}" for fault, count in faults.most_common()))
    check(
        not broken,
        f"{done} seeds from {seeds.start}, {requests} requests, {steps} steps,"
        f" {faults.total()} faults of which {faults['crash']} crashes, {simulated / 3600:.1f} simulated hours;"
        f" {broken} seeds with violations (threshold: 0); {seconds:.0f} s, {done / seconds:.1f} seeds/s",
    )
    return broken


def _print_violations(outcome: Outcome, broken: int) -> None:
    if outcome.findings and broken <= _SHOWN:
        for finding in outcome.findings[:_SHOWN]:
            print(f"seed {outcome.seed}: {finding[:300]}", flush=True)
        print(f'reproduce: make drills DRILL=simulation ARGS="--seed {outcome.seed} --seeds 1 --trace"', flush=True)


def show_trace(seed: int) -> int:
    """Simulate one seed and print its trace; return whether it has violations."""
    outcome = run(seed, keep_lines=True)
    print("\n".join(outcome.lines))
    print(f"trace {outcome.trace}")
    _print_violations(outcome, 1)
    return int(bool(outcome.findings))


def find_mutations(seeds: range, jobs: int) -> int:
    """Run every mutation; return the number of those not found."""
    missed = 0
    with ProcessPoolExecutor(jobs) as pool:
        for name, found in zip(MUTATIONS, pool.map(find, MUTATIONS, itertools.repeat(seeds))):
            missed += found is None
            result = f"not within {len(seeds)} seeds" if found is None else f"in seed {found[0]}: {found[1][:150]}"
            check(found is not None, f"{name:67} {result}")
    print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} mutations found (threshold: all, within {len(seeds)} seeds)")
    return missed


def main() -> int:
    """Run the selected simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10_000, help="number of seeds (default 10000)")
    parser.add_argument("--seed", type=int, default=1, help="first seed (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="concurrent seeds (default: all cores)")
    parser.add_argument("--trace", action="store_true", help="run only the first seed and print its trace")
    parser.add_argument(
        "--mutations", action="store_true", help="run mutated code and check that each mutation is found"
    )
    options = parser.parse_args()
    if options.trace:
        return show_trace(options.seed)
    if options.mutations:
        return int(find_mutations(range(options.seed, options.seed + MUTATION_SEEDS), options.jobs) > 0)
    return int(simulate(range(options.seed, options.seed + options.seeds), options.jobs) > 0)


if __name__ == "__main__":
    sys.exit(main())
