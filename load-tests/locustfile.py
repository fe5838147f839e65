"""Simulated customers for Locust: they open an account, deposit, transfer, and read history and statements.

Run by run_load_test.sh; tokens are signed with the key in VAR_DIR/secrets. Amounts and transfers per minute stay below
the limits of the fraud rules, which would freeze accounts and cause refusals.
"""

import random
import time
import uuid
from typing import Any

from locust import HttpUser, between, events, task
from locust.exception import StopUser
from locust.stats import CSV_STATS_INTERVAL_SEC

from sent_requests import SENT
from shared.testing import lab_keys
from surge_report import SentRequest

_API = "/api/v1"
_DEPOSIT_AMOUNT = 50_000
_HISTORY_TIMEOUT_SECONDS = 10
# Without a timeout a request that hangs would never be counted.
_TIMEOUT_SECONDS = 10

_key = lab_keys.ensure(lab_keys.var_dir() / "secrets").key
_accounts: list[str] = []


def _wait_for_csv_flush(**_: Any) -> None:
    # Locust writes the CSV periodically and not at exit: wait one interval so that the last requests are included.
    time.sleep(CSV_STATS_INTERVAL_SEC + 0.5)


events.quit.add_listener(_wait_for_csv_flush)  # type: ignore[no-untyped-call]  # Locust does not type it


class Customer(HttpUser):
    """A simulated customer with an account and 1–3 s think time."""

    wait_time = between(1, 3)

    def on_start(self) -> None:
        """Open an account, make a deposit and wait until the history contains it."""
        self.client.headers["Authorization"] = f"Bearer {lab_keys.sign(_key, f'load-{uuid.uuid4()}')}"
        opened = self._post("/accounts", {"currency": "USD", "name": "Load test"})
        if opened is None:
            # The failure is already counted; every later request needs the account.
            raise StopUser
        self.account: str = opened["id"]
        self.confirmed_balance = 0
        self.deposit()
        self._wait_for_history()
        _accounts.append(self.account)

    @task(4)
    def transfer(self) -> None:
        """Transfer to another customer, at most the confirmed balance, so that every refusal is an error."""
        payees = [account for account in _accounts if account != self.account]
        amount = random.randint(100, 2_500)
        if not payees:
            return
        if amount > self.confirmed_balance:
            self.deposit()
            return
        body = {"from_account": self.account, "to_account": random.choice(payees), "amount": amount, "currency": "USD"}
        # A transfer without a response may have been posted.
        self.confirmed_balance -= amount
        self._post("/transfers", body)

    @task(1)
    def deposit(self) -> None:
        """Deposit to the account."""
        body = {"amount": _DEPOSIT_AMOUNT, "currency": "USD"}
        if self._post(f"/accounts/{self.account}/deposits", body, "/accounts/{id}/deposits") is not None:
            self.confirmed_balance += _DEPOSIT_AMOUNT

    @task(2)
    def read_account(self) -> None:
        """Read the account."""
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
        """Send a request with a new Idempotency-Key; return the body of a 201 response, None for any other."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        # Locust groups by name: each id in a path would be a separate row.
        name = _API + (name or path)
        token = str(self.client.headers["Authorization"]).removeprefix("Bearer ")
        if moves_money := "amount" in body:
            # Recorded before it is sent: Locust may stop the customer before the response.
            SENT[headers["Idempotency-Key"]] = SentRequest(_API + path, self.account, body, token)
        response = self.client.post(_API + path, json=body, headers=headers, name=name, timeout=_TIMEOUT_SECONDS)
        if moves_money:
            SENT[headers["Idempotency-Key"]] = SentRequest(_API + path, self.account, body, token, response.status_code)
        return response.json() if response.status_code == 201 else None

    def _get(self, path: str, name: str) -> None:
        self.client.get(_API + path, name=_API + name, timeout=_TIMEOUT_SECONDS)

    def _wait_for_history(self) -> None:
        """Poll the history until it contains the account; until then a 404 is not an error."""
        deadline = time.monotonic() + _HISTORY_TIMEOUT_SECONDS
        # Separate name, so that fast 404s do not lower the latency of /transactions.
        url, name = f"{_API}/transactions?account_id={self.account}", f"{_API}/transactions (new account)"
        while True:
            with self.client.get(url, name=name, timeout=_TIMEOUT_SECONDS, catch_response=True) as response:
                if response.status_code != 404 or time.monotonic() > deadline:
                    return
                response.success()
            time.sleep(0.2)
