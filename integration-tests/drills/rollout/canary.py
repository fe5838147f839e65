"""Deploy good and faulty releases under load: good ones are promoted, faulty ones rolled back, and no request is lost.

    make drills DRILL=canary [ARGS="--only good,errors --rate 100"] [ARGS="--faults 401-all,leak,aa"]

Scenarios (`--only`): builds and signs releases (faulty ones are the real images with a package that injects a fault)
and deploys them with Ansible from a dedicated registry. Faults (`--faults`): rolls out faulty releases, and ten equal
ones (`aa`), on one composed stack. Prints measured values for each; exits 1 when a check fails.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.commands import exit_code, info
from harness.deployed_stack import SERVICES, Deployment
from drills.rollout.composed import AA, FAULTS, run_composed
from drills.rollout.rollouts import (
    RELOAD_SECONDS,
    Drill,
    any_request,
    canary_requests,
    deployed_bank,
    failed,
    print_timeline,
    record_canary_addresses,
    rollback,
    timestamp,
)
from harness.client import eventually
from harness.load import Load, burst, customers

from scripts.faults.faulty import DESCRIPTIONS
from shared.testing.progress import Progress

# Thresholds.
MAX_SECONDS_TO_ROLL_BACK = 30.0
MAX_SECONDS_WITHOUT_DRIVER = 60.0
MAX_SECONDS_TO_SWITCH = 10.0
SPLIT, TOLERANCE, MIN_CLIENTS = 0.10, 0.01, 2500
STEPS = {"nginx_canary_steps": [10, 50], "nginx_canary_bake_seconds": 20, "nginx_canary_step_timeout_seconds": 240}


# Good releases --------------------------------------------------------------------------------------------------------


def good(drill: Drill) -> None:
    """A good release is promoted; the split is as configured at any number of replicas; no request is lost."""
    bank, release = drill.bank, drill.next_good()
    counts = (2,) if drill.short else drill.replicas
    # The first step has to last until the split has been measured at each; two busy cores take 80 s.
    bake = 45 if drill.short else 110 * len(counts)
    # Without spaces: make splits arguments at them.
    times = [
        f"--extra-vars=nginx_canary_bake_seconds={bake}",
        f"--extra-vars=nginx_canary_step_timeout_seconds={bake + 195}",
    ]
    bank.compose("exec", "-T", "autoscale-service", "python", "-m", "app.cli", "pause")
    with customers(bank, drill.rate) as result:
        process = bank.start_deploy(release, *times)
        began = time.time()
        bank.reached(process, TRANSITIONS["canary 10 %"])
        time.sleep(RELOAD_SECONDS)
        for count in counts:
            check_split(drill, count)
        if not drill.short:
            # Being promoted doubles them, which is more than two cores start beside the load.
            bank.scale(2)
        output, _ = process.communicate(timeout=1200)
        ended = time.time()
        time.sleep(5)
    drill.check(process.returncode == 0, f"good: deployed in {ended - began:.0f} s")
    if process.returncode:
        print(output[-4000:])
    state = bank.state()
    print_timeline(state, began)
    drill.check(state["outcome"] == "promoted", f"good: the outcome is {state['outcome']}")
    if state["outcome"] == "promoted":
        check_tracks(drill, result, state)
    else:
        drill.good.pop()
    drill.check_no_loss(result, "good")
    drill.check_only_stable_serves("good", drill.good[-1])
    bank.compose("exec", "-T", "autoscale-service", "python", "-m", "app.cli", "resume")


def check_split(drill: Drill, replicas: int) -> None:
    """Measure the share of clients on the canary at a number of stable replicas."""
    if not drill.short:
        drill.bank.scale(replicas)
        eventually(lambda: len(drill.bank.containers("stable")) == replicas * len(SERVICES), 90)
        time.sleep(6)
    clients = [f"client-{n}" for n in range(3_000)]
    seen = burst(drill.bank, clients)
    drill.check(not seen.lost, f"good: {len(seen.lost)} of {seen.sent} lost at {replicas} replicas")
    # On a slow machine the next step may have begun meanwhile.
    step_ends = (note["at"] for note in drill.bank.state()["history"] if note["step"] > 0)
    answers = seen.between(0, next(step_ends, float("inf")))
    share = sum(one.track == "canary" for one in answers) / max(1, len(answers))
    drill.check(
        abs(share - SPLIT) <= TOLERANCE and len(answers) >= MIN_CLIENTS,
        f"good: {share:.2%} of {len(answers)} clients on the canary at {replicas} stable replicas",
    )


def check_tracks(drill: Drill, result: Load, state: dict[str, Any]) -> None:
    """Check that no client changed tracks within a step, and none left the canary when its weight grew."""
    steps = [step for step in state["history"] if step["reason"].endswith("% of clients")]
    promoted_at = next(entry["at"] for entry in state["history"] if entry["phase"] == "promoting")
    ends = [*(step["at"] for step in steps[1:]), promoted_at]
    on_canary: list[set[str]] = []
    for step, end in zip(steps, ends):
        tracks_of: dict[str, set[str]] = defaultdict(set)
        for one in result.between(step["at"] + RELOAD_SECONDS, end - 1):
            tracks_of[one.client].add(one.track)
        changed = sum(len(tracks) > 1 for tracks in tracks_of.values())
        repeated = len(result.between(step["at"] + RELOAD_SECONDS, end - 1)) - len(tracks_of)
        drill.check(
            changed == 0,
            f"good: {changed} of {len(tracks_of)} clients changed tracks at {step['weight']} % ({repeated} repeated)",
        )
        on_canary.append({client for client, tracks in tracks_of.items() if tracks == {"canary"}})
    clients = {one.client for one in result.between(steps[-1]["at"] + RELOAD_SECONDS, ends[-1] - 1)}
    left = (on_canary[0] & clients) - on_canary[-1]
    drill.check(not left, f"good: {len(left)} clients left the canary when its weight grew")


# Faulty releases ------------------------------------------------------------------------------------------------------


def faulty(fault: str, reasons: str, *, is_bad: Callable[[dict[str, Any]], bool]) -> Callable[[Drill], None]:
    """Return a scenario: a release with a fault must be rolled back for one of the reasons."""

    def scenario(drill: Drill) -> None:
        bank, release = drill.bank, drill.releases.derive(f"faulty-{fault}", "base", fault)
        with customers(bank, drill.rate) as result, record_canary_addresses(bank) as addresses:
            time.sleep(5)
            done = bank.deploy(release)
            time.sleep(RELOAD_SECONDS)
            ended = time.time()
        check_rolled_back(drill, fault, reasons, done)
        lines = canary_requests(bank.edge_log(done.began), addresses, bank.state()["history"])
        first = next((timestamp(line["at"]) for line in lines if is_bad(line)), None)
        if first is not None:
            last = max(timestamp(line["at"]) for line in lines)
            requests = [line for line in lines if timestamp(line["at"]) >= first]
            per_second = len(requests) / max(1.0, last - first)
            drill.check(
                last - first <= MAX_SECONDS_TO_ROLL_BACK,
                f"{fault}: {last - first:.1f} s from the first faulty request to the last canary request"
                f" ({len(requests)} of them, {per_second:.0f} per second)",
            )
        elif reasons != "ready":
            drill.check(False, f"{fault}: no faulty request in NGINX's log")
        info(f"  {fault}: {sum(ended > one.at for one in result.served)} responses, {len(lines)} of the canary")
        drill.check_no_loss(result, fault)
        drill.check_only_stable_serves(fault, drill.good[-1])

    return scenario


def check_rolled_back(drill: Drill, name: str, reasons: str, done: Deployment) -> None:
    state = drill.bank.state()
    print_timeline(state, done.began)
    drill.check(done.code != 0, f"{name}: the deployment fails ({done.ended - done.began:.0f} s)")
    reason = state["reason"]
    drill.check(
        state["outcome"] == "rolled-back" and re.search(reasons, reason), f"{name}: {state['outcome']}: {reason}"
    )


def rejected(drill: Drill) -> None:
    """A release that is unsigned, or differs from the signed one, is rejected before any container starts."""
    bank, before = drill.bank, drill.bank.state()["id"]
    release = drill.releases.derive("unsigned", "base", "none")
    genuine = release.read_text(encoding="utf-8")
    unsigned, other = drill.releases.unsigned_digest(), drill.releases.digest("base")
    for name, text in {
        "unsigned": drill.releases.with_image(genuine, "account-service", unsigned),
        "tampered (a digest of another release)": drill.releases.with_image(genuine, "account-service", other),
        "by tag": drill.releases.with_image(genuine, "account-service", "tag"),
    }.items():
        release.write_text(text, encoding="utf-8")
        done = bank.deploy(release)
        said = re.findall(r"(?:msg|fail_msg|stderr): *(.{0,160})", done.output)
        drill.check(done.code != 0, f"rejected: {name}: {said[-1] if said else done.output[-200:]!r}")
        drill.check(
            bank.state()["id"] == before and not bank.containers("canary"),
            f"rejected: {name}: no container was started",
        )


def dry_run(drill: Drill) -> None:
    """A dry run: a good release is rolled back after its last verdict and is not deployed."""
    bank, release = drill.bank, drill.next_good()
    drill.good.pop()
    with customers(bank, drill.rate) as result:
        done = bank.deploy(release, "--extra-vars", "'{\"nginx_canary_promote\": false}'")
        time.sleep(RELOAD_SECONDS)
    drill.check(done.code == 0, f"dry-run: the deployment succeeds ({done.ended - done.began:.0f} s)")
    state = bank.state()
    print_timeline(state, done.began)
    drill.check("promoting" in {note["phase"] for note in state["history"]}, "dry-run: every step was passed")
    drill.check("dry run of" in state["reason"], f"dry-run: {state['outcome']}: {state['reason']}")
    drill.check(bank.deployed() == drill.good[-1], f"dry-run: {bank.deployed()} is deployed")
    drill.check_no_loss(result, "dry-run")
    drill.check_only_stable_serves("dry-run", drill.good[-1])


def prometheus_down(drill: Drill) -> None:
    """Prometheus stops during the analysis of a good canary: the rollout waits and is not promoted."""
    bank, release = drill.bank, drill.next_good()
    drill.good.pop()
    with customers(bank, drill.rate) as result:
        process = bank.start_deploy(release, "--extra-vars", "nginx_canary_step_timeout_seconds=60")
        began = time.time()
        bank.reached(process, TRANSITIONS["canary 10 %"])
        bank.compose("stop", "prometheus")
        try:
            output, _ = process.communicate(timeout=600)
        finally:
            bank.compose("start", "prometheus")
        done = Deployment(process.returncode, output, began, time.time())
    check_rolled_back(drill, "prometheus-down", "no verdict within 60 s .no-data", done)
    drill.check_no_loss(result, "prometheus-down")
    drill.check_only_stable_serves("prometheus-down", drill.good[-1])
    # Prometheus has to discover the replicas again.
    time.sleep(20)


# Killed drivers -------------------------------------------------------------------------------------------------------

TRANSITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "provisioning": lambda state: state["phase"] == "provisioning",
    "canary 10 %": lambda state: state["phase"] == "canary" and state["weight"] == 10,
    "canary 50 %": lambda state: state["phase"] == "canary" and state["weight"] == 50,
    "promoting": lambda state: state["phase"] == "promoting",
    "done": lambda state: state["phase"] == "done",
}


def entered(transition: Callable[[dict[str, Any]], bool], before: str, state: dict[str, Any]) -> bool:
    """Return whether a rollout other than the previous one is at a transition."""
    return state["id"] != before and transition(state)


def driver_killed(drill: Drill) -> None:
    """The driver is killed at each transition: all clients are on stable within a minute; a new deployment works."""
    bank = drill.bank
    wanted = ("canary 10 %",) if drill.short else tuple(TRANSITIONS)
    with customers(bank, drill.rate) as result:
        for name in wanted:
            release = drill.next_good()
            before = bank.state()["id"]
            process = bank.start_deploy(release)
            bank.reached(process, partial(entered, TRANSITIONS[name], before))
            if name == "promoting":
                time.sleep(6)
            bank.kill(process)
            died = time.time()
            if name != "done":
                drill.good.pop()
            eventually(lambda: bank.revision() == "stable" and bank.state()["phase"] != "canary", 120)
            # Until no client is served by two versions any more.
            eventually(lambda: len({one.version for one in burst(bank, map(str, range(30))).served}) == 1, 120)
            took = time.time() - died
            eventually(lambda: bank.state()["phase"] in ("idle", "done") and not bank.containers("canary"), 60)
            state = bank.state()
            print_timeline(state, died)
            drill.check(
                took <= MAX_SECONDS_WITHOUT_DRIVER,
                f"driver-killed at {name}: stable alone after {took:.1f} s ({state['reason']})",
            )
            drill.check_only_stable_serves(f"driver-killed at {name}", drill.good[-1])
        release = drill.next_good()
        done = bank.deploy(release)
        drill.check(done.code == 0, f"driver-killed: a new deployment works at once ({done.ended - done.began:.0f} s)")
        if done.code:
            print(done.output[-4000:])
    drill.check_no_loss(result, "driver-killed")


def rollback_after_promotion(drill: Drill) -> None:
    """After a promotion `make rollback` restores the previous version within seconds, without pulling images."""
    bank = drill.bank
    before = bank.state()
    drill.check(before["phase"] == "done", f"rollback-after-promotion: the state is {before['phase']}")
    with customers(bank, drill.rate) as result:
        time.sleep(3)
        began = time.time()
        process = rollback(bank)
        eventually(lambda: bank.revision() != "stable", 60)
        switched = time.time()
        output, _ = process.communicate(timeout=600)
        ended = time.time()
        time.sleep(RELOAD_SECONDS)
    new = drill.good.pop()
    last = max((one.at for one in result.served if one.version == new and one.at < switched + 30), default=began)
    drill.check(process.returncode == 0, f"rollback-after-promotion: `make rollback` ends after {ended - began:.0f} s")
    if process.returncode:
        print(output[-4000:])
    print_timeline(bank.state(), began)
    drill.check(
        switched - began <= MAX_SECONDS_TO_SWITCH,
        f"rollback-after-promotion: NGINX serves the previous version after {switched - began:.1f} s"
        f" (last response of the new one after {last - began:.1f} s)",
    )
    drill.check_no_loss(result, "rollback-after-promotion")
    drill.check_only_stable_serves("rollback-after-promotion", drill.good[-1])


SCENARIOS: dict[str, Callable[[Drill], None]] = {
    "good": good,
    "rollback-after-promotion": rollback_after_promotion,
    "dry-run": dry_run,
    "errors": faulty("errors", "errors|contract", is_bad=failed),
    "some-errors": faulty("some-errors", "errors|contract", is_bad=failed),
    "slow": faulty("slow", "latency", is_bad=any_request),
    "consumer": faulty("consumer", "consumer|dead-letters", is_bad=any_request),
    "double-post": faulty("double-post", "ledger-violation|contract", is_bad=failed),
    "unready": faulty("unready", "ready", is_bad=any_request),
    "rejected": rejected,
    "prometheus-down": prometheus_down,
    "driver-killed": driver_killed,
}


def run_scenarios(folder: Path, names: list[str], options: argparse.Namespace) -> list[str]:
    """Set up the stack, run the scenarios, and return the failed checks."""
    with deployed_bank(folder, STEPS) as (bank, releases):
        drill = Drill(bank, releases, options.rate, options.short, tuple(options.replicas), ["base"])
        progress = Progress("drill canary", len(names))
        for name in names:
            progress.step(f"{name}: {(SCENARIOS[name].__doc__ or 'a release with this fault').splitlines()[0]}")
            began = time.monotonic()
            SCENARIOS[name](drill)
            progress.info(f"{name} took {time.monotonic() - began:.0f} s")
        return drill.failures


def main() -> int:
    """Run the selected scenarios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"scenarios, some of: {', '.join(SCENARIOS)}; without --faults: all")
    parser.add_argument("--faults", help=f"any fault, or {AA}; without --only: {AA},{','.join(FAULTS)}")
    parser.add_argument("--rate", type=float, default=200, help="requests per second (default 200)")
    parser.add_argument(
        "--replicas",
        type=int,
        nargs="+",
        default=[1, 3, 5],
        help="numbers of stable replicas at which the split is measured (default 1 3 5)",
    )
    parser.add_argument("--short", action="store_true", help="fewer replicas and transitions")
    options = parser.parse_args()
    if options.only is None and options.faults is None:
        options.only, options.faults = ",".join(SCENARIOS), ",".join((AA, *FAULTS))
    names, faults = ([name for name in (given or "").split(",") if name] for given in (options.only, options.faults))
    if unknown := (set(names) - SCENARIOS.keys()) | (set(faults) - {AA, *DESCRIPTIONS}):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    failures = run_composed(faults) if faults else []
    if names:
        with tempfile.TemporaryDirectory() as folder:
            failures += run_scenarios(Path(folder), names, options)
    info(f"{len(names) + len(faults)} scenarios and faults, {len(failures)} failed checks")
    return exit_code(failures)


if __name__ == "__main__":
    sys.exit(main())
