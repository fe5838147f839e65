"""Send what is made to bring replicas down to a composed stack with its limits, while customers go on with their own.

    make drills DRILL=hostile [ARGS="--again 4 --rate 20 --only bodies,heads,statements,refusals,deaths"]

A stack of its own. Bodies close to 1 MiB (unknown fields, depth, long integers, repeated names) on every route, long
queries and headers, statements of an account with 100,000 entries by 2, 4 and 20 at once, batches of 1,000 refusals;
then a release that some requests kill. Prints figures beside their bars: replicas that died (0; of a request that
kills: 2 at most) and requests of customers that failed (0), and exits 1 when one is missed.
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
from drills.security.hostile_requests import Request, bodies, heads, refusals
from harness.client import eventually
from harness.load import Load, assert_one_effect_each, customers

from shared.testing.paths import ROOT

# Promised.
MOST_DEATHS_OF_ONE_REQUEST = 2
MOST_REFUSAL_BYTES = 64 * 1024
# Or four times what it is while nobody is hostile, where the machine has other work.
CUSTOMERS_P95_SECONDS = 1.5
_TIMES_CALM = 4
_CALM_SECONDS = 6
MOST_SECONDS = 600

ENTRIES = 100_000
# NGINX lets 32 large bodies in at once.
AT_ONCE = 24
BATCHES = 24
REPLICAS = {"account-service": 4, "transaction-service": 2}
SETTINGS = {
    "COMPOSE_FILE": "docker-compose.yml",
    "COMPOSE_PROFILES": "",
    **{f"{name.upper().replace('-', '_')}_REPLICAS": str(count) for name, count in REPLICAS.items()},
}
_NEEDED = ("nginx", "postgres", "nats", *REPLICAS)
_PATIENCE = 90
_ROUND_SECONDS = 100
_FAULTY = ROOT / "integration-tests" / "harness" / "faulty_release"
# `death` in integration-tests/harness/faulty_release: the request with this id ends the process.
_DEADLY = "query-of-death"
# An answer that is none of the bank's: a replica or NGINX failed.
_BROKEN = (0, 500, 502, 504)
_FILL = """
WITH numbers AS (SELECT n, gen_random_uuid() AS id,
        date_trunc('second', now()) + n * interval '0.5 second' AS moment
    FROM generate_series(2, {last}) AS n),
moved AS (INSERT INTO transactions (id, type, status, amount, currency, from_account, to_account, reference, created_at)
    SELECT id, 'transfer', 'posted', 1, 'USD', '{other}'::uuid, '{account}'::uuid, 'rent of ' || n, moment FROM numbers)
