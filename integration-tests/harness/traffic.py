"""Many clients at a steady rate, who say who they are and send each request once. What is not answered 2xx is lost."""

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from harness.client import Bank, eventually

_MONEY = 100_000_000
_TIMEOUT = 20
_WORKERS = 24
# Of three requests one asks for the history.
_HISTORY_EVERY = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer: when it was asked for, whose request it was, and which track and version gave it."""

    at: float
    client: str
    track: str
    version: str
    seconds: float


@dataclass
class Traffic:
    """What became of all requests."""

    seen: list[Seen] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    moved: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """How many were sent."""
        return len(self.seen) + len(self.lost)

    @property
    def rate(self) -> float:
        """How many were answered in a second, on average; 0 where none was."""
        moments = [one.at for one in self.seen]
        return len(moments) / max(1.0, max(moments) - min(moments)) if moments else 0.0

    def between(self, start: float, end: float) -> list[Seen]:
        """Return the answers to what was asked in a time."""
        return [one for one in self.seen if start <= one.at < end]


class _Worker:
    """One connection and one pair of accounts, used for whichever client's turn it is."""

    def __init__(self, bank: Bank, traffic: Traffic, lock: threading.Lock) -> None:
        address = urlsplit(bank.api_url)
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=_TIMEOUT)
        self._bank = bank
        self._traffic = traffic
        self._lock = lock
        self._source, self._target = bank.open(_MONEY), bank.open()

    def send(self, client: str, path: str = "") -> None:
        """Send one request, a transfer or what is to be read, and take note of the answer."""
        began = time.time()
        headers = {"X-Client-ID": client, **self._bank.headers("alice")}
        try:
            if path:
                self._connection.request("GET", f"/api/v1/{path}", headers=headers)
            else:
                headers |= {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
                body = {"amount": 1, "currency": "USD", "from_account": self._source, "to_account": self._target}
                self._connection.request("POST", "/api/v1/transfers", json.dumps(body), headers)
            answer = self._connection.getresponse()
            content = answer.read()
            outcome = "" if answer.status in (200, 201) else f"{answer.status} {content[:200]!r}"
            track, version = answer.headers.get("X-App-Track", ""), answer.headers.get("X-App-Version", "")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            outcome, track, version = repr(error), "", ""
        with self._lock:
            if outcome:
                self._traffic.lost.append(f"{time.strftime('%H:%M:%S', time.gmtime(began))} {outcome}")
            else:
                self._traffic.seen.append(Seen(began, client, track, version, time.time() - began))
            if not path:
                (self._traffic.unknown if outcome else self._traffic.moved)[self._target] += 1

    def known(self) -> bool:
        """Tell whether the history has heard of its account."""
        answer = self._bank.client.get(f"/api/v1/{self.history}", headers=self._bank.headers("alice"))
        return answer.status_code == 200

    @property
    def history(self) -> str:
        """The path of the newest of its transactions."""
        return f"transactions?account_id={self._source}&limit=1"

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


@contextmanager
def traffic(bank: Bank, rate: float, clients: int = 10_000) -> Iterator[Traffic]:
    """Send requests of random clients at a rate (per second) while the block runs."""
    result, lock, stop = Traffic(), threading.Lock(), threading.Event()
    workers = [_Worker(bank, result, lock) for _ in range(_WORKERS)]
    # History learns of accounts by their events.
    for worker in workers:
        eventually(worker.known)

    def work(worker: _Worker, number: int) -> None:
        draw = random.Random(number)
        due = time.monotonic() + number / rate
        turn = number
        while not stop.wait(max(0.0, due - time.monotonic())):
            worker.send(f"client-{draw.randrange(clients)}", "" if turn % _HISTORY_EVERY else worker.history)
            turn += 1
            # Late ones are not made up for: then the rate is lower, and says so.
            due = max(due + _WORKERS / rate, time.monotonic())
        worker.close()

    threads = [threading.Thread(target=work, args=(worker, n)) for n, worker in enumerate(workers)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def burst(bank: Bank, clients: Iterable[str]) -> Traffic:
    """Ask once for each client, as fast as it goes."""
    result, lock = Traffic(), threading.Lock()
    waiting = iter(list(clients))

    def work(worker: _Worker) -> None:
        while True:
            with lock:
                client = next(waiting, None)
            if client is None:
                return
            worker.send(client, "accounts?limit=1")

    workers = [_Worker(bank, result, lock) for _ in range(_WORKERS // 3)]
    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result


def assert_one_effect_each(bank: Bank, result: Traffic) -> None:
    """Fail unless each acknowledged transfer happened once; what was lost may or may not have happened."""
    for target, moved in result.moved.items():
        found = bank.balance(target)
        assert moved <= found <= moved + result.unknown[target], (target, moved, found)
