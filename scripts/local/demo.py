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
from attrs import evolve
from banking_client import BankingClient, NoResponseError, ProblemError
from banking_client.api import account_service as accounts
from banking_client.api import transaction_service as history
from banking_client.models import (
    CaptureBody,
    GroupBody,
    HistoryTransactionView,
    HoldBody,
    MoneyBody,
    OpenAccountBody,
    ProofView,
    ReconciliationView,
    ReversalBody,
    TransactionView,
    TransferBody,
)

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


def step(line: str) -> None:
    """Print the title of a step."""
    print(f"\n{_BOLD}{line}{_END}")


def result(line: str) -> None:
    """Print a result of the step."""
    print(f"  {_GREEN}✓{_END} {line}")


def refusal(code: str, operation: Callable[[], object]) -> ProblemError:
    """Return the problem with this code that an operation raises. Raises StepFailed unless it does."""
    try:
        done = operation()
    except ProblemError as problem:
        if problem.code == code:
            return problem
        raise StepFailed(f"expected {code}, got {problem}") from problem
    raise StepFailed(f"expected {code}, but the operation succeeded: {done}")


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


def tour(alice: BankingClient, bob: BankingClient, operator: BankingClient) -> None:
    """Run all steps; each checks its results."""
    step("Alice and Bob open accounts")
    name = "Alice's everyday account"
    alices = accounts.open_account(alice, body=OpenAccountBody(currency="USD", name=name)).id
    bobs = accounts.open_account(bob, body=OpenAccountBody(currency="USD")).id
    result(f"Alice {alices}")
    result(f"Bob   {bobs}")
    paid = _pay_and_reverse(alice, bob, alices, bobs)
    _pay_a_price_and_a_fee(alice, bob, alices, bobs)
    _trigger_a_fraud_rule(alice, operator, alices, bobs)
    _capture_a_hold(alice, alices)
    _read_the_history(alice, alices)

    step("Reconciliation: both services agree on every balance")
    report = eventually("the reconciliation", lambda: _finished_reconciliation(operator))
    check("mismatches", report.mismatches, 0)
    result(f"{report.checked} accounts checked, 0 mismatches")

    step("Alice proves that her payment is in the ledger, which nobody can alter unnoticed")
    proof = eventually("a signed root", lambda: _proof(alice, paid.id))
    keys = accounts.list_roots(operator, limit=1).public_keys
    result(f"{_verified(proof, keys)}: leaf {proof.position} of {proof.size} leads to a signed root")


def _usd(amount: int) -> MoneyBody:
    return MoneyBody(amount=amount, currency="USD")


def _balance(client: BankingClient, account: str) -> int:
    return accounts.get_account(client, account).balance


def _pay_and_reverse(alice: BankingClient, bob: BankingClient, alices: str, bobs: str) -> TransactionView:
    """Return Alice's payment, which Bob has reversed."""
    step("Alice deposits 1,000.00 and pays Bob 250.00")
    accounts.deposit(alice, alices, body=_usd(100_000))
    rent = TransferBody(from_account=alices, to_account=bobs, amount=25_000, currency="USD", reference="rent")
    rent_key = uuid.uuid4().hex
    paid = accounts.transfer(alice, body=rent, idempotency_key=rent_key)
    check("sum of the entries", sum(entry.amount for entry in paid.entries), 0)
    for entry in paid.entries:
        owner = "Alice" if entry.account_id == alices else "Bob  "
        balance = "not visible to Alice" if entry.balance_after is None else money(entry.balance_after)
        result(f"{owner} {money(entry.amount):>16}   balance after: {balance}")

    step("Her phone loses the response and repeats the payment with the same idempotency key")
    check("the repeated response", accounts.transfer(alice, body=rent, idempotency_key=rent_key), paid)
    check("Bob's balance", _balance(bob, bobs), 25_000)
    result("same response as before, Bob still has 250.00")
    other = evolve(rent, amount=1)
    refusal("idempotency-key-reused", lambda: accounts.transfer(alice, body=other, idempotency_key=rent_key))
    result("the same key with another amount is rejected: 422 idempotency-key-reused")

    step("Alice tries to spend more than she has")
    refused = refusal("insufficient-funds", lambda: accounts.transfer(alice, body=evolve(rent, amount=80_000)))
    result(str(refused))

    step("Bob reverses the payment; Alice is not allowed to")
    reversal = ReversalBody(transaction_id=paid.id, reason="wrong month")
    refusal("forbidden", lambda: accounts.reverse(alice, body=reversal))
    accounts.reverse(bob, body=reversal)
    refusal("already-reversed", lambda: accounts.reverse(bob, body=reversal))
    check("Alice's balance", _balance(alice, alices), 100_000)
    result("a reversal is a new transaction; a second one is rejected: 409 already-reversed")
    return paid


def _pay_a_price_and_a_fee(alice: BankingClient, bob: BankingClient, alices: str, bobs: str) -> None:
    step("Alice pays Bob a price and a fee in one group: both or none")
    price = TransferBody(from_account=alices, to_account=bobs, amount=20_000, currency="USD", reference="price")
    legs = [price, evolve(price, amount=500, reference="fee")]
    group = accounts.post_group(alice, body=GroupBody(legs=legs))
    too_much = GroupBody(legs=[*legs, evolve(price, amount=80_000)])
    refused = refusal("insufficient-funds", lambda: accounts.post_group(alice, body=too_much))
    check("the refused leg", refused.members["leg"], 2)
    check("Alice's balance", _balance(alice, alices), 79_500)
    accounts.reverse_group(bob, group.id)
    result("the problem names the refused leg, and no leg of its group is posted; Bob reverses the first group")


