"""SQL that reads the ledger in pages, for consumers of its events."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.model import Entry, Transaction
from app.models import entries, transactions

_ENTRY_COLUMNS = [entries.c[field.name] for field in fields(Entry)]
_TRANSACTION_COLUMNS = [transactions.c[field.name] for field in fields(Transaction)]


@dataclass(frozen=True, slots=True)
class PostedEntry:
    """An entry with its transaction, and the subject and id of the request that posted it."""

    entry: Entry
    transaction: Transaction
    subject: str | None
    request_id: str | None

    @property
    def counterparty(self) -> str:
        """The account of the transaction's other entry."""
        payer, payee = self.transaction.from_account, self.transaction.to_account
        return payee if self.entry.account_id == payer else payer


async def posted_entries(
    connection: AsyncConnection, after: tuple[str, int] | None, limit: int
) -> Sequence[PostedEntry]:
    """Return up to `limit` entries after an account and `seq`, in this order."""
    key = (entries.c.account_id, entries.c.seq)
    # First the entries, so that each transaction is one index lookup.
    page: Any = select(*_ENTRY_COLUMNS).order_by(*key).limit(limit)
    if after is not None:
        page = page.where(tuple_(*key) > tuple_(*(literal(value, column.type) for value, column in zip(after, key))))
    page = page.subquery()
    statement = (
        select(*page.c, *_TRANSACTION_COLUMNS, transactions.c.subject, transactions.c.request_id)
        .join(transactions, transactions.c.id == page.c.transaction_id)
        .order_by(page.c.account_id, page.c.seq)
    )
    count = len(_ENTRY_COLUMNS)
    return [
        PostedEntry(Entry(*row[:count]), Transaction(*row[count:-2]), row.subject, row.request_id)
        for row in await connection.execute(statement)
    ]
