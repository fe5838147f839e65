"""Inject random faults into the bank under load; check that every operation had its effect once or not at all.

    make drills DRILL=faults [ARGS="--seed 1 --faults 30 --transfers 3000 --plan"]

Starts a stack whose disks can be filled and whose clocks can be changed. A seed draws faults (containers killed,
restarted and frozen; network partitioned, cut in one direction, lossy or slow; disk slow or full; clock changed) and
the clients' operations: transfers, batches, deposits, withdrawals, holds, captures, voids and reversals. Some clients
have short timeouts, some give up, some retry at the end. Once all events are consumed, the clients' responses are
checked against the ledger, its events, the history and the statements. Prints faults, operations and violations; exits
1 if a threshold is missed. The same seed gives the same plan where the same kinds of faults are available; --plan only
prints it.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from drills.chaos import fault_evidence as evidence
from harness.commands import info
from harness.composed_stack import ComposedBank
from drills.chaos.fault_clients import ClientPool, Log, open_accounts
from drills.chaos.fault_history import findings
from drills.chaos.fault_lab import FAILURES, Heal, FaultInjector, FaultyEnvironment
from drills.chaos.fault_plan import KINDS, Plan, make_plan
from harness.client import eventually

# Maximum time until the API recovers after a repair, and without a new event at the end while some are missing.
ANSWERING_SECONDS, STANDSTILL_SECONDS = 30.0, 60.0
# A repair or recovery that takes longer is given up.
PATIENCE_SECONDS = 120.0
# Overhead of a fault besides its duration: Docker commands and the recovery check.
_OVERHEAD_SECONDS = 2.0
_LOGGED_RECOVERY_SECONDS = 3.0
_NOT_NEEDED = (
    "autoscale-service",
    "docker-proxy",
    "rollout-service",
    "rollout-proxy",
    "prometheus",
    "alertmanager",
    "nginx-exporter",
    "postgres-exporter",
    "node-exporter",
    "blackbox-exporter",
    "receiver",
)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run: violations, the longest recovery per kind of fault, and the number of injected faults."""

    findings: list[str]
    back: dict[str, float]
    caused: int


def run(lab: FaultInjector, plan: Plan, recovery_seconds: float = ANSWERING_SECONDS) -> Result:
    """Run a plan on a running stack and check the result; `recovery_seconds` is the threshold of a recovery."""
    log = Log()
    accounts = open_accounts(lab.bank, log)
    back: dict[str, float] = {}
    clients = ClientPool(lab.bank, plan, log, accounts)
    began = time.monotonic()
    try:
        caused = _break_and_heal(lab, plan, clients, back)
    finally:
        clients.join()
    info(f"faults repaired, clients finished after {time.monotonic() - began:.0f} s; waiting for events")
    problems = list(log.strange)
    try:
        waiting, took = evidence.all_quiet(lab.bank, STANDSTILL_SECONDS)
        info(f"the last {waiting} events have arrived after {took:.0f} s")
    except AssertionError:
        problems.append(f"events are missing, and none has arrived for {STANDSTILL_SECONDS:.0f} s")
    problems += [f"recovery from {kind} took {took:.1f} s" for kind, took in back.items() if took > recovery_seconds]
    problems += check(lab.bank, log, accounts)
    _print_operations(log)
    for service, count in lab.said_full.items():
        print(f"{service} logged {count} disk-full errors")
    return Result(problems, back, caused)


def check(bank: ComposedBank, log: Log, accounts: list[str]) -> list[str]:
    """Read ledger, events, history and statements, and return the violations."""
    ledger = evidence.ledger(bank)
    found = findings(log.asked, ledger, evidence.events(bank), evidence.told(bank, accounts))
    errors = {answer: count for answer, count in log.answers.items() if answer.startswith("500")}
    found += [f"{count} responses were {answer}" for answer, count in errors.items()]
    report = bank.reconciliation()
    if (report["mismatches"], report["pending"]) != (0, 0):
        found.append(f"reconciliation: {report}")
    info(
        f"checked: {len(log.asked)} operations of clients, {len(ledger.transactions)} transactions,"
        f" {len(ledger.entries)} entries, {len(ledger.holds)} holds"
    )
    return found


def _break_and_heal(lab: FaultInjector, plan: Plan, clients: ClientPool, back: dict[str, float]) -> int:
    """Inject and repair all faults in sequence; return the number of injected ones."""
    active: list[Heal] = []
    caused = 0
    try:
        for number, fault in enumerate(plan.faults, start=1):
            clients.pace.next_share(fault.seconds + fault.pause + _OVERHEAD_SECONDS)
            info(f"fault {number}/{len(plan.faults)}: {fault}")
            try:
                active.append(lab.cause(fault))
                caused += 1
            except FAILURES as error:
                # An overlapping fault may have stopped the target; a process that waits for a disk cannot be frozen.
                info(f"… not injected: {error}")
            time.sleep(fault.seconds)
            if fault.overlaps:
                continue
            _heal(active)
            _wait_until_recovered(lab, fault.kind, back)
            time.sleep(fault.pause)
    finally:
        _heal(active)
    return caused


