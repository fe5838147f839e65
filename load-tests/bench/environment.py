"""The environment of the benchmark: PostgreSQL, the bank on it, and the load generators pgbench and wrk."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measurement import Failure, Load
from shared.testing import lab_keys
from shared.testing.local_stack import ACCOUNT, TRANSACTION, LocalStack, Setting, StackError
from shared.testing.paths import ROOT
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresServer
from shared.testing.processes import Process, stop_all
from shared.testing.progress import Progress

HERE = Path(__file__).resolve().parent
CONNECTIONS = 64
UNIFORM, HOT = 1000, 10
# pgbench has a separate database, because the relay could not parse the events that it writes.
LEDGER, HISTORY, BASELINE = "accounts", "transactions", "baseline"
_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
# Approximate size of a stored response to a transfer.
_RESPONSE_BYTES = 500
_NATS_CONFIGURATION = """
listen: "127.0.0.1:{port}"
max_payload: 1MB
jetstream {{ store_dir: "{folder}", max_file_store: 10GB, sync_interval: always }}
"""


class Bench:
    """A PostgreSQL server, the stack on it, and the load generators."""

    def __init__(self, server: PostgresServer, stack: LocalStack, nats: Process | None, seconds: int) -> None:
        self.server = server
        self.stack = stack
        self._nats = nats
        self.seconds = seconds
        self._token = lab_keys.sign(stack.secrets.key, "bench")
        self._sizes: dict[str, int] = {}

    @property
    def has_history(self) -> bool:
        """Whether transaction-service consumes the events."""
        return self._nats is not None

    @property
    def direct_url(self) -> str:
        """URL of the first replica of account-service."""
        return self.stack.urls(ACCOUNT)[0]

    def prepare(self, accounts: int, *, keys: int = 0) -> None:
        """Fill the databases; with `keys`, also with older transfers and that many idempotency keys (growth.sql).

        pgbench writes rows of the same size as the service, which is measured in a warm-up run.
        """
        self._psql(HISTORY, "history.sql", accounts=accounts, transfers=5 if keys else 0)
        self._migrate(BASELINE)
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(self._fill, accounts=accounts, keys=keys), (LEDGER, BASELINE)))
        self.wrk(self.direct_url, UNIFORM, seconds=2)
        row = self.server.sql(
            LEDGER,
            "SELECT (SELECT round(avg(octet_length(events) * 2 / size)) FROM outbox WHERE size >= 2),"
            " (SELECT round(avg(octet_length(body))) FROM idempotency_keys)",
        )
        events, body = (int(value) for value in row.split("|"))
        self._sizes = {"events_bytes": events, "body_bytes": body}

    def pgbench(self, script: str, accounts: int, database: str = BASELINE) -> Load:
        """Run a pgbench script on a database."""
        with tempfile.TemporaryDirectory() as logs:
            command = [str(self.server.program("pgbench")), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", "1"]
            command += ["-T", str(self.seconds), "-f", str(HERE / script), "-l", "--log-prefix", f"{logs}/log"]
            for name, value in {"accounts": accounts, **self._sizes}.items():
                command += ["-D", f"{name}={value}"]
            command.append(self.server.url(database, "postgresql"))
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            tps = re.search(r"tps = ([\d.]+) \(without", result.stdout)
            if result.returncode or tps is None or "number of failed transactions: 0 " not in result.stdout:
                raise Failure(f"pgbench {script} failed: {(result.stderr or result.stdout).strip()[:300]}")
            latencies = sorted(
                int(line.split()[2]) for log in Path(logs).iterdir() for line in log.read_text().splitlines()
            )
        count = len(latencies)
        p50, p99 = (latencies[int(count * share)] / 1000 for share in (0.5, 0.99))
        return Load(count, count / float(tps[1]), p50, p99)

    def send_transfers(self, url: str, accounts: int, pause_ms: float = 0) -> Load:
        """Send transfers in a closed loop; with `pause_ms`, each connection pauses after a response."""
        return _load_of(self.wrk(url, accounts, self.seconds, pause_ms))

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
        """Send transfers; return wrk's summary: requests, microseconds, not_2xx, failed, and p50 and p99 in µs.

        Raises Failure if wrk fails or, with `strict`, if a request fails.
        """
        arguments = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "transfer.lua"), url]
        result = self._wrk(arguments, ACCOUNTS=str(accounts), PAUSE_MS=str(pause_ms))
        if strict:
            _require_success(result, url)
        return result

    def read(self, path: str, accounts: int) -> Load:
        """Send GET requests through NGINX; `path` contains {account}."""
        url = self.stack.api_url
        arguments = ["-t1", f"-c{CONNECTIONS}", f"-d{self.seconds}s", "--timeout", "20s", "-s", str(HERE / "read.lua")]
        result = self._wrk([*arguments, url], ACCOUNTS=str(accounts), READ_PATH=path)
        _require_success(result, f"{url}{path}")
        return _load_of(result)

    def _wrk(self, arguments: Sequence[str], **environment: str) -> dict[str, int]:
        environment = {**os.environ, "TOKEN": self._token, "SUMMARY": str(HERE / "summary.lua"), **environment}
        done = subprocess.run(["wrk", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"wrk failed: {(done.stderr or done.stdout).strip()[:300]}")
        result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        return result

    def paced(self, url: str, per_second: float) -> Load:
        """Send transfers at approximately this rate.

        A connection sends one request per pause and response time; a first run measures the response time.
        """
        cycle_ms = CONNECTIONS / per_second * 1000
        first = self.send_transfers(url, UNIFORM, cycle_ms)
        response_ms = max(0.0, CONNECTIONS / first.per_second * 1000 - cycle_ms)
        self.checkpoint()
        return self.send_transfers(url, UNIFORM, max(1.0, cycle_ms - response_ms))

    def process_pids(self) -> dict[str, int]:
        """Return the pids of the processes whose CPU time is measured, by name."""
        processes = {
            "account": self.stack.processes[ACCOUNT][0],
            "nginx": self.stack.nginx,
            "nats": self._nats,
            "history": self.stack.processes[TRANSACTION][0],
        }
        pids = {name: process.pid for name, process in processes.items() if process is not None}
        return {"postgres": self.server.pid, **{name: pid for name, pid in pids.items() if pid is not None}}

    def checkpoint(self) -> None:
        """Run a checkpoint, so that dirty pages do not affect the measurement."""
        self.server.sql("postgres", "CHECKPOINT")

    def resident_mb(self) -> dict[str, float]:
        """Return the resident memory of the service processes, in MB."""
        processes = (self.stack.processes[ACCOUNT][0], self.stack.processes[TRANSACTION][0])
        return {process.name: _resident_mb(process.pid) for process in processes if process.pid is not None}

    def broken_invariants(self) -> str:
        """Return the invariants that the ledger violates; empty if none."""
        done = self._run_service("app.verify", LEDGER)
        return "" if done.returncode == 0 else done.stdout.strip() or done.stderr.strip()

    def _migrate(self, database: str) -> None:
        self.server.create_database(database)
        done = self._run_service("app.migrate", database)
        if done.returncode:
            raise Failure(f"migrating {database} failed: {done.stdout.strip()[-300:]}")

    def _fill(self, database: str, accounts: int, keys: int) -> None:
        self._psql(database, "baseline.sql", accounts=accounts)
        if keys:
            self._psql(database, "growth.sql", accounts=accounts, keys=keys, body_bytes=_RESPONSE_BYTES)

    def _psql(self, database: str, script: str, **variables: int) -> None:
        command = [str(self.server.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(HERE / script)]
        command += [part for name, value in variables.items() for part in ("-v", f"{name}={value}")]
        command.append(self.server.url(database, "postgresql"))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"{script} failed: {done.stderr.strip()[:300]}")

    def _run_service(self, module: str, database: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **self.stack.environment(ACCOUNT), "DATABASE_URL": self.server.url(database)}
        command = [sys.executable, "-m", module]
        return subprocess.run(command, cwd=ROOT / ACCOUNT, env=environment, capture_output=True, text=True, check=False)


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _load_of(result: Mapping[str, int]) -> Load:
    return Load(result["requests"], result["microseconds"] / 1e6, result["p50"] / 1000, result["p99"] / 1000)


def _require_success(result: Mapping[str, int], what: str) -> None:
    if result["not_2xx"] or result["failed"]:
        raise Failure(f"{result['not_2xx']} responses were not 2xx and {result['failed']} requests failed at {what}")


@contextmanager
def started(
    seconds: int,
    replicas: int,
    progress: Progress,
    nginx_variables: Mapping[str, object] | None = None,
    *,
    with_history: bool = False,
) -> Iterator[Bench]:
    """Start PostgreSQL, account-service and NGINX; with `with_history`, also NATS and transaction-service."""
    with PostgresServer(_SETTINGS) as server, tempfile.TemporaryDirectory(prefix="bank-bench-") as var:
        nats = _nats(Path(var)) if with_history else None
        stack = LocalStack(
            Path(var),
            http_port=free_port(),
            account=Setting(free_port(replicas), replicas, server.create_database(LEDGER)),
            transaction=Setting(free_port(), 1, server.create_database(HISTORY)),
            events_url=nats[0] if nats else "",
            nginx_variables=nginx_variables,
            report=progress.info,
            # One subject sends all transfers.
            extra_env={"SUBJECT_OPERATIONS_PER_SECOND": "0"},
        )
        try:
            with stack:
                if nats is None:
                    stack.kill(TRANSACTION)
                yield Bench(server, stack, nats[1] if nats else None, seconds)
        finally:
            stop_all([nats[1]] if nats else [])


def _nats(folder: Path) -> tuple[str, Process]:
    """Start NATS with the durability of docker/nats/nats.conf, syncing each message to disk; return its URL."""
    program = ROOT / ".tools" / "nats-server"
    if not program.exists():
        raise StackError("nats-server is not built; to build it: scripts/local/ensure_tools.sh nats-server")
    port = free_port()
    configuration = folder / "nats.conf"
    configuration.write_text(_NATS_CONFIGURATION.format(port=port, folder=folder / "nats"), encoding="utf-8")
    server = Process("nats", [str(program), "-c", str(configuration)], folder / "nats.log")
    server.start()
    return f"nats://127.0.0.1:{port}", server
