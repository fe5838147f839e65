"""The bank with NATS instead of the feed, and through an outage of PostgreSQL."""

import time
from collections.abc import Callable
from pathlib import Path

from harness.local_stack import LocalBank
from harness.client import eventually, usd
from harness.load import assert_exactly_once, retrying_transfers

from shared.testing.postgres import PostgresServer
from shared.testing.processes import Process, stop_all


def test_the_demo_on_nats_and_no_event_lost_in_an_outage(
    make_bank: Callable[..., LocalBank], postgres: PostgresServer, tmp_path: Path, nats: tuple[str, Process]
):
    url, server = nats
    urls = [postgres.create_database(f"{tmp_path.name}_{name}") for name in ("a", "t")]
    bank = make_bank(2, urls, url)
    bank.run_demo()

    source, target = bank.open_account(100_000), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        time.sleep(0.5)
        stop_all([server])
        during = len(transfers.acknowledged)
        time.sleep(2)
        eventually(lambda: len(transfers.acknowledged) > during)
        assert transfers.retries == []
        server.start()
        time.sleep(0.5)
    assert_exactly_once(bank, transfers, source, target, 100_000)
    report = bank.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0)


def test_a_database_restart_under_load(make_bank: Callable[..., LocalBank], tmp_path: Path):
    with PostgresServer() as server:
        urls = [server.create_database(name) for name in ("accounts", "transactions")]
        bank = make_bank(2, urls)
        source, target = bank.open_account(1_000_000), bank.open_account()
        with retrying_transfers(bank, source, target) as transfers:
            time.sleep(1)
            server.stop("immediate")
            time.sleep(1)
            server.start()
            payment = usd(1, from_account=target, to_account=source)
            eventually(lambda: bank.post("/transfers", payment).status_code != 503, every=0.1)
            bank.post("/transfers", usd(1, from_account=source, to_account=target))
            time.sleep(1)
        assert transfers.retries, "the outage was noticed"
        assert_exactly_once(bank, transfers, source, target, 1_000_000)
        assert bank.reconciliation()["mismatches"] == 0
        bank.close()
