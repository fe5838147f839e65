"""Send requests that try to exhaust resources to a composed stack under customer load.

    make drills DRILL=hostile [ARGS="--repeats 4 --rate 20 --only bodies,heads,statements,refusals,deaths"]

The drill sends bodies close to 1 MiB (unknown fields, deep nesting, long integers, repeated names) to every route, long
queries and headers, 2, 4 and 20 concurrent requests for the statement of an account with 100,000 entries, and batches
of 1,000 refused transfers; then it deploys a release that some requests crash (queries of death). Prints values and
thresholds: crashed replicas (0; per query of death at most 2), failed requests of customers (0) and their p95. Exits 1
when a threshold is missed.
"""

import argparse
import http.client
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from harness.commands import check, info, run
from harness.composed_stack import ComposedBank, now
from drills.security.hostile_requests import CraftedRequest, bodies, heads, refused_batch
from harness.client import eventually
from harness.load import Load, assert_no_duplicate_transfers, customers

from shared.testing.paths import ROOT

# Thresholds.
MAX_CRASHES_PER_REQUEST = 2
MAX_ERROR_BYTES = 64 * 1024
# Maximum p95 of customers; on a busy machine, four times their p95 without attacks.
CUSTOMERS_P95_SECONDS = 1.5
_MAX_P95_FACTOR = 4
_BASELINE_SECONDS = 6
MAX_SECONDS = 600

ENTRIES = 100_000
# NGINX accepts 32 large bodies concurrently.
CONCURRENT = 24
BATCHES = 24
REPLICAS = {"account-service": 4, "transaction-service": 2}
SETTINGS = {
    "COMPOSE_FILE": "docker-compose.yml",
    "COMPOSE_PROFILES": "",
    **{f"{name.upper().replace('-', '_')}_REPLICAS": str(count) for name, count in REPLICAS.items()},
}
_NEEDED = ("nginx", "postgres", "nats", *REPLICAS)
_TIMEOUT_SECONDS = 90
_ROUND_SECONDS = 100
_FAULTY = ROOT / "scripts" / "faults"
# The fault `death` (scripts/faults/faulty): a request with this X-Request-ID ends the process.
_QUERY_OF_DEATH = "query-of-death"
# Statuses of a failed replica or NGINX; 0: no response.
_BROKEN = (0, 500, 502, 504)
_INSERT_ENTRIES = """
WITH numbers AS (SELECT n, gen_random_uuid() AS id,
        date_trunc('second', now()) + n * interval '0.5 second' AS moment
    FROM generate_series(2, {last}) AS n),
inserted AS (
    INSERT INTO transactions (id, type, status, amount, currency, from_account, to_account, reference, created_at)
    SELECT id, 'transfer', 'posted', 1, 'USD', '{other}'::uuid, '{account}'::uuid, 'rent of ' || n, moment FROM numbers)
INSERT INTO entries (account_id, transaction_id, seq, counterparty, amount, balance_after, created_at)
    SELECT '{account}'::uuid, id, n, '{other}'::uuid, 1, n, moment FROM numbers
"""


@dataclass(frozen=True, slots=True)
class CraftedResponse:
    """A response: status (0: connection error), size, number of lines or objects, and latency."""

    name: str
    status: int
    bytes: int
    parts: int
    seconds: float


