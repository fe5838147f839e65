"""Reads the state of a running stack for the history checker: ledger, events, history and statements."""

import time

from harness.composed_stack import CONSUMERS, ComposedBank
from drills.chaos.clients import OPERATOR, OPERATOR_SCOPE
from drills.chaos.history_checker import Account, Entry, Events, HistoryView, Hold, Ledger, Transaction

_FROM_EVENTS = "FROM outbox, jsonb_array_elements(convert_from(events, 'UTF8')::jsonb) WITH ORDINALITY AS each(e, n)"


def _rows(bank: ComposedBank, database: str, query: str) -> list[list[str]]:
    return [line.split("|") for line in bank.sql(database, query)]


def _number(bank: ComposedBank, database: str, query: str) -> int:
    return int(bank.sql(database, query)[0])


def read_ledger(bank: ComposedBank) -> Ledger:
    """Read accounts, transactions, entries and holds of account-service."""
    accounts = _rows(bank, "account", "SELECT id, currency, kind = 'cash', balance, held, seq FROM accounts")
    captures = "SELECT string_agg(transaction_id::text, ' ') FROM audit_log WHERE hold_id = h.id AND action = 'capture'"
    # After a partial capture, `amount` is the remaining amount.
    captured = "coalesce(placed_amount - amount, 0) + captured_amount"
    holds = _rows(
        bank,
        "account",
        f"SELECT id, account_id, coalesce(placed_amount, amount), {captured}, status, ({captures}) FROM holds h",
    )
    return Ledger(
        [Account(row[0], row[1], row[2] == "t", *map(int, row[3:])) for row in accounts],
        _transactions(bank, "account", "TRUE"),
        _entries(bank, "account"),
        [Hold(row[0], row[1], int(row[2]), int(row[3]), row[4], tuple(row[5].split())) for row in holds],
    )


def _transactions(bank: ComposedBank, database: str, condition: str) -> list[Transaction]:
    columns = "id, type, amount, from_account, to_account, reference, reverses"
    rows = _rows(bank, database, f"SELECT {columns} FROM transactions WHERE {condition}")
    return [Transaction(row[0], row[1], int(row[2]), *row[3:]) for row in rows]


def _entries(bank: ComposedBank, database: str) -> list[Entry]:
    columns = "account_id, seq, transaction_id, amount, balance_after"
    return _as_entries(_rows(bank, database, f"SELECT {columns} FROM entries WHERE seq IS NOT NULL"))


def _as_entries(rows: list[list[str]]) -> list[Entry]:
    return [Entry(row[0], int(row[1]), row[2], int(row[3]), int(row[4])) for row in rows]


def read_events(bank: ComposedBank) -> Events:
    """Read the published events of both services and the consumed ones."""
    posted = ", ".join(
        f"e->'data'->>'{name}'" for name in ("account_id", "seq", "transaction_id", "amount", "balance_after")
    )
    positions = "SELECT coalesce(max(position), 0) - coalesce(sum(size), 0) FROM outbox WHERE position IS NOT NULL"
    numbered = {database: _numbered(bank, database) for database in CONSUMERS}
    consumed = {database: bank.consumed(consumer) for database, consumer in CONSUMERS.items()}
    return Events(
        _as_entries(_rows(bank, "account", f"SELECT {posted} {_FROM_EVENTS} WHERE e->>'type' = 'bank.entry.posted'")),
        [
            (row[0], row[1])
            for row in _rows(
                bank,
                "account",
                f"SELECT e->'data'->>'id', e->'data'->>'status' {_FROM_EVENTS} WHERE e->>'type' LIKE 'bank.hold.%'",
            )
        ],
        [event_id for events in numbered.values() for _, event_id in events],
        [
            event_id
            for database, events in numbered.items()
            for position, event_id in events
            if position in consumed[database]
        ],
        _number(bank, "account", "SELECT count(*) FROM outbox WHERE position IS NULL"),
        _number(bank, "account", positions),
        _number(bank, "transaction", "SELECT count(*) FROM dead_letters")
        + _number(bank, "account", "SELECT count(*) FROM dead_letters"),
    )


def _numbered(bank: ComposedBank, database: str) -> list[tuple[int, str]]:
    """Return position and id of the events of an outbox."""
    return [
        (int(row[0]), row[1]) for row in _rows(bank, database, f"SELECT position - size + n, e->>'id' {_FROM_EVENTS}")
    ]


def read_history(bank: ComposedBank, accounts: list[str]) -> HistoryView:
    """Read the history, and the statements through the API."""
    statements = {}
    for account in accounts:
        statement = bank.get(f"/statements/{account}", subject=OPERATOR, scope=OPERATOR_SCOPE)
        statements[account] = [
            Entry(account, line["seq"], line["transaction_id"], line["amount"], line["balance_after"])
            for line in statement["entries"]
        ]
    return HistoryView(
        _transactions(bank, "transaction", "status = 'posted'"), _entries(bank, "transaction"), statements
    )


def wait_until_consumed(bank: ComposedBank, max_stall: float) -> tuple[int, float]:
    """Wait until every event is consumed; return the number of unconsumed events at the start, and the duration.

    Raises AssertionError if no event is consumed for `max_stall` seconds.
    """

    started = changed_at = time.monotonic()
    left = initial = bank.unconsumed_events()
    while left:
        time.sleep(1)
        if (now := bank.unconsumed_events()) != left:
            left, changed_at = now, time.monotonic()
        assert time.monotonic() - changed_at < max_stall, f"{left} events are not consumed"
    return initial, time.monotonic() - started
