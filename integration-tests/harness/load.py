"""The load generator of tests and drills: an open loop at a rate, and a closed loop of clients that retry.

Both send with `Worker`. In the open loop (`open_loop`, `customers`, `burst`) each request is sent once, and without a
2xx response it has failed. In the closed loop (`retrying_transfers`) each client retries with the same idempotency key.
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
from urllib.parse import urlsplit

from harness.client import REQUEST_SECONDS, WAIT_SECONDS, Bank, eventually, repeating, usd

_MONEY = 100_000_000
_CUSTOMERS = 10_000
_CUSTOMER_TIMEOUT_SECONDS = 20
_BURST_WORKERS = 8
_RETRY_SECONDS = 0.05
_RETRIED = (0, 409, 502, 503)


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
    """Send one request to a port of this machine over a new connection, like a client that has just arrived."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return send(connection, method, path, headers, body)
    finally:
        connection.close()


class Worker:
    """One kept-alive connection and one pair of accounts; it sends for any client identity."""

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
class Served:
    """A successful response: when and for which client it was requested, and the track and version that served it."""

    at: float
    client: str
    track: str
    version: str
    seconds: float


@dataclass
class Load:
    """The target rate (requests per second), which may be changed at any time, and the results of all requests."""

    rate: float = 0
    served: list[Served] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    # Transfers by target account: acknowledged, and those that may or may not have been posted.
    moved: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    slowest: float = 0
    # Longest delay of a request behind its schedule: then the target rate was not reached.
    late: float = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent(self) -> int:
        """Number of requests sent."""
        return len(self.served) + len(self.failed)

    @property
    def throughput(self) -> float:
        """Average number of successful responses per second; 0 without any."""
        times = [response.at for response in self.served]
        return len(times) / max(1.0, max(times) - min(times)) if times else 0.0

    def between(self, start: float, end: float) -> list[Served]:
        """Return the successful responses to requests sent in a period."""
        return [response for response in self.served if start <= response.at < end]

    def send(self, worker: Worker, client: str = "", path: str = "", late: float = 0) -> None:
        """Send one request, a transfer unless there is a path to read, and record the result."""
        started = time.time()
        response = worker.read(path, client) if path else worker.transfer(uuid.uuid4().hex, client)
        success = response.status in (200, 201)
        with self.lock:
            self.slowest = max(self.slowest, response.seconds)
            self.late = max(self.late, late)
            if success:
                track, version = (response.headers.get(f"X-App-{name}", "") for name in ("Track", "Version"))
                self.served.append(Served(started, client, track, version, response.seconds))
            else:
                at = time.strftime("%H:%M:%S", time.gmtime(started))
                self.failed.append(f"{at} {response.status or ''} {response.text[:200]}")
            if not path:
                (self.moved if success else self.unknown)[worker.target] += 1


@contextmanager
def open_loop(
    bank: Bank, rate: float, *, workers: int, clients: int = 0, history_every: int = 0, timeout: float = 10
) -> Iterator[Load]:
    """Send requests at a rate while the block runs; a slow response delays only the worker that waits for it.

    `clients` is the number of client identities, drawn at random (0: none is sent). Every `history_every`-th request
    reads the history (0: none does), the others are transfers.
    """
    load, stop = Load(rate), threading.Event()
    pool = [_open_worker(bank, timeout) for _ in range(workers)]
    if history_every:
        # transaction-service learns about accounts from their events.
        for worker in pool:
            eventually(lambda worker=worker: worker.read(worker.history_path).status == 200)

    def work(worker: Worker, number: int) -> None:
        draw = random.Random(number)
        due = time.monotonic() + number / load.rate
        turn = number
        while not stop.wait(max(0.0, due - time.monotonic())):
            client = f"client-{draw.randrange(clients)}" if clients else ""
            reads = bool(history_every) and turn % history_every == 0
            load.send(worker, client, worker.history_path if reads else "", late=time.monotonic() - due)
            turn += 1
            # Missed requests are not made up for in a burst: the rate drops, and `late` shows it.
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
    """Send the requests of many clients at a rate while the block runs: two transfers to one read of the history."""
    return open_loop(bank, rate, workers=24, clients=_CUSTOMERS, history_every=3, timeout=_CUSTOMER_TIMEOUT_SECONDS)


def burst(bank: Bank, clients: Iterable[str]) -> Load:
    """Send one read for each client identity, as fast as a few workers can."""
    load, waiting = Load(), iter(list(clients))

    def work(worker: Worker) -> None:
        while True:
            with load.lock:
                client = next(waiting, None)
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
    return Worker(bank, bank.open_account(_MONEY), bank.open_account(), timeout)


def assert_transfers_posted_once(bank: Bank, load: Load) -> None:
    """Fail unless each acknowledged transfer was posted once; a failed one may or may not have been posted."""
    for target in load.moved | load.unknown:
        moved, found = load.moved[target], bank.balance(target)
        assert moved <= found <= moved + load.unknown[target], (target, moved, found)
    bank.assert_ledger_is_sound()


# Closed loop ----------------------------------------------------------------------------------------------------------


@dataclass
class TransferLog:
    """Transfers as clients see them: transaction ids by key, and responses of retried and of failed requests."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    retries: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def transfer(self, worker: Worker, timeout: float) -> None:
        """Transfer 1, retrying with the same key until there is a final response or the timeout ends."""
        key, deadline = uuid.uuid4().hex, time.monotonic() + timeout
        outcome = "not sent"
        while time.monotonic() < deadline:
            response = worker.transfer(key)
            if response.status == 201:
                with self.lock:
                    self.acknowledged[key] = json.loads(response.text)["id"]
                return
            outcome = f"{response.status or ''} {response.text[:200]}"
            if response.status not in _RETRIED or "insufficient" in outcome:
                break
            with self.lock:
                self.retries.append(outcome)
            time.sleep(_RETRY_SECONDS)
        with self.lock:
            self.errors.append(outcome)


@contextmanager
def retrying_transfers(
    bank: Bank, source: str, target: str, *, clients: int = 8, timeout: float = 2 * WAIT_SECONDS
) -> Iterator[TransferLog]:
    """Transfer 1 repeatedly while the block runs; each client sends its next transfer after the previous response."""
    transfers = TransferLog()
    pool = [Worker(bank, source, target) for _ in range(clients)]
    try:
        with repeating(*(partial(transfers.transfer, worker, timeout) for worker in pool)):
            yield transfers
    finally:
        for worker in pool:
            worker.close()


def assert_exactly_once(bank: Bank, transfers: TransferLog, source: str, target: str, start: int) -> None:
    """Fail unless every acknowledged transfer was posted once and nothing else was."""
    assert transfers.errors == []
    moved = bank.balance(target)
    assert bank.balance(source) == start - moved
    # Every client retried until it had its response, so no transfer is left with an unknown result.
    assert moved == len(transfers.acknowledged) == len(set(transfers.acknowledged.values()))
    bank.assert_ledger_is_sound()