INSERT INTO entries (account_id, transaction_id, seq, counterparty, amount, balance_after, created_at)
    SELECT '{account}'::uuid, id, n, '{other}'::uuid, 1, n, moment FROM numbers
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: 0 for a connection that broke; how many bytes, and how many lines or objects were among them."""

    name: str
    status: int
    bytes: int
    parts: int
    seconds: float


class Hostile:
    """The stack, its customers, and what is sent to it."""

    def __init__(self, bank: ComposedBank, load: Load) -> None:
        self.bank = bank
        self.load = load
        self.good = True
        began = time.time()
        time.sleep(_CALM_SECONDS)
        calm = self._p95(began)
        self._most_p95 = max(CUSTOMERS_P95_SECONDS, _TIMES_CALM * calm)
        info(f"customers' p95 while nobody is hostile: {calm:.2f} s")
        self._token = bank.headers("mallory")["Authorization"]

    def _p95(self, since: float) -> float:
        """Return how long 95 % of the customers' requests since a moment took at most; infinity for none."""
        waits = sorted(one.seconds for one in self.load.between(since, time.time()))
        return waits[int(len(waits) * 0.95)] if waits else float("inf")

    def check(self, met: bool, text: str) -> None:
        """Print a figure with its bar, and remember that one was missed."""
        self.good = check(met, text) and self.good

    def send(self, request: Request) -> Answer:
        """Send a request over a connection of its own and read the whole answer."""
        address = urlsplit(self.bank.api_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=_PATIENCE)
        headers = {
            "Authorization": self._token,
            "Content-Type": "application/json",
            "Idempotency-Key": uuid.uuid4().hex,
            "Connection": "close",
            **dict(request.headers),
        }
        begun = time.monotonic()
        status = size = parts = 0
        try:
            connection.request(request.method, f"/api/v1{request.path}", request.body or None, headers)
            answer = connection.getresponse()
            while chunk := answer.read(1024 * 1024):
                size += len(chunk)
                parts += max(chunk.count(b"{"), chunk.count(b"\n"))
            # A length that was not reached raises nothing when it is read piece by piece.
            status = 0 if answer.length else answer.status
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        return Answer(request.name, status, size, parts, time.monotonic() - begun)

    def send_all(self, requests: Sequence[Request], at_once: int) -> list[Answer]:
        """Send requests, so many at once; those that are left when the time of a round is over are not sent."""
        deadline = time.monotonic() + _ROUND_SECONDS
        with ThreadPoolExecutor(at_once) as pool:
            sent = pool.map(lambda one: self.send(one) if time.monotonic() < deadline else None, requests)
            answers = [one for one in sent if one is not None]
        self.check(len(answers) == len(requests), f"sent within {_ROUND_SECONDS} s: {len(answers)} of {len(requests)}")
        return answers

    def deaths(self, since: str) -> list[str]:
        """Return what Docker tells of replicas that died since a moment: who, the exit code, and if memory was out."""
        filters = (f"label=com.docker.compose.project={self.bank.project}", "event=die", "event=oom")
        words = [word for one in filters for word in ("--filter", one)]
        attributes = (
            f'{{{{index .Actor.Attributes "{name}"}}}}' for name in ("com.docker.compose.service", "exitCode")
        )
        form = " ".join(("{{.Action}}", *attributes))
        lines = self.bank.docker("events", "--since", since, "--until", now(), "--format", form, *words).splitlines()
        return [line.strip() for line in lines if line.split()[1] in REPLICAS]

    def attack(self, name: str, send: Callable[[], list[Answer]], most_deaths: int = 0) -> list[Answer]:
        """Let something be sent; print what it came to, and check replicas and customers."""
        moment, lost, began = now(), len(self.load.lost), time.time()
        answers = send()
        # What is under way when the last answer comes shall count as well.
        time.sleep(1)
        deaths = self.deaths(moment)
        died = [line for line in deaths if line.startswith("die")]
        failed = self.load.lost[lost:]
        served, p95 = len(self.load.between(began, time.time())), self._p95(began)
        statuses = ", ".join(f"{n} × {status}" for status, n in Counter(one.status for one in answers).most_common())
        slowest = max((one.seconds for one in answers), default=0)
        info(f"{name}: {len(answers)} answers in {time.time() - began:.0f} s: {statuses}; slowest {slowest:.1f} s")
        if died:
            info("  " + ", ".join(f"{count} × {line}" for line, count in Counter(deaths).most_common()))
            self.wait_until_all_run()
        for line in failed[:3]:
            info(f"  a customer: {line}")
        self.check(len(died) <= most_deaths, f"{name}: replicas that died: {len(died)} (bar {most_deaths})")
        asked = served + len(failed)
        self.check(
            not failed and served > 0, f"{name}: customers' requests that failed: {len(failed)} of {asked} (bar 0)"
        )
        self.check(p95 <= self._most_p95, f"{name}: customers' p95 {p95:.2f} s (bar {self._most_p95:.1f} s)")
        return answers

    def wait_until_all_run(self) -> None:
        """Wait until every replica is healthy."""

        def healthy() -> bool:
            ids = [one for name in REPLICAS for one in self.bank.containers(name)]
            states = self.bank.inspect("{{.State.Health.Status}}", *ids) if ids else []
            return states == ["healthy"] * sum(REPLICAS.values())

        eventually(healthy, 90, every=0.5)

    def check_none_broke(self, name: str, answers: Sequence[Answer]) -> None:
        """Check that each was answered in the bank's own words."""
        broken = Counter(f"{one.name}: {one.status}" for one in answers if one.status in _BROKEN)
        for kind, count in broken.most_common(8):
            info(f"  {count} × {kind}")
        self.check(not broken, f"{name}: answers 500, 502, 504 or none: {broken.total()} (bar 0)")

    def print_memory(self) -> None:
        """Print the most memory that each replica has had since it was started."""
        files = "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null || true"
        for service in REPLICAS:
            peaks = [self.bank.docker("exec", one, "sh", "-c", files).split() for one in self.bank.containers(service)]
            most = sorted((int(peak[0]) // 1024**2 for peak in peaks if peak), reverse=True)
            info(f"  peak memory of {service} in MB: {most}")


def send_bodies(drill: Hostile, again: int) -> None:
    """Bodies that are dear to read, on every route."""
    account = drill.bank.open(subject="mallory")
    answers = drill.attack("bodies", lambda: drill.send_all(bodies(account, again), AT_ONCE))
    drill.check_none_broke("bodies", answers)
    for name, one in sorted({one.name: one for one in sorted(answers, key=lambda one: one.seconds)}.items()):
        info(f"  {name}: {one.status}, {one.bytes} bytes, at most {one.seconds:.2f} s")
    largest = max((one for one in answers if one.status >= 400), key=lambda one: one.bytes, default=None)
    size = largest.bytes if largest else 0
    drill.check(size <= MOST_REFUSAL_BYTES, f"bodies: largest refusal {size} bytes (bar {MOST_REFUSAL_BYTES})")
    drill.print_memory()


def send_heads(drill: Hostile, again: int) -> None:
    """Queries and headers as long as they may be."""
    account = drill.bank.open(subject="mallory")
    answers = drill.attack("heads", lambda: drill.send_all(heads(account) * again, AT_ONCE))
    drill.check_none_broke("heads", answers)


def read_statements(drill: Hostile, _again: int) -> None:
    """Statements of 100,000 entries by 2, 4 and 20 at once."""
    bank = drill.bank
    account, other = bank.open(1, "mallory"), bank.open(subject="mallory")
    eventually(lambda: bank.sql("transaction", f"SELECT 1 FROM entries WHERE account_id = '{account}'"), 60)
    bank.sql("transaction", _FILL.format(account=account, other=other, last=ENTRIES))
    bank.sql("transaction", "ANALYZE")
    end = datetime.now(UTC) + timedelta(days=1)
    query = urlencode({"from": (end - timedelta(days=4)).isoformat(), "to": end.isoformat()})
    path = f"/statements/{account}?{query}"
    for at_once in (2, 4, 20):
        kinds = [(("Accept", "application/json"),), (("Accept", "text/csv"),)]
        asked = [Request("statement", "GET", path, headers=kinds[number % 2]) for number in range(at_once)]
        name = f"{at_once} statements"
        answers = drill.attack(name, lambda asked=asked, at_once=at_once: drill.send_all(asked, at_once))
        whole = sum(one.status == 200 and one.parts >= ENTRIES for one in answers)
        refused = sum(one.status in (429, 503) for one in answers)
        # A few have to be served; of a crowd some may be asked to come again.
        enough = whole == at_once if at_once <= 4 else whole > 0 and whole + refused == at_once
        drill.check(enough, f"{name}: whole {whole}, refused with 429 or 503 {refused}, of {at_once}")
    drill.print_memory()


def send_refusals(drill: Hostile, _again: int) -> None:
    """Batches of 1,000 transfers that are all refused."""
    account, other = drill.bank.open(subject="mallory"), drill.bank.open(subject="mallory")
    requests = [refusals(account, other) for _ in range(BATCHES)]
    answers = drill.attack("refusals", lambda: drill.send_all(requests, AT_ONCE))
    drill.check_none_broke("refusals", answers)
    served = [one for one in answers if one.status == 200]
    size = max((one.bytes for one in served), default=0)
    drill.check(bool(served), f"refusals: {len(served)} of {len(answers)} batches answered, {size} bytes each at most")


def kill_with_requests(drill: Hostile, _again: int) -> None:
    """A release that some requests kill: each takes two replicas at most, and customers go on."""
    bank = drill.bank
    release = bank.inspect("{{.Config.Image}}", bank.containers("account-service")[0])[0]
    arguments = {"RELEASE": release, "FAULT": "death", "VERSION": "death"}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    run(["docker", "build", "--quiet", *words, "--tag", _deadly_image(bank), str(_FAULTY)])
    # All replicas are replaced at once: what customers lose by that is not what is looked at.
    bank.compose("up", "--detach", "--no-deps", "account-service", ACCOUNT_SERVICE_IMAGE=_deadly_image(bank))
    drill.wait_until_all_run()
    deadly, body = (("X-Request-ID", _DEADLY),), b'{"from_account":"x"}'
    for name, request in {
        "a POST that kills": Request("POST", "POST", "/transfers", body, headers=deadly),
        "a GET that kills": Request("GET", "GET", "/accounts", headers=deadly),
        "a batch that kills": Request("POST", "POST", "/transfers:batch", body, headers=deadly),
    }.items():
        # NGINX leaves out a replica that failed for two seconds.
        time.sleep(3)
        (answer,) = drill.attack(name, lambda request=request: [drill.send(request)], MOST_DEATHS_OF_ONE_REQUEST)
        drill.check(answer.status == 502, f"{name}: answered {answer.status} (502 after two replicas)")


def _deadly_image(bank: ComposedBank) -> str:
    return f"bank/account-service:{bank.project}-death"


ROUNDS: dict[str, Callable[[Hostile, int], None]] = {
    "bodies": send_bodies,
    "heads": send_heads,
    "statements": read_statements,
    # After the statements: history needs a while for the events of thousands of refusals.
    "refusals": send_refusals,
    "deaths": kill_with_requests,
}


def main() -> int:
    """Start a stack, send what is hostile, check, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", type=int, default=4, help="how often each body and head is sent (default 4)")
    parser.add_argument("--rate", type=float, default=20, help="customers' requests per second (default 20)")
    parser.add_argument("--only", metavar="ROUND,…", help=f"some of: {', '.join(ROUNDS)}")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(ROUNDS)
    if unknown := set(wanted) - set(ROUNDS):
        parser.error(f"no such round: {', '.join(unknown)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        bank = ComposedBank(Path(folder), **SETTINGS)
        try:
            everything = set(bank.compose("ps", "--services").split())
            # Load is for the bank, and nobody shall mend what is broken here.
            bank.compose("stop", "--timeout", "5", *sorted(everything - set(_NEEDED)))
            good = attack_all(bank, [name for name in ROUNDS if name in wanted], options.again, options.rate)
        finally:
            bank.close()
            subprocess.run(["docker", "image", "rm", "--force", _deadly_image(bank)], capture_output=True, check=False)
    took = time.monotonic() - began
    return 0 if check(took <= MOST_SECONDS, f"all of it took {took:.0f} s (bar {MOST_SECONDS} s)") and good else 1


def attack_all(bank: ComposedBank, rounds: Sequence[str], again: int, rate: float) -> bool:
    """Run rounds beside customers; return whether every bar was met."""
    with customers(bank, rate) as load:
        drill = Hostile(bank, load)
        for name in rounds:
            info(f"{name}: {str(ROUNDS[name].__doc__).rstrip('.')}")
            ROUNDS[name](drill, again)
    assert_one_effect_each(bank, load)
    info(f"the ledger is sound after {load.sent} requests of customers")
    return drill.good


if __name__ == "__main__":
    sys.exit(main())
