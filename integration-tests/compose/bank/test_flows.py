"""Five flows through NGINX against PostgreSQL and NATS; each looks at the API, the databases and the events."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.composed_stack import ComposedBank
from harness.client import eventually, usd


def history(bank: ComposedBank, account: str, subject: str = "alice") -> list[dict[str, Any]]:
    """Return what is known of an account; nothing while its opening has not arrived."""
    answer = bank.client.get("/api/v1/transactions", params={"account_id": account}, headers=bank.headers(subject))
    return list(answer.json()["items"]) if answer.status_code == 200 else []


def arrived(bank: ComposedBank, account: str, transaction_id: str, subject: str = "alice") -> dict[str, Any]:
    """Return the transaction as the history has it, once it is there."""
    found: dict[str, Any] = eventually(
        lambda: next((item for item in history(bank, account, subject) if item["id"] == transaction_id), None)
    )
    return found


def published(bank: ComposedBank, transaction_id: str, types: list[str]) -> list[dict[str, Any]]:
    """Return the transaction's events once the bus has them; fail unless they are of these types."""
    events = eventually(lambda: bank.events(transaction_id))
    assert [event["type"] for event in events] == types
    assert bank.event_stream()["messages"] > 0
    return list(events)


def test_a_deposit_reaches_the_history(bank: ComposedBank):
    account = bank.open_account()
    deposit = bank.post(f"/accounts/{account}/deposits", usd(1050)).json()

    assert bank.balance(account) == 1050
    assert arrived(bank, account, deposit["id"])["amount"] == 1050
    query = f"SELECT amount, balance_after FROM entries WHERE transaction_id = '{deposit['id']}' ORDER BY amount"
    amounts = [row.split("|")[0] for row in bank.sql("account", query)]
    assert amounts == ["-1050", "1050"]
    query = f"SELECT amount, balance_after FROM entries WHERE account_id = '{account}'"
    assert bank.sql("transaction", query) == ["1050|1050"]
    events = published(bank, deposit["id"], ["bank.entry.posted"] * 2)
    assert sum(event["data"]["amount"] for event in events) == 0


def test_a_transfer_is_atomic_and_in_both_statements(bank: ComposedBank):
    alices, bobs = bank.open_account(500), bank.open_account(subject="bob")
    paid = bank.post("/transfers", usd(120, from_account=alices, to_account=bobs, reference="rent")).json()

    assert (bank.balance(alices), bank.balance(bobs, "bob")) == (380, 120)
    for account, subject, amount, balance in ((alices, "alice", -120, 380), (bobs, "bob", 120, 120)):
        arrived(bank, account, paid["id"], subject)
        statement = bank.get(f"/statements/{account}", subject=subject)
        line = next(entry for entry in statement["entries"] if entry["transaction_id"] == paid["id"])
        assert (line["amount"], line["balance_after"], line["reference"]) == (amount, balance, "rent")
        assert statement["closing_balance"] == balance
    for database in ("account", "transaction"):
        query = f"SELECT sum(amount), count(*) FROM entries WHERE transaction_id = '{paid['id']}'"
        assert bank.sql(database, query) == ["0|2"]
    published(bank, paid["id"], ["bank.entry.posted"] * 2)


def test_an_overdraft_is_refused_and_recorded(bank: ComposedBank):
    account, other = bank.open_account(100), bank.open_account()
    answer = bank.post("/transfers", usd(101, from_account=account, to_account=other))

    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient-funds")
    assert (bank.balance(account), bank.balance(other)) == (100, 0)
    refused = eventually(lambda: [item for item in history(bank, account) if item["status"] == "refused"])[0]
    assert (refused["code"], refused["amount"], refused["entries"]) == ("insufficient-funds", 101, [])
    assert bank.sql("account", f"SELECT count(*) FROM transactions WHERE id = '{refused['id']}'") == ["0"]
    assert bank.sql("transaction", f"SELECT status FROM transactions WHERE id = '{refused['id']}'") == ["refused"]
    published(bank, refused["id"], ["bank.transaction.refused"])


def test_a_replayed_key_has_one_effect_across_replicas(bank: ComposedBank):
    source, target = bank.open_account(1000), bank.open_account()
    body = usd(70, from_account=source, to_account=target)
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda _: bank.post("/transfers", body, key=f"once-{source}"), range(60)))

    done = [answer for answer in answers if answer.status_code == 201]
    assert {answer.json().get("code") for answer in answers if answer.status_code != 201} <= {"request-in-progress"}
    ids = {answer.json()["id"] for answer in done}
    assert len(ids) == 1 and sum("Idempotent-Replayed" not in answer.headers for answer in done) == 1
    assert (bank.balance(source), bank.balance(target)) == (930, 70)
    (transaction,) = ids
    assert bank.sql("account", f"SELECT count(*) FROM idempotency_keys WHERE key = 'once-{source}'") == ["1"]
    arrived(bank, target, transaction)
    assert bank.sql("transaction", f"SELECT count(*) FROM entries WHERE account_id = '{target}'") == ["1"]
    published(bank, transaction, ["bank.entry.posted"] * 2)


def test_a_reversal_reaches_the_history_and_a_fraud_freeze_the_account(bank: ComposedBank):
    alices, bobs = bank.open_account(50_000_000), bank.open_account(subject="bob")
    paid = bank.post("/transfers", usd(300, from_account=alices, to_account=bobs)).json()
    reversal = bank.post("/reversals", {"transaction_id": paid["id"]}, subject="bob").json()
    assert reversal["reverses"] == paid["id"] and bank.balance(alices) == 50_000_000
    assert arrived(bank, alices, reversal["id"])["reverses"] == paid["id"]
    published(bank, reversal["id"], ["bank.entry.posted"] * 2)

    large = bank.post("/transfers", usd(20_000_000, from_account=alices, to_account=bobs)).json()
    eventually(lambda: bank.get(f"/accounts/{alices}")["status"] == "frozen")
    flags = bank.get("/flags", subject="op", scope="bank:operator", account_id=alices)["items"]
    assert [flag["transaction_id"] for flag in flags if flag["action"] == "freeze"] == [large["id"]]
    refused = bank.post("/transfers", usd(1, from_account=alices, to_account=bobs))
    assert refused.json()["code"] == "account-frozen"
    assert bank.sql("account", f"SELECT status FROM accounts WHERE id = '{alices}'") == ["frozen"]
    row = f"SELECT action FROM flags WHERE transaction_id = '{large['id']}' AND action = 'freeze'"
    assert bank.sql("transaction", row) == ["freeze"]
    frozen = f"%bank.account.frozen%{alices}%"
    rows = bank.sql("account", f"SELECT count(*) FROM outbox WHERE convert_from(events, 'UTF8') LIKE '{frozen}'")
    assert rows == ["1"]
