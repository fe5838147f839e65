"""Mutations: faults seeded into the bank to show that the simulation finds them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import shared.messaging.consumer
from shared.messaging.batches import Batch
from shared.messaging.consumer import Consumer
from shared.messaging.positions import Range
from shared.db.database import write_transaction
from shared.group_commit import GroupCommit
from shared.messaging.outbox import Outbox
from shared.messaging.recovery import Recovery
from shared.messaging.transport import Delivery, NatsConnection, NatsSource
from simulation.bank import ACCOUNT, TRANSACTION
from simulation.bus import Broker
from simulation.run import run
from simulation.services import load

_Replacements = list[tuple[Any, str, Any]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A replacement of code, and text of the violation that it must cause: no other one counts.

    `seen_in` is a seed known to find it; after a change it may be another one.
    """

    replacements: Callable[[], _Replacements]
    symptom: str
    seen_in: int


MUTATIONS: dict[str, Fault] = {}


@contextmanager
def replaced(replacements: _Replacements) -> Iterator[None]:
    """Replace code while the block runs."""
    with ExitStack() as stack:
        for target, attribute, value in replacements:
            stack.enter_context(mock.patch.object(target, attribute, value))
        yield


def find(name: str, seeds: Iterable[int]) -> tuple[int, str] | None:
    """Return the first seed that finds a mutation, and its violation; None if there is none."""
    with replaced(MUTATIONS[name].replacements()):
        for seed in seeds:
            for finding in run(seed).findings:
                if MUTATIONS[name].symptom in finding:
                    return seed, finding
    return None


def _plant(
    name: str, symptom: str, seen_in: int
) -> Callable[[Callable[[], _Replacements]], Callable[[], _Replacements]]:
    def keep(replacements: Callable[[], _Replacements]) -> Callable[[], _Replacements]:
        MUTATIONS[name] = Fault(replacements, symptom, seen_in)
        return replacements

    return keep


async def _nothing(_self: Recovery) -> None:
    """Do nothing."""


# What the broker does not deliver is read from the feed, which would hide faults of the delivery. Without the feed the
# broker must lose nothing that it has accepted.
WITHOUT_RECOVERY: _Replacements = [
    (Recovery, "run", _nothing),
    (Broker, "drop_oldest", lambda self: None),
    (Broker, "restart", lambda self: None),
]


@_plant("nothing is read from the feed that the broker has lost", "never reached the history", 72)
def _no_recovery() -> _Replacements:
    return [(Recovery, "run", _nothing)]


@_plant("the consumer acknowledges before it commits", "never reached the history", 9)
def _ack_first() -> _Replacements:
    receive = NatsSource.receive

    async def acknowledged(self: NatsSource, after: int) -> Delivery:
        delivery = await receive(self, after)
        await delivery.ack()
        return delivery

    return [(NatsSource, "receive", acknowledged), *WITHOUT_RECOVERY]


@_plant("the consumer acknowledges what its handler has refused", "never reached the history", 6)
def _ack_always() -> _Replacements:
    return [(Consumer, "_nack", lambda self, delivery: delivery.ack()), *WITHOUT_RECOVERY]


@_plant("the consumer gives a batch up for one poison event", "never reached the history", 1)
def _poison_blocks() -> _Replacements:
    async def together(self: Consumer, events: Sequence[Any], positions: Any) -> None:
        await self._handle(events, positions)

    return [(Consumer, "_process", together)]


@_plant("the result is given before the commit", "has 0 effects", 36)
def _answer_first() -> _Replacements:
    @asynccontextmanager
    async def committed_later(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        context = write_transaction(engine)
        yield await context.__aenter__()
        asyncio.create_task(context.__aexit__(None, None, None))

    return [(load(ACCOUNT).batches, "write_transaction", committed_later)]


@_plant("idempotency keys are not looked at", "has 2 effects", 2)
def _no_keys() -> _Replacements:
    async def nothing(*_arguments: Any) -> dict[Any, Any]:
        return {}

    def no_write(keys: Any, _responses: Any) -> Any:
        return load(ACCOUNT).service.idempotency.Write(keys, (), [])

    idempotency = load(ACCOUNT).service.idempotency
    return [(idempotency, "find", nothing), (idempotency, "write", no_write)]


@_plant("the consumer of findings does not know what it has seen", "was frozen", 1)
def _no_dedupe() -> _Replacements:
    def all_unseen(batch: Batch, _consumed: Any) -> tuple[Sequence[tuple[None, Any]], Sequence[Range]]:
        return [(None, raw) for raw in batch.events], [batch.positions] if batch.positions else []

    consumer = load(ACCOUNT).consumer
    request = consumer._request
    return [
        (consumer, "_request", lambda event: (made := request(event)) and replace(made, key=None)),
        (shared.messaging.consumer, "_unseen", all_unseen),
    ]


@_plant("positions are committed before the effect", "history lacks", 16)
def _positions_first() -> _Replacements:
    process = load(TRANSACTION).consumer.HistoryHandler.process

    async def moved_first(self: Any, events: Any, positions: Any) -> None:
        if positions:
            await process(self, [], positions)
        await process(self, events, [])

    return [(load(TRANSACTION).consumer.HistoryHandler, "process", moved_first)]


@_plant("the relay remembers before it has published", "never reached the history", 10)
def _remember_first() -> _Replacements:
    async def publish(self: NatsConnection, source: str, batch: Any, after: int) -> int:
        try:
            return await published(self, source, batch, after)
        except Exception:  # taken for stored
            return after + 1

    published = NatsConnection.publish
    return [(NatsConnection, "publish", publish), *WITHOUT_RECOVERY]


@_plant("positions number rows instead of events", "history lacks", 1)
def _row_numbers() -> _Replacements:
    async def sequence(self: Outbox, connection: AsyncConnection) -> int:
        rows = self.rows
        ids = (await connection.scalars(select(rows.c.id).where(rows.c.position.is_(None)).order_by(rows.c.id))).all()
        for position, row in enumerate(ids, await self.head(connection) + 1):
            await connection.execute(update(rows).where(rows.c.id == row).values(position=position))
        return len(ids)

    return [(Outbox, "sequence", sequence)]


@_plant("a cash account is remembered before it is committed", "KeyError", 739)
def _cash_first() -> _Replacements:
    batches = load(ACCOUNT).batches

    async def load_cash_accounts(self: Any, currencies: set[str], now: Any) -> dict[str, str]:
        if not currencies <= self._cash_accounts.keys():
            async with write_transaction(self._engine) as connection:
                self._cash_accounts = await batches.repository.open_cash_accounts(connection, currencies, now)
        cash_accounts: dict[str, str] = self._cash_accounts
        return cash_accounts

    return [(batches.BatchExecutor, "_load_cash_accounts", load_cash_accounts)]


@_plant("group commit gives the results to the callers in another order", "different answers", 1)
def _shuffled() -> _Replacements:
    settle = GroupCommit._commit_batch

    async def settled(self: GroupCommit[Any, Any], batch: Sequence[Any]) -> None:
        works, futures = zip(*batch)
        await settle(self, list(zip(works, reversed(futures))))

    return [(GroupCommit, "_commit_batch", settled)]
