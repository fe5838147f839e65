"""Load at a rate that can be changed: transfers, each sent once. Whatever is not answered 201 is lost."""

import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from harness.client import Bank

_MONEY = 100_000_000
_TIMEOUT = 10


@dataclass
class Load:
    """The clients, and what became of their requests."""

    rate: float
    sent: int = 0
    lost: list[str] = field(default_factory=list)
    slowest: float = 0
    # Of a request that had to wait for the one before it: then the rate was not reached.
    late: float = 0
    moved: dict[str, int] = field(default_factory=dict)


@contextmanager
def transfers(bank: Bank, rate: float, clients: int = 96) -> Iterator[Load]:
    """Transfer at a rate (requests per second) while the block runs; it may change `rate`.

    Each client has a connection and accounts of its own, and keeps to its times whatever the others do.
    """
    load = Load(rate)
    stop, lock = threading.Event(), threading.Lock()
    pairs = [(bank.open(_MONEY), bank.open()) for _ in range(clients)]

    def work(source: str, target: str) -> None:
        address = urlsplit(bank.api_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=_TIMEOUT)
        body = json.dumps({"amount": 1, "currency": "USD", "from_account": source, "to_account": target})
        due = time.monotonic() + clients / load.rate * clients_done(source)
        while not stop.wait(max(0.0, due - time.monotonic())):
            begun = time.monotonic()
            headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex, **bank.headers("alice")}
            try:
                connection.request("POST", "/api/v1/transfers", body, headers)
                answer = connection.getresponse()
                content = answer.read()
                outcome = "" if answer.status == 201 else f"{answer.status} {content[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                outcome = repr(error)
            with lock:
                load.sent += 1
                load.slowest = max(load.slowest, time.monotonic() - begun)
                load.late = max(load.late, begun - due)
                if outcome:
                    load.lost.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {outcome}")
                else:
                    load.moved[target] = load.moved.get(target, 0) + 1
            # Not all at once after a pause.
            due = max(due + clients / load.rate, time.monotonic())
        connection.close()

    def clients_done(source: str) -> float:
        """Return the share of a period that this client begins later than the first."""
        return [pair[0] for pair in pairs].index(source) / clients

    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def assert_every_transfer_counts(bank: Bank, load: Load) -> None:
    """Fail unless each acknowledged transfer happened once; what was lost may or may not have happened."""
    for target, moved in load.moved.items():
        found = bank.balance(target)
        assert moved <= found <= moved + len(load.lost), (target, moved, found)
    bank.assert_ledger_is_sound()
