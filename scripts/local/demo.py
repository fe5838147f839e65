"""`make demo`: run a scripted tour of the API on a running bank; fails if a step has an unexpected result.

BASE_URL is the address of the bank (default http://127.0.0.1:8080); tokens are signed with the key in VAR_DIR/secrets.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from shared.testing import lab_keys
from shared.testing.paths import ROOT

_BOLD, _GREEN, _RED, _DIM, _END = (
    ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "", "", "")
)
_TIMEOUT_SECONDS = 60
_FREEZE_ABOVE = 10_000_000
_METRICS = re.compile(
    r"^(bank_transactions_total|bank_flags_total|bank_events_consumed_total|bank_ledger_imbalance"
    r"|bank_reconciliation_mismatches|bank_group_commit_batch_size_count)\b"
)

_COMMON_LABELS = re.compile(r'(?:service|track|version)="[^"]*",?')


class StepFailed(Exception):
    """A step of the demo had an unexpected result."""


def money(amount: int) -> str:
    """Return an amount in minor units as text."""
    return f"{amount / 100:,.2f} USD"


class Client:
    """A client of the API with its own token."""

    def __init__(self, client: httpx.Client, key: Any, name: str, scope: str = "") -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {lab_keys.sign(key, name, scope)}"}

    def post(self, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> httpx.Response:
        """Send a POST request with the given or a new Idempotency-Key."""
        headers = {**self._headers, "Idempotency-Key": key or uuid.uuid4().hex}
        return self._client.post(f"/api/v1{path}", json=body or {}, headers=headers)

    def get(self, path: str, accept: str = "application/json", **query: Any) -> httpx.Response:
        """Send a GET request."""
        return self._client.get(f"/api/v1{path}", params=query, headers={**self._headers, "Accept": accept})


def step(line: str) -> None:
    """Print the title of a step."""
    print(f"\n{_BOLD}{line}{_END}")


def result(line: str) -> None:
    """Print a result of the step."""
    print(f"  {_GREEN}✓{_END} {line}")


def expect(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Return the body of a response with this status (and problem code). Raises StepFailed for any other."""
    body: dict[str, Any] = response.json()
    if response.status_code != status or body.get("code") != code:
        request = f"{response.request.method} {response.request.url.path}"
        raise StepFailed(f"{request}: expected {status} {code or ''}, got {response.status_code}: {response.text}")
    return body


def check(name: str, value: object, expected: object) -> None:
    """Raise StepFailed unless the value equals the expected one."""
    if value != expected:
        raise StepFailed(f"{name}: expected {expected!r}, got {value!r}")


