"""Quadruple the load on a composed stack: alert, scale-up, load drop, scale-down, and manual scale-downs under load.

    make drills DRILL=autoscale [ARGS="--scale-downs 50 --swarm"]

Prints a timeline; exits 1 if a request fails, or if enough replicas do not serve in time. It starts a dedicated stack
with small targets, so that one machine can serve the load, and short stabilization windows. With --swarm it is a Swarm
stack from the same docker-compose.yml.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.commands import exit_code, info
from harness.composed_stack import ComposedBank, SwarmBank, one_node_swarm
from harness.load import Load, assert_no_duplicate_transfers, open_loop
from harness.client import eventually

SERVICE = "account-service"
# Far below the capacity of a replica, so that the machine is not the bottleneck.
TARGET_RPS = 15
INITIAL_REPLICAS = 2
# 70 % of the target load of two replicas.
BASE_RATE = 0.7 * TARGET_RPS * INITIAL_REPLICAS
LOAD_FACTOR = 4
REPLICAS_NEEDED = math.ceil(BASE_RATE * LOAD_FACTOR / TARGET_RPS)
MAX_SECONDS = 20
SETTINGS = {
    "COMPOSE_FILE": "docker-compose.yml",
    "ACCOUNT_SERVICE_REPLICAS": str(INITIAL_REPLICAS),
    "ACCOUNT_SERVICE_TARGET_RPS": str(TARGET_RPS),
    "AUTOSCALE_SCALE_DOWN_STABILIZATION_SECONDS": "20",
    "AUTOSCALE_SCALE_DOWN_POLICY": "[2,50,5]",
}


def from_rfc3339(text: str) -> float:
    """Return an RFC 3339 time, with a fraction of any length, as seconds since 1970."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest.partition('+')[0] or 0}")


class AutoscaledStack:
    """The composed stack, with queries to the autoscaler, Docker, Prometheus and NGINX."""

    def __init__(self, bank: ComposedBank) -> None:
        self.bank = bank

    def status(self) -> dict[str, Any]:
        """Return the autoscaler's status of the service."""
        found: dict[str, Any] = json.loads(self.bank.autoscale_cli("status"))["services"][SERVICE]
        return found

    def replicas(self, count: int) -> bool:
        """Return whether exactly `count` replicas exist and are ready."""
        status = self.status()
        return (status["current"], status["ready"], status["operation_in_progress"]) == (count, count, False)

    def healthy(self, count: int) -> bool:
        """Return whether exactly `count` containers are healthy; also works while the autoscaler is paused."""
        found = self.bank.containers(SERVICE)
        try:
            states = self.bank.inspect("{{.State.Health.Status}}", *found)
        except AssertionError:  # a container was removed meanwhile
            return False
        return states == ["healthy"] * count

    def first_overload(self, since: float) -> float | None:
        """Return when Prometheus first measured a load above the alert's threshold."""
        query = quote(f'autoscale:load:peak_ratio{{service="{SERVICE}"}} > 1.1')
        window = f"start={since:.3f}&end={time.time():.3f}&step=1"
        url = f"http://127.0.0.1:9090/api/v1/query_range?query={query}&{window}"
        page = self.bank.inside("prometheus", "wget", "-q", "-O", "-", url)
        found = json.loads(page)["data"]["result"]
        return min((float(at) for series in found for at, _ in series["values"]), default=None)

    def autoscaler_logs(self, since: float) -> list[tuple[float, dict[str, Any]]]:
        """Return the autoscaler's log lines with their times."""
        lines = (
            line.split(" ", 1) for line in self.bank.logs_since("autoscale-service", to_rfc3339(since)).splitlines()
        )
        return [(from_rfc3339(at), json.loads(text)) for at, text in lines if text.startswith("{")]

    def started(self, old: set[str]) -> list[float]:
        """Return the start times of the new replicas."""
        new = [container for container in self.bank.containers(SERVICE) if container not in old]
        return sorted(from_rfc3339(at) for at in self.bank.inspect("{{.State.StartedAt}}", *new)) if new else []

    def first_requests(self, since: float) -> dict[str, float]:
        """Return when each replica served its first request, by address."""
        try:
            addresses = self.bank.addresses(SERVICE)
        except AssertionError:  # a container was removed meanwhile
            return {}
        found: dict[str, float] = {}
        for line in self.bank.logs_since("nginx", to_rfc3339(since)).splitlines():
            at, _, text = line.partition(" ")
            for address in addresses - found.keys():
                if f'"upstream":"{address}"' in text and '"status":201' in text:
                    found[address] = from_rfc3339(at)
        return found


