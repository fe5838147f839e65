"""Operations per second of the bank against PostgreSQL itself, in one run on one machine.

    make bench [ARGS="--seconds 8 --rounds 3 --growth --slow-disk --json"]

A is pgbench running the transfer's own statements one by one, a transaction per transfer; A1 is the same as one
function call. pgbench and the bank use the same PostgreSQL (fsync and synchronous_commit on), the same schema and 64
connections, in interleaved rounds; ratios are medians of the rounds' ratios.

First, account-service is measured alone. Then the whole bank, end to end, and reads of it. `--growth` repeats both on a
million accounts with ten million entries. With `--slow-disk`, every sync to disk takes at least 5 ms, and only the
whole bank is measured. Exits 1 if a threshold is missed, or if the ledger is inconsistent afterwards.
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

DIRECT, NGINX, WHOLE = "direct", "through NGINX", "end to end"
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
    """What has been measured: runs by phase, and values with their thresholds."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    broken_invariants: list[str] = field(default_factory=list)


def interleaved(
    bench: Bench,
    progress: Progress,
    rounds: int,
    spreads: Sequence[int],
    loads: Mapping[str, Callable[[int], Load]],
) -> list[Run]:
    """Measure every variant in every round, so that a slow minute affects all alike."""
    runs = []
    for number in range(1, rounds + 1):
        for accounts in spreads:
            for variant, load in loads.items():
                progress.step(f"round {number}/{rounds}, {accounts} accounts, {variant}")
                if bench.has_history:
                    end_to_end.wait_until_consumed(bench)
                bench.checkpoint()
                runs.append(measure(variant, accounts, partial(load, accounts), bench.roots()))
                progress.info(f"{runs[-1].per_second:.0f}/s")
    return runs


def _transfers(bench: Bench, *variants: str) -> dict[str, Callable[[int], Load]]:
    loads: dict[str, Callable[[int], Load]] = {
        "A": partial(bench.pgbench, "transfer_statements.sql"),
        "A1": partial(bench.pgbench, "transfer_function.sql"),
        DIRECT: partial(bench.http, bench.direct_url),
        NGINX: partial(bench.http, bench.stack.api_url),
        WHOLE: partial(end_to_end.load, bench),
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
    calm = bench.paced(bench.direct_url, SHARE_OF_PEAK * peak)
    results.checks.append(
        Check(f"p99 at {calm.per_second:.0f}/s ({calm.per_second / peak:.0%} of peak), ms", calm.p99, "<=", 50)
    )
    share = tracing_off_us() / median_of(runs, DIRECT, UNIFORM, lambda run: run.cpu["account"])
    results.checks.append(Check("disabled tracing, share of the service's CPU per transfer, %", share * 100, "<=", 2))
    results.broken_invariants.append(bench.broken_invariants())


def measure_whole_bank(bench: Bench, progress: Progress, rounds: int, results: Results, slow_disk: bool) -> None:
    """Measure transfers until they are in the history, and reads."""
    bench.prepare(UNIFORM)
    runs = results.runs["whole bank"] = interleaved(
        bench, progress, rounds, (UNIFORM,), _transfers(bench, "A", DIRECT, WHOLE)
    )
    minimum = 0.8 if slow_disk else 1.0
    results.checks.append(Check(f"{WHOLE}: ratio to A", ratio(runs, WHOLE, UNIFORM, "A"), ">=", minimum))
    peak = median_of(runs, WHOLE, UNIFORM, lambda run: run.per_second)
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
    """Measure reads through NGINX, and pgbench running their SELECTs."""
    loads: dict[str, Callable[[int], Load]] = {}
    for what, (path, script, database) in _READS.items():
        loads[f"{what}, SELECT"] = partial(bench.pgbench, script, database=database)
        loads[what] = partial(bench.read, path)
    return interleaved(bench, progress, rounds, (accounts,), loads)


def measure_growth(bench: Bench, progress: Progress, rounds: int, results: Results) -> None:
    """Measure the same on a ledger with a million accounts and ten million entries."""
    progress.step(f"{GROWN} accounts, {GROWN * 10} entries, {KEYS} keys")
    bench.prepare(GROWN, keys=KEYS)
    before = bench.resident_mb()
    loads = _transfers(bench, "A", DIRECT, WHOLE)
    runs = results.runs["grown"] = interleaved(bench, progress, rounds, (GROWN,), loads)
    empty = results.runs["whole bank"]
    for variant in (DIRECT, WHOLE):
        share = ratio(runs, variant, GROWN, "A") / ratio(empty, variant, UNIFORM, "A")
        results.checks.append(Check(f"{variant}, grown: ratio to A, share of that when empty", share, ">=", 0.85))
        per_second = [
            median_of(own, variant, accounts, lambda run: run.per_second)
            for own, accounts in ((runs, GROWN), (empty, UNIFORM))
        ]
        share = per_second[0] / per_second[1]
        results.checks.append(Check(f"{variant}, grown: transfers/s, share of those when empty", share, ">=", 0.7))
    results.runs["reads, grown"] = measure_reads(bench, progress, rounds, GROWN)
    for service, after in bench.resident_mb().items():
        growth = after / before[service]
        results.checks.append(Check(f"{service}: resident memory, {after:.0f} MB, to that before", growth, "<=", 1.25))
    results.broken_invariants.append(bench.broken_invariants())


def tracing_off_us() -> float:
    """Return what the tracing calls of one transfer cost while no traces are sent, in µs."""
    parent = f"00-{'1' * 32}-{'2' * 16}-01"

    def one_transfer() -> None:
        tracing.current_traceparent()
        with tracing.span("group commit", [parent]):
            pass
        tracing.name_request("POST", "/api/v1/transfers")

    return min(timeit.repeat(one_transfer, number=20_000, repeat=5)) / 20_000 * 1e6


def run_all(arguments: argparse.Namespace, progress: Progress) -> Results:
    """Run all phases, each on an environment of its own."""
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
    parser.add_argument("--seconds", type=int, default=8, help="length of one measurement (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all are repeated (default 3)")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of account-service behind NGINX (default 1)")
    parser.add_argument("--growth", action="store_true", help="measure a ledger with ten million entries, too")
    parser.add_argument("--slow-disk", action="store_true", help=f"every sync to disk takes {SYNC_MS} ms or more")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if missing := [name for name in ("wrk", *["strace"] * arguments.slow_disk) if shutil.which(name) is None]:
        print(f"bench: {missing[0]} is missing; on Debian: apt-get install {missing[0]}", file=sys.stderr)
        return 1
    if arguments.slow_disk and _SLOW not in os.environ:
        _run_again_on_a_slow_disk()
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
    sound = "the ledger's invariants are broken" if broken else "the ledger is sound"
    progress.finished(f"{met} of {len(results.checks)} thresholds met, {sound}", good=good)
    return 0 if good else 1


def _run_again_on_a_slow_disk() -> None:
    """Replace this process by strace, which delays each sync of PostgreSQL and NATS."""
    calls = "fsync,fdatasync"
    command = ["strace", "-f", "--seccomp-bpf", "-q", "-o", "/dev/null", "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:delay_exit={SYNC_MS * 1000}", "--", sys.executable, "-m", "bench.bench"]
    os.execvpe("strace", [*command, *sys.argv[1:]], {**os.environ, _SLOW: "1"})


if __name__ == "__main__":
    sys.exit(main())
