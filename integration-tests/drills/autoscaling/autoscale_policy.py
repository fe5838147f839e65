"""Simulate the autoscaler's controller under noise around the target and during an outage of Prometheus.

    make drills DRILL=autoscale_policy

Each case simulates ten minutes of a service under load on a fake clock and cluster; the real controller and policy
decide every three seconds, with their defaults. Prints a line per case with its threshold; exits 1 if one is missed.
"""

import asyncio
import logging
import random
import sys
import tempfile
from pathlib import Path

from harness.commands import check
from tests.support import ACCOUNT, FakeCluster

from shared.testing import lab_keys
from shared.testing.fixtures import Lab

MINUTES = 60
SEEDS = range(100)
OUTAGE_SECONDS = 10 * MINUTES
# Start of the simulated clock.
START = 1_000_000
CAPACITY, REPLICAS = 100, 6


async def reversals_under_noise(lab: Lab, replicas: int, **settings: float) -> int:
    """Return the maximum number of reversals in ten minutes of ±15 % noise around the target load."""
    worst = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        cluster = FakeCluster(lambda _now, rng=rng: CAPACITY * replicas * rng.uniform(0.85, 1.15), replicas=replicas)
        await cluster.run(cluster.controller(lab, **settings), 10 * MINUTES)
        worst = max(worst, cluster.reversals)
    return worst


async def scale_downs_during_outage(lab: Lab, load_after: float, *, outage: bool = True, alert: bool = False) -> int:
    """Return the number of scale-downs during a ten-minute outage of Prometheus.

    The load changes a minute before the outage, so that the stabilization window of five minutes ends during it.
    """
    changed_at, outage_at = START + 4 * MINUTES, START + 5 * MINUTES
    cluster = FakeCluster(
        lambda now: load_after if now >= changed_at else CAPACITY * REPLICAS,
        replicas=REPLICAS,
        blind=lambda now: outage and outage_at <= now < outage_at + OUTAGE_SECONDS,
    )
    controller = cluster.controller(lab)
    await cluster.run(controller, 5 * MINUTES)
    before = cluster.ready
    cluster.changes.clear()
    if alert:
        controller.record_alert(ACCOUNT, "scale_out", firing=True)
    await cluster.run(controller, OUTAGE_SECONDS)
    counts = [before, *(count for _, count in cluster.changes)]
    return sum(later < earlier for earlier, later in zip(counts, counts[1:]))


def report(case: str, value: int, *, maximum: int | None = None, minimum: int = 0) -> bool:
    """Print a line and return whether the threshold is met."""
    met = minimum <= value and (maximum is None or value <= maximum)
    threshold = f"at least {minimum}" if maximum is None else f"at most {maximum}"
    return check(met, f"{case:72} {value:3}   ({threshold})")


async def run() -> int:
    """Run all cases, including two negative controls that must show reversals and scale-downs."""
    logging.disable(logging.CRITICAL)
    met = []
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(lab_keys.ensure(Path(folder)))
        for replicas in (2, 4, 8):
            case = f"reversals, ±15 % noise, {replicas} replicas, worst of {len(SEEDS)} runs"
            met.append(report(case, await reversals_under_noise(lab, replicas), maximum=1))
        naive = await reversals_under_noise(lab, 4, tolerance=0, scale_down_stabilization_seconds=0)
        met.append(report("  control: without tolerance and stabilization window", naive, minimum=2))
        for factor, name in ((0.2, "low"), (1, "on target"), (3, "high")):
            for alert in (False, True):
                case = f"scale-downs, Prometheus down, load {name}, alert {'firing' if alert else 'not firing'}"
                downs = await scale_downs_during_outage(lab, factor * CAPACITY * REPLICAS, alert=alert)
                met.append(report(case, downs, maximum=0))
        with_metrics = await scale_downs_during_outage(lab, 0.2 * CAPACITY * REPLICAS, outage=False)
        met.append(report("  control: load low, Prometheus available", with_metrics, minimum=1))
    return 0 if all(met) else 1


def main() -> int:
    """Run the drill."""
    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
