"""Invariants after a run, read from the databases by plain SQL; each violation is one line."""

import sqlite3
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import orjson

from shared.messaging.positions import Positions
from simulation.bank import ACCOUNT, TRANSACTION, Bank, lab
from simulation.clients import BATCHES, ClientOperation, Clients
from simulation.poison import Poison
from simulation.services import load


def undelivered(bank: Bank) -> list[str]:
    """Return events in transit; empty once the bank is idle."""
    world, missing = bank.world, []
    with world.reading(ACCOUNT) as ledger, world.reading(TRANSACTION) as history:
        for service, database in ((ACCOUNT, ledger), (TRANSACTION, history)):
            waiting = _one(database, "SELECT count(*) FROM outbox WHERE position IS NULL")
            if waiting:
                missing.append(f"{waiting} rows of {service}'s outbox have no position")
        consumed, dead = _consumed(history), _column(history, "SELECT event_id FROM dead_letters")
        lost = [
            event["id"] for position, event in numbered(ledger) if position not in consumed and event["id"] not in dead
        ]
        if lost:
            missing.append(f"{len(lost)} events never reached the history, the first is {lost[0]}")
        heard = _column(ledger, "SELECT key FROM idempotency_keys WHERE subject = ''")
        unheard = [event["id"] for event in events(history) if _freezes(event) and event["id"] not in heard]
        if unheard:
            missing.append(f"{len(unheard)} findings never froze their account, the first is {unheard[0]}")
    if world.plan.transport == "nats":
        durables = {
            **{ACCOUNT: "bank.transaction.flagged", f"{ACCOUNT}-batches": f"events.{TRANSACTION}"},
            **{TRANSACTION: "bank.>", f"{TRANSACTION}-batches": f"events.{ACCOUNT}"},
        }
        for durable, subject in durables.items():
            if left := world.broker.waiting(durable, subject):
                missing.append(f"{len(left)} messages are not acknowledged by {durable}, the first is {left[0].data!r}")
    return missing


def findings(bank: Bank, clients: Clients, poison: Poison) -> list[str]:
    """Return all violations; call it once the bank is idle."""
    world = bank.world
    with world.reading(ACCOUNT) as ledger, world.reading(TRANSACTION) as history:
        return [
            *clients.wrong,
            *undelivered(bank),
            *_broken_ledger(ledger),
            *(line for asked in clients.asked for line in _wrong_effects(ledger, asked)),
            *_wrong_feed("account-service", ledger),
            *_wrong_feed("transaction-service", history),
            *_wrong_history(ledger, history),
            *_wrong_flags(ledger, history),
            *_wrong_dead_letters(ledger, history, poison),
        ]


