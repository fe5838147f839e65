"""Delivery to real HTTP receivers: slow, failing, hanging and redirecting ones; on both databases."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app import webhook_client
from app.application import webhook_delivery
from app.application.ingestion import EventIngestion
from app.application.webhook_delivery import WebhookDelivery
from app.domain.webhooks import MAX_FAILING, ROTATION
from app.models import webhook_deliveries, webhook_events
from app.prometheus import WEBHOOK_OLDEST_PENDING, WEBHOOKS
from app.webhook_client import WebhookClient
from app.webhooks import Change, Subscription, WebhookService
from shared.events import CloudEvent
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.messaging.positions import Range
from shared.testing.timing import BUSY_SECONDS, eventually
from tests.receiver import HANG, Receiver, receiving
from tests.support import ALICE, BOB, NOON, OPERATOR_CALLER, Ledger, outbox_events

KEY = "a-key-of-the-bank-for-tests"
RETENTION = timedelta(days=7)


class Clock:
    """The time of the delivery."""

    now = NOON

    def later(self, time: timedelta) -> None:
        """Advance the time."""
        self.now += time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the test moves."""
    clock = Clock()
    for module in ("webhooks", "application.webhook_delivery", "application.ingestion"):
        monkeypatch.setattr(f"app.{module}.utc_now", lambda: clock.now)
    monkeypatch.setattr(webhook_client, "ATTEMPT_SECONDS", BUSY_SECONDS)
    return clock


@pytest.fixture
def service(engine: AsyncEngine, clock: Clock) -> WebhookService:
    """The API's side of webhooks."""
    del clock
    return WebhookService(engine, KEY, allow_private=True)


@pytest.fixture
async def delivery(engine: AsyncEngine, clock: Clock) -> AsyncIterator[WebhookDelivery]:
    """The delivery of one replica."""
    del clock
    delivery = WebhookDelivery(engine, WebhookClient("", allow_private=True), KEY, RETENTION)
    yield delivery
    await delivery.close()


class Feed:
    """Ingests the events of a ledger with their positions."""

    def __init__(self, ingestion: EventIngestion, ledger: Ledger) -> None:
        self.ingestion = ingestion
        self.ledger = ledger
        self._sent = 0

    async def flush(self) -> None:
        """Ingest the new events."""
        numbered = self.numbered()[self._sent :]
        await self.ingestion.apply(numbered, [Range(self._sent + 1, self._sent + len(numbered))])
        self._sent += len(numbered)

    def numbered(self) -> list[CloudEvent]:
        """Return all events with their positions."""
        return [event.model_copy(update={"position": n}) for n, event in enumerate(self.ledger.events, 1)]

    def positions(self, account: str, after: int = 0) -> list[int]:
        """Return the positions of an account's events."""
        return [n for n, event in enumerate(self.ledger.events, 1) if event.subject == account and n > after]


@pytest.fixture
def feed(ingestion: EventIngestion, ledger: Ledger) -> Feed:
    """The events of the fake ledger."""
    return Feed(ingestion, ledger)


