"""The history checker of the drill `faults` finds every kind of seeded violation, and none in a consistent history."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from drills.chaos.history_checker import (
    ACKNOWLEDGED,
    REFUSED,
    UNKNOWN,
    Account,
    Operation,
    Entry,
    Events,
    Hold,
    Ledger,
    HistoryView,
    Transaction,
    find_violations,
)

One = TypeVar("One")


@dataclass(frozen=True)
class State:
    """The input of the checker."""

    operations: tuple[Operation, ...]
    ledger: Ledger
    events: Events
    history: HistoryView

    def violations(self) -> list[str]:
        """Return the violations that the checker finds."""
        return find_violations(self.operations, self.ledger, self.events, self.history)


TRANSACTIONS = (
    Transaction("t1", "deposit", 100, "cash", "a", "k1"),
    Transaction("t2", "transfer", 30, "a", "b", "k2"),
    Transaction("t3", "transfer", 5, "a", "b", "k5"),
    Transaction("t4", "reversal", 30, "b", "a", "k6", "t2"),
    Transaction("t5", "capture", 8, "a", "cash"),
    Transaction("t7", "capture", 2, "a", "cash"),
    Transaction("t6", "withdrawal", 2, "a", "cash", "k9"),
)
ENTRIES = (
    Entry("cash", 1, "t1", -100, -100),
    Entry("a", 1, "t1", 100, 100),
    Entry("a", 2, "t2", -30, 70),
    Entry("b", 1, "t2", 30, 30),
    Entry("a", 3, "t3", -5, 65),
    Entry("b", 2, "t3", 5, 35),
    Entry("b", 3, "t4", -30, 5),
    Entry("a", 4, "t4", 30, 95),
    Entry("a", 5, "t5", -8, 87),
    Entry("cash", 2, "t5", 8, -92),
    Entry("a", 6, "t7", -2, 85),
    Entry("cash", 3, "t7", 2, -90),
    Entry("a", 7, "t6", -2, 83),
    Entry("cash", 4, "t6", 2, -88),
)


def consistent() -> State:
    """A short history without violations, with every kind of operation and every kind of outcome."""
    holds = (
        Hold("h1", "a", 10, 8, "captured", ("t5",)),
        Hold("h2", "a", 7, 0, "active"),
        Hold("h3", "b", 3, 0, "voided"),
        Hold("h5", "a", 6, 2, "active", ("t7",)),
    )
    return State(
        (
            Operation("k1", "deposit", 100, "", "a", "", ACKNOWLEDGED, ("t1",)),
            Operation("k2", "transfer", 30, "a", "b", "", ACKNOWLEDGED, ("t2", "t2")),
            Operation("k3", "transfer", 10**9, "a", "b", "", REFUSED, ("insufficient-funds",)),
            # Of these two unknown operations, the second one was posted.
            Operation("k4", "transfer", 9, "a", "b", "", UNKNOWN),
            Operation("k5", "transfer", 5, "a", "b", "", UNKNOWN),
            Operation("k6", "reversal", 30, refers_to="t2", outcome=ACKNOWLEDGED, results=("t4",)),
            Operation("k7", "hold", 10, "a", "", "", ACKNOWLEDGED, ("h1",)),
            Operation("k8", "capture", 8, refers_to="h1", outcome=ACKNOWLEDGED, results=("t5",)),
            Operation("k9", "withdrawal", 2, "a", "", "", ACKNOWLEDGED, ("t6",)),
            Operation("k10", "hold", 7, "a", "", "", UNKNOWN),
            Operation("k11", "hold", 3, "b", "", "", ACKNOWLEDGED, ("h3",)),
            Operation("k12", "void", 3, refers_to="h3", outcome=UNKNOWN),
            Operation("k13", "hold", 6, "a", "", "", ACKNOWLEDGED, ("h5",)),
            Operation("k14", "partial-capture", 2, refers_to="h5", outcome=ACKNOWLEDGED, results=("t7",)),
        ),
        Ledger(
            (
                Account("cash", "USD", True, -88, 0, 4),
                Account("a", "USD", False, 83, 11, 7),
                Account("b", "USD", False, 5, 0, 3),
            ),
            TRANSACTIONS,
            ENTRIES,
            holds,
        ),
        Events(
            tuple(reversed(ENTRIES)),
            (
                *(("h1", "active"), ("h1", "captured"), ("h2", "active"), ("h3", "active"), ("h3", "voided")),
                *(("h5", "active"), ("h5", "active")),
            ),
            ("e1", "e2"),
            ("e2", "e1"),
        ),
        HistoryView(
            TRANSACTIONS,
            ENTRIES,
            {account: [entry for entry in ENTRIES if entry.account == account] for account in ("a", "b")},
        ),
    )


def changed(items: Sequence[One], number: int, **changes: object) -> tuple[One, ...]:
    """Return the items with one changed."""
    return tuple(
        replace(one, **changes) if index == number else one for index, one in enumerate(items)  # type: ignore[type-var]
    )


def without(items: Sequence[One], number: int) -> tuple[One, ...]:
    """Return the items with one left out."""
    return tuple(one for index, one in enumerate(items) if index != number)


def operation(number: int, **changes: object) -> Callable[[State], State]:
    """Change one operation."""
    return lambda state: replace(state, operations=changed(state.operations, number, **changes))


def ledger(**changes: Callable[[Ledger], object]) -> Callable[[State], State]:
    """Change the ledger."""
    return lambda state: replace(
        state, ledger=replace(state.ledger, **{name: make(state.ledger) for name, make in changes.items()})
    )


def events(**changes: object) -> Callable[[State], State]:
    """Change the events."""
    return lambda state: replace(state, events=replace(state.events, **changes))


def history(**changes: object) -> Callable[[State], State]:
    """Change history or statements."""
    return lambda state: replace(state, history=replace(state.history, **changes))


def duplicated(state: State) -> State:
    """Post the first transfer once more, with consistent balances."""
    duplicate = replace(TRANSACTIONS[1], id="t7")
    entries = (*ENTRIES, Entry("a", 7, "t7", -30, 55), Entry("b", 4, "t7", 30, 35))
    return with_transactions(state, (*TRANSACTIONS, duplicate), entries, {"a": (55, 7), "b": (35, 4)})


def posted_though_refused(state: State) -> State:
    """Post the refused transfer, with consistent balances."""
    new = Transaction("t7", "transfer", 1, "a", "b", "k3")
    entries = (*ENTRIES, Entry("a", 7, "t7", -1, 84), Entry("b", 4, "t7", 1, 6))
    return with_transactions(state, (*TRANSACTIONS, new), entries, {"a": (84, 7), "b": (6, 4)})


def lost(state: State) -> State:
    """Leave out the last transaction everywhere, although it was acknowledged."""
    return with_transactions(state, TRANSACTIONS[:-1], ENTRIES[:-2], {"a": (85, 6), "cash": (-90, 3)})


def with_transactions(
    state: State, transactions: Sequence[Transaction], entries: Sequence[Entry], balances: dict[str, tuple[int, int]]
) -> State:
    """Give ledger, events, history and statements the same transactions and entries."""
    accounts = [
        replace(one, balance=balances[one.id][0], seq=balances[one.id][1]) if one.id in balances else one
        for one in state.ledger.accounts
    ]
    statements = {account: [entry for entry in entries if entry.account == account] for account in ("a", "b")}
    return State(
        state.operations,
        replace(state.ledger, accounts=accounts, transactions=transactions, entries=entries),
        replace(state.events, entries=entries),
        HistoryView(transactions, entries, statements),
    )


VIOLATIONS: dict[str, tuple[Callable[[State], State], str]] = {
    "an acknowledged operation is lost": (lost, "acknowledged, but not in the ledger (1): k9"),
    "an acknowledged operation has another id": (operation(0, results=("t9",)), "acknowledged, but not in the ledger"),
    "an operation is posted twice": (duplicated, "posted more than once (1): k2"),
    "a refused operation is posted": (posted_though_refused, "refused, but posted (1): k3"),
    "a key gets two results": (operation(1, results=("t2", "t3")), "one key, different results (1): k2"),
    "two keys get one result": (
        operation(2, outcome=ACKNOWLEDGED, results=("t2",)),
        "several keys, one result (1): t2",
    ),
    "another amount is posted": (
        operation(1, amount=31),
        "posted with other accounts or another amount than requested (1): k2",
    ),
    "another account is debited": (
        operation(1, source="b"),
        "posted with other accounts or another amount than requested (1): k2",
    ),
    "another transaction is reversed": (
        operation(5, refers_to="t3"),
        "posted with other accounts or another amount than requested (1): k6",
    ),
    "a transaction is posted that was not requested": (operation(4, key="k99"), "posted, but not requested (1): t3"),
    "a transaction is reversed twice": (
        ledger(transactions=lambda old: changed(old.transactions, 2, reverses="t2")),
        "reversals exceed the transaction (1): t2",
    ),
    "an acknowledged hold is missing": (
        operation(6, results=("h9",)),
        "hold acknowledged, but not in the ledger (1): h9",
    ),
    "a hold has another amount": (
        operation(10, amount=4),
        "hold with another account or amount than requested (1): h3",
    ),
    "an unacknowledged hold is placed twice": (
        ledger(holds=lambda old: (*old.holds, replace(old.holds[1], id="h4"))),
        "more holds than requested",
    ),
    "a refused hold is placed": (
        operation(9, outcome=REFUSED, results=("insufficient-funds",)),
        "more holds than requested",
    ),
    "an acknowledged capture is lost": (
        ledger(holds=lambda old: changed(old.holds, 0, status="active", captures=())),
        "capture or void acknowledged, but not in the ledger (1): h1",
    ),
    "a hold is captured without a request": (
        operation(7, outcome=REFUSED, results=("hold-not-active",)),
        "hold captured or voided otherwise than requested (1): h1",
    ),
    "more is captured than requested": (
        operation(7, amount=7),
        "capture acknowledged, but not of this hold and amount (1): k8",
    ),
    "an unacknowledged capture has another amount": (
        operation(13, amount=1, outcome=UNKNOWN, results=()),
        "more captures than requested (1): h5",
    ),
    "a refused capture of a part is posted": (
        operation(13, outcome=REFUSED, results=("hold-exceeded",)),
        "more captures than requested (1): h5",
    ),
    "an acknowledged capture of a part is lost": (
        ledger(holds=lambda old: changed(old.holds, 3, captured=0, captures=())),
        "capture acknowledged, but not of this hold and amount (1): k14",
    ),
    "a part ends the hold": (
        ledger(holds=lambda old: changed(old.holds, 3, status="captured")),
        "hold captured or voided otherwise than requested (1): h5",
    ),
    "a capture belongs to no hold": (
        ledger(holds=lambda old: changed(old.holds, 3, captures=())),
        "capture without a hold, or of a hold without the transaction (1): t7",
    ),
    "a capture belongs to two holds": (
        ledger(holds=lambda old: changed(old.holds, 1, captures=("t7",))),
        "capture of several holds (1): t7",
    ),
    "more is captured than was reserved": (
        ledger(holds=lambda old: changed(old.holds, 3, amount=1)),
        "captures with another account or sum than their hold (1): h5",
    ),
    "a hold is captured and voided": (
        lambda state: replace(
            state,
            operations=(
                *state.operations,
                Operation("k15", "void", 10, refers_to="h1", outcome=ACKNOWLEDGED, results=("None",)),
            ),
        ),
        "two captures or voids of one hold acknowledged (1): h1",
    ),
    "a capture has another amount than its hold": (
        ledger(transactions=lambda old: changed(old.transactions, 4, amount=9)),
        "captures with another account or sum than their hold (1): h1",
    ),
    "seq has a gap": (ledger(entries=lambda old: changed(old.entries, 3, seq=9)), "seq has gaps (1): b"),
    "an account's seq is not its last entry's": (
        ledger(accounts=lambda old: changed(old.accounts, 1, seq=8)),
        "seq has gaps (1): a",
    ),
    "a balance_after is wrong": (
        ledger(entries=lambda old: changed(old.entries, 2, balance_after=71)),
        "balance_after is not the running sum (1): a",
    ),
    "a balance is wrong": (
        ledger(accounts=lambda old: changed(old.accounts, 1, balance=86)),
        "balance is not the sum of the entries (1): a",
    ),
    "balances do not sum to zero": (
        ledger(accounts=lambda old: changed(old.accounts, 1, balance=86)),
        "balances do not sum to zero (1)",
    ),
    "a held amount is wrong": (
        ledger(accounts=lambda old: changed(old.accounts, 1, held=0)),
        "held is not the sum of the active holds (1): a",
    ),
    "a balance was negative": (
        ledger(entries=lambda old: changed(old.entries, 3, balance_after=-30)),
        "a customer's balance was negative (1): b",
    ),
    "a transaction lacks an entry": (
        ledger(entries=lambda old: without(old.entries, 13)),
        "transaction without exactly its two entries (1): t6",
    ),
    "an entry belongs to no transaction": (
        ledger(transactions=lambda old: without(old.transactions, 2)),
        "entries without a transaction (1): t3",
    ),
    "an event is missing": (
        events(entries=ENTRIES[1:]),
        "entries of the ledger that are not in the events (1): cash/1",
    ),
    "an event is published twice": (
        events(entries=(*ENTRIES, ENTRIES[0])),
        "entries that are more than once in the events (1): cash/1",
    ),
    "an event has another balance": (
        events(entries=changed(ENTRIES, 0, balance_after=1)),
        "entries in the events that the ledger does not have (1): cash/1",
    ),
    "events about holds are missing": (events(holds=()), "hold changed, but there is no event (7)"),
    "an event about a hold is published twice": (
        lambda state: events(holds=(*state.events.holds, ("h1", "captured")))(state),
        "event about a hold that did not change (1)",
    ),
    "an event is not consumed": (events(consumed_ids=("e1",)), "events not consumed (1): e2"),
    "an event is consumed that was not published": (
        events(consumed_ids=("e1", "e2", "e3")),
        "events consumed, but not published (1): e3",
    ),
    "two events have one id": (events(published_ids=("e1", "e2", "e2")), "several events with one id (1): e2"),
    "an event has no position": (events(without_position=3), "events without a position: 3"),
    "a position is missing": (events(missing_positions=1), "positions missing in the outbox: 1"),
    "an event is a dead letter": (events(dead_letters=1), "dead letters: 1"),
    "the history lacks an entry": (
        history(entries=ENTRIES[:-1]),
        "entries of the ledger that are not in the history (1): cash/4",
    ),
    "the history has another entry": (
        history(entries=changed(ENTRIES, 0, amount=-99)),
        "entries in the history that the ledger does not have (1): cash/1",
    ),
    "the history lacks a transaction": (
        history(transactions=TRANSACTIONS[1:]),
        "transactions of the ledger that are not in the history (1): t1",
    ),
    "a statement lacks an entry": (
        lambda state: history(statements={**state.history.statements, "b": []})(state),
        "statement with other entries than the ledger (1): b",
    ),
}


def test_a_consistent_history_has_no_violations():
    assert consistent().violations() == []


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_seeded_violation_is_found(violation: str):
    change, expected = VIOLATIONS[violation]
    found = change(consistent()).violations()
    assert any(expected in line for line in found), found


def test_other_accounts_need_consistent_balances_only():
    others = {"a": [entry for entry in ENTRIES if entry.account == "a"]}
    state = history(statements=others)(
        replace(consistent(), operations=tuple(one for one in consistent().operations if one.key != "k11"))
    )
    assert state.violations() == [], "b has no statement here, so its operations are unknown"
    inconsistent = ledger(entries=lambda old: changed(old.entries, 3, seq=9))(state)
    assert "seq has gaps (1): b" in inconsistent.violations()