def eventually(name: str, query: Callable[[], Any]) -> Any:
    """Return the first non-empty result of `query`: events arrive with a delay. Raises StepFailed."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        value = query()
        if value:
            return value
        time.sleep(0.1)
    raise StepFailed(f"timed out after {_TIMEOUT_SECONDS} s waiting for {name}")


def tour(client: httpx.Client, key: Any) -> None:  # pylint: disable=too-many-statements  # one linear scenario
    """Run all steps; each checks its results."""
    alice, bob = Client(client, key, "alice"), Client(client, key, "bob")
    operator = Client(client, key, "operator", "bank:operator")

    step("Alice and Bob open accounts")
    alices = expect(alice.post("/accounts", {"currency": "USD", "name": "Alice's everyday account"}), 201)["id"]
    bobs = expect(bob.post("/accounts", {"currency": "USD"}), 201)["id"]
    result(f"Alice {alices}")
    result(f"Bob   {bobs}")

    step("Alice deposits 1,000.00 and pays Bob 250.00")
    expect(alice.post(f"/accounts/{alices}/deposits", {"amount": 100_000, "currency": "USD"}), 201)
    rent = {"from_account": alices, "to_account": bobs, "amount": 25_000, "currency": "USD", "reference": "rent"}
    rent_key = uuid.uuid4().hex
    first = alice.post("/transfers", rent, rent_key)
    paid = expect(first, 201)
    check("sum of the entries", sum(entry["amount"] for entry in paid["entries"]), 0)
    for entry in paid["entries"]:
        owner = "Alice" if entry["account_id"] == alices else "Bob  "
        balance = "not visible to Alice" if entry["balance_after"] is None else money(entry["balance_after"])
        result(f"{owner} {money(entry['amount']):>16}   balance after: {balance}")

    step("Her phone loses the response and repeats the payment with the same idempotency key")
    again = alice.post("/transfers", rent, rent_key)
    check("the repeated response", again.content, first.content)
    check("Idempotent-Replayed", again.headers.get("Idempotent-Replayed"), "true")
    check("Bob's balance", expect(bob.get(f"/accounts/{bobs}"), 200)["balance"], 25_000)
    result("same response as before, Bob still has 250.00")
    expect(alice.post("/transfers", {**rent, "amount": 1}, rent_key), 422, "idempotency-key-reused")
    result("the same key with another amount is rejected: 422 idempotency-key-reused")

    step("Alice tries to spend more than she has")
    refused = expect(alice.post("/transfers", {**rent, "amount": 80_000}), 409, "insufficient-funds")
    result(f"409 {refused['code']}: {refused['detail']}")

    step("Bob reverses the payment; Alice is not allowed to")
    expect(alice.post("/reversals", {"transaction_id": paid["id"]}), 403, "forbidden")
    expect(bob.post("/reversals", {"transaction_id": paid["id"], "reason": "wrong month"}), 201)
    expect(bob.post("/reversals", {"transaction_id": paid["id"]}), 409, "already-reversed")
    check("Alice's balance", expect(alice.get(f"/accounts/{alices}"), 200)["balance"], 100_000)
    result("a reversal is a new transaction; a second one is rejected: 409 already-reversed")

    step("Alice pays Bob a price and a fee in one group: both or none")
    legs = [{**rent, "amount": 20_000, "reference": "price"}, {**rent, "amount": 500, "reference": "fee"}]
    group = expect(alice.post("/transaction-groups", {"legs": legs}), 201)["id"]
    too_much = [*legs, {**rent, "amount": 80_000}]
    refused = expect(alice.post("/transaction-groups", {"legs": too_much}), 409, "insufficient-funds")
    check("the refused leg", refused["leg"], 2)
    check("Alice's balance", expect(alice.get(f"/accounts/{alices}"), 200)["balance"], 79_500)
    expect(bob.post(f"/transaction-groups/{group}/reversals"), 201)
    result("the problem names the refused leg, and no leg of its group is posted; Bob reverses the first group")

    step("A very large payment triggers a fraud rule")
    expect(alice.post(f"/accounts/{alices}/deposits", {"amount": 2 * _FREEZE_ABOVE, "currency": "USD"}), 201)
    expect(alice.post("/transfers", {**rent, "amount": _FREEZE_ABOVE + 1, "reference": "yacht"}), 201)
    eventually("the freeze", lambda: expect(alice.get(f"/accounts/{alices}"), 200)["status"] == "frozen")
    flags = eventually("the flag", lambda: expect(operator.get("/flags", account_id=alices), 200)["items"])
    freezing = next(flag for flag in flags if flag["action"] == "freeze")
    result(f"transaction-service flagged it by the rule {freezing['rule']}, account-service froze the account")
    expect(alice.post("/transfers", {**rent, "amount": 1}), 409, "account-frozen")
    expect(operator.post(f"/accounts/{alices}/unfreeze"), 200)
    result("Alice cannot pay (409 account-frozen) until an operator unfreezes the account")

    step("A hotel holds 400.00 of Alice's money and captures it in two parts")
    hold = expect(alice.post(f"/accounts/{alices}/holds", {"amount": 40_000, "currency": "USD"}), 201)["id"]
    for part, final in ((15_000, False), (25_000, True)):
        captured = expect(alice.post(f"/holds/{hold}/captures", {"amount": part, "final": final}), 201)["amount"]
        left = expect(alice.get(f"/holds/{hold}"), 200)["remaining_amount"]
        result(f"captured {money(captured)}, {money(left)} still held")

    step("Alice's history, newest first")
    history = eventually("the history", lambda: _whole_history(alice, alices))
    for item in history:
        sign = "-" if item["from_account"] == alices else "+"
        note = item.get("code") or item["reference"] or ""
        amount = f"{sign}{money(item['amount'])}"
        print(f"    {item['created_at'][:19]}  {item['type']:<10} {item['status']:<8} {amount:>18}  {note}")

    step("Alice's statement")
    statement = expect(alice.get(f"/statements/{alices}"), 200)
    check("the closing balance", statement["closing_balance"], expect(alice.get(f"/accounts/{alices}"), 200)["balance"])
    result(f"opening {money(statement['opening_balance'])}, closing {money(statement['closing_balance'])}")
    lines = alice.get(f"/statements/{alices}", accept="text/csv").text.strip().splitlines()
    check("lines of the CSV", len(lines) > len(statement["entries"]), True)
    for line in lines[:4]:
        print(f"    {_DIM}{line}{_END}")
    print(f"    {_DIM}… {len(lines)} lines of CSV{_END}")
    camt = alice.get(f"/statements/{alices}", accept="application/xml").text
    check("entries of the CAMT.053", camt.count("<Ntry>") >= len(statement["entries"]), True)
    result(f"CAMT.053.001.08 for software: {camt.count('<Ntry>')} entries, {len(camt)} characters of XML")

    step("Reconciliation: both services agree on every balance")
    report = eventually("the reconciliation", lambda: _finished_reconciliation(operator))
    check("mismatches", report["mismatches"], 0)
    result(f"{report['checked']} accounts checked, 0 mismatches")

    step("Alice proves that her payment is in the ledger, which nobody can alter unnoticed")
    proof = eventually("a signed root", lambda: _proof(alice, paid["id"]))
    keys = expect(operator.get("/ledger/roots", limit=1), 200)["public_keys"]
    result(f"{_verified(proof, keys)}: leaf {proof['position']} of {proof['size']} leads to a signed root")


def _whole_history(client: Client, account: str) -> list[dict[str, Any]] | None:
    """Return the account's history once its fourteen transactions, three of them refused, have arrived."""
    items: list[dict[str, Any]] = expect(client.get("/transactions", account_id=account), 200)["items"]
    return items if len(items) == 14 else None