async def subscribe(
    service: WebhookService,
    receiver: Receiver,
    caller: Caller = ALICE,
    account: str | None = None,
    types: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    return await service.create(caller, receiver.url, Subscription(receiver.url, account, types))


async def deliver(delivery: WebhookDelivery) -> None:
    await delivery.dispatch()
    await delivery.drain()


async def log_of(service: WebhookService, webhook: dict[str, Any]) -> list[tuple[int, int, int | None, str | None]]:
    rows = await service.deliveries(OPERATOR_CALLER, webhook["id"], None, 200)
    return [(row["position"], row["attempt"], row["status"], row["error"]) for row in reversed(rows)]


def assert_signed(receiver: Receiver, secrets: Sequence[str], now: datetime) -> None:
    for message in receiver.messages:
        timestamp = message.headers["webhook-timestamp"]
        assert int(timestamp) == int(now.timestamp())
        content = f"{message.headers['webhook-id']}.{timestamp}.".encode() + message.body
        keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
        macs = [base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys]
        assert message.headers["webhook-signature"] == " ".join(f"v1,{mac}" for mac in macs)


async def test_events_arrive_once_signed_and_in_order(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, clock: Clock
):
    alices, bobs = ledger.open(), ledger.open("bob")
    await feed.flush()
    async with receiving(Receiver()) as receiver:
        webhook = await subscribe(service, receiver)
        for amount in range(1, 61):
            ledger.move(alices, bobs, amount)
        await feed.flush()
        await deliver(delivery)
        await deliver(delivery)

        assert receiver.positions == feed.positions(alices, after=2) and len(receiver.positions) == 60
        assert [message.event["data"]["amount"] for message in receiver.messages] == [-n for n in range(1, 61)]
        assert_signed(receiver, [webhook["secret"]], clock.now)
        message = receiver.messages[0]
        assert (message.path, message.headers["content-type"]) == ("/hook", "application/cloudevents+json")
        assert message.event["type"] == "bank.entry.posted" and message.event["subject"] == alices
        assert len({message.headers["webhook-id"] for message in receiver.messages}) == 60
    assert await log_of(service, webhook) == [(n, 1, 200, None) for n in feed.positions(alices, after=2)]
    shown = await service.get(ALICE, webhook["id"])
    assert shown["position"] == len(ledger.events) and shown["failures"] == 0 and "secret" not in shown


async def test_a_webhook_gets_the_events_it_asks_for(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger
):
    alices, savings, bobs = ledger.open(), ledger.open(), ledger.open("bob")
    await feed.flush()
    async with (
        receiving(Receiver()) as one,
        receiving(Receiver()) as opened,
        receiving(Receiver()) as everything,
        receiving(Receiver()) as foreign,
    ):
        await subscribe(service, one, account=savings)
        await subscribe(service, opened, types=("bank.account.opened",))
        await subscribe(service, everything, OPERATOR_CALLER)
        await subscribe(service, foreign, OPERATOR_CALLER, account=bobs)
        ledger.move(alices, savings, 1)
        ledger.move(savings, bobs, 1)
        later = ledger.open()
        await feed.flush()
        await deliver(delivery)
        assert one.positions == feed.positions(savings, after=3)
        assert opened.positions == feed.positions(later) == [8]
        assert everything.positions == [4, 5, 6, 7, 8]
        assert foreign.positions == feed.positions(bobs, after=3)


async def test_an_event_that_arrives_before_its_account_is_delivered(
    service: WebhookService, delivery: WebhookDelivery, ingestion: EventIngestion, feed: Feed, ledger: Ledger
):
    async with receiving(Receiver()) as receiver:
        await subscribe(service, receiver)
        alices = ledger.open()
        ledger.move(ledger.cash, alices, 5)
        opened, debit, credit = feed.numbered()
        await ingestion.apply([debit, credit], [Range(2, 3)])
        await deliver(delivery)
        assert receiver.positions == []
        await ingestion.apply([opened], [Range(1, 1)])
        await deliver(delivery)
        assert receiver.positions == [1, 3]


async def test_nothing_is_delivered_beyond_a_gap(
    service: WebhookService, delivery: WebhookDelivery, ingestion: EventIngestion, feed: Feed, ledger: Ledger
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver()) as receiver:
        await subscribe(service, receiver)
        for _ in range(2):
            ledger.deposit(alices, 1)
        _, two, three, four, five = feed.numbered()
        await ingestion.apply([four, five], [Range(4, 5)])
        await deliver(delivery)
        assert receiver.positions == []
        await ingestion.apply([two, three], [Range(2, 3)])
        await deliver(delivery)
        assert receiver.positions == [3, 5]


async def test_a_failed_event_is_retried_and_none_overtakes_it(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, clock: Clock
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda number: 500 if number in (2, 3) else 200)) as receiver:
        webhook = await subscribe(service, receiver)
        for _ in range(3):
            ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        assert receiver.positions == [3, 5]
        await deliver(delivery)
        assert receiver.positions == [3, 5], "not before the delay"
        shown = await service.get(ALICE, webhook["id"])
        assert (shown["failures"], shown["position"]) == (1, 3) and shown["failing_since"] and shown["next_attempt_at"]
        clock.later(timedelta(seconds=5))
        await deliver(delivery)
        clock.later(timedelta(seconds=5))
        await deliver(delivery)
        clock.later(timedelta(seconds=5))
        await deliver(delivery)
        assert receiver.positions == [3, 5, 5, 5, 7]
        assert len({message.headers["webhook-id"] for message in receiver.messages[1:4]}) == 1
    failed = "HTTP status 500"
    assert await log_of(service, webhook) == [
        *((3, 1, 200, None), (5, 1, 500, failed), (5, 2, 500, failed), (5, 3, 200, None), (7, 1, 200, None))
    ]
    shown = await service.get(ALICE, webhook["id"])
    assert (shown["failures"], shown["failing_since"], shown["position"]) == (0, None, 7)


