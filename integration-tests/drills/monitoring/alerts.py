"""Inject faults into a dedicated stack; measure the time until each alert is delivered and resolved.

    make drills DRILL=alerts

A fake receiver replaces Slack, the autoscaler and the dead man's switch. Prints a line per alert; exits 1 when a
threshold is missed.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.composed_stack import ComposedBank
from harness.load import retrying_transfers

from shared.testing.progress import Progress

_RECEIVER = "integration-tests/harness/receiver"
COMPOSE_FILE = f"docker-compose.yml:{_RECEIVER}/compose.yml:{_RECEIVER}/as-autoscaler.yml"
MAX_SECONDS = 120.0
_ALERT_TIMEOUT_SECONDS = 300.0
_POLL_SECONDS = 2.0
# Advisory lock of the outbox sequencer (shared/messaging/outbox.py); another session that holds it stops publishing.
_SEQUENCER_LOCK = 0x6F7574626F78


@dataclass(frozen=True, slots=True)
class ExpectedAlert:
    """An alert that must fire during a fault; `inhibited` are alerts that it must inhibit."""

    name: str
    severity: str
    service: str = ""
    inhibited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault; `inject` injects it and returns its repair. With `load`, transfers run during the fault."""

    name: str
    alerts: tuple[ExpectedAlert, ...]
    inject: Callable[[ComposedBank], Callable[[], object]]
    load: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one expected alert: seconds until the firing and the resolved notification, None if never."""

    fault: str
    alert: str
    firing: float | None
    resolved: float | None
    errors: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the threshold is met and the message is correct."""
        return self.firing is not None and self.firing <= MAX_SECONDS and self.resolved is not None and not self.errors


def kill_replica(bank: ComposedBank) -> Callable[[], object]:
    """Kill a replica; Docker does not restart it."""
    container = bank.containers("account-service")[0]
    bank.docker("kill", container)
    return lambda: bank.docker("start", container)


def stop_service(service: str) -> Callable[[ComposedBank], Callable[[], object]]:
    """Return a fault that stops a whole service."""

    def inject(bank: ComposedBank) -> Callable[[], object]:
        containers = bank.containers(service)
        bank.docker("stop", *containers)
        # Not `compose start`, which waits for one-shot services that this service depends on.
        return lambda: bank.docker("start", *containers)

    return inject


def corrupt_balance(bank: ComposedBank) -> Callable[[], object]:
    """Change one balance directly in the database."""
    account = bank.open_account(1000)
    change = "UPDATE accounts SET balance = balance {} WHERE id = '" + account + "'"
    bank.sql("account", change.format("+ 7"))
    return lambda: bank.sql("account", change.format("- 7"))


def block_relay(bank: ComposedBank) -> Callable[[], object]:
    """Hold the sequencer's lock, so that the outbox fills up while the broker is healthy."""
    bank.sql_in_background("account", f"SELECT pg_advisory_lock({_SEQUENCER_LOCK}), pg_sleep(600)", "drill")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'drill'"
    return lambda: bank.sql("account", end)


REPLICA = Fault("a replica is killed", (ExpectedAlert("ReplicaDown", "ticket", "account-service"),), kill_replica)
FAULTS = (
    REPLICA,
    Fault(
        "all replicas of a service stop",
        (ExpectedAlert("ServiceDown", "page", "transaction-service", inhibited=("ReplicaDown", "ApiUnreachable")),),
        stop_service("transaction-service"),
    ),
    Fault("NATS stops", (ExpectedAlert("NatsDown", "page"),), stop_service("nats")),
    Fault(
        "the outbox fills up",
        (ExpectedAlert("OutboxStalled", "ticket", "account-service"),),
        block_relay,
        load=True,
    ),
    Fault(
        "a balance is changed manually",
        (ExpectedAlert("LedgerImbalance", "page"), ExpectedAlert("ReconciliationMismatch", "page")),
        corrupt_balance,
    ),
)


def run(bank: ComposedBank, fault: Fault) -> list[Result]:
    """Inject a fault, wait for its alerts, repair it and wait until they are resolved."""
    with _load(bank, fault.load):
        started = time.time()
        repair = fault.inject(bank)
        try:
            firing = {alert: _wait_for_notification(bank, alert, "firing", started) for alert in fault.alerts}
        finally:
            repaired = time.time()
            repair()
    resolved = {alert: _wait_for_notification(bank, alert, "resolved", repaired) for alert in fault.alerts}
    return [
        Result(
            fault.name,
            alert.name,
            message["at"] - started if (message := firing[alert]) else None,
            end["at"] - repaired if (end := resolved[alert]) else None,
            tuple(_message_problems(message, alert)) if message else (),
        )
        for alert in fault.alerts
    ] + [
        Result(fault.name, name, None, None, (f"{name} was notified although {alert.name} should inhibit it",))
        for alert in fault.alerts
        for name in alert.inhibited
        if _find_notification(bank, ExpectedAlert(name, "", alert.service), "firing", started)
    ]


