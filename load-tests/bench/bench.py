"""Compare the throughput of the bank with pgbench on the same PostgreSQL, on one machine.

    make bench [ARGS="--seconds 8 --rounds 3 --growth --slow-disk --json"]

Variant A is pgbench running the statements of a transfer one by one, one database transaction per transfer; variant A1
runs them in one function call. pgbench and the bank use the same PostgreSQL (fsync and synchronous_commit on), the same
schema and 64 connections, in interleaved rounds; ratios are medians over the rounds.

The benchmark measures account-service alone, then the whole bank end to end, then reads. `--growth` repeats transfers
and reads with a million accounts and ten million entries. With `--slow-disk`, every sync to disk takes at least 5 ms,
and only transfers through the whole bank are measured. Exits 1 if a threshold is missed or the ledger is inconsistent
afterwards.
"""

import argparse
import json
import os
import shutil
import sys
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench import end_to_end
from bench.environment import HISTORY, HOT, LEDGER, UNIFORM, Bench, started
from bench.measurement import Check, Failure, Load, Run, measure, median_of, ratio, table
from shared.observability import tracing
from shared.testing.local_stack import StackError
from shared.testing.postgres import PostgresNotInstalled
from shared.testing.progress import Progress

DIRECT, NGINX, END_TO_END = "direct", "through NGINX", "end to end"
SHARE_OF_PEAK = 0.6
GROWN = 1_000_000
KEYS = 10_000_000
SYNC_MS = 5
_SLOW = "BENCH_SLOW_DISK"
_READS = {
    "account": ("/api/v1/accounts/{account}", "read_account.sql", LEDGER),
    "page of history": ("/api/v1/transactions?account_id={account}&limit=50", "read_page.sql", HISTORY),
    "statement": ("/api/v1/statements/{account}", "read_statement.sql", HISTORY),
}


