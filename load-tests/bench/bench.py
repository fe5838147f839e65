"""Transfers per second of account-service against PostgreSQL itself, in one run on one machine.

    make bench [ARGS="--seconds 8 --rounds 3 --json"]

A is pgbench running the transfer's own statements one by one, a transaction per transfer; A1 is the same as one
function call. Both, and the HTTP service, use the same PostgreSQL (fsync and synchronous_commit on), the same schema
and 64 connections, in interleaved rounds; ratios are medians of the rounds' ratios. Only account-service runs while
transfers are measured: transaction-service catches up with events at another time. Exits 1 if a threshold is missed,
or if the ledger is inconsistent afterwards.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path


from shared.testing.paths import ROOT
from shared.testing import lab_keys
from shared.testing.local_stack import ACCOUNT, TRANSACTION, LocalStack, Setting, StackError
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresNotInstalled, PostgresServer
from shared.testing.progress import Progress
from shared.observability import tracing

HERE = Path(__file__).resolve().parent

CONNECTIONS = 64
UNIFORM, HOT = 1000, 10
MIN_RATIOS = {("direct", UNIFORM): 1.1, ("through NGINX", UNIFORM): 0.9}
P99_BAR_MS = 50
MAX_TRACING_PERCENT = 2
SHARE_OF_PEAK = 0.6
# Of a round: four variants on two spreads of accounts.
_MEASUREMENTS = 8
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}


@dataclass(frozen=True)
class Run:
    """One measurement: transfers per second, latencies in ms, CPU µs per transfer by process."""

    variant: str
    accounts: int
    per_second: float
    p50: float
    p99: float
    cpu: dict[str, float]


class Failure(Exception):
    """The benchmark has no valid result."""


def cpu_seconds(roots: Mapping[str, int | None]) -> dict[str, float]:
    """Return the CPU time so far of each root process and its children; of those that ended, too."""
    spent = dict.fromkeys(roots, 0.0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        for kind, root in roots.items():
            if root in (int(stat.parent.name), int(fields[1])):
                spent[kind] += sum(int(field) for field in fields[11:15]) / _TICKS
    return spent


def measure(
    variant: str, accounts: int, load: Callable[[], tuple[int, float, float, float]], roots: Mapping[str, int | None]
) -> Run:
    """Run a load that returns (transfers, seconds, p50, p99) and account for the CPU it cost."""
    before = cpu_seconds(roots)
    transfers, seconds, p50, p99 = load()
    if not transfers:
        raise Failure(f"{variant} made no transfers")
    cpu = {kind: (spent - before[kind]) / transfers * 1e6 for kind, spent in cpu_seconds(roots).items()}
    return Run(variant, accounts, transfers / seconds, p50, p99, cpu)


class Bench:
    """A PostgreSQL server, the stack on it, and the loads."""

    def __init__(self, server: PostgresServer, stack: LocalStack, seconds: int) -> None:
        self.server = server
        self._stack = stack
        self._seconds = seconds
        self._token = lab_keys.sign(stack.secrets.key, "bench")
        self._sizes: dict[str, int] = {}

    def prepare(self) -> None:
        """Fill the ledger, and look how large the service's own rows for one transfer are."""
        self._psql("-q", "-v", f"accounts={UNIFORM}", "-f", str(HERE / "baseline.sql"))
        self.wrk(self._stack.urls(ACCOUNT)[0], UNIFORM, seconds=2)
        row = self.server.sql(
            "accounts",
            "SELECT (SELECT round(avg(octet_length(events) * 2 / size)) FROM outbox WHERE size >= 2),"
            " (SELECT round(avg(octet_length(body))) FROM idempotency_keys)",
        )
        events, body = (int(value) for value in row.split("|"))
        self._sizes = {"events_bytes": events, "body_bytes": body}

    def pgbench(self, script: str, accounts: int) -> tuple[int, float, float, float]:
        """Run a pgbench script; return transfers, seconds, p50 and p99 in ms."""
        with tempfile.TemporaryDirectory() as logs:
            command = [str(self.server.program("pgbench")), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", "1"]
            command += ["-T", str(self._seconds), "-f", str(HERE / script), "-l", "--log-prefix", f"{logs}/log"]
            for name, value in {"accounts": accounts, **self._sizes}.items():
                command += ["-D", f"{name}={value}"]
            command.append(self.server.url("accounts", "postgresql"))
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            found = re.search(r"tps = ([\d.]+) \(without", result.stdout)
            if result.returncode or found is None or "number of failed transactions: 0 " not in result.stdout:
                raise Failure(f"pgbench {script} failed: {(result.stderr or result.stdout).strip()[:300]}")
            latencies = sorted(
                int(line.split()[2]) for log in Path(logs).iterdir() for line in log.read_text().splitlines()
            )
        count = len(latencies)
        p50, p99 = (latencies[int(count * share)] / 1000 for share in (0.5, 0.99))
        return count, count / float(found[1]), p50, p99

    def http(self, url: str, accounts: int, pause_ms: float = 0) -> tuple[int, float, float, float]:
        """Send transfers to the service; return transfers, seconds, p50 and p99 in ms."""
        result = self.wrk(url, accounts, self._seconds, pause_ms)
        return result["requests"], result["microseconds"] / 1e6, result["p50"] / 1000, result["p99"] / 1000

    def wrk(
        self,
        url: str,
        accounts: int,
        seconds: int,
        pause_ms: float = 0,
        *,
        connections: int = CONNECTIONS,
        strict: bool = True,
    ) -> dict[str, int]:
        """Send transfers; return what wrk says: requests, microseconds, not_2xx, failed, and p50 and p99 in µs.

        Raises Failure when not all of them succeed, unless that is expected.
        """
        environment = {**os.environ, "TOKEN": self._token, "ACCOUNTS": str(accounts), "PAUSE_MS": str(pause_ms)}
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "transfer.lua"), url]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"wrk failed: {(done.stderr or done.stdout).strip()[:300]}")
        result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        if strict and (result["not_2xx"] or result["failed"]):
            raise Failure(
                f"{result['not_2xx']} answers were no success and {result['failed']} requests failed at {url}"
            )
        return result

    def roots(self) -> dict[str, int | None]:
        """Return the processes whose CPU time is told."""
        nginx = self._stack.nginx.pid if self._stack.nginx else None
        return {"app": self._stack.processes[ACCOUNT][0].pid, "postgres": self.server.pid, "nginx": nginx}

    def settle(self) -> None:
        """Begin every measurement with the same amount of unwritten pages: none."""
        self.server.sql("accounts", "CHECKPOINT")

    def broken_invariants(self) -> str:
        """Return the invariants that the ledger violates; empty if none."""
        environment = {**os.environ, **self._stack.environment(ACCOUNT)}
        command = [sys.executable, "-m", "app.verify"]
        done = subprocess.run(command, cwd=ROOT / ACCOUNT, env=environment, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stdout.strip() or done.stderr.strip()

    def _psql(self, *arguments: str) -> None:
        command = [str(self.server.program("psql")), "-X", "-v", "ON_ERROR_STOP=1", *arguments]
        command.append(self.server.url("accounts", "postgresql"))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"psql failed: {done.stderr.strip()[:300]}")


