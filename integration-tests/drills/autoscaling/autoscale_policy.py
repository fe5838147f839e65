"""The autoscaler's controller in simulated clusters: noise around the target, and an outage of Prometheus.

    make drills DRILL=autoscale_policy

No Docker and no waiting: ten simulated minutes of a service under load, with a decision every three seconds by the
real controller and policy with their defaults. Prints a line and threshold per cluster; exits 1 if one is missed.
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
SILENT = 10 * MINUTES
# Start of the cluster's clock.
BEGIN = 1_000_000
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


async def downs_in_silence(lab: Lab, after: float, *, silent: bool = True, alert: bool = False) -> int:
    """Return the number of scale-downs during ten minutes without metrics.

    A minute before, the load of six replicas changes: the window of five minutes would end during the outage.
    """
    change, silence = BEGIN + 4 * MINUTES, BEGIN + 5 * MINUTES
    cluster = FakeCluster(
        lambda now: after if now >= change else CAPACITY * REPLICAS,
        replicas=REPLICAS,
        blind=lambda now: silent and silence <= now < silence + SILENT,
    )
    controller = cluster.controller(lab)
    await cluster.run(controller, 5 * MINUTES)
    before = cluster.ready
    cluster.changes.clear()
    if alert:
        controller.record_alert(ACCOUNT, "scale_out", firing=True)
    await cluster.run(controller, SILENT)
    counts = [before, *(count for _, count in cluster.changes)]
    return sum(later < earlier for earlier, later in zip(counts, counts[1:]))


def report(what: str, figure: int, *, most: int | None = None, least: int = 0) -> bool:
    """Print a line and return whether the threshold is met."""
    met = least <= figure and (most is None or figure <= most)
    threshold = f"at least {least}" if most is None else f"at most {most}"
    return check(met, f"{what:72} {figure:3}   ({threshold})")


async def run() -> int:
    """Run all simulations, including two that must miss their thresholds: one that cannot be missed proves nothing."""
    logging.disable(logging.CRITICAL)
    met = []
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(lab_keys.ensure(Path(folder)))
        for replicas in (2, 4, 8):
            what = f"reversals, ±15 % noise, {replicas} replicas, worst of {len(SEEDS)} runs"
            met.append(report(what, await reversals_under_noise(lab, replicas), most=1))
        naive = await reversals_under_noise(lab, 4, tolerance=0, scale_down_stabilization_seconds=0)
        met.append(report("  the same without tolerance and window", naive, least=2))
        for after, name in ((0.2, "low"), (1, "on target"), (3, "high")):
            for alert in (False, True):
                what = f"scale-downs, Prometheus down, load {name}, alert {'fires' if alert else 'quiet'}"
                downs = await downs_in_silence(lab, after * CAPACITY * REPLICAS, alert=alert)
                met.append(report(what, downs, most=0))
        heard = await downs_in_silence(lab, 0.2 * CAPACITY * REPLICAS, silent=False)
        met.append(report("  load low, Prometheus available", heard, least=1))
    return 0 if all(met) else 1


def main() -> int:
    """Run every cluster."""
    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