def _proof(client: Client, transaction_id: str) -> dict[str, Any] | None:
    """Return the proof of a transaction once a signed root contains it."""
    response = client.get(f"/transactions/{transaction_id}/proof")
    return None if response.status_code == 409 else expect(response, 200)


def _verified(proof: dict[str, Any], keys: list[str]) -> str:
    """Return what the stand-alone verifier says. Raises StepFailed if the proof is not valid."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(proof, file)
        file.flush()
        options = (option for key in keys for option in ("--key", key))
        command = [sys.executable, "-m", "scripts.ledger.verify_proof", file.name, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepFailed(f"the proof of {proof['transaction_id']}: {done.stdout.strip() or done.stderr.strip()}")
    return done.stdout.strip()


def _finished_reconciliation(operator: Client) -> dict[str, Any] | None:
    report = expect(operator.get("/reconciliation"), 200)
    return report if not report["pending"] or report["mismatches"] else None


def print_metrics(base_url: str) -> None:
    """Print metrics of the services if they are reachable from this machine."""
    try:
        state = json.loads((lab_keys.var_dir() / "run" / "stack.json").read_text(encoding="utf-8"))
    except OSError:
        return
    if state["api_url"] != base_url:
        return
    step("Metrics of the services")
    for replica in (replica for replicas in state["services"].values() for replica in replicas):
        print(f"  {replica['metrics_url']}")
        for line in httpx.get(replica["metrics_url"]).text.splitlines():
            # Dead letters have a series per kind from the start: print only those that occurred.
            if _METRICS.match(line) and not ('outcome="dead"' in line and line.endswith(" 0.0")):
                print(f"    {_DIM}{_COMMON_LABELS.sub('', line).replace(',}', '}').replace('{}', '')}{_END}")


def main() -> int:
    """Run the demo against BASE_URL."""
    base_url = os.environ.get("BASE_URL") or "http://127.0.0.1:8080"
    try:
        key = lab_keys.ensure(lab_keys.var_dir() / "secrets").key
        with httpx.Client(base_url=base_url, timeout=_TIMEOUT_SECONDS) as client:
            tour(client, key)
        print_metrics(base_url)
    except httpx.ConnectError:
        print(f"demo: no response from {base_url}; start the bank with `make run`, or set BASE_URL", file=sys.stderr)
        return 1
    except (StepFailed, httpx.HTTPError, OSError, ValueError) as error:
        print(f"  {_RED}✗{_END} {error}", file=sys.stderr)
        return 1
    print(f"\n{_GREEN}All steps succeeded.{_END}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
