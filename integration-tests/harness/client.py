"""What the end-to-end tests are written with: a bank to talk to, and load with clients that retry."""

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared.testing.local_stack import ACCOUNT
from shared.testing.paths import ROOT
from shared.testing.lab_keys import LabSecrets
from shared.testing.fixtures import Lab


class Bank:
    """The API of a running stack, as its users see it through NGINX."""

    def __init__(self, api_url: str, secrets: LabSecrets) -> None:
        self.api_url = api_url
        self.lab = Lab(secrets)
        self.client = httpx.Client(base_url=api_url, timeout=10)
        self._headers: dict[tuple[str, str], dict[str, str]] = {}

    def run_module(self, service: str, module: str) -> str:
        """Run a module of a service on its database and return what it printed; it has to succeed."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connections; subclasses stop the stack, too."""
        self.client.close()

    def headers(self, subject: str, scope: str = "") -> dict[str, str]:
        """Return the authorization of a subject, signed once."""
        return self._headers.setdefault((subject, scope), self.lab.headers(subject, scope))

    def post(
        self, path: str, body: dict[str, Any] | None = None, *, subject: str = "alice", key: str = "", scope: str = ""
    ) -> httpx.Response:
        """Send a request with a new key, or with the one given."""
        headers = {**self.headers(subject, scope), "Idempotency-Key": key or uuid.uuid4().hex}
        return self.client.post(f"/api/v1{path}", json=body or {}, headers=headers)

    def get(self, path: str, *, subject: str = "alice", scope: str = "", **query: Any) -> Any:
        """Return the body of an answer that has to be 200."""
        answer = self.client.get(f"/api/v1{path}", params=query, headers=self.headers(subject, scope))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def open(self, money: int = 0, subject: str = "alice") -> str:
        """Open an account with some money and return its id."""
        opened = self.post("/accounts", {"currency": "USD"}, subject=subject)
        assert opened.status_code == 201, opened.text
        account: str = opened.json()["id"]
        if money:
            assert self.post(f"/accounts/{account}/deposits", usd(money), subject=subject).status_code == 201
        return account

    def balance(self, account: str, subject: str = "alice") -> int:
        """Return the balance of an account."""
        return int(self.get(f"/accounts/{account}", subject=subject)["balance"])

    def wait_until_answering(self, seconds: float = 60) -> None:
        """Fail unless the API answers within some seconds."""

        def answers() -> bool:
            try:
                return self.client.get("/api/v1/accounts", headers=self.headers("alice")).status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, seconds)

    def reconciled(self, seconds: float = 40) -> dict[str, Any]:
        """Return the reconciliation's report once history has caught up (or when patience ends)."""
        deadline = time.monotonic() + seconds
        while True:
            report: dict[str, Any] = self.get("/reconciliation", subject="op", scope="bank:operator")
            if not report["pending"] or time.monotonic() > deadline:
                return report
            time.sleep(0.2)

    def assert_ledger_is_sound(self) -> None:
        """Fail if an invariant of the ledger does not hold."""
        self.run_module(ACCOUNT, "app.verify")


def output_of(command: Sequence[str], environment: Mapping[str, str], seconds: int, folder: Path = ROOT) -> str:
    """Run a command and return all that it printed; fail with its last words."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}"
    return done.stdout


def usd(amount: int, **more: Any) -> dict[str, Any]:
    """Return the body of a request about an amount."""
    return {"amount": amount, "currency": "USD", **more}


def eventually(condition: Callable[[], Any], seconds: float = 20, every: float = 0.05) -> Any:
    """Return what the condition gives as soon as it is true; `every` is the pause between looks."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(every)
    return found


@dataclass
class History:
    """What clients know of their transfers: key → answer's id, why they asked again, and what never was answered."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    retries: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def transfers_under_way(
    bank: Bank, source: str, target: str, *, clients: int = 8, patience: float = 30
) -> Iterator[History]:
    """Transfer 1 again and again while the block runs; each client retries with its key until it has an answer."""
    history = History()
    stop = threading.Event()
    lock = threading.Lock()

    def one_transfer(client: httpx.Client) -> None:
        key = uuid.uuid4().hex
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                answer = client.post(
                    "/api/v1/transfers",
                    json=usd(1, from_account=source, to_account=target),
                    headers={**bank.headers("alice"), "Idempotency-Key": key},
                )
            except httpx.TransportError as error:
                outcome = repr(error)
            else:
                if answer.status_code == 201:
                    with lock:
                        history.acknowledged[key] = answer.json()["id"]
                    return
                outcome = f"{answer.status_code} {answer.text[:200]}"
                if answer.status_code not in (409, 502, 503) or "insufficient" in outcome:
                    break
            with lock:
                history.retries.append(outcome)
            time.sleep(0.05)
        with lock:
            history.errors.append(outcome)

    def work() -> None:
        with httpx.Client(base_url=bank.api_url, timeout=10) as client:
            while not stop.is_set():
                one_transfer(client)

    with ThreadPoolExecutor(clients) as pool:
        workers = [pool.submit(work) for _ in range(clients)]
        try:
            yield history
        finally:
            stop.set()
            for worker in workers:
                worker.result()


def assert_exactly_once(bank: Bank, history: History, source: str, target: str, start: int) -> None:
    """Fail unless every acknowledged transfer happened once and nothing else did."""
    assert history.errors == []
    moved = bank.balance(target)
    assert bank.balance(source) == start - moved
    # Every client went on until it had its answer, so nothing is left open.
    assert moved == len(history.acknowledged) == len(set(history.acknowledged.values()))
    bank.assert_ledger_is_sound()
