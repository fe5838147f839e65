"""The load generator of tests and drills: an open loop at a target rate, and a closed loop of retrying clients.

Both send with `Worker`. In the open loop (`open_loop`, `customers`, `burst`) each request is sent once and counts as
failed without a 2xx response. In the closed loop (`retrying_transfers`) each client retries with the same idempotency
key.
"""

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from urllib.parse import urlsplit

from harness.client import REQUEST_SECONDS, WAIT_SECONDS, Bank, eventually, repeating, usd

_INITIAL_BALANCE = 100_000_000
_CUSTOMERS = 10_000
_CUSTOMER_TIMEOUT_SECONDS = 20
_BURST_WORKERS = 8
_RETRY_SECONDS = 0.05
_RETRIED_STATUSES = (0, 409, 502, 503)


# One request ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Response:
    """A response as the client received it; without one the status is 0 and the text is the error."""

    status: int
    text: str
    headers: Mapping[str, str]
    seconds: float


def send(
    connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: str | None = None
) -> Response:
    """Send one request and read the whole response; after an error the connection is closed."""
    started = time.perf_counter()
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        return Response(response.status, text, response.headers, time.perf_counter() - started)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Response(0, repr(error), {}, time.perf_counter() - started)


def send_once(
    port: int, method: str, path: str, headers: Mapping[str, str], body: str | None = None, timeout: float = 10
) -> Response:
    """Send one request to a port of this machine over a new connection, as a new client does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return send(connection, method, path, headers, body)
    finally:
        connection.close()


class Worker:
    """A persistent connection and a pair of accounts; can send any X-Client-ID."""

    def __init__(self, bank: Bank, source: str, target: str, timeout: float = REQUEST_SECONDS) -> None:
        address = urlsplit(bank.api_url)
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=timeout)
        self._bank = bank
        self.source, self.target = source, target

    def transfer(self, key: str, client: str = "", amount: int = 1) -> Response:
        """Transfer an amount from the source to the target."""
        headers = {**self._headers(client), "Content-Type": "application/json", "Idempotency-Key": key}
        body = json.dumps(usd(amount, from_account=self.source, to_account=self.target))
        return send(self._connection, "POST", "/api/v1/transfers", headers, body)

    def read(self, path: str, client: str = "") -> Response:
        """Read a resource."""
        return send(self._connection, "GET", f"/api/v1/{path}", self._headers(client))

    def _headers(self, client: str) -> dict[str, str]:
        return {**self._bank.headers("alice"), **({"X-Client-ID": client} if client else {})}

    @property
    def history_path(self) -> str:
        """The path of the newest transaction of the source."""
        return f"transactions?account_id={self.source}&limit=1"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


# Open loop ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SuccessfulResponse:
    """A successful response: time of the request (since 1970), client, track and version of the replica, latency."""

    at: float
    client: str
    track: str
    version: str
    seconds: float


@dataclass
class Load:
    """The target rate in requests per second, which may be changed at any time, and the results of all requests."""

    rate: float = 0
    successful: list[SuccessfulResponse] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    # Transfers by target account; uncertain ones failed, and may or may not have been posted.
    acknowledged_by_account: Counter[str] = field(default_factory=Counter)
    uncertain_by_account: Counter[str] = field(default_factory=Counter)
    # Maximum latency, and maximum delay between the scheduled and the actual time of a request, in seconds.
    slowest: float = 0
    schedule_delay: float = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent(self) -> int:
        """Number of requests sent."""
        return len(self.successful) + len(self.failed)

    @property
    def throughput(self) -> float:
        """Average number of successful responses per second; 0 without any."""
        times = [response.at for response in self.successful]
        return len(times) / max(1.0, max(times) - min(times)) if times else 0.0

    def between(self, start: float, end: float) -> list[SuccessfulResponse]:
        """Return the successful responses to requests sent in a period."""
        return [response for response in self.successful if start <= response.at < end]

    def send(self, worker: Worker, client: str = "", path: str = "", schedule_delay: float = 0) -> None:
        """Send one request and record the result; it reads the path, or makes a transfer without one."""
        started = time.time()
        response = worker.read(path, client) if path else worker.transfer(uuid.uuid4().hex, client)
        success = response.status in (200, 201)
        with self.lock:
            self.slowest = max(self.slowest, response.seconds)
            self.schedule_delay = max(self.schedule_delay, schedule_delay)
            if success:
                track, version = (response.headers.get(f"X-App-{name}", "") for name in ("Track", "Version"))
                self.successful.append(SuccessfulResponse(started, client, track, version, response.seconds))
            else:
                at = time.strftime("%H:%M:%S", time.gmtime(started))
                self.failed.append(f"{at} {response.status or ''} {response.text[:200]}")
            if not path:
                counter = self.acknowledged_by_account if success else self.uncertain_by_account
                counter[worker.target] += 1


@contextmanager
def open_loop(
    bank: Bank, rate: float, *, workers: int, clients: int = 0, history_every: int = 0, timeout: float = 10
) -> Iterator[Load]:
    """Send requests at a target rate while the block runs; a slow response delays only its own worker.

    `clients` is the number of random client identities (0: no X-Client-ID is sent). Every `history_every`-th request
    reads the history (0: none); the others are transfers.
    """
    load, stop = Load(rate), threading.Event()
    pool = [_open_worker(bank, timeout) for _ in range(workers)]
    if history_every:
        # transaction-service learns about accounts from their events.
        for worker in pool:
            eventually(lambda worker=worker: worker.read(worker.history_path).status == 200)

    def work(worker: Worker, number: int) -> None:
        rng = random.Random(number)
        due = time.monotonic() + number / load.rate
        sequence = number
        while not stop.wait(max(0.0, due - time.monotonic())):
            client = f"client-{rng.randrange(clients)}" if clients else ""
            path = worker.history_path if history_every and sequence % history_every == 0 else ""
            load.send(worker, client, path, schedule_delay=time.monotonic() - due)
            sequence += 1
            # No catch-up bursts; coordinated omission is reported by `schedule_delay`.
            due = max(due + workers / load.rate, time.monotonic())
        worker.close()

    threads = [threading.Thread(target=work, args=(worker, number)) for number, worker in enumerate(pool)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def customers(bank: Bank, rate: float) -> AbstractContextManager[Load]:
    """Send requests of many clients at a target rate while the block runs: two transfers per read of the history."""
    return open_loop(bank, rate, workers=24, clients=_CUSTOMERS, history_every=3, timeout=_CUSTOMER_TIMEOUT_SECONDS)


def burst(bank: Bank, clients: Iterable[str]) -> Load:
    """Send one read per client identity from a few workers, without pauses."""
    load, remaining = Load(), iter(list(clients))

    def work(worker: Worker) -> None:
        while True:
            with load.lock:
                client = next(remaining, None)
            if client is None:
                break
            load.send(worker, client, "accounts?limit=1")
        worker.close()

    pool = [_open_worker(bank, _CUSTOMER_TIMEOUT_SECONDS) for _ in range(_BURST_WORKERS)]
    threads = [threading.Thread(target=work, args=(worker,)) for worker in pool]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def _open_worker(bank: Bank, timeout: float) -> Worker:
    return Worker(bank, bank.open_account(_INITIAL_BALANCE), bank.open_account(), timeout)


def assert_no_duplicate_transfers(bank: Bank, load: Load) -> None:
    """Fail if a transfer was posted twice or an acknowledged one is lost; uncertain ones may be posted or not."""
    for target in load.acknowledged_by_account | load.uncertain_by_account:
        acknowledged, balance = load.acknowledged_by_account[target], bank.balance(target)
        assert acknowledged <= balance <= acknowledged + load.uncertain_by_account[target], (
            target,
            acknowledged,
            balance,
        )
    bank.assert_ledger_is_sound()


# Closed loop ----------------------------------------------------------------------------------------------------------


@dataclass
class TransferLog:
    """Results of transfers: transaction ids by idempotency key, responses that were retried, and failed transfers."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    retries: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    # Times of the acknowledgements (time.monotonic()).
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def longest_pause(self, start: float, end: float) -> float:
        """Return the longest time without an acknowledgement in a period, in seconds."""
        with self.lock:
            times = [start, *sorted(time for time in self.times if start <= time <= end), end]
        return max(later - earlier for earlier, later in pairwise(times))

    def transfer(self, worker: Worker, timeout: float) -> None:
        """Transfer 1, retrying with the same key until a final response or the timeout in seconds."""
        key, deadline = uuid.uuid4().hex, time.monotonic() + timeout
        result = "not sent"
        while time.monotonic() < deadline:
            response = worker.transfer(key)
            if response.status == 201:
                with self.lock:
                    self.acknowledged[key] = json.loads(response.text)["id"]
                    self.times.append(time.monotonic())
                return
            result = f"{response.status or ''} {response.text[:200]}"
            if response.status not in _RETRIED_STATUSES or "insufficient" in result:
                break
            with self.lock:
                self.retries.append(result)
            time.sleep(_RETRY_SECONDS)
        with self.lock:
            self.errors.append(result)


@contextmanager
def retrying_transfers(
    bank: Bank, source: str, target: str, *, clients: int = 8, timeout: float = 2 * WAIT_SECONDS, every: float = 0
) -> Iterator[TransferLog]:
    """Transfer 1 repeatedly while the block runs; each client sends its next transfer after the previous response.

    `every` is the pause between them, in seconds.
    """
    transfers = TransferLog()
    pool = [Worker(bank, source, target) for _ in range(clients)]
    try:
        with repeating(*(partial(transfers.transfer, worker, timeout) for worker in pool), every=every):
            yield transfers
    finally:
        for worker in pool:
            worker.close()


def assert_exactly_once(bank: Bank, transfers: TransferLog, source: str, target: str, start: int) -> None:
    """Fail unless every acknowledged transfer was posted exactly once and no other was; `start` is in minor units."""
    assert transfers.errors == []
    posted = bank.balance(target)
    assert bank.balance(source) == start - posted
    # Every client retried until a final response, so no transfer is uncertain.
    assert posted == len(transfers.acknowledged) == len(set(transfers.acknowledged.values()))
    bank.assert_ledger_is_sound()