@contextmanager
def _load(bank: ComposedBank, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    source, target = bank.open_account(1_000_000), bank.open_account()
    with retrying_transfers(bank, source, target, clients=2):
        yield


def _wait_for_notification(
    bank: ComposedBank, alert: ExpectedAlert, status: str, since: float
) -> dict[str, Any] | None:
    deadline = time.time() + _ALERT_TIMEOUT_SECONDS
    while time.time() < deadline:
        if found := _find_notification(bank, alert, status, since):
            return found
        time.sleep(_POLL_SECONDS)
    return None


def _find_notification(bank: ComposedBank, alert: ExpectedAlert, status: str, since: float) -> dict[str, Any] | None:
    """Return the first Slack message about an alert since a time."""
    for message in bank.messages("/slack", since):
        title = str(message["body"]["attachments"][0]["title"])
        about = title.partition("] ")[2].split(" · ")
        if title.startswith(f"[{status.upper()}") and about == [part for part in (alert.name, alert.service) if part]:
            return message
    return None


def _message_problems(message: dict[str, Any], alert: ExpectedAlert) -> Iterator[str]:
    """Yield the problems of a Slack message: missing severity, runbook or description."""
    attachment = message["body"]["attachments"][0]
    if f"· {alert.severity}]" not in attachment["title"]:
        yield f"the title does not contain {alert.severity}: {attachment['title']}"
    if f"/{alert.name}.md|Runbook>" not in attachment["text"]:
        yield f"no link to the runbook: {attachment['text']}"
    if "<no value>" in attachment["text"] or len(attachment["text"].splitlines()) < 3:
        yield f"the description is missing: {attachment['text']}"


def webhook_problems(bank: ComposedBank) -> list[str]:
    """Return problems with the webhooks to the autoscaler and the dead man's switch of an idle stack."""
    deadline = time.time() + _ALERT_TIMEOUT_SECONDS
    while len(_scale_in_webhooks(bank)) < 2 and time.time() < deadline:
        time.sleep(_POLL_SECONDS)
    errors = []
    if len(calls := _scale_in_webhooks(bank)) < 2:
        errors.append(
            f"the autoscaler received {len(calls)} webhooks; Alertmanager must repeat them while the alert is firing"
        )
    token = bank.secrets.joinpath("autoscale_token").read_text(encoding="utf-8")
    if any(call["authorization"] != f"Bearer {token}" for call in calls):
        errors.append("a webhook without the configured bearer token")
    if not bank.messages("/dead-mans-switch"):
        errors.append("the dead man's switch received no webhook")
    return errors


def _scale_in_webhooks(bank: ComposedBank) -> list[dict[str, Any]]:
    """Return the scale-in webhooks for account-service."""
    wanted = {"action": "scale_in", "service": "account-service"}
    return [
        message
        for message in bank.messages("/webhook/autoscale")
        if any(wanted.items() <= alert["labels"].items() for alert in message["body"]["alerts"])
    ]


def format_row(fault: str, alert: str, firing: str, resolved: str, verdict: str) -> str:
    """Return a line of the table."""
    return f"{fault:30} {alert:24} {firing:>10} {resolved:>10} {MAX_SECONDS:>5.0f} s  {verdict}"


def format_result(result: Result) -> str:
    """Return a result as a line of the table, followed by its problems."""

    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.0f} s"

    verdict = "met" if result.passed else "missed"
    first = format_row(result.fault, result.alert, seconds(result.firing), seconds(result.resolved), verdict)
    return "\n".join([first, *(f"    {problem}" for problem in result.errors)])


def main() -> int:
    """Run the drill."""
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        bank = ComposedBank(Path(folder), COMPOSE_FILE=COMPOSE_FILE)
        try:
            print(format_row("fault", "alert", "notified", "resolved", "threshold:"), flush=True)
            passed = True
            progress = Progress("drill alerts", len(FAULTS) + 1)
            for fault in FAULTS:
                progress.step(fault.name)
                for result in run(bank, fault):
                    print(format_result(result), flush=True)
                    passed = passed and result.passed
            progress.step("webhooks of the autoscaler and the dead man's switch")
            errors = webhook_problems(bank)
            print("webhook of the autoscaler and dead man's switch:", "; ".join(errors) or "ok")
            bank.assert_ledger_is_sound()
            return 0 if passed and not errors else 1
        finally:
            bank.close()


if __name__ == "__main__":
    sys.exit(main())