class HostileDrill:
    """The stack under attack, the customers' load, and whether all thresholds are met."""

    def __init__(self, bank: ComposedBank, load: Load) -> None:
        self.bank = bank
        self.load = load
        self.all_met = True
        started = time.time()
        time.sleep(_BASELINE_SECONDS)
        baseline = self._p95(started)
        self._max_p95 = max(CUSTOMERS_P95_SECONDS, _MAX_P95_FACTOR * baseline)
        info(f"customers' p95 without attacks: {baseline:.2f} s")
        self._token = bank.headers("mallory")["Authorization"]

    def _p95(self, since: float) -> float:
        """Return the p95 latency of the customers' requests since a time; infinity without any."""
        latencies = sorted(one.seconds for one in self.load.between(since, time.time()))
        return latencies[int(len(latencies) * 0.95)] if latencies else float("inf")

    def check(self, met: bool, text: str) -> None:
        """Print a value with its threshold, and record a missed threshold."""
        self.all_met = check(met, text) and self.all_met

    def send(self, request: CraftedRequest) -> CraftedResponse:
        """Send a request over a new connection and read the complete response."""
        address = urlsplit(self.bank.api_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=_TIMEOUT_SECONDS)
        headers = {
            "Authorization": self._token,
            "Content-Type": "application/json",
            "Idempotency-Key": uuid.uuid4().hex,
            "Connection": "close",
            **dict(request.headers),
        }
        started = time.monotonic()
        status = size = parts = 0
        try:
            connection.request(request.method, f"/api/v1{request.path}", request.body or None, headers)
            response = connection.getresponse()
            while chunk := response.read(1024 * 1024):
                size += len(chunk)
                parts += max(chunk.count(b"{"), chunk.count(b"\n"))
            # Reading in chunks does not raise if the body is shorter than Content-Length.
            status = 0 if response.length else response.status
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        return CraftedResponse(request.name, status, size, parts, time.monotonic() - started)

    def send_all(self, requests: Sequence[CraftedRequest], concurrency: int) -> list[CraftedResponse]:
        """Send requests with the given concurrency; none is sent after the time limit of a round."""
        deadline = time.monotonic() + _ROUND_SECONDS
        with ThreadPoolExecutor(concurrency) as pool:
            sent = pool.map(lambda one: self.send(one) if time.monotonic() < deadline else None, requests)
            responses = [response for response in sent if response is not None]
        self.check(
            len(responses) == len(requests), f"sent within {_ROUND_SECONDS} s: {len(responses)} of {len(requests)}"
        )
        return responses

    def crashes(self, since: str) -> list[str]:
        """Return Docker's die and oom events of replicas since a time: service and exit code."""
        filters = (f"label=com.docker.compose.project={self.bank.project}", "event=die", "event=oom")
        words = [word for filter_ in filters for word in ("--filter", filter_)]
        attributes = (
            f'{{{{index .Actor.Attributes "{name}"}}}}' for name in ("com.docker.compose.service", "exitCode")
        )
        template = " ".join(("{{.Action}}", *attributes))
        lines = self.bank.docker(
            "events", "--since", since, "--until", now(), "--format", template, *words
        ).splitlines()
        return [line.strip() for line in lines if line.split()[1] in REPLICAS]

    def attack(
        self, name: str, send: Callable[[], list[CraftedResponse]], max_crashes: int = 0
    ) -> list[CraftedResponse]:
        """Run an attack, print the result, and check replicas and customers."""
        since, failed_before, started = now(), len(self.load.failed), time.time()
        responses = send()
        # Include crashes shortly after the last response.
        time.sleep(1)
        crashes = self.crashes(since)
        died = [line for line in crashes if line.startswith("die")]
        failed = self.load.failed[failed_before:]
        served, p95 = len(self.load.between(started, time.time())), self._p95(started)
        statuses = ", ".join(f"{n} × {status}" for status, n in Counter(one.status for one in responses).most_common())
        slowest = max((response.seconds for response in responses), default=0)
        info(
            f"{name}: {len(responses)} responses in {time.time() - started:.0f} s: {statuses}; slowest {slowest:.1f} s"
        )
        if died:
            info("  " + ", ".join(f"{count} × {line}" for line, count in Counter(crashes).most_common()))
            self.wait_until_healthy()
        for line in failed[:3]:
            info(f"  customer: {line}")
        self.check(len(died) <= max_crashes, f"{name}: crashed replicas: {len(died)} (threshold {max_crashes})")
        total = served + len(failed)
        self.check(
            not failed and served > 0, f"{name}: failed requests of customers: {len(failed)} of {total} (threshold 0)"
        )
        self.check(p95 <= self._max_p95, f"{name}: customers' p95 {p95:.2f} s (threshold {self._max_p95:.1f} s)")
        return responses

    def wait_until_healthy(self) -> None:
        """Wait until every replica is healthy."""

        def healthy() -> bool:
            ids = [container for name in REPLICAS for container in self.bank.containers(name)]
            states = self.bank.inspect("{{.State.Health.Status}}", *ids) if ids else []
            return states == ["healthy"] * sum(REPLICAS.values())

        eventually(healthy, 90, every=0.5)

    def check_no_server_errors(self, name: str, responses: Sequence[CraftedResponse]) -> None:
        """Check that no response is a server error."""
        broken = Counter(f"{response.name}: {response.status}" for response in responses if response.status in _BROKEN)
        for kind, count in broken.most_common(8):
            info(f"  {count} × {kind}")
        self.check(not broken, f"{name}: responses 500, 502, 504 or none: {broken.total()} (threshold 0)")

    def print_memory(self) -> None:
        """Print the peak memory of each replica."""
        files = "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null || true"
        for service in REPLICAS:
            peaks = [self.bank.docker("exec", one, "sh", "-c", files).split() for one in self.bank.containers(service)]
            peaks_mb = sorted((int(peak[0]) // 1024**2 for peak in peaks if peak), reverse=True)
            info(f"  peak memory of {service} in MB: {peaks_mb}")


def send_bodies(drill: HostileDrill, repeats: int) -> None:
    """Bodies that are expensive to parse, on every route."""
    account = drill.bank.open_account(subject="mallory")
    responses = drill.attack("bodies", lambda: drill.send_all(bodies(account, repeats), CONCURRENT))
    drill.check_no_server_errors("bodies", responses)
    for name, one in sorted({one.name: one for one in sorted(responses, key=lambda one: one.seconds)}.items()):
        info(f"  {name}: {one.status}, {one.bytes} bytes, at most {one.seconds:.2f} s")
    largest = max((one for one in responses if one.status >= 400), key=lambda one: one.bytes, default=None)
    size = largest.bytes if largest else 0
    drill.check(size <= MAX_ERROR_BYTES, f"bodies: largest error response {size} bytes (threshold {MAX_ERROR_BYTES})")
    drill.print_memory()


def send_heads(drill: HostileDrill, repeats: int) -> None:
    """Queries and headers of the maximum length."""
    account = drill.bank.open_account(subject="mallory")
    responses = drill.attack("heads", lambda: drill.send_all(heads(account) * repeats, CONCURRENT))
    drill.check_no_server_errors("heads", responses)


def read_statements(drill: HostileDrill, _repeats: int) -> None:
    """2, 4 and 20 concurrent statements of 100,000 entries."""
    bank = drill.bank
    account, other = bank.open_account(1, "mallory"), bank.open_account(subject="mallory")
    eventually(lambda: bank.sql("transaction", f"SELECT 1 FROM entries WHERE account_id = '{account}'"), 60)
    bank.sql("transaction", _INSERT_ENTRIES.format(account=account, other=other, last=ENTRIES))
    bank.sql("transaction", "ANALYZE")
    end = datetime.now(UTC) + timedelta(days=1)
    query = urlencode({"from": (end - timedelta(days=4)).isoformat(), "to": end.isoformat()})
    path = f"/statements/{account}?{query}"
    for concurrency in (2, 4, 20):
        kinds = [(("Accept", "application/json"),), (("Accept", "text/csv"),)]
        requests = [
            CraftedRequest("statement", "GET", path, headers=kinds[number % 2]) for number in range(concurrency)
        ]
        name = f"{concurrency} statements"
        responses = drill.attack(
            name, lambda requests=requests, concurrency=concurrency: drill.send_all(requests, concurrency)
        )
        complete = sum(response.status == 200 and response.parts >= ENTRIES for response in responses)
        rejected = sum(response.status in (429, 503) for response in responses)
        # Up to four must be served; of twenty, some may be rejected.
        enough = complete == concurrency if concurrency <= 4 else complete > 0 and complete + rejected == concurrency
        drill.check(enough, f"{name}: {complete} complete, {rejected} rejected with 429 or 503, of {concurrency}")
    drill.print_memory()


def send_refused_batches(drill: HostileDrill, _repeats: int) -> None:
    """Batches of 1,000 transfers without funds."""
    account, other = drill.bank.open_account(subject="mallory"), drill.bank.open_account(subject="mallory")
    requests = [refused_batch(account, other) for _ in range(BATCHES)]
    responses = drill.attack("refusals", lambda: drill.send_all(requests, CONCURRENT))
    drill.check_no_server_errors("refusals", responses)
    served = [response for response in responses if response.status == 200]
    size = max((response.bytes for response in served), default=0)
    drill.check(
        bool(served), f"refusals: {len(served)} of {len(responses)} batches processed, at most {size} bytes each"
    )


def send_queries_of_death(drill: HostileDrill, _repeats: int) -> None:
    """A release that queries of death crash: each crashes at most two replicas, and customers are served."""
    bank = drill.bank
    release = bank.inspect("{{.Config.Image}}", bank.containers("account-service")[0])[0]
    arguments = {"RELEASE": release, "FAULT": "death", "VERSION": "death"}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    run(["docker", "build", "--quiet", *words, "--tag", _crashing_image(bank), str(_FAULTY)])
    # All replicas are replaced together; requests that fail meanwhile do not count.
    bank.compose("up", "--detach", "--no-deps", "account-service", ACCOUNT_SERVICE_IMAGE=_crashing_image(bank))
    drill.wait_until_healthy()
    headers, body = (("X-Request-ID", _QUERY_OF_DEATH),), b'{"from_account":"x"}'
    for name, request in {
        "query of death, POST": CraftedRequest("POST", "POST", "/transfers", body, headers=headers),
        "query of death, GET": CraftedRequest("GET", "GET", "/accounts", headers=headers),
        "query of death, batch": CraftedRequest("POST", "POST", "/transfers:batch", body, headers=headers),
    }.items():
        # NGINX skips a failed replica for two seconds.
        time.sleep(3)
        (response,) = drill.attack(name, lambda request=request: [drill.send(request)], MAX_CRASHES_PER_REQUEST)
        drill.check(response.status == 502, f"{name}: status {response.status} (expected 502, after two replicas)")


def _crashing_image(bank: ComposedBank) -> str:
    return f"bank/account-service:{bank.project}-death"


ROUNDS: dict[str, Callable[[HostileDrill, int], None]] = {
    "bodies": send_bodies,
    "heads": send_heads,
    "statements": read_statements,
    # After the statements, because transaction-service takes a while to consume thousands of refusals.
    "refusals": send_refused_batches,
    "deaths": send_queries_of_death,
}


def main() -> int:
    """Start a stack, run the attacks, and stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4, help="number of times each request is sent (default 4)")
    parser.add_argument("--rate", type=float, default=20, help="customers' requests per second (default 20)")
    parser.add_argument("--only", metavar="ROUND,…", help=f"some of: {', '.join(ROUNDS)}")
    options = parser.parse_args()
    selected = options.only.split(",") if options.only else list(ROUNDS)
    if unknown := set(selected) - set(ROUNDS):
        parser.error(f"no such round: {', '.join(unknown)}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        bank = ComposedBank(Path(folder), **SETTINGS)
        try:
            services = set(bank.compose("ps", "--services").split())
            # Saves CPU, and the autoscaler must not replace replicas.
            bank.compose("stop", "--timeout", "5", *sorted(services - set(_NEEDED)))
            all_met = attack_all(bank, [name for name in ROUNDS if name in selected], options.repeats, options.rate)
        finally:
            bank.close()
            subprocess.run(
                ["docker", "image", "rm", "--force", _crashing_image(bank)], capture_output=True, check=False
            )
    seconds = time.monotonic() - started
    return (
        0 if check(seconds <= MAX_SECONDS, f"total time {seconds:.0f} s (threshold {MAX_SECONDS} s)") and all_met else 1
    )


def attack_all(bank: ComposedBank, rounds: Sequence[str], repeats: int, rate: float) -> bool:
    """Run rounds under customer load; return whether every threshold is met."""
    with customers(bank, rate) as load:
        drill = HostileDrill(bank, load)
        for name in rounds:
            info(f"{name}: {str(ROUNDS[name].__doc__).rstrip('.')}")
            ROUNDS[name](drill, repeats)
    assert_no_duplicate_transfers(bank, load)
    info(f"ledger consistent after {load.sent} requests of customers")
    return drill.all_met


if __name__ == "__main__":
    sys.exit(main())