def _trigger_a_fraud_rule(alice: BankingClient, operator: BankingClient, alices: str, bobs: str) -> None:
    step("A very large payment triggers a fraud rule")
    accounts.deposit(alice, alices, body=_usd(2 * _FREEZE_ABOVE))
    yacht = TransferBody(
        from_account=alices, to_account=bobs, amount=_FREEZE_ABOVE + 1, currency="USD", reference="yacht"
    )
    accounts.transfer(alice, body=yacht)
    eventually("the freeze", lambda: accounts.get_account(alice, alices).status == "frozen")
    flags = eventually("the flag", lambda: history.list_flags(operator, account_id=alices).items)
    freezing = next(flag for flag in flags if flag.action == "freeze")
    result(f"transaction-service flagged it by the rule {freezing.rule}, account-service froze the account")
    refusal("account-frozen", lambda: accounts.transfer(alice, body=evolve(yacht, amount=1)))
    accounts.unfreeze(operator, alices)
    result("Alice cannot pay (409 account-frozen) until an operator unfreezes the account")


def _capture_a_hold(alice: BankingClient, alices: str) -> None:
    step("A hotel holds 400.00 of Alice's money and captures it in two parts")
    hold = accounts.place_hold(alice, alices, body=HoldBody(amount=40_000, currency="USD")).id
    for part, final in ((15_000, False), (25_000, True)):
        accounts.capture_hold(alice, hold, body=CaptureBody(amount=part, final=final))
        left = accounts.get_hold(alice, hold).remaining_amount
        result(f"captured {money(part)}, {money(left)} still held")


def _read_the_history(alice: BankingClient, alices: str) -> None:
    step("Alice's history, newest first")
    for item in eventually("the history", lambda: _whole_history(alice, alices)):
        sign = "-" if item.from_account == alices else "+"
        note = item.code or item.reference or ""
        amount = f"{sign}{money(item.amount)}"
        print(f"    {item.created_at:%Y-%m-%dT%H:%M:%S}  {item.type_:<10} {item.status:<8} {amount:>18}  {note}")

    step("Alice's statement")
    statement = history.get_statement(alice, alices)
    check("the closing balance", statement.closing_balance, _balance(alice, alices))
    result(f"opening {money(statement.opening_balance)}, closing {money(statement.closing_balance)}")
    text = alice.request("GET", f"/api/v1/statements/{alices}", headers={"Accept": "text/csv"}).text
    lines = text.strip().splitlines()
    check("lines of the CSV", len(lines) > len(statement.entries), True)
    for line in lines[:4]:
        print(f"    {_DIM}{line}{_END}")
    print(f"    {_DIM}… {len(lines)} lines of CSV{_END}")
    camt = alice.request("GET", f"/api/v1/statements/{alices}", headers={"Accept": "application/xml"}).text
    check("entries of the CAMT.053", camt.count("<Ntry>") >= len(statement.entries), True)
    result(f"CAMT.053.001.08 for software: {camt.count('<Ntry>')} entries, {len(camt)} characters of XML")


def _whole_history(client: BankingClient, account: str) -> list[HistoryTransactionView] | None:
    """Return the account's history once its fourteen transactions, three of them refused, have arrived."""
    items = history.list_transactions(client, account_id=account).items
    return items if len(items) == 14 else None


def _proof(client: BankingClient, transaction_id: str) -> ProofView | None:
    """Return the proof of a transaction once a signed root contains it."""
    try:
        return accounts.get_proof(client, transaction_id)
    except ProblemError as problem:
        if problem.code == "not-sealed":
            return None
        raise


def _verified(proof: ProofView, keys: list[str]) -> str:
    """Return what the stand-alone verifier says. Raises StepFailed if the proof is not valid."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(proof.to_dict(), file)
        file.flush()
        options = (option for key in keys for option in ("--key", key))
        command = [sys.executable, "-m", "scripts.ledger.verify_proof", file.name, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepFailed(f"the proof of {proof.transaction_id}: {done.stdout.strip() or done.stderr.strip()}")
    return done.stdout.strip()


def _finished_reconciliation(operator: BankingClient) -> ReconciliationView | None:
    report = history.reconciliation(operator)
    return report if not report.pending or report.mismatches else None


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
        # The client would wait for a bank that is starting.
        httpx.get(base_url, timeout=_TIMEOUT_SECONDS)
        with (
            BankingClient(base_url, lab_keys.sign(key, "alice", "")) as alice,
            BankingClient(base_url, lab_keys.sign(key, "bob", "")) as bob,
            BankingClient(base_url, lab_keys.sign(key, "operator", "bank:operator")) as operator,
        ):
            tour(alice, bob, operator)
        print_metrics(base_url)
    except httpx.ConnectError:
        print(f"demo: no response from {base_url}; start the bank with `make run`, or set BASE_URL", file=sys.stderr)
        return 1
    except (StepFailed, ProblemError, NoResponseError, httpx.HTTPError, OSError, ValueError) as error:
        print(f"  {_RED}✗{_END} {error}", file=sys.stderr)
        return 1
    print(f"\n{_GREEN}All steps succeeded.{_END}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
