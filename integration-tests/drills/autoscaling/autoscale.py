"""Quadruple the load on a composed stack: alert, scale-up, load drop, scale-down, and manual scale-downs under load.

    make drills DRILL=autoscale [ARGS="--scale-ins 50 --swarm"]

Prints a timeline; exits 1 if it takes too long until enough replicas serve, or if a request is lost. It starts a
dedicated stack with small targets, so that one machine can serve the load, and short stabilization windows. With
--swarm it is a Swarm stack from the same docker-compose.yml.
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
from harness.load import Load, assert_one_effect_each, open_loop
from harness.client import eventually

SERVICE = "account-service"
# Far below the capacity of a replica, so that the machine is not the bottleneck.
TARGET = 15
START = 2
# 70 % of the target load of two replicas.
BASE_RATE = 0.7 * TARGET * START
FACTOR = 4
NEEDED = math.ceil(BASE_RATE * FACTOR / TARGET)
MAX_SECONDS = 20
SETTINGS = {
    "COMPOSE_FILE": "docker-compose.yml",
    "ACCOUNT_SERVICE_REPLICAS": str(START),
    "ACCOUNT_SERVICE_TARGET_RPS": str(TARGET),
    "AUTOSCALE_SCALE_DOWN_STABILIZATION_SECONDS": "20",
    "AUTOSCALE_SCALE_DOWN_POLICY": "[2,50,5]",
}


def seconds(moment: str) -> float:
    """Return an RFC 3339 time, with a fraction of any length, as seconds since 1970."""
    whole, _, rest = moment.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest.partition('+')[0] or 0}")


class Autoscaled:
    """The stack as this drill observes it."""

    def __init__(self, bank: ComposedBank) -> None:
        self.bank = bank

    def status(self) -> dict[str, Any]:
        """Return the autoscaler's status of the service."""
        found: dict[str, Any] = json.loads(self.bank.operate("status"))["services"][SERVICE]
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

    def breach(self, since: float) -> float | None:
        """Return when Prometheus first measured a load above the alert's threshold."""
        query = quote(f'autoscale:load:peak_ratio{{service="{SERVICE}"}} > 1.1')
        window = f"start={since:.3f}&end={time.time():.3f}&step=1"
        url = f"http://127.0.0.1:9090/api/v1/query_range?query={query}&{window}"
        page = self.bank.inside("prometheus", "wget", "-q", "-O", "-", url)
        found = json.loads(page)["data"]["result"]
        return min((float(moment) for series in found for moment, _ in series["values"]), default=None)

    def logged(self, since: float) -> list[tuple[float, dict[str, Any]]]:
        """Return the autoscaler's log lines with their times."""
        lines = (line.split(" ", 1) for line in self.bank.logs_since("autoscale-service", iso(since)).splitlines())
        return [(seconds(moment), json.loads(text)) for moment, text in lines if text.startswith("{")]

    def started(self, old: set[str]) -> list[float]:
        """Return the start times of the new replicas."""
        new = [one for one in self.bank.containers(SERVICE) if one not in old]
        return sorted(seconds(moment) for moment in self.bank.inspect("{{.State.StartedAt}}", *new)) if new else []

    def first_served(self, since: float) -> dict[str, float]:
        """Return when each replica served its first request, by address."""
        try:
            addresses = self.bank.addresses(SERVICE)
        except AssertionError:  # a container was removed meanwhile
            return {}
        found: dict[str, float] = {}
        for line in self.bank.logs_since("nginx", iso(since)).splitlines():
            moment, _, text = line.partition(" ")
            for address in addresses - found.keys():
                if f'"upstream":"{address}"' in text and '"status":201' in text:
                    found[address] = seconds(moment)
        return found