@contextmanager
def started(
    seconds: int, replicas: int, progress: Progress, nginx_variables: Mapping[str, object] | None = None
) -> Iterator[tuple[Bench, LocalStack]]:
    """Start PostgreSQL, account-service and NGINX; everything is gone afterwards."""
    with PostgresServer(_SETTINGS) as server, tempfile.TemporaryDirectory(prefix="bank-bench-") as var:
        stack = LocalStack(
            Path(var),
            http_port=free_port(),
            account=Setting(free_port(replicas), replicas, server.create_database("accounts")),
            transaction=Setting(free_port(), 1, server.create_database("transactions")),
            nginx_variables=nginx_variables,
            report=progress.info,
            # All transfers are those of one subject.
            extra_env={"SUBJECT_OPERATIONS_PER_SECOND": "0"},
        )
        with stack:
            stack.kill(TRANSACTION)
            yield Bench(server, stack, seconds), stack


def run_all(bench: Bench, stack: LocalStack, rounds: int, progress: Progress) -> list[Run]:
    """Measure every variant in every round, interleaved, so that a slow minute hits all alike."""
    direct, nginx = stack.urls(ACCOUNT)[0], stack.api_url
    loads: list[tuple[str, Callable[[int], tuple[int, float, float, float]]]] = [
        ("A", lambda accounts: bench.pgbench("transfer_statements.sql", accounts)),
        ("A1", lambda accounts: bench.pgbench("transfer_function.sql", accounts)),
        ("direct", lambda accounts: bench.http(direct, accounts)),
        ("through NGINX", lambda accounts: bench.http(nginx, accounts)),
    ]
    runs = []
    for number in range(1, rounds + 1):
        for accounts in (UNIFORM, HOT):
            for variant, load in loads:
                progress.step(f"round {number}/{rounds}, {accounts} accounts, {variant}")
                bench.settle()
                run = measure(variant, accounts, partial(load, accounts), bench.roots())
                progress.info(f"{run.per_second:.0f}/s")
                runs.append(run)
    return runs


def at_share_of_peak(bench: Bench, direct_url: str, per_second: float) -> Run:
    """Measure at about this rate. A connection's cycle is its pause and the answer's time, which a first run tells."""
    cycle_ms = CONNECTIONS / per_second * 1000
    transfers, seconds, _, _ = bench.http(direct_url, UNIFORM, cycle_ms)
    answer_ms = max(0.0, CONNECTIONS / (transfers / seconds) * 1000 - cycle_ms)
    bench.settle()
    load = partial(bench.http, direct_url, UNIFORM, max(1.0, cycle_ms - answer_ms))
    return measure("at 60 %", UNIFORM, load, bench.roots())


