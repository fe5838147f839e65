"""The client of tests and drills: a bank's API through NGINX, and helpers for commands and waiting."""

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from shared.testing.local_stack import ACCOUNT
from shared.testing.paths import ROOT
from shared.testing.lab_keys import LabSecrets
from shared.testing.fixtures import Lab
from shared.testing.timing import BUSY_SECONDS

_REFRESH_SECONDS = 20
# Limits that only a failure reaches: a request takes at most 40 s in NGINX, and a busy machine multiplies every time.
REQUEST_SECONDS = WAIT_SECONDS = BUSY_SECONDS


class Bank:
    """The API of a running stack, as clients see it through NGINX."""

    def __init__(self, api_url: str, secrets: LabSecrets) -> None:
        self.api_url = api_url
        self.lab = Lab(secrets)
        self.client = httpx.Client(base_url=api_url, timeout=REQUEST_SECONDS)
        self._headers: dict[tuple[str, str, int], dict[str, str]] = {}

    def run_module(self, service: str, module: str) -> str:
        """Run a module of a service on its database and return its output; fail unless it exits with 0."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections; subclasses stop the stack as well."""
        self.client.close()

    def headers(self, subject: str, scope: str = "") -> dict[str, str]:
        """Return the authorization header of a subject; its token is refreshed like that of a real client."""
        key = (subject, scope, int(time.monotonic() / _REFRESH_SECONDS))
        if key not in self._headers:
            self._headers[key] = self.lab.headers(subject, scope)
        return self._headers[key]

    def post(
        self, path: str, body: dict[str, Any] | None = None, *, subject: str = "alice", key: str = "", scope: str = ""
    ) -> httpx.Response:
        """Send a POST with the given idempotency key, or with a new one."""
        headers = {**self.headers(subject, scope), "Idempotency-Key": key or uuid.uuid4().hex}
        return self.client.post(f"/api/v1{path}", json=body or {}, headers=headers)

    def get(self, path: str, *, subject: str = "alice", scope: str = "", **query: Any) -> Any:
        """Return the body of a response; fail unless its status is 200."""
        response = self.client.get(f"/api/v1{path}", params=query, headers=self.headers(subject, scope))
        assert response.status_code == 200, response.text
        return response.json()

    def open_account(self, money: int = 0, subject: str = "alice") -> str:
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

    def wait_until_answering(self, seconds: float = 2 * WAIT_SECONDS) -> None:
        """Fail unless the API answers within some seconds."""

        def answers() -> bool:
            try:
                return self.client.get("/api/v1/accounts", headers=self.headers("alice")).status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, seconds)

    def reconciliation(self, seconds: float = 2 * WAIT_SECONDS) -> dict[str, Any]:
        """Return the reconciliation report once the history has caught up, or the last one at the timeout."""
        deadline = time.monotonic() + seconds
        while True:
            report: dict[str, Any] = self.get("/reconciliation", subject="op", scope="bank:operator")
            if not report["pending"] or time.monotonic() > deadline:
                return report
            time.sleep(0.2)

    def assert_ledger_is_sound(self) -> None:
        """Fail if the ledger violates an invariant."""
        self.run_module(ACCOUNT, "app.verify")


def output_of(
    command: Sequence[str],
    environment: Mapping[str, str],
    seconds: int,
    folder: Path = ROOT,
    *,
    with_errors: bool = False,
) -> str:
    """Run a command and return its output; fail with the end of output and errors unless it exits with 0.

    The output contains standard error only if asked for: the two arrive in any order, and warnings come at any time.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if with_errors else subprocess.PIPE,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}{(done.stderr or '')[-3000:]}"
    return done.stdout


def usd(amount: int, **more: Any) -> dict[str, Any]:
    """Return a request body with an amount in USD."""
    return {"amount": amount, "currency": "USD", **more}


def eventually(condition: Callable[[], Any], seconds: float = WAIT_SECONDS, every: float = 0.05) -> Any:
    """Return the condition's result as soon as it is true; `every` is the polling interval in seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(every)
    return found


@contextmanager
def repeating(*actions: Callable[[], object], every: float = 0) -> Iterator[None]:
    """Run each action repeatedly in its own thread while the block runs, with a pause after each call.

    An action that raises is not run again, and its error is raised when the block ends.
    """
    stop = threading.Event()

    def work(action: Callable[[], object]) -> None:
        while not stop.wait(every):
            action()

    with ThreadPoolExecutor(len(actions)) as pool:
        workers = [pool.submit(work, action) for action in actions]
        try:
            yield
        finally:
            stop.set()
            for worker in workers:
                worker.result()