def iso(moment: float) -> str:
    """Return seconds since 1970 as an RFC 3339 time."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def nth(moments: list[float], index: int) -> float | None:
    """Return one of the times, None if the index is out of range."""
    return moments[index] if 0 <= index < len(moments) else None


def within(seconds: float, condition: Callable[[], bool], every: float = 1) -> bool:
    """Return whether the condition becomes true in time; the drill continues after a missed threshold."""
    try:
        eventually(condition, seconds, every=every)
    except AssertionError:
        return False
    return True


def milestones(before: int, started: list[float], served: list[float]) -> dict[str, float | None]:
    """Return when containers started and replicas served, for any number of replicas before the load step."""
    return {
        "first new container started": nth(started, 0),
        "first request served by a new one": nth(served, before),
        f"{NEEDED} containers started": nth(started, NEEDED - before - 1),
        f"{NEEDED} replicas serving": nth(served, NEEDED - 1),
    }


def scale_out(stack: Autoscaled, load: Load) -> float:
    """Step the load up and print the timeline; return the seconds until enough replicas served, infinity for never."""
    old = set(stack.bank.containers(SERVICE))
    stepped = time.time()
    load.rate = BASE_RATE * FACTOR
    info(f"load step: {BASE_RATE:.0f} -> {load.rate:.0f} requests/s; {NEEDED} replicas needed")
    # Polling takes CPU that the replicas need to start.
    within(180, lambda: len(stack.first_served(stepped)) >= NEEDED, every=2)
    served = sorted(stack.first_served(stepped).values())
    started = stack.started(old)
    logged = stack.logged(stepped)
    alerts = [
        moment
        for moment, line in logged
        if line["message"] == "alert received" and (line["target"], line["action"]) == (SERVICE, "scale_out")
    ]
    ups = [
        (moment, line)
        for moment, line in logged
        if line["message"] == "scaling decision" and line["target"] == SERVICE and line["desired"] > line["current"]
    ]
    stages = {
        "first breach in Prometheus": stack.breach(stepped),
        "alert at the autoscaler": nth(alerts, 0),
        "first decision": nth([moment for moment, _ in ups], 0),
        f"decision for {NEEDED}": next((moment for moment, line in ups if line["desired"] >= NEEDED), None),
        **milestones(len(old), started, served),
    }
    for name, moment in stages.items():
        info(f"  {name:34} " + (f"{moment - stepped:6.1f} s" if moment else "     - (not observed)"))
    enough = nth(served, NEEDED - 1)
    return math.inf if enough is None else enough - stepped


def scale_ins(stack: Autoscaled, load: Load, wanted: int) -> int:
    """Scale down manually under load until `wanted` replicas are removed; return their number."""
    stack.bank.operate("pause")
    load.rate = BASE_RATE * 2
    removed = 0
    while removed < wanted:
        count = START + min(4, wanted - removed)
        stack.bank.operate("scale", SERVICE, str(count))
        eventually(lambda count=count: stack.healthy(count), 180, every=1)
        stack.bank.operate("scale", SERVICE, str(START))
        eventually(lambda: stack.healthy(START), 180, every=1)
        removed += count - START
        info(f"  {removed} removed under {load.rate:.0f} requests/s: {len(load.lost)} of {load.sent} requests lost")
    stack.bank.operate("resume")
    return removed


def run(bank: ComposedBank, wanted: int) -> list[str]:
    """Run the drill and return the thresholds that were missed."""
    stack = Autoscaled(bank)
    bank.wait_until_answering(60)
    eventually(lambda: stack.replicas(START), 60)
    with open_loop(bank, BASE_RATE, workers=96) as load:
        info(f"{BASE_RATE:.0f} requests/s on {START} replicas")
        time.sleep(30)
        took = scale_out(stack, load)
        time.sleep(15)
        out = len(load.lost)
        info(f"scaled out: {out} of {load.sent} requests lost, slowest {load.slowest:.1f} s, latest {load.late:.1f} s")
        load.rate, off = BASE_RATE, time.time()
        back = within(180, lambda: stack.replicas(START))
        inward = len(load.lost) - out
        came = f"back at {START} replicas" if back else f"NOT back at {START} replicas"
        info(f"load dropped: {came} after {time.time() - off:.0f} s, {inward} requests lost")
        removed = scale_ins(stack, load, wanted) if wanted else 0
    assert_one_effect_each(bank, load)
    info(f"total: {len(load.lost)} of {load.sent} requests lost; {removed} replicas removed; ledger consistent")
    for line in load.lost[:10]:
        info(f"  lost: {line}")
    return missed(took, back, len(load.lost))


def missed(took: float, back: bool, lost: int) -> list[str]:
    """Return the thresholds that were missed."""
    when = "never within 180 s" if math.isinf(took) else f"after {took:.1f} s"
    thresholds = {
        f"enough replicas served {when}, threshold {MAX_SECONDS} s": took > MAX_SECONDS,
        f"the autoscaler did not return to {START} replicas within 180 s": not back,
        f"{lost} requests were lost": lost > 0,
    }
    return [line for line, is_missed in thresholds.items() if is_missed]


def main() -> int:
    """Start a stack, run the drill, and stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale-ins", type=int, default=50, help="replicas to remove manually under load (default 50)")
    parser.add_argument("--swarm", action="store_true", help="on a one-node Swarm, created for the drill")
    options = parser.parse_args()
    kind = SwarmBank if options.swarm else ComposedBank
    with tempfile.TemporaryDirectory() as folder, one_node_swarm() if options.swarm else nullcontext():
        bank = kind(Path(folder), **SETTINGS)
        try:
            missed_thresholds = run(bank, options.scale_ins)
        finally:
            bank.close()
    return exit_code(missed_thresholds)


if __name__ == "__main__":
    sys.exit(main())