def _heal(active: list[Heal]) -> None:
    while active:
        eventually(partial(_healed, active.pop()), PATIENCE_SECONDS, every=1)


def _healed(heal: Heal) -> bool:
    """Return whether the repair succeeded; Docker may be busy with the container."""
    try:
        heal()
    except FAILURES as error:
        info(f"… repair failed, retrying: {error}")
        return False
    return True


def _wait_until_recovered(lab: FaultInjector, kind: str, back: dict[str, float]) -> None:
    """Wait until the API recovers, and record the longest time for each kind (of overlapping faults, the last)."""
    began = time.monotonic()

    def both_answer() -> bool:
        headers = lab.bank.headers("alice")
        try:
            return all(
                lab.bank.client.get(path, headers=headers).status_code == 200
                for path in ("/api/v1/accounts?limit=1", "/api/v1/transactions?limit=1")
            )
        except httpx.TransportError:
            return False

    with suppress(AssertionError):  # the time is reported as a violation
        eventually(lambda: both_answer() and lab.all_run(), PATIENCE_SECONDS, every=0.1)
    took = time.monotonic() - began
    back[kind] = max(back.get(kind, 0.0), took)
    if took > _LOGGED_RECOVERY_SECONDS:
        info(f"… recovered {took:.1f} s after the repair")


def _print_operations(log: Log) -> None:
    kinds = Counter((one.kind, one.outcome) for one in log.asked)
    print(f"{'operation':12} {'done':>8} {'refused':>8} {'unknown':>8}")
    for kind in sorted({kind for kind, _ in kinds}):
        counts = [kinds[kind, outcome] for outcome in ("done", "refused", "unknown")]
        print(f"{kind:12} {counts[0]:8} {counts[1]:8} {counts[2]:8}")
    print(f"{log.skipped} skipped: no hold or transaction to refer to yet")
    print("responses: " + ", ".join(f"{count} × {answer}" for answer, count in log.answers.most_common()))
    print(f"slowest operation including retries: {log.slowest:.1f} s", flush=True)


def show(plan: Plan, lab: FaultInjector | None = None) -> None:
    """Print the plan."""
    print(
        f"seed {plan.seed}, plan {plan.digest}: {len(plan.faults)} faults, {plan.transfers} transfers"
        f" in {sum(map(len, plan.operations))} operations of {len(plan.operations)} clients"
    )
    for note in lab.notes if lab else ():
        print(f"note: {note}")
    for kind, why in sorted(lab.missing.items()) if lab else ():
        print(f"not available: {kind} ({why})")


def conclude(plan: Plan, result: Result) -> int:
    """Print violations and thresholds; return 1 when a threshold is missed."""
    for finding in result.findings:
        info(f"violation: {finding}")
    planned = Counter(fault.kind for fault in plan.faults)
    print("planned: " + ", ".join(f"{count} × {kind}" for kind, count in planned.most_common()))
    slowest = ", ".join(f"{kind} {took:.1f} s" for kind, took in sorted(result.back.items()))
    print(f"recovery (threshold: {ANSWERING_SECONDS:.0f} s): {slowest}")
    print(
        f"seed {plan.seed}: {result.caused} of {len(plan.faults)} faults, {plan.transfers} transfers,"
        f" {len(result.findings)} violations (threshold: 0)"
    )
    return 1 if result.findings else 0


def main() -> int:
    """Start a stack, run the seed's plan, check, and stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--transfers", type=int, default=3000)
    parser.add_argument("--only", metavar="KIND,…", help=f"kinds of faults: {', '.join(KINDS)}")
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(KINDS)
    if unknown := set(wanted) - set(KINDS):
        parser.error(f"no such kind of fault: {', '.join(unknown)}")

    def plan_of(kinds: list[str]) -> Plan:
        return make_plan(options.seed, options.faults, options.transfers, [one for one in kinds if one in wanted])

    if options.plan:
        plan = plan_of(list(KINDS))
        show(plan)
        print("\n".join(map(str, plan.faults)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        return _on_a_stack(Path(folder), plan_of)


def _on_a_stack(folder: Path, plan_of: Callable[[list[str]], Plan]) -> int:
    stage = FaultyEnvironment(folder)
    with stage.disks_mounted():
        files = ["docker-compose.yml", "integration-tests/harness/receiver/compose.yml", stage.compose_file()]
        bank = ComposedBank(folder, COMPOSE_FILE=":".join(files))
        try:
            # The autoscaler would repair the faults; the other services are not needed and would take CPU.
            bank.compose("stop", "--timeout", "5", *_NOT_NEEDED)
            lab = FaultInjector(bank, stage)
            plan = plan_of(lab.kinds)
            show(plan, lab)
            return conclude(plan, run(lab, plan))
        finally:
            bank.close()


if __name__ == "__main__":
    sys.exit(main())