async def test_a_receiver_that_hangs_delays_no_other(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, engine: AsyncEngine
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda _: HANG)) as hanging, receiving(Receiver()) as healthy:
        stuck = await subscribe(service, hanging)
        await subscribe(service, healthy)
        for _ in range(3):
            ledger.deposit(alices, 1)
            await feed.flush()
            await delivery.dispatch()

            async def all_received() -> bool:
                await delivery.dispatch()
                return healthy.positions == feed.positions(alices, after=1)

            await eventually(all_received)
        assert len(hanging.messages) == 1
        # The replica stops; the event is delivered by the next one.
        await delivery.close()
        assert (await service.get(ALICE, stuck["id"]))["failures"] == 0
        hanging.respond = lambda _: 200
        other = WebhookDelivery(engine, WebhookClient("", allow_private=True), KEY, RETENTION)
        await deliver(other)
        await other.close()
        assert hanging.positions == [3, 3, 5, 7]


async def test_an_attempt_ends_after_a_time_limit(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhook_client, "ATTEMPT_SECONDS", 0.2)
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda _: HANG)) as receiver:
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
    assert await log_of(service, webhook) == [(3, 1, None, "no response within 0.2 seconds")]


@pytest.mark.parametrize("limit", ["_MAX_FAILING", "_MAX_FAILING_PER_OWNER"])
async def test_failing_receivers_leave_half_of_the_capacity_to_others(
    service: WebhookService,
    delivery: WebhookDelivery,
    feed: Feed,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
):
    monkeypatch.setattr(webhook_delivery, "_MAX_CONCURRENT", 2)
    monkeypatch.setattr(webhook_delivery, limit, 1)
    alices = ledger.open()
    await feed.flush()
    async with (
        receiving(Receiver(respond=lambda number: 500 if number == 1 else HANG)) as one,
        receiving(Receiver(respond=lambda number: 500 if number == 1 else HANG)) as other,
        receiving(Receiver()) as healthy,
    ):
        for receiver in (one, other):
            webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        assert (len(one.messages), len(other.messages)) == (1, 1)
        for webhook in await service.list_all(ALICE, None, 50):
            await service.change(ALICE, webhook["id"], Change(url=webhook["url"]))
        await delivery.dispatch()
        await subscribe(service, healthy)
        ledger.deposit(alices, 1)
        await feed.flush()

        async def received() -> bool:
            await delivery.dispatch()
            return healthy.positions == [5]

        await eventually(received)
        assert len(one.messages) + len(other.messages) <= 3, "one of them waits"


async def test_slow_receivers_of_one_owner_leave_capacity_to_others(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhook_delivery, "_MAX_CONCURRENT", 3)
    monkeypatch.setattr(webhook_delivery, "_MAX_PER_OWNER", 2)
    alices, bobs = ledger.open(), ledger.open(BOB.subject)
    await feed.flush()
    async with (
        receiving(Receiver(respond=lambda _: HANG)) as one,
        receiving(Receiver(respond=lambda _: HANG)) as other,
        receiving(Receiver(respond=lambda _: HANG)) as third,
        receiving(Receiver()) as healthy,
    ):
        slow = (one, other, third)
        for receiver in slow:
            await subscribe(service, receiver)
        await subscribe(service, healthy, caller=BOB)
        ledger.deposit(alices, 1)
        await feed.flush()

        async def started() -> bool:
            await delivery.dispatch()
            return sum(len(receiver.messages) for receiver in slow) == 2

        await eventually(started)
        ledger.deposit(bobs, 1)
        await feed.flush()

        async def received() -> bool:
            await delivery.dispatch()
            return len(healthy.messages) == 1

        await eventually(received)
        assert sum(len(receiver.messages) for receiver in slow) == 2, "the third waits for one of the others"


async def test_redirects_are_not_followed(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda _: 307)) as receiver:
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        assert [message.path for message in receiver.messages] == ["/hook"]
    assert await log_of(service, webhook) == [(3, 1, 307, "HTTP status 307; redirects are not followed")]


async def test_a_private_receiver_is_not_connected_to(
    service: WebhookService, engine: AsyncEngine, feed: Feed, ledger: Ledger
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(host="localhost")) as receiver:
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        delivery = WebhookDelivery(engine, WebhookClient("", allow_private=False), KEY, RETENTION)
        await deliver(delivery)
        await delivery.close()
        assert receiver.messages == []
    assert await log_of(service, webhook) == [(3, 1, None, "the URL must start with https://")]


