"""Load times four on a composed stack: alert, scale out, load off, scale in, and scale-ins under load by hand.

    make drills DRILL=autoscale [ARGS="--scale-ins 50 --swarm"]

Prints where the time goes and fails if enough replicas serve later than promised, or a request is lost. It starts a
stack of its own, with small targets so that one machine can carry the load, and short windows. With --swarm it is a
Swarm stack, made from the same docker-compose.yml.
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
# Far below what a replica can carry: the machine shall not be what is measured.
TARGET = 15
START = 2
# 0.7 of what two replicas should carry.
BASE_RATE = 0.7 * TARGET * START
FACTOR = 4
NEEDED = math.ceil(BASE_RATE * FACTOR / TARGET)
MOST_SECONDS = 45
SETTINGS = {
    "COMPOSE_FILE": "docker-compose.yml",
    "ACCOUNT_SERVICE_REPLICAS": str(START),
    "ACCOUNT_SERVICE_TARGET_RPS": str(TARGET),
    "AUTOSCALE_SCALE_DOWN_STABILIZATION_SECONDS": "20",
    "AUTOSCALE_SCALE_DOWN_POLICY": "[2,50,5]",
}


def seconds(moment: str) -> float:
    """Return an RFC 3339 time, with whatever fraction, as seconds since 1970."""
    whole, _, rest = moment.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest.partition('+')[0] or 0}")


class Autoscaled:
    """The stack as this drill looks at it."""

    def __init__(self, bank: ComposedBank) -> None:
        self.bank = bank

    def status(self) -> dict[str, Any]:
        """Return what the autoscaler says of the service."""
        found: dict[str, Any] = json.loads(self.bank.operate("status"))["services"][SERVICE]
        return found

    def replicas(self, count: int) -> bool:
        """Tell whether so many replicas are there and ready."""
        status = self.status()
        return (status["current"], status["ready"], status["working"]) == (count, count, False)

    def healthy(self, count: int) -> bool:
        """Tell whether so many containers run and are healthy; sooner than the autoscaler, which rests while paused."""
        found = self.bank.containers(SERVICE)
        try:
            states = self.bank.inspect("{{.State.Health.Status}}", *found)
        except AssertionError:  # one has gone while they were looked at
            return False
        return states == ["healthy"] * count

    def breach(self, since: float) -> float | None:
        """Return when Prometheus first saw the load over the threshold of the alert."""
        query = quote(f'autoscale:load:ratio{{service="{SERVICE}"}} > 1.1')
        window = f"start={since:.3f}&end={time.time():.3f}&step=1"
        url = f"http://127.0.0.1:9090/api/v1/query_range?query={query}&{window}"
        page = self.bank.inside("prometheus", "wget", "-q", "-O", "-", url)
        found = json.loads(page)["data"]["result"]
        return min((float(moment) for series in found for moment, _ in series["values"]), default=None)

    def told(self, since: float) -> list[tuple[float, dict[str, Any]]]:
        """Return what the autoscaler has logged, with its times."""
        lines = (line.split(" ", 1) for line in self.bank.logs_since("autoscale-service", iso(since)).splitlines())
        return [(seconds(moment), json.loads(text)) for moment, text in lines if text.startswith("{")]

    def started(self, old: set[str]) -> list[float]:
        """Return when the replicas that are new were started."""
        new = [one for one in self.bank.containers(SERVICE) if one not in old]
        return sorted(seconds(moment) for moment in self.bank.inspect("{{.State.StartedAt}}", *new)) if new else []

    def first_served(self, since: float) -> dict[str, float]:
        """Return when each replica got its first request that it answered, by address."""
        try:
            addresses = self.bank.addresses(SERVICE)
        except AssertionError:  # one has gone while they were counted
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
    """Return one of the moments, None where it never came or was before them."""
    return moments[index] if 0 <= index < len(moments) else None


def within(seconds: float, condition: Callable[[], bool], every: float = 1) -> bool:
    """Tell whether the condition comes true in time; a bar that is missed is no reason to stop."""
    try:
        eventually(condition, seconds, every=every)
    except AssertionError:
        return False
    return True


def milestones(before: int, started: list[float], served: list[float]) -> dict[str, float | None]:
    """Return when containers started and replicas served, whatever number of them ran before the load stepped up."""
    return {
        "first new container started": nth(started, 0),
        "first request served by a new one": nth(served, before),
        f"{NEEDED} containers started": nth(started, NEEDED - before - 1),
        f"{NEEDED} replicas serving": nth(served, NEEDED - 1),
    }


def scale_out(stack: Autoscaled, load: Load) -> float:
    """Step the load up, print the timeline and return how long it took until enough replicas served; inf: never."""
    old = set(stack.bank.containers(SERVICE))
    stepped = time.time()
    load.rate = BASE_RATE * FACTOR
    info(f"load step: {BASE_RATE:.0f} -> {load.rate:.0f} requests/s; {NEEDED} replicas are enough")
    # Not all the time: looking takes what the replicas need to start.
    within(180, lambda: len(stack.first_served(stepped)) >= NEEDED, every=2)
    served = sorted(stack.first_served(stepped).values())
    started = stack.started(old)
    told = stack.told(stepped)
    alerts = [
        moment
        for moment, line in told
        if line["message"] == "alert received" and (line["target"], line["action"]) == (SERVICE, "scale_out")
    ]
    ups = [
        (moment, line)
        for moment, line in told
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
        info(f"  {name:34} " + (f"{moment - stepped:6.1f} s" if moment else "     - (not seen)"))
    enough = nth(served, NEEDED - 1)
    return math.inf if enough is None else enough - stepped


def scale_ins(stack: Autoscaled, load: Load, wanted: int) -> int:
    """Scale in and out by hand under load until so many replicas have gone; return how many that were."""
    stack.bank.operate("pause")
    load.rate = BASE_RATE * 2
    gone = 0
    while gone < wanted:
        count = START + min(4, wanted - gone)
        stack.bank.operate("scale", SERVICE, str(count))
        eventually(lambda count=count: stack.healthy(count), 180, every=1)
        stack.bank.operate("scale", SERVICE, str(START))
        eventually(lambda: stack.healthy(START), 180, every=1)
        gone += count - START
        info(f"  {gone} scale-ins under {load.rate:.0f} requests/s: {len(load.lost)} of {load.sent} requests lost")
    stack.bank.operate("resume")
    return gone


def rehearse(bank: ComposedBank, wanted: int) -> list[str]:
    """Run the drill and return what was not as promised."""
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
        info(f"load off: {came} after {time.time() - off:.0f} s, {inward} requests lost")
        gone = scale_ins(stack, load, wanted) if wanted else 0
    assert_one_effect_each(bank, load)
    info(f"in all {len(load.lost)} of {load.sent} requests lost; {gone} scale-ins by hand; the ledger is sound")
    for line in load.lost[:10]:
        info(f"  lost: {line}")
    return missed(took, back, len(load.lost))


def missed(took: float, back: bool, lost: int) -> list[str]:
    """Return the bars that were missed."""
    when = "never within 180 s" if math.isinf(took) else f"after {took:.1f} s"
    bars = {
        f"enough replicas served {when}, promised are {MOST_SECONDS} s": took > MOST_SECONDS,
        f"the autoscaler did not return to {START} replicas within 180 s": not back,
        f"{lost} requests were lost": lost > 0,
    }
    return [line for line, is_missed in bars.items() if is_missed]


def main() -> int:
    """Start a stack, rehearse, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale-ins", type=int, default=50, help="replicas to drain under load by hand (default 50)")
    parser.add_argument("--swarm", action="store_true", help="on a one-node Swarm, made for it and left afterwards")
    options = parser.parse_args()
    kind = SwarmBank if options.swarm else ComposedBank
    with tempfile.TemporaryDirectory() as folder, one_node_swarm() if options.swarm else nullcontext():
        bank = kind(Path(folder), **SETTINGS)
        try:
            wrong = rehearse(bank, options.scale_ins)
        finally:
            bank.close()
    return exit_code(wrong)


if __name__ == "__main__":
    sys.exit(main())