def to_rfc3339(at: float) -> str:
    """Return seconds since 1970 as an RFC 3339 time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def item_or_none(times: list[float], index: int) -> float | None:
    """Return a time of the list, None if the index is out of range."""
    return times[index] if 0 <= index < len(times) else None


def becomes_true(seconds: float, condition: Callable[[], bool], every: float = 1) -> bool:
    """Return whether a condition becomes true in time; unlike `eventually`, it does not fail at the timeout."""
    try:
        eventually(condition, seconds, every=every)
    except AssertionError:
        return False
    return True


def milestones(before: int, started: list[float], served: list[float]) -> dict[str, float | None]:
    """Return when containers started and replicas served, for any number of replicas before the load step."""
    return {
        "first new container started": item_or_none(started, 0),
        "first request served by a new replica": item_or_none(served, before),
        f"{REPLICAS_NEEDED} containers started": item_or_none(started, REPLICAS_NEEDED - before - 1),
        f"{REPLICAS_NEEDED} replicas serving": item_or_none(served, REPLICAS_NEEDED - 1),
    }


def measure_scale_up(stack: AutoscaledStack, load: Load) -> float:
    """Increase the load and print the timeline; return the seconds until enough replicas served, or infinity."""
    old = set(stack.bank.containers(SERVICE))
    stepped = time.time()
    load.rate = BASE_RATE * LOAD_FACTOR
    info(f"load step: {BASE_RATE:.0f} -> {load.rate:.0f} requests/s; {REPLICAS_NEEDED} replicas needed")
    # Poll rarely, because the replicas need the CPU time to start.
    becomes_true(180, lambda: len(stack.first_requests(stepped)) >= REPLICAS_NEEDED, every=2)
    served = sorted(stack.first_requests(stepped).values())
    started = stack.started(old)
    logged = stack.autoscaler_logs(stepped)
    alerts = [
        at
        for at, line in logged
        if line["message"] == "alert received" and (line["target"], line["action"]) == (SERVICE, "scale_out")
    ]
    decisions = [
        (at, line)
        for at, line in logged
        if line["message"] == "scaling decision" and line["target"] == SERVICE and line["desired"] > line["current"]
    ]
    stages = {
        "overload measured by Prometheus": stack.first_overload(stepped),
        "alert received by the autoscaler": item_or_none(alerts, 0),
        "first decision": item_or_none([at for at, _ in decisions], 0),
        f"decision for {REPLICAS_NEEDED}": next(
            (at for at, line in decisions if line["desired"] >= REPLICAS_NEEDED), None
        ),
        **milestones(len(old), started, served),
    }
    for name, at in stages.items():
        info(f"  {name:34} " + (f"{at - stepped:6.1f} s" if at else "     - (not observed)"))
    last = item_or_none(served, REPLICAS_NEEDED - 1)
    return math.inf if last is None else last - stepped


def scale_down_manually(stack: AutoscaledStack, load: Load, total: int) -> int:
    """Scale down manually under load until at least `total` replicas are removed; return their number."""
    stack.bank.autoscale_cli("pause")
    load.rate = BASE_RATE * 2
    removed = 0
    while removed < total:
        count = INITIAL_REPLICAS + min(4, total - removed)
        stack.bank.autoscale_cli("scale", SERVICE, str(count))
        eventually(lambda count=count: stack.healthy(count), 180, every=1)
        stack.bank.autoscale_cli("scale", SERVICE, str(INITIAL_REPLICAS))
        eventually(lambda: stack.healthy(INITIAL_REPLICAS), 180, every=1)
        removed += count - INITIAL_REPLICAS
        info(f"  {removed} replicas removed at {load.rate:.0f}/s: {len(load.failed)} of {load.sent} requests failed")
    stack.bank.autoscale_cli("resume")
    return removed


def run(bank: ComposedBank, manual_scale_downs: int) -> list[str]:
    """Run the drill and return the thresholds that were missed."""
    stack = AutoscaledStack(bank)
    bank.wait_until_answering(60)
    eventually(lambda: stack.replicas(INITIAL_REPLICAS), 60)
    with open_loop(bank, BASE_RATE, workers=96) as load:
        info(f"{BASE_RATE:.0f} requests/s on {INITIAL_REPLICAS} replicas")
        time.sleep(30)
        scale_up_seconds = measure_scale_up(stack, load)
        time.sleep(15)
        failed = len(load.failed)
        info(
            f"scaled up: {failed} of {load.sent} requests failed, slowest {load.slowest:.1f} s,"
            f" maximum schedule delay {load.schedule_delay:.1f} s"
        )
        load.rate, dropped = BASE_RATE, time.time()
        scaled_down = becomes_true(180, lambda: stack.replicas(INITIAL_REPLICAS))
        result = "scaled down" if scaled_down else "NOT scaled down"
        seconds, failed = time.time() - dropped, len(load.failed) - failed
        info(f"load dropped: {result} to {INITIAL_REPLICAS} replicas after {seconds:.0f} s, {failed} requests failed")
        removed = scale_down_manually(stack, load, manual_scale_downs) if manual_scale_downs else 0
    assert_no_duplicate_transfers(bank, load)
    info(f"total: {len(load.failed)} of {load.sent} requests failed; {removed} replicas removed; ledger consistent")
    for line in load.failed[:10]:
        info(f"  failed: {line}")
    return missed(scale_up_seconds, scaled_down, len(load.failed))


def missed(scale_up_seconds: float, scaled_down: bool, failed: int) -> list[str]:
    """Return the thresholds that were missed."""
    when = "never within 180 s" if math.isinf(scale_up_seconds) else f"after {scale_up_seconds:.1f} s"
    thresholds = {
        f"enough replicas served {when}, threshold {MAX_SECONDS} s": scale_up_seconds > MAX_SECONDS,
        f"the autoscaler did not scale down to {INITIAL_REPLICAS} replicas within 180 s": not scaled_down,
        f"{failed} requests failed": failed > 0,
    }
    return [line for line, is_missed in thresholds.items() if is_missed]


def main() -> int:
    """Start a stack, run the drill, and stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scale-downs", type=int, default=50, help="replicas to remove manually under load (default 50)"
    )
    parser.add_argument("--swarm", action="store_true", help="run on a one-node Swarm instead of Compose")
    options = parser.parse_args()
    kind = SwarmBank if options.swarm else ComposedBank
    with tempfile.TemporaryDirectory() as folder, one_node_swarm() if options.swarm else nullcontext():
        bank = kind(Path(folder), **SETTINGS)
        try:
            missed_thresholds = run(bank, options.scale_downs)
        finally:
            bank.close()
    return exit_code(missed_thresholds)


if __name__ == "__main__":
    sys.exit(main())
