"""Customers of the bank, for Locust: they open an account, deposit, pay each other, read history and statements.

Run by run_load_test.sh; tokens are signed with the key in VAR_DIR/secrets. Amounts, and payments per minute, stay
below what the fraud rules look at: frozen accounts would measure refusals.
"""

import random
import time
import uuid
from typing import Any

from locust import HttpUser, between, events, task
from locust.exception import StopUser
from locust.stats import CSV_STATS_INTERVAL_SEC

from recorded_posts import POSTS
from surge_outcomes import Post
from shared.testing import lab_keys

_API = "/api/v1"
_SALARY = 50_000
_HISTORY_PATIENCE_SECONDS = 10
# Without a limit a request that hangs would never be counted.
_TIMEOUT_SECONDS = 10

_key = lab_keys.ensure(lab_keys.var_dir() / "secrets").key
_accounts: list[str] = []


def _let_the_report_catch_up(**_: Any) -> None:
    # Locust writes the CSV once per interval and not at the end: the last requests, the slow ones that were waited
    # for among them, would be missing from what the thresholds look at.
    time.sleep(CSV_STATS_INTERVAL_SEC + 0.5)


events.quit.add_listener(_let_the_report_catch_up)  # type: ignore[no-untyped-call]  # Locust does not type it


class Customer(HttpUser):
    """Somebody with a token and an account, who thinks before each step."""

    wait_time = between(1, 3)

    def on_start(self) -> None:
        """Open an account, bring the first money to it and wait until the history knows it."""
        self.client.headers["Authorization"] = f"Bearer {lab_keys.sign(_key, f'load-{uuid.uuid4()}')}"
        opened = self._post("/accounts", {"currency": "USD", "name": "Load test"})
        if opened is None:
            # The failure is counted; without an account there is nothing more to do.
            raise StopUser
        self.account: str = opened["id"]
        self.known_balance = 0
        self.deposit()
        self._await_history()
        _accounts.append(self.account)

    @task(4)
    def pay(self) -> None:
        """Pay another customer; never more than one knows to have, so that every refusal is an error."""
        payees = [account for account in _accounts if account != self.account]
        amount = random.randint(100, 2_500)
        if not payees:
            return
        if amount > self.known_balance:
            self.deposit()
            return
        body = {"from_account": self.account, "to_account": random.choice(payees), "amount": amount, "currency": "USD"}
        # Also without an answer the money may be gone.
        self.known_balance -= amount
        self._post("/transfers", body)

    @task(1)
    def deposit(self) -> None:
        """Bring money to the cash desk."""
        body = {"amount": _SALARY, "currency": "USD"}
        if self._post(f"/accounts/{self.account}/deposits", body, "/accounts/{id}/deposits") is not None:
            self.known_balance += _SALARY

    @task(2)
    def look_at_account(self) -> None:
        """Read the balance."""
        self._get(f"/accounts/{self.account}", "/accounts/{id}")

    @task(3)
    def read_history(self) -> None:
        """Read the newest transactions."""
        self._get(f"/transactions?account_id={self.account}", "/transactions")

    @task(1)
    def read_statement(self) -> None:
        """Read the statement of this month."""
        self._get(f"/statements/{self.account}", "/statements/{id}")

    def _post(self, path: str, body: dict[str, Any], name: str = "") -> dict[str, Any] | None:
        """Send a request with an Idempotency-Key of its own; return the answer's body if it was done."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        # Locust groups by name: with the ids in it, every request would be a line of its own.
        name = _API + (name or path)
        token = str(self.client.headers["Authorization"]).removeprefix("Bearer ")
        if moves_money := "amount" in body:
            # Before it is sent: a customer may be stopped while it waits for the response.
            POSTS[headers["Idempotency-Key"]] = Post(_API + path, self.account, body, token)
        response = self.client.post(_API + path, json=body, headers=headers, name=name, timeout=_TIMEOUT_SECONDS)
        if moves_money:
            POSTS[headers["Idempotency-Key"]] = Post(_API + path, self.account, body, token, response.status_code)
        return response.json() if response.status_code == 201 else None

    def _get(self, path: str, name: str) -> None:
        self.client.get(_API + path, name=_API + name, timeout=_TIMEOUT_SECONDS)

    def _await_history(self) -> None:
        """Ask as a client would until the account's first event has arrived; until then 404 is no error."""
        deadline = time.monotonic() + _HISTORY_PATIENCE_SECONDS
        # A name of its own: quick 404s must not make the history look faster than it is.
        url, name = f"{_API}/transactions?account_id={self.account}", f"{_API}/transactions (new account)"
        while True:
            with self.client.get(url, name=name, timeout=_TIMEOUT_SECONDS, catch_response=True) as response:
                if response.status_code != 404 or time.monotonic() > deadline:
                    return
                response.success()
            time.sleep(0.2)
