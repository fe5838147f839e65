"""The guarantees of the bank, through NGINX: no transfer is lost or duplicated, no account is overdrawn."""

import collections
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.local_stack import LocalBank
from harness.client import eventually, usd
from harness.load import assert_exactly_once, retrying_transfers

from shared.testing.local_stack import ACCOUNT, TRANSACTION


def test_the_demo_succeeds(bank: LocalBank):
    output = bank.run_demo()
    assert "All steps succeeded" in output and "bank_transactions_total" in output


@pytest.mark.parametrize(("attempts", "succeed"), [(80, 80), (200, 100)])
def test_concurrent_withdrawals_never_overdraw(bank: LocalBank, attempts: int, succeed: int):
    account = bank.open_account(1000)
    with ThreadPoolExecutor(40) as pool:
        responses = list(pool.map(lambda _: bank.post(f"/accounts/{account}/withdrawals", usd(10)), range(attempts)))

    outcomes = collections.Counter((response.status_code, response.json().get("code")) for response in responses)
    assert outcomes == collections.Counter({(201, None): succeed, (409, "insufficient-funds"): attempts - succeed})
    assert bank.balance(account) == 1000 - 10 * succeed


def test_fifty_concurrent_requests_with_one_key_have_one_effect(bank: LocalBank):
    source, target = bank.open_account(1000), bank.open_account()
    body = usd(7, from_account=source, to_account=target)
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: bank.post("/transfers", body, key=f"once-{source}"), range(50)))

    firsts = [a for a in responses if a.status_code == 201 and "Idempotent-Replayed" not in a.headers]
    replays = [a for a in responses if a.status_code == 201 and a.headers.get("Idempotent-Replayed") == "true"]
    busy = [a for a in responses if a.status_code == 409 and a.json()["code"] == "request-in-progress"]
    assert len(firsts) == 1 and len(firsts) + len(replays) + len(busy) == 50
    assert {response.content for response in replays} <= {firsts[0].content}
    assert all(response.headers["Retry-After"] for response in busy)
    assert bank.balance(target) == 7


def test_killing_account_service_loses_and_duplicates_no_transfer(bank: LocalBank):
    source, target = bank.open_account(1_000_000), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        for index in range(3):
            replica = index % bank.stack.settings[ACCOUNT].replicas
            time.sleep(1)
            bank.stack.kill(ACCOUNT, replica, signal.SIGKILL)
            time.sleep(0.2)
            bank.stack.restart(ACCOUNT, replica)
        time.sleep(1)

    assert len(transfers.acknowledged) > 20
    assert_exactly_once(bank, transfers, source, target, 1_000_000)
    assert bank.reconciliation()["mismatches"] == 0


def test_transfers_continue_without_transaction_service(bank: LocalBank):
    source, target = bank.open_account(1_000_000), bank.open_account()
    replicas = range(bank.stack.settings[TRANSACTION].replicas)
    with retrying_transfers(bank, source, target) as transfers:
        for index in replicas:
            bank.stack.kill(TRANSACTION, index, signal.SIGTERM)
        before = len(transfers.acknowledged)
        time.sleep(2)
        eventually(lambda: len(transfers.acknowledged) > before)
        assert transfers.retries == []
        for index in replicas:
            bank.stack.restart(TRANSACTION, index)

    assert transfers.errors == [] and transfers.retries == []
    report = bank.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0)
    statement = bank.get(f"/statements/{target}")
    assert (statement["closing_balance"], statement["complete"]) == (len(transfers.acknowledged), True)
    newest = bank.get("/transactions", account_id=target, limit=1)["items"][0]
    assert newest["id"] in transfers.acknowledged.values()


def test_history_can_be_rebuilt_from_the_feed(bank: LocalBank):
    account = bank.open_account(500)
    bank.post(f"/accounts/{account}/withdrawals", usd(200))
    eventually(lambda: len([i for i in bank.get("/transactions")["items"] if account in i.values()]) == 2)
    before = bank.get(f"/statements/{account}")["entries"]

    bank.run_module(TRANSACTION, "app.rebuild")

    assert bank.get(f"/statements/{account}")["entries"] == before
    report = bank.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0)
    assert bank.get(f"/accounts/{account}")["status"] == "active"


def test_a_graceful_stop_completes_requests_in_flight(bank: LocalBank):
    if bank.stack.settings[ACCOUNT].replicas < 2:
        pytest.skip("stopping the only replica interrupts the service")
    source, target = bank.open_account(1_000_000), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        for index in (0, 1):
            time.sleep(0.5)
            bank.stack.kill(ACCOUNT, index, signal.SIGTERM)
            bank.stack.restart(ACCOUNT, index)
            # NGINX skips a failed replica for fail_timeout, 2 s; it counts whole seconds, so up to 3 s.
            time.sleep(3.2)
    assert (transfers.errors, transfers.retries) == ([], [])
    assert_exactly_once(bank, transfers, source, target, 1_000_000)