async def test_a_receiver_that_fails_for_days_is_disabled_with_an_event(
    service: WebhookService,
    delivery: WebhookDelivery,
    feed: Feed,
    ledger: Ledger,
    clock: Clock,
    engine: AsyncEngine,
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda _: 503)) as receiver:
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        clock.later(MAX_FAILING - timedelta(seconds=1))
        await deliver(delivery)
        assert await outbox_events(engine) == [] and (await service.get(ALICE, webhook["id"]))["enabled"]
        clock.later(timedelta(hours=4))
        await deliver(delivery)
        (event,) = await outbox_events(engine)
        reason = "failed for 3 days: HTTP status 503"
        assert (event["type"], event["subject"]) == ("bank.webhook.disabled", webhook["id"])
        assert event["data"] == {
            **{"webhook_id": webhook["id"], "owner": "alice", "account_id": None, "reason": reason},
            "failing_since": "2026-11-20T12:00:00Z",
        }
        shown = await service.get(ALICE, webhook["id"])
        assert (shown["enabled"], shown["disabled_reason"]) == (False, reason)
        clock.later(timedelta(hours=4))
        await deliver(delivery)
        assert len(receiver.messages) == 3
        receiver.respond = lambda _: 200
        assert (await service.change(ALICE, webhook["id"], Change(enabled=True)))["failures"] == 0
        await deliver(delivery)
        assert receiver.positions == [3, 3, 3, 3] and (await service.get(ALICE, webhook["id"]))["position"] == 3


async def test_a_receiver_that_is_gone_is_disabled_at_once(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, engine: AsyncEngine
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda _: 410)) as receiver:
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
    assert (await service.get(ALICE, webhook["id"]))["disabled_reason"] == "the receiver responded 410 Gone"
    assert [event["type"] for event in await outbox_events(engine)] == ["bank.webhook.disabled"]


async def test_replicas_share_webhooks_without_delivering_twice(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, engine: AsyncEngine
):
    alices = ledger.open()
    await feed.flush()
    other = WebhookDelivery(engine, WebhookClient("", allow_private=True), KEY, RETENTION)
    async with receiving(Receiver()) as one, receiving(Receiver()) as two:
        await subscribe(service, one)
        await subscribe(service, two, OPERATOR_CALLER, account=alices)
        for _ in range(20):
            ledger.deposit(alices, 1)
        await feed.flush()
        for _ in range(3):
            await asyncio.gather(delivery.dispatch(), other.dispatch(), delivery.dispatch())
        await asyncio.gather(delivery.drain(), other.drain())
        assert one.positions == two.positions == feed.positions(alices, after=1)
    await other.close()


async def test_a_claim_of_a_lost_replica_expires(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, clock: Clock, engine: AsyncEngine
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver(respond=lambda number: HANG if number == 1 else 200)) as receiver:
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await delivery.dispatch()

        async def hangs() -> bool:
            return len(receiver.messages) == 1

        await eventually(hangs)
        other = WebhookDelivery(engine, WebhookClient("", allow_private=True), KEY, RETENTION)
        await deliver(other)
        assert len(receiver.messages) == 1
        clock.later(timedelta(minutes=2))
        await deliver(other)
        await other.close()
        assert receiver.positions[-1] == 3 and await log_of(service, webhook) == [(3, 1, 200, None)]


async def test_a_deleted_or_changed_webhook_gets_nothing_more(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, clock: Clock
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver()) as receiver, receiving(Receiver()) as moved:
        webhook = await subscribe(service, receiver)
        for _ in range(3):
            ledger.deposit(alices, 1)
        await feed.flush()
        arrived, go_on = asyncio.Event(), asyncio.Event()
        serve = receiver.serve

        async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await go_on.wait()
            await serve(reader, writer)

        receiver.serve = slowly  # type: ignore[method-assign]
        async with receiving(receiver):
            await service.change(ALICE, webhook["id"], Change(url=receiver.url))
            await delivery.dispatch()
            await arrived.wait()
            await service.change(ALICE, webhook["id"], Change(url=moved.url))
            await delivery.dispatch()
            assert moved.messages == [], "an attempt at the old receiver still runs"
            go_on.set()
            await delivery.drain()
        assert receiver.positions == [3]
        clock.later(timedelta(seconds=BUSY_SECONDS))
        await deliver(delivery)
        assert moved.positions == [3, 5, 7]
        await service.delete(ALICE, webhook["id"])
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        assert len(moved.messages) == 3
    with pytest.raises(Problem, match="not-found"):
        await service.get(ALICE, webhook["id"])