def events(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return all events of an outbox."""
    return [
        event for (row,) in database.execute("SELECT events FROM outbox ORDER BY id") for event in orjson.loads(row)
    ]


def numbered(database: sqlite3.Connection) -> list[tuple[int, dict[str, Any]]]:
    """Return all events with a position in an outbox."""
    rows = database.execute("SELECT position - size + 1, events FROM outbox WHERE position IS NOT NULL")
    return [each for first, row in rows for each in enumerate(orjson.loads(row), first)]


def _consumed(database: sqlite3.Connection) -> Positions:
    ranges = database.execute("SELECT ranges FROM consumed_positions").fetchone()
    return Positions.loads(ranges[0]) if ranges else Positions()


def _one(database: sqlite3.Connection, query: str, *parameters: Any) -> int:
    number: int = database.execute(query, parameters).fetchone()[0]
    return number


def _column(database: sqlite3.Connection, query: str) -> set[str]:
    return {row[0] for row in database.execute(query)}


def _freezes(event: dict[str, Any]) -> bool:
    return bool(event["data"].get("action") == "freeze")


def _broken_ledger(ledger: sqlite3.Connection) -> list[str]:
    queries: dict[str, str] = load(ACCOUNT).invariants.VIOLATION_QUERIES
    queries = {**queries, "a hold's captured amount differs from its captures": _WRONG_CAPTURES}
    return [violation for violation, query in queries.items() if ledger.execute(query).fetchone() is not None]


def _wrong_effects(ledger: sqlite3.Connection, asked: ClientOperation) -> list[str]:
    """Return the violations of a request: an acknowledged one has exactly one effect, any other one at most one."""
    bodies = {answer.body for answer in asked.answers}
    if len(bodies) > 1:
        return [f"{asked.key} got {len(bodies)} different answers"]
    body = orjson.loads(bodies.pop()) if bodies else None
    if asked.kind in BATCHES:
        answers = {result["key"]: result for result in body.get("results", ())} if body else {}
        names = [f"{asked.key}/{number}" for number in range(3)]
        if asked.kind == "atomic batch":
            executed = sum(_one(ledger, _EFFECTS["move"], name) for name in names)
            if executed not in (0, len(names)):
                return [f"{executed} transfers of the atomic batch {asked.key} are executed"]
        return [line for name in names for line in _counted(ledger, "move", name, answers.get(name, {}).get("status"))]
    return _counted(ledger, asked.kind, asked.key, asked.answers[0].status if asked.answers else None)


_EFFECTS = {
    "move": "SELECT count(*) FROM transactions WHERE reference = ?",
    # The legs of a group are numbered: a part of them, or a repeated leg, is not one effect.
    "group": """SELECT CASE count(*) WHEN 0 THEN 0 WHEN 3 THEN count(DISTINCT group_id) ELSE count(*) + 1 END
        FROM transactions WHERE reference LIKE ? || '/_'""",
    # Legs that were reversed one by one before are not part of it.
    "group reversal": "SELECT count(DISTINCT group_id) FROM transactions WHERE reference = ?",
    "open": "SELECT count(*) FROM accounts WHERE name = ?",
    "hold": """SELECT count(*) FROM audit_log a JOIN holds h ON h.id = a.hold_id
        WHERE a.request_id = ? AND a.action = 'hold'""",
    "capture": "SELECT count(*) FROM audit_log WHERE request_id = ? AND action = 'capture'",
    "extend": "SELECT count(*) FROM audit_log WHERE request_id = ? AND action = 'extend'",
    "void": "SELECT count(*) FROM audit_log WHERE request_id = ? AND action = 'void'",
    "limits": "SELECT count(*) FROM audit_log WHERE request_id = ? AND action = 'set-limits'",
}
_WRONG_CAPTURES = """
    SELECT h.id FROM holds h LEFT JOIN
    (SELECT a.hold_id, sum(t.amount) AS captured FROM audit_log a JOIN transactions t ON t.id = a.transaction_id
    GROUP BY a.hold_id) c ON c.hold_id = h.id
    WHERE coalesce(c.captured, 0) <> coalesce(h.placed_amount - h.amount, 0) + h.captured_amount
    OR c.captured > coalesce(h.placed_amount, h.amount)"""


def _counted(ledger: sqlite3.Connection, kind: str, mark: str, status: int | None) -> list[str]:
    effects = _one(ledger, _EFFECTS[kind], mark)
    allowed = (0, 1) if status is None else (1,) if status == 201 else (0,)
    return [] if effects in allowed else [f"{kind} {mark}, answered {status}, has {effects} effects"]


def _wrong_feed(service: str, database: sqlite3.Connection) -> list[str]:
    rows = database.execute("SELECT position, size FROM outbox WHERE position IS NOT NULL ORDER BY position").fetchall()
    position, wrong = 0, []
    for end, size in rows:
        position += size
        if end != position:
            wrong.append(f"the feed of {service} has {end} where {position} comes next")
            position = end
    return wrong


def _wrong_history(ledger: sqlite3.Connection, history: sqlite3.Connection) -> list[str]:
    wrong = []
    columns = "account_id, transaction_id, seq, amount, balance_after"
    ours = Counter(ledger.execute(f"SELECT {columns} FROM entries"))  # nosec B608
    theirs = Counter(history.execute(f"SELECT {columns} FROM entries WHERE seq IS NOT NULL"))  # nosec B608
    if ours != theirs:
        wrong.append(f"history lacks {(ours - theirs).total()} entries and has {(theirs - ours).total()} of its own")
    told = {"posted": Counter[str](), "refused": Counter[str]()}
    for event in events(ledger):
        if event["type"] == "bank.transaction.refused":
            told["refused"][event["data"]["transaction_id"].replace("-", "")] += 1
    told["posted"].update(_column(ledger, "SELECT id FROM transactions"))
    for status, expected in told.items():
        found = Counter(row[0] for row in history.execute("SELECT id FROM transactions WHERE status = ?", (status,)))
        if found != expected:
            wrong.append(f"history has {found.total()} {status} transactions instead of {expected.total()}")
    return wrong


def _wrong_flags(ledger: sqlite3.Connection, history: sqlite3.Connection) -> list[str]:
    """Check that findings are those of the pure rules, and that each has one event and freezes at most once."""
    wrong = []
    customers = {id_.replace("-", "") for id_ in _column(ledger, "SELECT id FROM accounts WHERE kind = 'customer'")}
    entry, evaluate = load(TRANSACTION).fraud.Entry, load(TRANSACTION).fraud.evaluate
    of_account: dict[str, list[Any]] = defaultdict(list)
    query = """SELECT e.account_id, e.transaction_id, t.type, e.seq, e.amount, t.currency, t.created_at
        FROM entries e JOIN transactions t ON t.id = e.transaction_id"""
    for account, transaction, *rest, moment in ledger.execute(query):
        if account in customers:
            created_at = datetime.fromisoformat(moment).replace(tzinfo=UTC)
            of_account[account].append(entry(_dashed(account), _dashed(transaction), *rest, created_at))
    expected = {
        finding.event_id: finding.action
        for entries in of_account.values()
        for finding in evaluate(entries, lab().transaction.thresholds)
    }
    flagged = events(history)
    told = Counter(event["id"] for event in flagged)
    if told != Counter(expected.keys()):
        wrong.append(f"{told.total()} findings are told instead of {len(expected)}")
    # An event names its request, and no request moves as much twice. A finding that is published without
    # the event that caused it names none; each of these may freeze.
    nameless = Counter(
        event["subject"] for event in flagged if event["data"]["action"] == "freeze" and event.get("requestid") is None
    )
    frozen = Counter(
        (event["subject"], event.get("requestid")) for event in events(ledger) if event["type"] == "bank.account.frozen"
    )
    wrong += [
        f"{account} was frozen {count} times for {key}"
        for (account, key), count in frozen.items()
        if count > (nameless[account] if key is None else 1)
    ]
    return wrong


def _dashed(identifier: str) -> str:
    return "-".join(identifier[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def _wrong_dead_letters(ledger: sqlite3.Connection, history: sqlite3.Connection, poison: Poison) -> list[str]:
    wrong = []
    good = {event["id"] for event in (*events(ledger), *events(history)) if not event["id"].startswith("poison")}
    for service, database in ((ACCOUNT, ledger), (TRANSACTION, history)):
        dead = _column(database, "SELECT event_id FROM dead_letters")
        if len(dead) != poison.expected[service]:
            wrong.append(f"{service} has {len(dead)} dead letters instead of {poison.expected[service]}")
        if dead & good:
            wrong.append(f"{service} has dead-lettered valid events: {', '.join(sorted(dead & good)[:3])}")
    return wrong