def tracing_off_us() -> float:
    """Return what the tracing calls of one transfer cost while no traces are sent, in µs."""
    parent = f"00-{'1' * 32}-{'2' * 16}-01"

    def one_transfer() -> None:
        tracing.current_traceparent()
        with tracing.span("group commit", [parent]):
            pass
        tracing.name_request("POST", "/api/v1/transfers")

    return min(timeit.repeat(one_transfer, number=20_000, repeat=5)) / 20_000 * 1e6


def median_of(runs: list[Run], variant: str, accounts: int, value: Callable[[Run], float]) -> float:
    """Return the median of a value over the rounds of one variant."""
    return statistics.median(value(run) for run in runs if (run.variant, run.accounts) == (variant, accounts))


def ratio(runs: list[Run], variant: str, accounts: int, base: str) -> float:
    """Return the median over rounds of the variant's throughput divided by the base's in the same round."""
    pairs = zip(
        (run.per_second for run in runs if (run.variant, run.accounts) == (variant, accounts)),
        (run.per_second for run in runs if (run.variant, run.accounts) == (base, accounts)),
        strict=True,
    )
    return statistics.median(own / other for own, other in pairs)


def table(runs: list[Run]) -> list[dict[str, object]]:
    """Return one row per variant and spread of accounts."""
    rows: list[dict[str, object]] = []
    for accounts in (UNIFORM, HOT):
        for variant in dict.fromkeys(run.variant for run in runs):
            rows.append(
                {
                    "accounts": accounts,
                    "variant": variant,
                    "per_second": round(median_of(runs, variant, accounts, lambda run: run.per_second)),
                    "p50_ms": round(median_of(runs, variant, accounts, lambda run: run.p50), 1),
                    "p99_ms": round(median_of(runs, variant, accounts, lambda run: run.p99), 1),
                    "to_A": round(ratio(runs, variant, accounts, "A"), 2),
                    "to_A1": round(ratio(runs, variant, accounts, "A1"), 2),
                    "cpu_app_us": round(median_of(runs, variant, accounts, lambda run: run.cpu["app"])),
                    "cpu_postgres_us": round(median_of(runs, variant, accounts, lambda run: run.cpu["postgres"])),
                    "cpu_nginx_us": round(median_of(runs, variant, accounts, lambda run: run.cpu["nginx"])),
                }
            )
    return rows


def main() -> int:
    """Run the benchmark, print the table, and return 0 only if every threshold is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=8, help="length of one measurement (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all are repeated (default 3)")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of account-service behind NGINX (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; on Debian: apt-get install wrk", file=sys.stderr)
        return 1
    progress = Progress("bench", arguments.rounds * _MEASUREMENTS + 3)
    try:
        progress.step("PostgreSQL, the stack on it, and a full ledger")
        with started(arguments.seconds, arguments.replicas, progress) as (bench, stack):
            bench.prepare()
            runs = run_all(bench, stack, arguments.rounds, progress)
            peak = median_of(runs, "direct", UNIFORM, lambda run: run.per_second)
            progress.step(f"at {SHARE_OF_PEAK:.0%} of the peak")
            calm = at_share_of_peak(bench, direct_url=stack.urls(ACCOUNT)[0], per_second=SHARE_OF_PEAK * peak)
            progress.step("the ledger's invariants")
            broken = bench.broken_invariants()
    except (Failure, StackError, PostgresNotInstalled) as failure:
        progress.finished(" ".join(str(failure).split()), good=False)
        return 1
    rows = table(runs)
    checks = [
        (f"{variant}, {accounts} accounts: ratio to A", ratio(runs, variant, accounts, "A"), threshold, ">=")
        for (variant, accounts), threshold in MIN_RATIOS.items()
    ]
    checks.append(
        (f"p99 at {calm.per_second:.0f}/s ({calm.per_second / peak:.0%} of peak), ms", calm.p99, P99_BAR_MS, "<=")
    )
    share = tracing_off_us() / median_of(runs, "direct", UNIFORM, lambda run: run.cpu["app"])
    checks.append(
        ("tracing that is off, share of the service's CPU per transfer, %", share * 100, MAX_TRACING_PERCENT, "<=")
    )
    met = [value >= threshold if sign == ">=" else value <= threshold for _, value, threshold, sign in checks]
    if arguments.json:
        thresholds = [
            {"what": what, "value": round(value, 2), "threshold": threshold, "met": ok}
            for (what, value, threshold, _), ok in zip(checks, met)
        ]
        print(
            json.dumps(
                {"table": rows, "calm": asdict(calm), "thresholds": thresholds, "broken_invariants": broken}, indent=2
            )
        )
    else:
        names = list(rows[0])
        print("  ".join(f"{name:>15}" for name in names))
        for row in rows:
            print("  ".join(f"{row[name]!s:>15}" for name in names))
        for (what, value, threshold, sign), ok in zip(checks, met):
            print(f"{'met    ' if ok else 'missed '} {what}: {value:.2f} (threshold {sign} {threshold})")
        print(f"{'missed ' if broken else 'met    '} ledger invariants {broken}")
    good = all(met) and not broken
    sound = "the ledger's invariants are broken" if broken else "the ledger is sound"
    progress.finished(f"{sum(met)} of {len(met)} thresholds met, {sound}", good=good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