async def test_events_are_replayed_from_a_position(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver()) as receiver:
        webhook = await subscribe(service, receiver)
        for _ in range(3):
            ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        with pytest.raises(Problem, match="validation-failed"):
            await service.change(ALICE, webhook["id"], Change(position=8))
        await service.change(ALICE, webhook["id"], Change(position=3))
        await deliver(delivery)
        assert receiver.positions == [3, 5, 7, 5, 7]
        ids = [message.headers["webhook-id"] for message in receiver.messages]
        assert ids[3:] == ids[1:3]


async def test_two_secrets_sign_after_a_rotation(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, clock: Clock
):
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver()) as receiver:
        webhook = await subscribe(service, receiver)
        rotated = await service.change(ALICE, webhook["id"], Change(secret_version=2))
        again = await service.change(ALICE, webhook["id"], Change(secret_version=2))
        assert rotated["secret"] == again["secret"] != webhook["secret"]
        with pytest.raises(Problem, match="validation-failed"):
            await service.change(ALICE, webhook["id"], Change(secret_version=4))
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        assert_signed(receiver, [rotated["secret"], webhook["secret"]], clock.now)
        receiver.messages.clear()
        clock.later(ROTATION)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
        assert len(receiver.messages) == 1
        assert_signed(receiver, [rotated["secret"]], clock.now)


async def test_metrics_show_waiting_failing_and_disabled_webhooks(
    service: WebhookService, delivery: WebhookDelivery, feed: Feed, ledger: Ledger, clock: Clock
):
    def values() -> tuple[float, ...]:
        states = [WEBHOOKS.labels(state) for state in ("healthy", "failing", "disabled")]
        # pylint: disable-next=protected-access
        return (WEBHOOK_OLDEST_PENDING._value.get(), *(state._value.get() for state in states))

    alices = ledger.open()
    await feed.flush()
    await delivery.observe()
    assert values() == (0, 0, 0, 0)
    async with receiving(Receiver()) as receiver:
        await subscribe(service, receiver, BOB)
        webhook = await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        clock.later(timedelta(seconds=90))
        await delivery.observe()
        assert values() == (90, 2, 0, 0)
        receiver.respond = lambda _: 500
        await deliver(delivery)
        await delivery.observe()
        assert values() == (0, 1, 1, 0)
        await service.change(ALICE, webhook["id"], Change(enabled=False))
        await delivery.observe()
        assert values() == (0, 1, 0, 1)


async def test_old_events_and_attempts_are_deleted(
    service: WebhookService,
    delivery: WebhookDelivery,
    feed: Feed,
    ledger: Ledger,
    clock: Clock,
    engine: AsyncEngine,
):
    async def counts() -> tuple[int, int]:
        async with engine.connect() as connection:
            rows = [await connection.scalar(select(func.count()).select_from(table)) for table in tables]
        return rows[0] or 0, rows[1] or 0

    tables = (webhook_events, webhook_deliveries)
    alices = ledger.open()
    await feed.flush()
    async with receiving(Receiver()) as receiver:
        await subscribe(service, receiver)
        ledger.deposit(alices, 1)
        await feed.flush()
        await deliver(delivery)
    # The event of the cash account, too: an account without an opened event may be anyone's.
    assert await counts() == (2, 1)
    clock.later(RETENTION)
    await delivery.prune()
    assert await counts() == (2, 1)
    # The id of an attempt contains the real time.
    clock.now = datetime.now(NOON.tzinfo) + RETENTION + timedelta(days=1)
    await delivery.prune()
    assert await counts() == (0, 0)


async def test_events_of_accounts_without_a_webhook_are_not_stored(
    service: WebhookService, feed: Feed, ledger: Ledger, engine: AsyncEngine
):
    alices, bobs = ledger.open(), ledger.open("bob")
    await feed.flush()
    async with receiving(Receiver()) as receiver:
        await subscribe(service, receiver)
    ledger.move(alices, bobs, 1)
    await feed.flush()
    async with engine.connect() as connection:
        assert (await connection.scalars(select(webhook_events.c.account_id))).all() == [alices]