@dataclass
class Results:
    """Measured values: runs by phase, values with their thresholds, and broken invariants of the ledger."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    broken_invariants: list[str] = field(default_factory=list)


def interleaved(
    bench: Bench,
    progress: Progress,
    rounds: int,
    account_counts: Sequence[int],
    loads: Mapping[str, Callable[[int], Load]],
) -> list[Run]:
    """Measure every variant in every round, so that noise affects all variants equally."""
    runs = []
    for number in range(1, rounds + 1):
        for accounts in account_counts:
            for variant, load in loads.items():
                progress.step(f"round {number}/{rounds}, {accounts} accounts, {variant}")
                if bench.has_history:
                    end_to_end.wait_until_consumed(bench)
                bench.checkpoint()
                runs.append(measure(variant, accounts, partial(load, accounts), bench.process_pids()))
                progress.info(f"{runs[-1].per_second:.0f}/s")
    return runs


def _transfers(bench: Bench, *variants: str) -> dict[str, Callable[[int], Load]]:
    loads: dict[str, Callable[[int], Load]] = {
        "A": partial(bench.pgbench, "transfer_statements.sql"),
        "A1": partial(bench.pgbench, "transfer_function.sql"),
        DIRECT: partial(bench.send_transfers, bench.direct_url),
        NGINX: partial(bench.send_transfers, bench.stack.api_url),
        END_TO_END: partial(end_to_end.load, bench),
    }
    return {variant: loads[variant] for variant in variants}


def measure_ledger(bench: Bench, progress: Progress, rounds: int, results: Results) -> None:
    """Measure account-service alone."""
    bench.prepare(UNIFORM)
    loads = _transfers(bench, "A", "A1", DIRECT, NGINX)
    runs = results.runs["account-service alone"] = interleaved(bench, progress, rounds, (UNIFORM, HOT), loads)
    for variant, base, threshold in ((DIRECT, "A", 1.1), (NGINX, "A", 0.9), (DIRECT, "A1", 1.2), (NGINX, "A1", 1.1)):
        value = ratio(runs, variant, UNIFORM, base)
        results.checks.append(Check(f"{variant}, {UNIFORM} accounts: ratio to {base}", value, ">=", threshold))
    peak = median_of(runs, DIRECT, UNIFORM, lambda run: run.per_second)
    progress.step(f"at {SHARE_OF_PEAK:.0%} of the peak")
    normal = bench.paced(bench.direct_url, SHARE_OF_PEAK * peak)
    results.checks.append(
        Check(f"p99 at {normal.per_second:.0f}/s ({normal.per_second / peak:.0%} of peak), ms", normal.p99, "<=", 50)
    )
    share = disabled_tracing_cost_us() / median_of(runs, DIRECT, UNIFORM, lambda run: run.cpu["account"])
    results.checks.append(Check("disabled tracing, share of the service's CPU per transfer, %", share * 100, "<=", 2))
    results.broken_invariants.append(bench.broken_invariants())


def measure_whole_bank(bench: Bench, progress: Progress, rounds: int, results: Results, slow_disk: bool) -> None:
    """Measure transfers until they are in the history, the lag of the history, and reads."""
    bench.prepare(UNIFORM)
    runs = results.runs["whole bank"] = interleaved(
        bench, progress, rounds, (UNIFORM,), _transfers(bench, "A", DIRECT, END_TO_END)
    )
    minimum = 0.8 if slow_disk else 1.0
    results.checks.append(Check(f"{END_TO_END}: ratio to A", ratio(runs, END_TO_END, UNIFORM, "A"), ">=", minimum))
    peak = median_of(runs, END_TO_END, UNIFORM, lambda run: run.per_second)
    if not slow_disk:
        progress.step(f"lag of the history at {SHARE_OF_PEAK:.0%} of the peak")
        rate, lag = end_to_end.lag_at(bench, SHARE_OF_PEAK * peak)
        results.checks += [
            Check(f"lag p99 at {rate:.0f}/s ({rate / peak:.0%} of peak), ms", lag.percentile(0.99), "<=", 250),
            Check(f"growth of the lag at {rate:.0f}/s, ms", lag.growth(), "<=", 100),
        ]
        results.runs["reads"] = measure_reads(bench, progress, rounds, UNIFORM)
    results.broken_invariants.append(bench.broken_invariants())


def measure_reads(bench: Bench, progress: Progress, rounds: int, accounts: int) -> list[Run]:
    """Measure reads through NGINX, compared with pgbench running the same SELECTs."""
    loads: dict[str, Callable[[int], Load]] = {}
    for resource, (path, script, database) in _READS.items():
        loads[f"{resource}, SELECT"] = partial(bench.pgbench, script, database=database)
        loads[resource] = partial(bench.read, path)
    return interleaved(bench, progress, rounds, (accounts,), loads)


def measure_growth(bench: Bench, progress: Progress, rounds: int, results: Results) -> None:
    """Measure transfers and reads with a million accounts and ten million entries."""
    progress.step(f"{GROWN} accounts, {GROWN * 10} entries, {KEYS} keys")
    bench.prepare(GROWN, keys=KEYS)
    before = bench.resident_mb()
    loads = _transfers(bench, "A", DIRECT, END_TO_END)
    runs = results.runs["grown"] = interleaved(bench, progress, rounds, (GROWN,), loads)
    empty = results.runs["whole bank"]
    for variant in (DIRECT, END_TO_END):
        share = ratio(runs, variant, GROWN, "A") / ratio(empty, variant, UNIFORM, "A")
        results.checks.append(Check(f"{variant}, grown: ratio to A, relative to an empty database", share, ">=", 0.85))
        per_second = [
            median_of(phase, variant, accounts, lambda run: run.per_second)
            for phase, accounts in ((runs, GROWN), (empty, UNIFORM))
        ]
        share = per_second[0] / per_second[1]
        results.checks.append(Check(f"{variant}, grown: transfers/s, relative to an empty database", share, ">=", 0.7))
    results.runs["reads, grown"] = measure_reads(bench, progress, rounds, GROWN)
    for service, after in bench.resident_mb().items():
        growth = after / before[service]
        results.checks.append(
            Check(f"{service}: resident memory ({after:.0f} MB), relative to the start", growth, "<=", 1.25)
        )
    results.broken_invariants.append(bench.broken_invariants())


def disabled_tracing_cost_us() -> float:
    """Return the CPU time of the tracing calls of one transfer with tracing disabled, in µs."""
    parent = f"00-{'1' * 32}-{'2' * 16}-01"

    def one_transfer() -> None:
        tracing.current_traceparent()
        with tracing.span("group commit", [parent]):
            pass
        tracing.name_request("POST", "/api/v1/transfers")

    return min(timeit.repeat(one_transfer, number=20_000, repeat=5)) / 20_000 * 1e6


def run_all(arguments: argparse.Namespace, progress: Progress) -> Results:
    """Run all phases, each in a new environment."""
    results = Results()
    environment = partial(started, arguments.seconds, arguments.replicas, progress)
    if not arguments.slow_disk:
        progress.step("PostgreSQL and account-service")
        with environment() as bench:
            measure_ledger(bench, progress, arguments.rounds, results)
    progress.step("PostgreSQL, NATS and both services")
    with environment(with_history=True) as bench:
        measure_whole_bank(bench, progress, arguments.rounds, results, arguments.slow_disk)
    if arguments.growth:
        progress.step("PostgreSQL, NATS and both services, for growth")
        with environment(with_history=True) as bench:
            measure_growth(bench, progress, arguments.rounds, results)
    return results


def steps(arguments: argparse.Namespace) -> int:
    """Return the number of steps of a run."""
    rounds: int = arguments.rounds
    reads = 2 * len(_READS)
    if arguments.slow_disk:
        return 1 + 3 * rounds
    return 4 + (11 + reads) * rounds + ((2 + (3 + reads) * rounds) if arguments.growth else 0)


def print_results(results: Results, as_json: bool) -> None:
    """Print tables and thresholds."""
    tables = {
        phase: table(runs, [base for base in ("A", "A1") if any(run.variant == base for run in runs)])
        for phase, runs in results.runs.items()
    }
    if as_json:
        checks = [{**check._asdict(), "met": check.met} for check in results.checks]
        print(json.dumps({"tables": tables, "thresholds": checks, "broken": results.broken_invariants}, indent=2))
        return
    for phase, rows in tables.items():
        print(f"\n{phase}\n" + "  ".join(f"{name:>15}" for name in rows[0]))
        for row in rows:
            print("  ".join(f"{value!s:>15}" for value in row.values()))
    print()
    for check in results.checks:
        mark = "met    " if check.met else "missed "
        print(f"{mark} {check.what}: {check.value:.2f} (threshold {check.sign} {check.threshold})")
    broken = " ".join(filter(None, results.broken_invariants))
    print(f"{'missed ' if broken else 'met    '} ledger invariants {broken}")


def main() -> int:
    """Run the benchmark, print the tables, and return 0 only if every threshold is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=8, help="duration of one measurement in seconds (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of account-service behind NGINX (default 1)")
    parser.add_argument("--growth", action="store_true", help="also measure with ten million entries")
    parser.add_argument("--slow-disk", action="store_true", help=f"delay every sync to disk by {SYNC_MS} ms")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if missing := [name for name in ("wrk", *["strace"] * arguments.slow_disk) if shutil.which(name) is None]:
        print(f"bench: {missing[0]} is not installed; on Debian: apt-get install {missing[0]}", file=sys.stderr)
        return 1
    if arguments.slow_disk and _SLOW not in os.environ:
        _reexec_with_slow_disk()
    progress = Progress("bench", steps(arguments))
    try:
        results = run_all(arguments, progress)
    except (Failure, StackError, PostgresNotInstalled) as failure:
        progress.finished(" ".join(str(failure).split()), good=False)
        return 1
    print_results(results, arguments.json)
    met = sum(check.met for check in results.checks)
    broken = any(results.broken_invariants)
    good = met == len(results.checks) and not broken
    ledger = "ledger invariants broken" if broken else "ledger invariants hold"
    progress.finished(f"{met} of {len(results.checks)} thresholds met, {ledger}", good=good)
    return 0 if good else 1


def _reexec_with_slow_disk() -> None:
    """Replace this process by one under strace, which delays each sync of PostgreSQL and NATS."""
    calls = "fsync,fdatasync"
    command = ["strace", "-f", "--seccomp-bpf", "-q", "-o", "/dev/null", "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:delay_exit={SYNC_MS * 1000}", "--", sys.executable, "-m", "bench.bench"]
    os.execvpe("strace", [*command, *sys.argv[1:]], {**os.environ, _SLOW: "1"})


if __name__ == "__main__":
    sys.exit(main())
