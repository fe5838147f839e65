"""Test data: callers, a fake ledger, and reads of the database."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.completeness import Watermark
from app.models import entries, flags, outbox, transactions
from app.service import TransactionService
from app.settings import TransactionSettings
from app.statements import BalanceAt, Line, Statement
from app.storage.queries import TransactionFilter
from shared.http.auth import OPERATOR, Caller
from shared.events import CloudEvent, Event, new_event
from shared.ids import new_id, rfc3339
from shared.testing.fixtures import Lab

ALICE = Caller("alice", frozenset())
BOB = Caller("bob", frozenset())
OPERATOR_CALLER = Caller("op", frozenset({OPERATOR}))
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def line(seq: int, amount: int, balance_after: int, reference: str | None = None, type_: str = "transfer") -> Line:
    """Return an entry of a statement."""
    return Line(f"transaction-{seq}", type_, seq, amount, balance_after, "other", reference, NOON)


def statement(*lines: Line, covered: bool = True, last: int | None = None, currency: str = "USD") -> Statement:
    """Return the statement of a day that starts with 100 at `seq` 2; `covered` if it is complete."""
    opening = BalanceAt(2, 100)
    closing = BalanceAt(last or lines[-1].seq, lines[-1].balance_after) if lines else opening
    through = NOON + DAY if covered else NOON
    watermark = Watermark(closing.seq, closing.seq, through, through)
    return Statement("account", "1234", currency, NOON, NOON + DAY, opening, closing, watermark, lines)


LINES = [line(3, 50, 150, "salary"), line(4, -30, 120), line(5, -20, 100)]


def make_settings(lab: Lab, url: str, **changes: Any) -> TransactionSettings:
    """Return settings for tests, with some changed."""
    values = {
        "database_url": url,
        "auth_jwks": str(lab.secrets.jwks),
        "service_token": lab.service_token,
        "webhook_key": "a-key-of-the-bank-for-tests",
        # Nothing listens there.
        "account_service_url": "http://127.0.0.1:9",
    }
    return TransactionSettings(**{**values, **changes})


@dataclass
class Ledger:
    """Creates the events of account-service; `events` has all of them in order."""

    events: list[CloudEvent] = field(default_factory=list)
    balances: dict[str, list[int]] = field(default_factory=dict)
    cash: str = field(default_factory=new_id)
    now: datetime = NOON

    def open(self, owner: str = "alice") -> str:
        """Open an account and return its id."""
        account = new_id()
        data = {
            **{"id": account, "account_number": "1234567890123456", "owner": owner, "name": None, "currency": "USD"},
            **{"status": "active", "balance": 0, "held": 0, "available": 0, "seq": 0, "created_at": rfc3339(self.now)},
        }
        self._publish("bank.account.opened", account, data)
        return account

    def move(
        self, payer: str, payee: str, amount: int, type_: str = "transfer", reference: str | None = None, **more: Any
    ) -> str:
        """Post a movement, with more data, and return the transaction's id."""
        transaction = new_id()
        for account, counterparty, signed in ((payer, payee, -amount), (payee, payer, amount)):
            balances = self.balances.setdefault(account, [0])
            balances.append(balances[-1] + signed)
            data = {
                **{"transaction_id": transaction, "type": type_, "account_id": account, "counterparty": counterparty},
                **{"amount": signed, "currency": "USD", "seq": len(balances) - 1, "balance_after": balances[-1]},
                **{"reference": reference, "reverses": None, "created_at": rfc3339(self.now), **more},
            }
            self._publish("bank.entry.posted", account, data)
        return transaction

    def deposit(self, account: str, amount: int, reference: str | None = None) -> str:
        """Deposit money and return the transaction's id."""
        return self.move(self.cash, account, amount, "deposit", reference)

    def withdraw(self, account: str, amount: int, reference: str | None = None) -> str:
        """Withdraw money and return the transaction's id."""
        return self.move(account, self.cash, amount, "withdrawal", reference)

    def refuse(
        self,
        account: str,
        counterparty: str,
        amount: int,
        type_: str = "transfer",
        direction: str | None = None,
        **more: Any,
    ) -> str:
        """Refuse a movement, with more data, and return its id; without a direction, as in old events."""
        transaction = new_id()
        data = {
            **{"transaction_id": transaction, "type": type_, "code": "insufficient-funds", "account_id": account},
            **{"counterparty": counterparty, "amount": amount, "currency": "USD", "reference": None},
            **{"created_at": rfc3339(self.now), "direction": direction, **more},
        }
        self._publish("bank.transaction.refused", account, data)
        return transaction

    def later(self, seconds: float) -> None:
        """Advance the time."""
        self.now += timedelta(seconds=seconds)

    def _publish(self, type_: str, account: str, data: dict[str, Any]) -> None:
        event = new_event(
            source="account-service", type_=type_, subject=account, time=self.now, data=data, request_id="request-1"
        )
        self.events.append(CloudEvent.model_validate(event))


async def history(engine: AsyncEngine) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return all transactions and entries."""
    async with engine.connect() as connection:
        found = await connection.execute(select(transactions).order_by(transactions.c.id))
        sides = await connection.execute(select(entries).order_by(entries.c.account_id, entries.c.transaction_id))
        return [tuple(row) for row in found], [tuple(row) for row in sides]


async def flagged(engine: AsyncEngine) -> set[tuple[str, str, str]]:
    """Return rule, account and deduplication key of all flags."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(flags.c.rule, flags.c.account_id, flags.c.occurrence))
        return {tuple(row) for row in rows}


async def outbox_events(engine: AsyncEngine) -> list[Event]:
    """Return all events in the outbox."""
    async with engine.connect() as connection:
        await connection.execution_options(writes=True)
        await outbox.sequence(connection)
        found = [event for _, event in await outbox.read(connection, 0, 10_000)]
        await connection.rollback()
        return found


async def listed_ids(service: TransactionService, caller: Caller = ALICE, **wanted: Any) -> list[str]:
    """Return the ids of the transactions listed for a caller."""
    owner = None if caller.is_operator else caller.subject
    return [
        item["id"] for item in (await service.transactions(caller, TransactionFilter(owner, **wanted), None, 50)).items
    ]
