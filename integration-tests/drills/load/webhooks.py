"""Deliver webhooks to healthy, slow, failing, hanging, dead and redirecting receivers under load.

    make drills DRILL=webhooks [ARGS="--rate 5 --seconds 40 --hanging 4"]

PostgreSQL, account-service, two replicas of transaction-service and NGINX run as processes, the receivers as threads of
the drill on the loopback address, which WEBHOOK_ALLOW_PRIVATE permits. First there are only healthy receivers, then the
others are subscribed, too, and recover while the load continues. The service retries when its back-off says; only the
owner of the redirecting receiver ends its waiting time with PATCH. The events that must arrive are read from
account-service's feed, and signatures are verified without code of the services. Services, load and receivers share the
machine, so delays are compared within one run. Exits 1 when a threshold is missed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from harness.client import eventually
from harness.commands import finish
from harness.load import Load, open_loop
from harness.local_stack import LocalBank
from harness.webhook_receiver import Receiver

from shared.testing.local_stack import ACCOUNT, LocalStack, Setting, StackError
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresNotInstalled, PostgresServer
from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

# With bad receivers, the p99 delay of healthy ones is at most MAX_RATIO times the one without, plus MAX_MORE seconds.
MAX_RATIO, MAX_MORE = 1.5, 0.25
DRAIN_SECONDS = 120
HEALTHY = 3
_WARM_UP_SECONDS = 5
# Within this time after their commit, events get their positions in the feed.
_RELAY_SECONDS = 3
_WORKERS = 4
_OWNER = "alice"


@dataclass
class Run:
    """The receivers of a run, and what it has seen; times are those of events, since 1970."""

    redirected: Receiver
    healthy: Sequence[Receiver]
    bad: Sequence[Receiver]
    load: Load
    # Response to the creation of the webhook, and failed attempts before the recovery, by the receiver's URL.
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    # Start of the measurement, subscription of the bad receivers, their recovery, end of the load.
    times: list[float] = field(default_factory=list)
    drained_seconds: float = 0
    # Events of the owner's accounts by position.
    events: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def receivers(self) -> list[Receiver]:
        """All receivers with a webhook."""
        return [*self.healthy, *self.bad]

    def expected_ids(self, receiver: Receiver) -> set[str]:
        """Return the ids of the events that a receiver must get: those after the position of its webhook."""
        first = self.webhooks[receiver.url]["position"] + 1
        return {event["id"] for position, event in self.events.items() if position >= first}


def subscribe(bank: LocalBank, run: Run, receivers: Iterable[Receiver]) -> None:
    """Create the webhooks of receivers, for all events of the owner's accounts from now on."""
    for receiver in receivers:
        created = bank.post("/webhooks", {"url": receiver.url}, subject=_OWNER)
        assert created.status_code == 201, created.text
        run.webhooks[receiver.url] = created.json()


def recover(bank: LocalBank, run: Run) -> None:
    """Have the bad receivers recover, and the owner of the redirecting one end its waiting time."""
    for receiver in run.bad:
        path = f"/webhooks/{run.webhooks[receiver.url]['id']}"
        run.failures[receiver.url] = bank.get(path, subject=_OWNER)["failures"]
        receiver.recover()
        if receiver.kind == "redirecting":
            headers = bank.headers(_OWNER)
            changed = bank.client.patch(f"/api/v1{path}", json={"enabled": True}, headers=headers)
            assert changed.status_code == 200, changed.text


def read_feed(stack: LocalStack) -> dict[int, dict[str, Any]]:
    """Return the events of the owner's accounts by position, from account-service's feed."""
    events: dict[int, dict[str, Any]] = {}
    headers = {"Authorization": f"Bearer {stack.secrets.service_token.read_text(encoding='utf-8')}"}
    with httpx.Client(base_url=stack.urls(ACCOUNT)[0], headers=headers) as client:
        # Positions have no gaps.
        while page := client.get("/internal/events", params={"after": len(events)}).raise_for_status().json():
            events.update(enumerate(page, len(events) + 1))
    opened = [event for event in events.values() if event["type"] == "bank.account.opened"]
    owned = {event["subject"] for event in opened if event["data"]["owner"] == _OWNER}
    return {position: event for position, event in events.items() if event["subject"] in owned}


def send(bank: LocalBank, stack: ExitStack, arguments: argparse.Namespace, progress: Progress) -> Run:
    """Send transfers while receivers fail and recover, and wait until every event has arrived; return what happened."""
    kinds = ["slow", "rejecting", "dead", "redirecting", *["hanging"] * arguments.hanging]
    redirected, healthy = Receiver("redirected"), [Receiver("healthy") for _ in range(HEALTHY)]
    bad = [Receiver(kind, redirected.url) for kind in kinds]
    for receiver in (redirected, *healthy, *bad):
        stack.callback(receiver.close)
    with open_loop(bank, arguments.rate, workers=_WORKERS) as load:
        run = Run(redirected, healthy, bad, load)
        progress.step(f"{arguments.rate:g} transfers/s, {HEALTHY} healthy receivers")
        subscribe(bank, run, healthy)
        time.sleep(_WARM_UP_SECONDS)
        run.times.append(time.time())
        time.sleep(arguments.seconds)
        progress.step(f"and bad ones: {', '.join(kinds)}")
        run.times.append(time.time())
        subscribe(bank, run, bad)
        time.sleep(arguments.seconds)
        progress.step("the bad ones recover")
        run.times.append(time.time())
        recover(bank, run)
        time.sleep(arguments.seconds / 2)
    run.times.append(time.time())
    progress.step("the load has ended; the other events arrive")
    time.sleep(_RELAY_SECONDS)
    run.events = read_feed(bank.stack)
    with suppress(AssertionError):  # a threshold says what is missing
        eventually(
            lambda: all(run.expected_ids(each) <= each.accepted_ids() for each in run.receivers), DRAIN_SECONDS, 0.5
        )
    run.drained_seconds = time.time() - run.times[-1]
    return run


