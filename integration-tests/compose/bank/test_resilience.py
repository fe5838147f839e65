"""Replicas come, go and are killed, and every part restarts under load: nothing is lost or doubled."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness.composed_stack import ComposedBank, now
from harness.client import eventually
from harness.load import assert_exactly_once, retrying_transfers

MONEY = 1_000_000


pytestmark = pytest.mark.usefixtures("autoscaler_rests")


def scale(bank: ComposedBank, replicas: int) -> None:
    """Start or stop replicas of account-service, gracefully."""
    bank.compose(
        *("up", "--detach", "--no-deps", "--no-recreate", "--scale", f"account-service={replicas}", "account-service")
    )


def reconciled(bank: ComposedBank) -> None:
    """Fail unless both services agree once events have settled."""
    report = bank.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0), report


@contextmanager
def exit_codes(bank: ComposedBank, service: str, count: int) -> Iterator[list[str]]:
    """Collect the exit codes of the containers of a service of which `count` stop while the block runs."""
    labels = {"project": bank.project, "service": service}
    filters = ["event=die", *(f"label=com.docker.compose.{name}={value}" for name, value in labels.items())]
    command = ["docker", "events", "--since", now(), "--format", "{{.Actor.Attributes.exitCode}}"]
    codes: list[str] = []
    with subprocess.Popen(
        [*command, *(f"--filter={one}" for one in filters)], stdout=subprocess.PIPE, text=True
    ) as events:
        assert events.stdout is not None
        try:
            yield codes
            codes += [events.stdout.readline().strip() for _ in range(count)]
        finally:
            events.kill()


def test_scaling_under_load_loses_no_request_and_new_replicas_serve(bank: ComposedBank):
    source, target = bank.open_account(MONEY), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        before = bank.addresses("account-service")
        scale(bank, 4)
        moment = now()
        new = bank.addresses("account-service") - before
        assert len(new) == 2
        eventually(lambda: new <= bank.upstreams_since(moment))
        with exit_codes(bank, "account-service", 2) as codes:
            scale(bank, 2)
        time.sleep(2)
    # A replica that ignores SIGTERM while it starts is killed after 20 s (137), with requests in flight.
    assert len(codes) == 2 and "137" not in codes
    assert (transfers.errors, transfers.retries) == ([], [])
    assert_exactly_once(bank, transfers, source, target, MONEY)


def test_a_killed_replica_loses_no_request_with_a_key(bank: ComposedBank):
    source, target = bank.open_account(MONEY), bank.open_account()
    victim = bank.containers("account-service")[0]
    try:
        with retrying_transfers(bank, source, target, clients=16) as transfers:
            eventually(lambda: len(transfers.acknowledged) > 100)
            bank.docker("kill", victim)
            time.sleep(4)
    finally:
        bank.docker("start", victim)
    eventually(lambda: len(bank.addresses("account-service")) == 2)
    assert (transfers.errors, transfers.retries) == ([], [])
    assert_exactly_once(bank, transfers, source, target, MONEY)
    reconciled(bank)


@pytest.mark.parametrize("service", ["postgres", "nats", "nginx"])
def test_clients_recover_from_a_restart_under_load(bank: ComposedBank, service: str):
    source, target = bank.open_account(MONEY), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        time.sleep(1)
        bank.compose("restart", "--timeout", "20", service)
        begun = time.monotonic()
        bank.wait_until_answering()
        took = time.monotonic() - begun
        time.sleep(1)
    print(f"{service}: answering {took:.1f} s after the restart; {len(transfers.retries)} retries by clients")
    if service == "nats":
        assert transfers.retries == [], "events wait, money does not"
    assert_exactly_once(bank, transfers, source, target, MONEY)
    reconciled(bank)


def test_a_rejected_restore_stops_no_service(bank: ComposedBank):
    def running() -> set[str]:
        return set(bank.inspect("{{.Name}} {{.State.StartedAt}}", *bank.compose("ps", "--quiet").split()))

    before = running()
    with pytest.raises(AssertionError, match="REPLACE=1 overwrites it"):
        bank.script("scripts/stack/restore.sh")
    with pytest.raises(AssertionError, match="there is no backup from before 2000-"):
        bank.script("scripts/stack/restore.sh", REPLACE="1", TO="2000-01-01T00:00:00Z")
    assert running() == before
