"""Read twenty statements of a million entries concurrently; measure memory and the latency of other requests.

    make drills DRILL=statements [ARGS="--entries 1000000 --seconds 20"]

PostgreSQL and transaction-service run as processes; a fake account-service returns the balances. curl reads the
statements, some at a limited rate, and disconnects halfway; then it reads one completely. Other requests are measured
before, during and after. Service, database and clients share the machine, so latencies are compared within one run.
Exits 1 when a threshold is missed.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from harness.client import repeating
from harness.commands import finish
from harness.load import Response, send_once

from shared.testing.paths import ROOT
from shared.testing import lab_keys
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresNotInstalled, PostgresServer
from shared.testing.processes import Process, stop_all
from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

SERVICE = "transaction-service"
CONCURRENT = 20
MAX_CONCURRENT = 24
MAX_MEMORY_MB = 180
MAX_SLOWDOWN = 2.0
_SLOW_READERS = 4
_SLOW_RATE = "200k"
_PROBES = 2
_PROBE_PAUSE = 0.02
PERIOD = "from=2026-11-01T00:00:00Z&to=2026-11-20T00:00:00Z"

LARGE, SMALL = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
OWNERS = {LARGE: "alice", SMALL: "bob"}
_SMALL_ENTRIES = 30
_INSERT_ENTRIES = """
    INSERT INTO accounts (id, owner, currency, account_number)
    VALUES ('{account}', '{owner}', 'USD', '{number}');
    INSERT INTO transactions (id, type, status, amount, currency, from_account, to_account, reference, created_at)
    SELECT CAST('{prefix}' || lpad(to_hex(n), 12, '0') AS uuid), 'deposit', 'posted', 1, 'USD',
        '{cash}', '{account}', 'salary ' || n, timestamptz '2026-11-02Z' + n * interval '1 second'
    FROM generate_series(1, {entries}) AS n;
    INSERT INTO entries (account_id, transaction_id, seq, counterparty, amount, balance_after, created_at)
    SELECT '{account}', CAST('{prefix}' || lpad(to_hex(n), 12, '0') AS uuid), n, '{cash}', 1, n,
        timestamptz '2026-11-02Z' + n * interval '1 second'
    FROM generate_series(1, {entries}) AS n
"""


class FakeAccountService(BaseHTTPRequestHandler):
    """Responds like account-service: sequence numbers and balances of the accounts."""

    seqs: dict[str, int] = {}
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Respond to one request."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = [
            {"id": id_, "owner": OWNERS[id_], "currency": "USD", "seq": seq}
            for id_, seq in self.seqs.items()
            if query.get("account_id", id_) == id_ and query.get("owner", OWNERS[id_]) == OWNERS[id_]
        ]
        balances = [
            {"id": id_, "currency": "USD", "balance": seq, "seq": seq, "updated_at": "2026-11-20T00:00:00Z"}
            for id_, seq in self.seqs.items()
        ]
        is_page = url.path == "/internal/balances"
        body = {"items": balances, "next_cursor": None} if is_page else {"items": found, "more": False}
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:  # pylint: disable=arguments-differ
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_arguments: object) -> None:
        """Log nothing, because the service may close its connections at any time."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service under test."""

    port: int
    process: Process
    secrets: lab_keys.LabSecrets

    def url(self, account: str) -> str:
        """Return the address of an account's statement."""
        return f"http://127.0.0.1:{self.port}/api/v1/statements/{account}?{PERIOD}"

    def headers(self, subject: str) -> dict[str, str]:
        """Return the authorization header of a subject."""
        return {"Authorization": f"Bearer {lab_keys.sign(self.secrets.key, subject)}"}

    def curl(self, *options: str) -> list[str]:
        """Return the command that reads the large statement."""
        (header,) = (f"{name}: {value}" for name, value in self.headers("alice").items())
        return ["curl", "--silent", "--show-error", "--fail", "--header", header, *options, self.url(LARGE)]

    def memory_mb(self, field: str = "VmHWM") -> float:
        """Return the peak resident memory of the process, or another field of /proc/PID/status."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")) / 1024

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


def fill(server: PostgresServer, entries: int) -> None:
    """Insert the accounts with their entries."""
    for number, (account, count) in enumerate(((LARGE, entries), (SMALL, _SMALL_ENTRIES)), start=1):
        values = {
            "account": account,
            "owner": OWNERS[account],
            "number": f"{number:016d}",
            "cash": uuid.UUID(int=9),
            "prefix": f"00000000-0000-7000-900{number}-",
            "entries": count,
        }
        server.sql("history", *(part for part in _INSERT_ENTRIES.format(**values).split(";")))
        FakeAccountService.seqs[account] = count


def environment_of(secrets: lab_keys.LabSecrets, url: str, ledger: str) -> dict[str, str]:
    """Return the settings of transaction-service; `url` is its database, `ledger` account-service's address."""
    return {
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": url,
        "AUTH_JWKS": str(secrets.jwks),
        "SERVICE_TOKEN_FILE": str(secrets.service_token),
        "ACCOUNT_SERVICE_URL": ledger,
    }


@contextmanager
def running_service(folder: Path, url: str, ledger: str) -> Iterator[Service]:
    """Run transaction-service on a migrated database while the block runs."""
    secrets, port = lab_keys.ensure(folder / "secrets"), free_port()
    environment = {**environment_of(secrets, url, ledger), "PORT": str(port)}
    command = [sys.executable, "-m", "app"]
    process = Process(SERVICE, command, folder / "log", cwd=ROOT / SERVICE, env=environment)
    process.start()
    try:
        service = Service(port, process, secrets)
        for _ in range(300):
            if get(service, "/health/ready", {}).status == 200:
                break
            time.sleep(0.1)
        yield service
    finally:
        stop_all([process])


