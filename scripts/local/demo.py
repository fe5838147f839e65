"""`make demo`: watch money move on a running bank; fails if any step is not as expected.

BASE_URL aims elsewhere (default http://127.0.0.1:8080); tokens are signed with the key in VAR_DIR/secrets.
"""

import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from shared.testing import lab_keys

_BOLD, _GREEN, _RED, _DIM, _END = (
    ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "", "", "")
)
_PATIENCE_SECONDS = 20
_FREEZE_ABOVE = 10_000_000
_SHOWN_METRICS = re.compile(
    r"^(bank_transactions_total|bank_flags_total|bank_events_consumed_total|bank_ledger_imbalance"
    r"|bank_reconciliation_mismatches|bank_group_commit_batch_size_count)\b"
)

_COMMON_LABELS = re.compile(r'(?:service|track|version)="[^"]*",?')


class Unexpected(Exception):
    """A step did not go as the story says."""


def money(amount: int) -> str:
    """Format minor units for people."""
    return f"{amount / 100:,.2f} USD"


class Person:
    """Somebody with a token who talks to the bank."""

    def __init__(self, client: httpx.Client, key: Any, name: str, scope: str = "") -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {lab_keys.sign(key, name, scope)}"}

    def post(self, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> httpx.Response:
        """Send a request with an Idempotency-Key of its own, or with the given one."""
        headers = {**self._headers, "Idempotency-Key": key or uuid.uuid4().hex}
        return self._client.post(f"/api/v1{path}", json=body or {}, headers=headers)

    def get(self, path: str, accept: str = "application/json", **query: Any) -> httpx.Response:
        """Ask for something."""
        return self._client.get(f"/api/v1{path}", params=query, headers={**self._headers, "Accept": accept})


def say(line: str) -> None:
    """Begin a step of the story."""
    print(f"\n{_BOLD}{line}{_END}")


def show(line: str) -> None:
    """Tell what came of it."""
    print(f"  {_GREEN}✓{_END} {line}")


def expect(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Return the body of an answer that has to have this status (and problem code). Raises Unexpected."""
    body: dict[str, Any] = answer.json()
    if answer.status_code != status or body.get("code") != code:
        asked = f"{answer.request.method} {answer.request.url.path}"
        raise Unexpected(f"{asked}: expected {status} {code or ''}, got {answer.status_code}: {answer.text}")
    return body


def check(what: str, value: object, expected: object) -> None:
    """Raise Unexpected unless the value is as expected."""
    if value != expected:
        raise Unexpected(f"{what}: expected {expected!r}, got {value!r}")


def eventually(what: str, look: Callable[[], Any]) -> Any:
    """Return what `look` finds, as soon as it finds something: events take a moment. Raises Unexpected."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise Unexpected(f"{what} did not happen within {_PATIENCE_SECONDS} s")


def story(client: httpx.Client, key: Any) -> None:  # pylint: disable=too-many-statements  # it is one story
    """Tell the story; every step checks what it shows."""
    alice, bob = Person(client, key, "alice"), Person(client, key, "bob")
    operator = Person(client, key, "operator", "bank:operator")

    say("Alice and Bob open accounts")
    alices = expect(alice.post("/accounts", {"currency": "USD", "name": "Alice's everyday account"}), 201)["id"]
    bobs = expect(bob.post("/accounts", {"currency": "USD"}), 201)["id"]
    show(f"Alice {alices}")
    show(f"Bob   {bobs}")

    say("Alice brings 1,000.00 to the cash desk and pays Bob 250.00")
    expect(alice.post(f"/accounts/{alices}/deposits", {"amount": 100_000, "currency": "USD"}), 201)
    rent = {"from_account": alices, "to_account": bobs, "amount": 25_000, "currency": "USD", "reference": "rent"}
    rent_key = uuid.uuid4().hex
    first = alice.post("/transfers", rent, rent_key)
    paid = expect(first, 201)
    check("the entries' sum", sum(entry["amount"] for entry in paid["entries"]), 0)
    for entry in paid["entries"]:
        whose = "Alice" if entry["account_id"] == alices else "Bob  "
        balance = "not hers to see" if entry["balance_after"] is None else money(entry["balance_after"])
        show(f"{whose} {money(entry['amount']):>16}   balance after: {balance}")

    say("Her phone lost the answer and sends the payment again with the same key")
    again = alice.post("/transfers", rent, rent_key)
    check("the repeated answer", again.content, first.content)
    check("Idempotent-Replayed", again.headers.get("Idempotent-Replayed"), "true")
    check("Bob's balance", expect(bob.get(f"/accounts/{bobs}"), 200)["balance"], 25_000)
    show("the first answer comes back, Bob still has 250.00")
    expect(alice.post("/transfers", {**rent, "amount": 1}, rent_key), 422, "idempotency-key-reused")
    show("the same key for another amount is refused: 422 idempotency-key-reused")

    say("Alice tries to spend more than she has")
    refused = expect(alice.post("/transfers", {**rent, "amount": 80_000}), 409, "insufficient-funds")
    show(f"409 {refused['code']}: {refused['detail']}")

    say("Bob gives the rent back; Alice could not have taken it")
    expect(alice.post("/reversals", {"transaction_id": paid["id"]}), 403, "forbidden")
    expect(bob.post("/reversals", {"transaction_id": paid["id"], "reason": "wrong month"}), 201)
    expect(bob.post("/reversals", {"transaction_id": paid["id"]}), 409, "already-reversed")
    check("Alice's balance", expect(alice.get(f"/accounts/{alices}"), 200)["balance"], 100_000)
    show("a reversal is a new transaction; a second one is refused: 409 already-reversed")

    say("A very large payment trips a fraud rule")
    expect(alice.post(f"/accounts/{alices}/deposits", {"amount": 2 * _FREEZE_ABOVE, "currency": "USD"}), 201)
    expect(alice.post("/transfers", {**rent, "amount": _FREEZE_ABOVE + 1, "reference": "yacht"}), 201)
    eventually("freezing", lambda: expect(alice.get(f"/accounts/{alices}"), 200)["status"] == "frozen")
    flags = eventually("the flag", lambda: expect(operator.get("/flags", account_id=alices), 200)["items"])
    freezing = next(flag for flag in flags if flag["action"] == "freeze")
    show(f"flagged by the rule {freezing['rule']}, and the account is frozen: the event travelled both ways")
    expect(alice.post("/transfers", {**rent, "amount": 1}), 409, "account-frozen")
    expect(operator.post(f"/accounts/{alices}/unfreeze"), 200)
    show("Alice cannot pay (409 account-frozen) until an operator unfreezes the account")

    say("Alice's history, newest first")
    history = eventually("the history", lambda: _whole_history(alice, alices))
    for item in history:
        sign = "-" if item["from_account"] == alices else "+"
        note = item.get("code") or item["reference"] or ""
        amount = f"{sign}{money(item['amount'])}"
        print(f"    {item['created_at'][:19]}  {item['type']:<10} {item['status']:<8} {amount:>18}  {note}")

    say("Her statement")
    statement = expect(alice.get(f"/statements/{alices}"), 200)
    check("the closing balance", statement["closing_balance"], expect(alice.get(f"/accounts/{alices}"), 200)["balance"])
    show(f"opening {money(statement['opening_balance'])}, closing {money(statement['closing_balance'])}")
    lines = alice.get(f"/statements/{alices}", accept="text/csv").text.strip().splitlines()
    check("lines of the CSV", len(lines) > len(statement["entries"]), True)
    for line in lines[:4]:
        print(f"    {_DIM}{line}{_END}")
    print(f"    {_DIM}… {len(lines)} lines of CSV{_END}")

    say("Both services agree about every balance")
    report = eventually("agreement", lambda: _agreement(operator))
    check("mismatches", report["mismatches"], 0)
    show(f"{report['checked']} accounts checked, 0 mismatches")


def _whole_history(person: Person, account: str) -> list[dict[str, Any]] | None:
    """Return the account's history once its seven transactions, two of them refused, have arrived."""
    items: list[dict[str, Any]] = expect(person.get("/transactions", account_id=account), 200)["items"]
    return items if len(items) == 7 else None


def _agreement(operator: Person) -> dict[str, Any] | None:
    report = expect(operator.get("/reconciliation"), 200)
    return report if not report["pending"] or report["mismatches"] else None


def show_metrics(base_url: str) -> None:
    """Print what the services measured, where their metrics can be reached from here."""
    try:
        state = json.loads((lab_keys.var_dir() / "run" / "stack.json").read_text(encoding="utf-8"))
    except OSError:
        return
    if state["api_url"] != base_url:
        return
    say("What the services measured meanwhile")
    for replica in (replica for replicas in state["services"].values() for replica in replicas):
        print(f"  {replica['metrics_url']}")
        for line in httpx.get(replica["metrics_url"]).text.splitlines():
            # Every kind of dead letter has a series from the start; here is what there was.
            if _SHOWN_METRICS.match(line) and not ('outcome="dead"' in line and line.endswith(" 0.0")):
                print(f"    {_DIM}{_COMMON_LABELS.sub('', line).replace(',}', '}').replace('{}', '')}{_END}")


def main() -> int:
    """Run the demo against BASE_URL."""
    base_url = os.environ.get("BASE_URL") or "http://127.0.0.1:8080"
    try:
        key = lab_keys.ensure(lab_keys.var_dir() / "secrets").key
        with httpx.Client(base_url=base_url, timeout=15) as client:
            story(client, key)
        show_metrics(base_url)
    except httpx.ConnectError:
        print(f"demo: nothing answers at {base_url}; start the bank with `make run`, or set BASE_URL", file=sys.stderr)
        return 1
    except (Unexpected, httpx.HTTPError, OSError, ValueError) as error:
        print(f"  {_RED}✗{_END} {error}", file=sys.stderr)
        return 1
    print(f"\n{_GREEN}Every step went as expected.{_END}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
