"""Inject random faults into the bank under load; check that every operation has exactly one effect or none.

    make drills DRILL=faults [ARGS="--seed 1 --faults 30 --transfers 3000 --plan"]

Starts a stack whose disks can be filled and whose clocks can be skewed. A seed determines the faults (containers
killed, restarted or frozen; networks partitioned, partitioned in one direction, lossy or slow; disks slow or full;
clocks skewed) and the clients' requests: transfers, batches, deposits, withdrawals, holds, captures, voids and
reversals. Some clients have short timeouts, some do not retry, some retry at the end. Once all events are consumed, the
clients' responses are compared with the ledger, its events, the history and the statements. Prints faults, operations
and violations; exits 1 if a threshold is missed. The same seed gives the same plan where the same kinds of faults are
available; --plan only prints it.
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

from drills.chaos import bank_state
from harness.commands import info
from harness.composed_stack import ComposedBank
from drills.chaos.clients import ClientPool, ResponseLog, open_accounts
from drills.chaos.fault_environment import FaultEnvironment
from drills.chaos.fault_injector import INJECTION_ERRORS, FaultInjector, Repair
from drills.chaos.fault_plan import KINDS, Plan, make_plan
from drills.chaos.history_checker import ACKNOWLEDGED, REFUSED, UNKNOWN, find_violations
from harness.client import eventually

# Thresholds: time from a repair until the API works again, and time without a consumed event while some are missing.
MAX_RECOVERY_SECONDS, MAX_STALL_SECONDS = 30.0, 60.0
# Timeout of a repair, and of the recovery after it.
REPAIR_TIMEOUT_SECONDS = 120.0
# Duration of the Docker commands and the recovery check of a fault.
_OVERHEAD_SECONDS = 2.0
# Longer recoveries are printed immediately.
_SLOW_RECOVERY_SECONDS = 3.0
# The autoscaler would repair faults; the other services are not needed and would take CPU.
_STOPPED_SERVICES = (
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
    """The result of a run: violations, the longest recovery by kind of fault, and the number of injected faults."""

    violations: list[str]
    recovery_seconds: dict[str, float]
    injected: int


def run(injector: FaultInjector, plan: Plan, max_recovery_seconds: float = MAX_RECOVERY_SECONDS) -> Result:
    """Run a plan on a running stack and check the result."""
    log = ResponseLog()
    accounts = open_accounts(injector.bank, log)
    recovery_seconds: dict[str, float] = {}
    clients = ClientPool(injector.bank, plan, log, accounts)
    started = time.monotonic()
    try:
        injected = _inject_faults(injector, plan, clients, recovery_seconds)
    finally:
        clients.join()
    info(f"faults repaired, clients finished after {time.monotonic() - started:.0f} s; waiting for events")
    violations = list(log.unexpected)
    try:
        left, seconds = bank_state.wait_until_consumed(injector.bank, MAX_STALL_SECONDS)
        info(f"the remaining {left} events were consumed after {seconds:.0f} s")
    except AssertionError:
        violations.append(f"events are missing, and none was consumed for {MAX_STALL_SECONDS:.0f} s")
    violations += [
        f"recovery from {kind} took {seconds:.1f} s"
        for kind, seconds in recovery_seconds.items()
        if seconds > max_recovery_seconds
    ]
    violations += _check(injector.bank, log, accounts)
    _print_operations(log)
    for service, count in injector.disk_full_errors.items():
        print(f"{service} logged {count} disk-full errors")
    return Result(violations, recovery_seconds, injected)


def _check(bank: ComposedBank, log: ResponseLog, accounts: list[str]) -> list[str]:
    """Read ledger, events, history and statements, and return the violations."""
    ledger = bank_state.read_ledger(bank)
    history = bank_state.read_history(bank, accounts)
    found = find_violations(log.operations, ledger, bank_state.read_events(bank), history)
    found += [f"{count} responses were {response}" for response, count in log.counts.items() if response[:3] == "500"]
    report = bank.reconciliation()
    if (report["mismatches"], report["pending"]) != (0, 0):
        found.append(f"reconciliation: {report}")
    info(
        f"checked: {len(log.operations)} client operations, {len(ledger.transactions)} transactions,"
        f" {len(ledger.entries)} entries, {len(ledger.holds)} holds"
    )
    return found


def _inject_faults(injector: FaultInjector, plan: Plan, clients: ClientPool, recovery_seconds: dict[str, float]) -> int:
    """Inject and repair all faults in sequence; return the number of injected ones."""
    repairs: list[Repair] = []
    injected = 0
    try:
        for number, fault in enumerate(plan.faults, start=1):
            clients.pacer.start_next_share(fault.seconds + fault.pause + _OVERHEAD_SECONDS)
            info(f"fault {number}/{len(plan.faults)}: {fault}")
            try:
                repairs.append(injector.inject(fault))
                injected += 1
            except INJECTION_ERRORS as error:
                # An overlapping fault may have stopped the target; a process that waits for a disk cannot be frozen.
                info(f"… not injected: {error}")
            time.sleep(fault.seconds)
            if fault.overlaps:
                continue
            _repair_all(repairs)
            _wait_until_recovered(injector, fault.kind, recovery_seconds)
            time.sleep(fault.pause)
    finally:
        _repair_all(repairs)
    return injected


def _repair_all(repairs: list[Repair]) -> None:
    while repairs:
        eventually(partial(_try_repair, repairs.pop()), REPAIR_TIMEOUT_SECONDS, every=1)


def _try_repair(repair: Repair) -> bool:
    """Return whether the repair succeeded; Docker may be busy with the container."""
    try:
        repair()
    except INJECTION_ERRORS as error:
        info(f"… repair failed, retrying: {error}")
        return False
    return True


def _wait_until_recovered(injector: FaultInjector, kind: str, recovery_seconds: dict[str, float]) -> None:
    """Wait until the API works, and record the longest time for each kind (of overlapping faults, the last)."""
    started = time.monotonic()

    def both_services_respond() -> bool:
        headers = injector.bank.headers("alice")
        try:
            return all(
                injector.bank.client.get(path, headers=headers).status_code == 200
                for path in ("/api/v1/accounts?limit=1", "/api/v1/transactions?limit=1")
            )
        except httpx.TransportError:
            return False

    with suppress(AssertionError):  # the time is reported as a violation
        eventually(lambda: both_services_respond() and injector.all_containers_run(), REPAIR_TIMEOUT_SECONDS, every=0.1)
    seconds = time.monotonic() - started
    recovery_seconds[kind] = max(recovery_seconds.get(kind, 0.0), seconds)
    if seconds > _SLOW_RECOVERY_SECONDS:
        info(f"… recovered {seconds:.1f} s after the repair")


def _print_operations(log: ResponseLog) -> None:
    outcomes = (ACKNOWLEDGED, REFUSED, UNKNOWN)
    counts = Counter((operation.kind, operation.outcome) for operation in log.operations)
    print(f"{'operation':12} " + " ".join(f"{outcome:>12}" for outcome in outcomes))
    for kind in sorted({kind for kind, _ in counts}):
        print(f"{kind:12} " + " ".join(f"{counts[kind, outcome]:12}" for outcome in outcomes))
    print(f"{log.skipped} requests skipped: no hold or transaction to refer to yet")
    print("responses: " + ", ".join(f"{count} × {response}" for response, count in log.counts.most_common()))
    print(f"slowest request including retries: {log.slowest_seconds:.1f} s", flush=True)


def print_plan(plan: Plan, injector: FaultInjector | None = None) -> None:
    """Print the size of a plan, and the kinds of faults that are unavailable."""
    print(
        f"seed {plan.seed}, plan {plan.digest}: {len(plan.faults)} faults, {plan.transfers} transfers"
        f" in {sum(map(len, plan.requests))} requests of {len(plan.requests)} clients"
    )
    for note in injector.notes if injector else ():
        print(f"note: {note}")
    for kind, reason in sorted(injector.unavailable.items()) if injector else ():
        print(f"not available: {kind} ({reason})")


def print_result(plan: Plan, result: Result) -> int:
    """Print violations and thresholds; return 1 when a threshold is missed."""
    for violation in result.violations:
        info(f"violation: {violation}")
    planned = Counter(fault.kind for fault in plan.faults)
    print("planned: " + ", ".join(f"{count} × {kind}" for kind, count in planned.most_common()))
    recoveries = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in sorted(result.recovery_seconds.items()))
    print(f"recovery (threshold: at most {MAX_RECOVERY_SECONDS:.0f} s): {recoveries}")
    print(
        f"seed {plan.seed}: {result.injected} of {len(plan.faults)} faults injected, {plan.transfers} transfers,"
        f" {len(result.violations)} violations (threshold: 0)"
    )
    return 1 if result.violations else 0


def main() -> int:
    """Start a stack, run the seed's plan, check the result, and stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--transfers", type=int, default=3000)
    parser.add_argument("--only", metavar="KIND,…", help=f"kinds of faults: {', '.join(KINDS)}")
    parser.add_argument("--plan", action="store_true", help="print the plan without running it")
    options = parser.parse_args()
    selected = options.only.split(",") if options.only else list(KINDS)
    if unknown := set(selected) - set(KINDS):
        parser.error(f"no such kind of fault: {', '.join(unknown)}")

    def plan_with(available: list[str]) -> Plan:
        kinds = [kind for kind in available if kind in selected]
        return make_plan(options.seed, options.faults, options.transfers, kinds)

    if options.plan:
        plan = plan_with(list(KINDS))
        print_plan(plan)
        print("\n".join(map(str, plan.faults)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        return _run_on_dedicated_stack(Path(folder), plan_with)


def _run_on_dedicated_stack(folder: Path, plan_with: Callable[[list[str]], Plan]) -> int:
    environment = FaultEnvironment(folder)
    with environment.disks_mounted():
        files = ["docker-compose.yml", "integration-tests/harness/receiver/compose.yml", environment.compose_file()]
        bank = ComposedBank(folder, COMPOSE_FILE=":".join(files))
        try:
            bank.compose("stop", "--timeout", "5", *_STOPPED_SERVICES)
            injector = FaultInjector(bank, environment)
            plan = plan_with(injector.kinds)
            print_plan(plan, injector)
            return print_result(plan, run(injector, plan))
        finally:
            bank.close()


if __name__ == "__main__":
    sys.exit(main())
