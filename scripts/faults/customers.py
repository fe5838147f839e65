"""Synthetic customers of the composed stack: each has a token and two accounts, and checks the responses."""

import random
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared.testing import lab_keys

USER_AGENT = "bank-customer"
_WORKERS = 16
_TIMEOUT_SECONDS = 60
_DEPOSIT = 100_000
# Cumulative shares of the requests: transfers, reads of an account; the rest reads the history.
_TRANSFERS, _ACCOUNTS = 0.5, 0.67


@dataclass
class RequestStats:
    """Results of the customers' requests: failed without a 2xx response, wrong if the response has a false value."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, response: httpx.Response | Exception, mistake: str) -> None:
        """Record a response, and what is wrong with it."""
        with self.lock:
            self.sent += 1
            if isinstance(response, Exception):
                self.failed.append(repr(response))
            elif not response.is_success:
                self.failed.append(f"{response.status_code} {response.text[:120]}")
            elif mistake:
                self.wrong.append(mistake)


class Customer:
    """A customer who moves money between two accounts, one request after the other."""

    def __init__(self, client: httpx.Client, token: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": USER_AGENT}
        self._source, self._target = self._open(), self._open()
        self._post(f"/accounts/{self._source}/deposits", {"amount": _DEPOSIT, "currency": "USD"}).raise_for_status()
        # None after a request whose effect is unknown, until the account is read.
        self._balance: int | None = _DEPOSIT

    def send_request(self, draw: float, stats: RequestStats) -> None:
        """Send one request, and check the response against what the customer knows."""
        step = self._transfer if draw < _TRANSFERS else self._read_account if draw < _ACCOUNTS else self._read_history
        try:
            response, mistake = step()
        except httpx.HTTPError as error:
            self._balance = None
            stats.record(error, "")
        else:
            stats.record(response, mistake)

    def _transfer(self) -> tuple[httpx.Response, str]:
        body = {"from_account": self._source, "to_account": self._target, "amount": 1, "currency": "USD"}
        response = self._post("/transfers", body)
        if response.status_code >= 500:
            self._balance = None
        if not response.is_success:
            return response, ""
        if self._balance is not None:
            self._balance -= 1
        return response, _difference("amount", response, 1)

    def _read_account(self) -> tuple[httpx.Response, str]:
        response = self._client.get(f"/api/v1/accounts/{self._source}", headers=self._headers)
        if not response.is_success:
            return response, ""
        balance_before = self._balance
        if balance_before is None:
            self._balance = response.json().get("available")
        return response, _difference("balance", response, balance_before)

    def _read_history(self) -> tuple[httpx.Response, str]:
        query: dict[str, str | int] = {"account_id": self._source, "limit": 1}
        return self._client.get("/api/v1/transactions", params=query, headers=self._headers), ""

    def has_history(self) -> bool:
        """Return whether the history knows the account; it learns about it from an event."""
        return self._read_history()[0].is_success

    def _open(self) -> str:
        account: str = self._post("/accounts", {"currency": "USD"}).raise_for_status().json()["id"]
        return account

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        headers = {**self._headers, "Idempotency-Key": uuid.uuid4().hex}
        return self._client.post(f"/api/v1{path}", json=body, headers=headers)


def _difference(name: str, response: httpx.Response, expected: int | None) -> str:
    """Return what is wrong with a field of a response; empty if nothing is, or nothing is known."""
    value = response.json().get(name)
    return "" if expected is None or value == expected else f"{name} {value!r} instead of {expected}"


def open_accounts(client: httpx.Client, secrets: Path, count: int) -> list[Customer]:
    """Return new customers whose accounts the history knows. Raises httpx.HTTPError, TimeoutError."""
    key, name = lab_keys.ensure(secrets).key, f"customer-{uuid.uuid4().hex[:8]}"
    with ThreadPoolExecutor(_WORKERS) as pool:
        tokens = [lab_keys.sign(key, f"{name}-{number}") for number in range(count)]
        customers = list(pool.map(lambda token: Customer(client, token), tokens))
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not all(pool.map(Customer.has_history, customers)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the history does not know a new account after {_TIMEOUT_SECONDS} s; see make logs")
            time.sleep(0.2)
    return customers


def connect(url: str, ca_certificate: str) -> httpx.Client:
    """Return a client of the bank for all customers."""
    limits = httpx.Limits(max_connections=_WORKERS, max_keepalive_connections=_WORKERS)
    verify = ssl.create_default_context(cafile=ca_certificate) if ca_certificate else True
    return httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, limits=limits, verify=verify)


@contextmanager
def traffic(customers: list[Customer], rate: float, seconds: float) -> Iterator[RequestStats]:
    """Send the customers' requests at a rate (per second) while the block runs, at most for some seconds."""
    stats, stop, ends = RequestStats(), threading.Event(), time.monotonic() + seconds

    def work(number: int) -> None:
        draw, own_customers, turn = random.Random(number), customers[number::_WORKERS], 0  # nosec B311
        due = time.monotonic() + number / rate
        while not stop.wait(max(0.0, due - time.monotonic())) and time.monotonic() < ends:
            own_customers[turn % len(own_customers)].send_request(draw.random(), stats)
            turn += 1
            # Missed requests are not made up for in a burst.
            due = max(due + _WORKERS / rate, time.monotonic())

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(_WORKERS)]
    for thread in threads:
        thread.start()
    try:
        yield stats
    finally:
        stop.set()
        for thread in threads:
            thread.join()