def migrate(url: str, folder: Path) -> None:
    """Create the tables."""
    secrets = lab_keys.ensure(folder / "secrets")
    environment = {**environment_of(secrets, url, "http://127.0.0.1:9"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "app.migrate"]
    subprocess.run(command, cwd=ROOT / SERVICE, env=environment, check=True, capture_output=True)


def get(service: Service, path: str, headers: dict[str, str]) -> Response:
    """Send one GET over a new connection."""
    return send_once(service.port, "GET", path, headers, timeout=30)


def probe(service: Service, seconds: float) -> list[Response]:
    """Send small requests from several clients for some seconds; return the responses."""
    responses: list[Response] = []
    paths = (f"/api/v1/statements/{SMALL}?{PERIOD}", "/api/v1/transactions?limit=20", "/health/ready")
    headers = service.headers("bob")

    def read_all() -> None:
        for path in paths:
            responses.append(get(service, path, headers))
            time.sleep(_PROBE_PAUSE)

    with repeating(*[read_all] * _PROBES):
        time.sleep(seconds)
    return responses


def p99(responses: Sequence[Response]) -> float:
    """Return the 99th percentile of the durations in milliseconds."""
    ordered = sorted(response.seconds * 1000 for response in responses)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


@contextmanager
def readers(service: Service, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Read `count` statements concurrently while the block runs, the first few at a limited rate."""
    with ExitStack() as stack:
        reading = []
        for number in range(count):
            slowly = ("--limit-rate", _SLOW_RATE) if number < _SLOW_READERS else ()
            process = subprocess.Popen(service.curl("--output", "/dev/null", *slowly))  # pylint: disable=R1732
            reading.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield reading


def read_whole(service: Service, folder: Path, entries: int) -> tuple[float, bool]:
    """Read the large statement completely; return the duration in seconds and whether it is complete."""
    file, started = folder / "statement.csv", time.monotonic()
    subprocess.run(service.curl("--header", "Accept: text/csv", "--output", str(file)), check=True)
    seconds = time.monotonic() - started
    count = 0
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            count += 1
    complete = count == entries + 3 and row[1] == "closing-balance" and row[5] == "complete" and row[8] == str(entries)
    return seconds, complete


def measure(service: Service, folder: Path, entries: int, seconds: float, progress: Progress) -> list[Threshold]:
    """Run all measurements and return their results."""
    probe(service, 3)
    progress.step(f"other requests alone, {seconds:.0f} s; idle {service.memory_mb():.0f} MB")
    before = probe(service, seconds / 2)
    progress.step(f"other requests during {CONCURRENT} statements of {entries} entries, {seconds:.0f} s")
    with readers(service, CONCURRENT) as reading:
        time.sleep(1)
        during = probe(service, seconds)
        running = sum(reader.poll() is None for reader in reading)
        with readers(service, MAX_CONCURRENT - CONCURRENT):
            time.sleep(1)
            path = urlsplit(service.url(LARGE)).path + "?" + PERIOD
            rejected = get(service, path, service.headers("alice")).status
    time.sleep(1)
    cpu = service.cpu_seconds()
    time.sleep(2)
    cpu = service.cpu_seconds() - cpu
    progress.step("other requests alone again, and one complete statement")
    normal = p99(before + probe(service, seconds / 2))
    statement_seconds, complete = read_whole(service, folder, entries)
    slowdown = p99(during) / normal
    failed = sum(response.status != 200 for response in during)
    return [
        Threshold(
            f"peak memory <= {MAX_MEMORY_MB} MB", f"{service.memory_mb():.0f} MB", service.memory_mb() <= MAX_MEMORY_MB
        ),
        Threshold(
            f"p99 of other requests during the statements <= {MAX_SLOWDOWN} × without them",
            f"{p99(during):.1f} ms, {normal:.1f} ms without: {slowdown:.2f} ×, {len(during)} requests",
            slowdown <= MAX_SLOWDOWN,
        ),
        Threshold("failed other requests: 0", f"{failed} of {len(during)}", failed == 0),
        Threshold(f"statements still being read at the end: {CONCURRENT}", str(running), running == CONCURRENT),
        Threshold(
            f"one more than {MAX_CONCURRENT} concurrent statements is rejected with 429", str(rejected), rejected == 429
        ),
        Threshold("work stops when clients disconnect: CPU <= 10 %", f"{cpu / 2:.0%}", cpu / 2 <= 0.1),
        Threshold("a statement is complete", f"{complete}, {statement_seconds:.1f} s", complete),
    ]


def main() -> int:
    """Run the drill, print the thresholds, and return 0 only if all are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the large account")
    parser.add_argument("--seconds", type=float, default=20, help="duration of the measurement of other requests")
    arguments = parser.parse_args()
    progress = Progress("statements", 5)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            progress.step(f"PostgreSQL with {arguments.entries} entries")
            server = stack.enter_context(PostgresServer())
            url = server.create_database("history")
            migrate(url, folder)
            fill(server, arguments.entries)
            fake = stack.enter_context(_Server(("127.0.0.1", 0), FakeAccountService))
            threading.Thread(target=fake.serve_forever, daemon=True).start()
            stack.callback(fake.shutdown)
            progress.step("transaction-service")
            ledger = f"http://127.0.0.1:{fake.server_address[1]}"
            service = stack.enter_context(running_service(folder, url, ledger))
            found = measure(service, folder, arguments.entries, arguments.seconds, progress)
    except (PostgresNotInstalled, subprocess.CalledProcessError) as failure:
        progress.finished(str(failure), good=False)
        return 1
    return finish(progress, found)


if __name__ == "__main__":
    sys.exit(main())
