"""Deploy good and faulty releases under load: good ones are promoted, faulty ones rolled back, and no request fails.

    make drills DRILL=canary [ARGS="--only good,errors --rate 100"] [ARGS="--faults 401-all,leak,aa"]

Scenarios (`--only`): builds and signs releases (faulty ones are the real images with a package that injects a fault)
and deploys them with Ansible from a dedicated registry. Faults (`--faults`): rolls out faulty releases, and ten equal
ones (`aa`), on one composed stack. Prints thresholds and measured values; exits 1 when one is missed.
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

from harness.commands import exit_code, info, kill
from harness.deployed_stack import SERVICES, DeployedBank, Deployment
from drills.rollout.composed import AA, FAULTS, run_composed
from drills.rollout.deployed import (
    RELOAD_SECONDS,
    DeployedDrill,
    any_request,
    canary_requests,
    deployed_bank,
    print_timeline,
    record_canary_addresses,
    start_rollback,
    timestamp,
    upstream_failed,
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


def good(drill: DeployedDrill) -> None:
    """A good release is promoted; the split is as configured at any number of replicas; no request fails."""
    bank, release = drill.bank, drill.build_good_release()
    counts = (2,) if drill.short else drill.replicas
    # The first step must last until the split is measured at each count, which takes 80 s on two busy cores.
    bake = 45 if drill.short else 110 * len(counts)
    # Without spaces, because make splits arguments at spaces.
    times = [
        f"--extra-vars=nginx_canary_bake_seconds={bake}",
        f"--extra-vars=nginx_canary_step_timeout_seconds={bake + 195}",
    ]
    bank.autoscale_cli("pause")
    with customers(bank, drill.rate) as result:
        process = bank.start_deploy(release, *times)
        started = time.time()
        bank.wait_for_state(process, STAGES["canary 10 %"])
        time.sleep(RELOAD_SECONDS)
        for count in counts:
            check_split(drill, count)
        if not drill.short:
            # A promotion starts as many new replicas; two cores cannot start ten under load.
            bank.scale(2)
        output, _ = process.communicate(timeout=1200)
        ended = time.time()
        time.sleep(5)
    drill.check("good: deployment succeeds", f"after {ended - started:.0f} s", process.returncode == 0)
    if process.returncode:
        print(output[-4000:])
    state = bank.state()
    print_timeline(state, started)
    drill.check("good: promoted", state["outcome"], state["outcome"] == "promoted")
    if state["outcome"] == "promoted":
        drill.promoted.append(release.stem)
        check_tracks(drill, result, state)
    drill.check_requests("good", result)
    drill.check_only_stable_serves("good")
    bank.autoscale_cli("resume")


def check_split(drill: DeployedDrill, replicas: int) -> None:
    """Measure the share of clients on the canary at a number of stable replicas."""
    if not drill.short:
        drill.bank.scale(replicas)
        eventually(lambda: len(drill.bank.containers("stable")) == replicas * len(SERVICES), 90)
        time.sleep(6)
    requests = burst(drill.bank, (f"client-{n}" for n in range(3_000)))
    drill.check(
        f"good: no failed requests at {replicas} stable replicas",
        f"{len(requests.failed)} of {requests.sent}",
        not requests.failed,
    )
    # On a slow machine the next step may have started meanwhile.
    step_ends = (event["at"] for event in drill.bank.state()["history"] if event["step"] > 0)
    responses = requests.between(0, next(step_ends, float("inf")))
    share = sum(response.track == "canary" for response in responses) / max(1, len(responses))
    drill.check(
        f"good: {SPLIT:.0%} ± {TOLERANCE:.0%} of at least {MIN_CLIENTS} clients on the canary at {replicas} replicas",
        f"{share:.2%} of {len(responses)}",
        abs(share - SPLIT) <= TOLERANCE and len(responses) >= MIN_CLIENTS,
    )


def check_tracks(drill: DeployedDrill, result: Load, state: dict[str, Any]) -> None:
    """Check that no client changed tracks within a step, and none left the canary when its weight grew."""
    steps = [step for step in state["history"] if step["reason"].endswith("% of clients")]
    promoted_at = next(entry["at"] for entry in state["history"] if entry["phase"] == "promoting")
    ends = [*(step["at"] for step in steps[1:]), promoted_at]
    on_canary: list[set[str]] = []
    for step, end in zip(steps, ends):
        tracks_of: dict[str, set[str]] = defaultdict(set)
        responses = result.between(step["at"] + RELOAD_SECONDS, end - 1)
        for response in responses:
            tracks_of[response.client].add(response.track)
        changed = sum(len(tracks) > 1 for tracks in tracks_of.values())
        repeated = len(responses) - len(tracks_of)
        drill.check(
            f"good: no client changed tracks at {step['weight']} %",
            f"{changed} of {len(tracks_of)} clients; {repeated} requests came from a client seen before",
            changed == 0,
        )
        on_canary.append({client for client, tracks in tracks_of.items() if tracks == {"canary"}})
    clients = {response.client for response in result.between(steps[-1]["at"] + RELOAD_SECONDS, ends[-1] - 1)}
    left_canary = (on_canary[0] & clients) - on_canary[-1]
    drill.check("good: no client left the canary when its weight grew", f"{len(left_canary)} clients", not left_canary)


# Faulty releases ------------------------------------------------------------------------------------------------------


def faulty(
    fault: str, reasons: str, *, is_faulty: Callable[[dict[str, Any]], bool], gets_traffic: bool = True
) -> Callable[[DeployedDrill], None]:
    """Return a scenario: a release with a fault must be rolled back for one of the reasons (a regular expression).

    `is_faulty` recognizes a faulty response in NGINX's access log.
    """

    def scenario(drill: DeployedDrill) -> None:
        bank, release = drill.bank, drill.releases.derive(f"faulty-{fault}", "base", fault)
        with customers(bank, drill.rate) as result, record_canary_addresses(bank) as addresses:
            time.sleep(5)
            done = bank.deploy(release)
            time.sleep(RELOAD_SECONDS)
            ended = time.time()
        check_rolled_back(drill, fault, reasons, done)
        lines = canary_requests(bank.access_log(done.began), addresses, bank.state()["history"])
        first = next((timestamp(line["at"]) for line in lines if is_faulty(line)), None)
        if first is not None:
            last = max(timestamp(line["at"]) for line in lines)
            requests = [line for line in lines if timestamp(line["at"]) >= first]
            per_second = len(requests) / max(1.0, last - first)
            drill.check(
                f"{fault}: first faulty response to last canary request, at most {MAX_SECONDS_TO_ROLL_BACK:.0f} s",
                f"{last - first:.1f} s, {len(requests)} canary requests ({per_second:.0f}/s)",
                last - first <= MAX_SECONDS_TO_ROLL_BACK,
            )
        elif gets_traffic:
            drill.check(f"{fault}: faulty response in NGINX's access log", "none", False)
        info(f"  {fault}: {sum(ended > one.at for one in result.successful)} responses, {len(lines)} of the canary")
        drill.check_requests(fault, result)
        drill.check_only_stable_serves(fault)

    return scenario


def check_rolled_back(drill: DeployedDrill, name: str, reasons: str, done: Deployment) -> None:
    state = drill.bank.state()
    print_timeline(state, done.began)
    drill.check(f"{name}: deployment fails", f"after {done.ended - done.began:.0f} s", done.code != 0)
    drill.check(
        f"{name}: rolled back, reason matches {reasons}",
        f"{state['outcome']}: {state['reason']}",
        state["outcome"] == "rolled-back" and re.search(reasons, state["reason"]),
    )


def rejected(drill: DeployedDrill) -> None:
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
        messages = re.findall(r"(?:msg|fail_msg|stderr): *(.{0,160})", done.output) or [done.output[-200:]]
        drill.check(f"rejected: {name}: deployment fails", repr(messages[-1]), done.code != 0)
        canaries = bank.containers("canary")
        drill.check(
            f"rejected: {name}: no rollout and no canary started",
            canaries or "none",
            bank.state()["id"] == before and not canaries,
        )


def dry_run(drill: DeployedDrill) -> None:
    """A dry run: a good release is rolled back after its last verdict and is not deployed."""
    bank, release = drill.bank, drill.build_good_release()
    with customers(bank, drill.rate) as result:
        done = bank.deploy(release, "--extra-vars", "'{\"nginx_canary_promote\": false}'")
        time.sleep(RELOAD_SECONDS)
    drill.check("dry-run: deployment succeeds", f"after {done.ended - done.began:.0f} s", done.code == 0)
    state = bank.state()
    print_timeline(state, done.began)
    phases = [event["phase"] for event in state["history"]]
    drill.check("dry-run: passed every step", ", ".join(dict.fromkeys(phases)), "promoting" in phases)
    drill.check(
        "dry-run: reason names the dry run", f"{state['outcome']}: {state['reason']}", "dry run of" in state["reason"]
    )
    drill.check(f"dry-run: {drill.stable} is recorded as deployed", bank.deployed(), bank.deployed() == drill.stable)
    drill.check_requests("dry-run", result)
    drill.check_only_stable_serves("dry-run")


def prometheus_down(drill: DeployedDrill) -> None:
    """Prometheus stops during the analysis of a good canary: the step times out and the canary is rolled back."""
    bank, release = drill.bank, drill.build_good_release()
    with customers(bank, drill.rate) as result:
        process = bank.start_deploy(release, "--extra-vars", "nginx_canary_step_timeout_seconds=60")
        started = time.time()
        bank.wait_for_state(process, STAGES["canary 10 %"])
        bank.compose("stop", "prometheus")
        try:
            output, _ = process.communicate(timeout=600)
        finally:
            bank.compose("start", "prometheus")
        done = Deployment(process.returncode, output, started, time.time())
    check_rolled_back(drill, "prometheus-down", "no verdict within 60 s .no-data", done)
    drill.check_requests("prometheus-down", result)
    drill.check_only_stable_serves("prometheus-down")
    # Prometheus has to discover the replicas again.
    time.sleep(20)


# Killed drivers -------------------------------------------------------------------------------------------------------

STAGES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "provisioning": lambda state: state["phase"] == "provisioning",
    "canary 10 %": lambda state: state["phase"] == "canary" and state["weight"] == 10,
    "canary 50 %": lambda state: state["phase"] == "canary" and state["weight"] == 50,
    "promoting": lambda state: state["phase"] == "promoting",
    "done": lambda state: state["phase"] == "done",
}


def reached(stage: Callable[[dict[str, Any]], bool], before: str, state: dict[str, Any]) -> bool:
    """Return whether a rollout other than the previous one has reached a stage."""
    return state["id"] != before and stage(state)


def versions_serving(bank: DeployedBank) -> set[str]:
    """Return the versions that serve thirty clients."""
    return {response.version for response in burst(bank, map(str, range(30))).successful}


def driver_killed(drill: DeployedDrill) -> None:
    """The driver is killed at each stage: stable serves all clients within a minute; the next deployment succeeds."""
    bank = drill.bank
    stages = ("canary 10 %",) if drill.short else tuple(STAGES)
    with customers(bank, drill.rate) as result:
        for name in stages:
            release = drill.build_good_release()
            before = bank.state()["id"]
            process = bank.start_deploy(release)
            bank.wait_for_state(process, partial(reached, STAGES[name], before))
            if name == "promoting":
                time.sleep(6)
            kill(process)
            killed_at = time.time()
            if name == "done":
                drill.promoted.append(release.stem)
            eventually(lambda: bank.revision() == "stable" and bank.state()["phase"] != "canary", 120)
            # All clients are served by the same version again.
            eventually(lambda: len(versions_serving(bank)) == 1, 120)
            took = time.time() - killed_at
            eventually(lambda: bank.state()["phase"] in ("idle", "done") and not bank.containers("canary"), 60)
            state = bank.state()
            print_timeline(state, killed_at)
            drill.check(
                f"driver-killed at {name}: stable serves all clients after at most {MAX_SECONDS_WITHOUT_DRIVER:.0f} s",
                f"{took:.1f} s ({state['reason']})",
                took <= MAX_SECONDS_WITHOUT_DRIVER,
            )
            drill.check_only_stable_serves(f"driver-killed at {name}")
        release = drill.build_good_release()
        done = bank.deploy(release)
        drill.check("driver-killed: next deployment succeeds", f"after {done.ended - done.began:.0f} s", done.code == 0)
        if done.code:
            print(done.output[-4000:])
        else:
            drill.promoted.append(release.stem)
    drill.check_requests("driver-killed", result)


def rollback_after_promotion(drill: DeployedDrill) -> None:
    """After a promotion `make rollback` restores the previous version within seconds, without pulling images."""
    bank = drill.bank
    before = bank.state()
    drill.check("rollback-after-promotion: the last rollout is done", before["phase"], before["phase"] == "done")
    with customers(bank, drill.rate) as result:
        time.sleep(3)
        started = time.time()
        process = start_rollback(bank)
        eventually(lambda: bank.revision() != "stable", 60)
        switched = time.time()
        output, _ = process.communicate(timeout=600)
        ended = time.time()
        time.sleep(RELOAD_SECONDS)
    new = drill.promoted.pop()
    last_at = max((one.at for one in result.between(started, switched + 30) if one.version == new), default=started)
    drill.check(
        "rollback-after-promotion: `make rollback` succeeds", f"after {ended - started:.0f} s", process.returncode == 0
    )
    if process.returncode:
        print(output[-4000:])
    print_timeline(bank.state(), started)
    drill.check(
        f"rollback-after-promotion: NGINX serves the previous version after at most {MAX_SECONDS_TO_SWITCH:.0f} s",
        f"{switched - started:.1f} s (last response of the new version after {last_at - started:.1f} s)",
        switched - started <= MAX_SECONDS_TO_SWITCH,
    )
    drill.check_requests("rollback-after-promotion", result)
    drill.check_only_stable_serves("rollback-after-promotion")


SCENARIOS: dict[str, Callable[[DeployedDrill], None]] = {
    "good": good,
    "rollback-after-promotion": rollback_after_promotion,
    "dry-run": dry_run,
    "errors": faulty("errors", "errors|contract", is_faulty=upstream_failed),
    "some-errors": faulty("some-errors", "errors|contract", is_faulty=upstream_failed),
    "slow": faulty("slow", "latency", is_faulty=any_request),
    "consumer": faulty("consumer", "consumer|dead-letters", is_faulty=any_request),
    "double-post": faulty("double-post", "ledger-violation|contract", is_faulty=upstream_failed),
    "unready": faulty("unready", "ready", is_faulty=any_request, gets_traffic=False),
    "rejected": rejected,
    "prometheus-down": prometheus_down,
    "driver-killed": driver_killed,
}


def run_scenarios(folder: Path, names: list[str], options: argparse.Namespace) -> list[str]:
    """Set up the stack, run the scenarios, and return the thresholds that were missed."""
    with deployed_bank(folder, STEPS) as (bank, releases):
        drill = DeployedDrill(bank, releases, options.rate, options.short, tuple(options.replicas))
        progress = Progress("drill canary", len(names))
        for name in names:
            progress.step(f"{name}: {(SCENARIOS[name].__doc__ or 'a release with this fault').splitlines()[0]}")
            started = time.monotonic()
            SCENARIOS[name](drill)
            progress.info(f"{name} took {time.monotonic() - started:.0f} s")
        return drill.missed


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
    parser.add_argument("--short", action="store_true", help="fewer replicas and stages")
    options = parser.parse_args()
    if options.only is None and options.faults is None:
        options.only, options.faults = ",".join(SCENARIOS), ",".join((AA, *FAULTS))
    names, faults = ([name for name in (value or "").split(",") if name] for value in (options.only, options.faults))
    if unknown := (set(names) - SCENARIOS.keys()) | (set(faults) - {AA, *DESCRIPTIONS}):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    missed = run_composed(faults) if faults else []
    if names:
        with tempfile.TemporaryDirectory() as folder:
            missed += run_scenarios(Path(folder), names, options)
    info(f"{len(names) + len(faults)} scenarios and faults, {len(missed)} thresholds missed")
    return exit_code(missed)


if __name__ == "__main__":
    sys.exit(main())