def p99_delay(receivers: Iterable[Receiver], start: float, end: float) -> tuple[float, int]:
    """Return the p99 of the seconds from an event in a period to its arrival, and the number of arrivals."""
    delays = []
    for receiver in receivers:
        for request in receiver.requests:
            happened = datetime.fromisoformat(request.event["time"]).timestamp()
            if start <= happened < end:
                delays.append(request.at - happened)
    return (statistics.quantiles(delays, n=100)[98] if len(delays) > 1 else float("inf")), len(delays)


def delivery_checks(run: Run) -> list[Threshold]:
    """Check what arrived, and whether the bad receivers were bad."""
    lost = {each.url: len(run.expected_ids(each) - each.accepted_ids()) for each in run.receivers}
    foreign = sum(len(each.accepted_ids() - run.expected_ids(each)) for each in run.receivers)
    transfers = len(run.load.successful)
    posted = sum(event["type"] == "bank.entry.posted" for event in run.events.values())
    requests = [(each, request) for each in run.receivers for request in each.requests]
    invalid = sum(not request.verifies(run.webhooks[each.url]["secret"]) for each, request in requests)
    disorder = sum(each.out_of_order() for each in run.receivers)
    changed = sum(each.changed_ids() for each in run.receivers)
    repeated = len(requests) - len({(each.url, request.event["id"]) for each, request in requests})
    failures = [(run.failures[each.url], each.kind) for each in run.bad if each.kind != "slow"]
    tries = ", ".join(f"{kind} {number}" for number, kind in failures)
    redirects = sum(not request.accepted for each, request in requests if each.kind == "redirecting")
    counts = ", ".join(f"{each.kind} {len(each.accepted_ids())}" for each in run.receivers)
    return [
        Threshold(
            "failed transfers: 0; entries in the feed: two per transfer and more for deposits",
            f"{len(run.load.failed)} of {run.load.sent}; {posted}",
            not run.load.failed and posted >= 2 * transfers > 0,
        ),
        Threshold("failed attempts at bad receivers before they recover >= 1", tries, min(failures)[0] >= 1),
        Threshold("lost events: 0", f"{sum(lost.values())}; accepted: {counts}", not any(lost.values())),
        Threshold("events of other accounts or times: 0", str(foreign), foreign == 0),
        Threshold("first arrivals in another order than their account's: 0", str(disorder), disorder == 0),
        Threshold("signatures that do not verify: 0", f"{invalid} of {len(requests)}", invalid == 0),
        Threshold("events that changed their webhook-id: 0", f"{changed}; {repeated} repetitions", changed == 0),
        Threshold(
            "redirects followed: 0", f"{len(run.redirected.requests)} of {redirects}", not run.redirected.requests
        ),
    ]


def delay_checks(run: Run) -> list[Threshold]:
    """Compare the delays of the healthy receivers, and say when the bad ones had caught up."""
    start, subscribed, recovered, ended = run.times
    alone, count = p99_delay(run.healthy, start, subscribed)
    limit = MAX_RATIO * alone + MAX_MORE
    found = []
    for name, since, until in (("fail", subscribed, recovered), ("catch up", recovered, ended)):
        delay, number = p99_delay(run.healthy, since, until)
        found.append(
            Threshold(
                f"p99 from event to healthy receiver while others {name} <= {MAX_RATIO} × alone + {MAX_MORE} s",
                f"{delay:.3f} s ({number}), limit {limit:.3f} s, alone {alone:.3f} s ({count})",
                delay <= limit,
            )
        )
    caught_up = ended + run.drained_seconds - recovered
    found.append(
        Threshold(
            f"everything has arrived {DRAIN_SECONDS} s after the load",
            f"{run.drained_seconds:.0f} s after it, {caught_up:.0f} s after the recovery",
            run.drained_seconds < DRAIN_SECONDS,
        )
    )
    return found


def main() -> int:
    """Run the drill, print the thresholds, and return 0 only if all are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=5, help="transfers per second (default 5)")
    parser.add_argument("--seconds", type=float, default=40, help="duration of each phase (default 40)")
    parser.add_argument("--hanging", type=int, default=4, help="number of receivers that hang (default 4)")
    arguments = parser.parse_args()
    progress = Progress("webhooks", 5)
    try:
        with ExitStack() as stack:
            progress.step("PostgreSQL and the stack")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(PostgresServer())
            account, transaction = (server.create_database(name) for name in ("accounts", "transactions"))
            local = LocalStack(
                folder / "var",
                http_port=free_port(),
                account=Setting(free_port(), 1, account),
                transaction=Setting(free_port(2), 2, transaction),
                extra_env={"WEBHOOK_ALLOW_PRIVATE": "true"},
            )
            bank = LocalBank(stack.enter_context(local))
            run = send(bank, stack, arguments, progress)
    except (StackError, PostgresNotInstalled) as failure:
        progress.finished(str(failure), good=False)
        return 1
    return finish(progress, [*delivery_checks(run), *delay_checks(run)])


if __name__ == "__main__":
    sys.exit(main())
