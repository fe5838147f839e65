"""The fault drill's checker finds every kind of seeded violation, and none in a consistent history."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from drills.chaos.fault_history import (
    DONE,
    REFUSED,
    UNKNOWN,
    Account,
    ClientOperation,
    Entry,
    Events,
    Hold,
    Ledger,
    HistoryView,
    Transaction,
    findings,
)
from drills.chaos.fault_plan import KINDS, make_plan

One = TypeVar("One")


@dataclass(frozen=True)
class World:
    """Everything that the checker looks at."""

    asked: tuple[ClientOperation, ...]
    ledger: Ledger
    events: Events
    told: HistoryView

    def findings(self) -> list[str]:
        """Return what the checker finds."""
        return findings(self.asked, self.ledger, self.events, self.told)


TRANSACTIONS = (
    Transaction("t1", "deposit", 100, "cash", "a", "k1"),
    Transaction("t2", "transfer", 30, "a", "b", "k2"),
    Transaction("t3", "transfer", 5, "a", "b", "k5"),
    Transaction("t4", "reversal", 30, "b", "a", "k6", "t2"),
    Transaction("t5", "capture", 8, "a", "cash"),
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
    Entry("a", 6, "t6", -2, 85),
    Entry("cash", 3, "t6", 2, -90),
)


def sound() -> World:
    """A short history in which everything is right, with every kind of operation and every kind of outcome."""
    holds = (Hold("h1", "a", 10, 8, "captured", "t5"), Hold("h2", "a", 7, 0, "active"), Hold("h3", "b", 3, 0, "voided"))
    return World(
        (
            ClientOperation("k1", "deposit", 100, "", "a", "", DONE, ("t1",)),
            ClientOperation("k2", "transfer", 30, "a", "b", "", DONE, ("t2", "t2")),
            ClientOperation("k3", "transfer", 10**9, "a", "b", "", REFUSED, ("insufficient-funds",)),
            # Nobody knows of these two; one was posted, the other was not.
            ClientOperation("k4", "transfer", 9, "a", "b", "", UNKNOWN),
            ClientOperation("k5", "transfer", 5, "a", "b", "", UNKNOWN),
            ClientOperation("k6", "reversal", 30, about="t2", outcome=DONE, answers=("t4",)),
            ClientOperation("k7", "hold", 10, "a", "", "", DONE, ("h1",)),
            ClientOperation("k8", "capture", 8, about="h1", outcome=DONE, answers=("t5",)),
            ClientOperation("k9", "withdrawal", 2, "a", "", "", DONE, ("t6",)),
            ClientOperation("k10", "hold", 7, "a", "", "", UNKNOWN),
            ClientOperation("k11", "hold", 3, "b", "", "", DONE, ("h3",)),
            ClientOperation("k12", "void", 3, about="h3", outcome=UNKNOWN),
        ),
        Ledger(
            (
                Account("cash", "USD", True, -90, 0, 3),
                Account("a", "USD", False, 85, 7, 6),
                Account("b", "USD", False, 5, 0, 3),
            ),
            TRANSACTIONS,
            ENTRIES,
            holds,
        ),
        Events(
            tuple(reversed(ENTRIES)),
            (("h1", "active"), ("h1", "captured"), ("h2", "active"), ("h3", "active"), ("h3", "voided")),
            ("e1", "e2"),
            ("e2", "e1"),
        ),
        HistoryView(
            TRANSACTIONS,
            ENTRIES,
            {account: [one for one in ENTRIES if one.account == account] for account in ("a", "b")},
        ),
    )


def put(items: Sequence[One], number: int, **changes: object) -> tuple[One, ...]:
    """Return the items with one changed."""
    return tuple(
        replace(one, **changes) if index == number else one for index, one in enumerate(items)  # type: ignore[type-var]
    )


def without(items: Sequence[One], number: int) -> tuple[One, ...]:
    """Return the items with one left out."""
    return tuple(one for index, one in enumerate(items) if index != number)


def asked(number: int, **changes: object) -> Callable[[World], World]:
    """Change what a client asked for or was told."""
    return lambda world: replace(world, asked=put(world.asked, number, **changes))


def ledger(**changes: Callable[[Ledger], object]) -> Callable[[World], World]:
    """Change the ledger."""
    return lambda world: replace(
        world, ledger=replace(world.ledger, **{name: make(world.ledger) for name, make in changes.items()})
    )


def events(**changes: object) -> Callable[[World], World]:
    """Change the events."""
    return lambda world: replace(world, events=replace(world.events, **changes))


def told(**changes: object) -> Callable[[World], World]:
    """Change history or statements."""
    return lambda world: replace(world, told=replace(world.told, **changes))


def doubled(world: World) -> World:
    """Post the first transfer once more, with books that are in order."""
    again = replace(TRANSACTIONS[1], id="t7")
    entries = (*ENTRIES, Entry("a", 7, "t7", -30, 55), Entry("b", 4, "t7", 30, 35))
    return everywhere(world, (*TRANSACTIONS, again), entries, {"a": (55, 7), "b": (35, 4)})


def posted_though_refused(world: World) -> World:
    """Post what was refused, with books that are in order."""
    new = Transaction("t7", "transfer", 1, "a", "b", "k3")
    entries = (*ENTRIES, Entry("a", 7, "t7", -1, 84), Entry("b", 4, "t7", 1, 6))
    return everywhere(world, (*TRANSACTIONS, new), entries, {"a": (84, 7), "b": (6, 4)})


def lost(world: World) -> World:
    """Leave out the last transaction everywhere, though it was acknowledged."""
    return everywhere(world, TRANSACTIONS[:-1], ENTRIES[:-2], {"a": (87, 5), "cash": (-92, 2)})


def everywhere(
    world: World, transactions: Sequence[Transaction], entries: Sequence[Entry], balances: dict[str, tuple[int, int]]
) -> World:
    """Give ledger, events, history and statements the same transactions and entries."""
    accounts = [
        replace(one, balance=balances[one.id][0], seq=balances[one.id][1]) if one.id in balances else one
        for one in world.ledger.accounts
    ]
    statements = {account: [one for one in entries if one.account == account] for account in ("a", "b")}
    return World(
        world.asked,
        replace(world.ledger, accounts=accounts, transactions=transactions, entries=entries),
        replace(world.events, entries=entries),
        HistoryView(transactions, entries, statements),
    )


PLANTED: dict[str, tuple[Callable[[World], World], str]] = {
    "an acknowledged operation is lost": (lost, "acknowledged, but not in the ledger (1): k9"),
    "an acknowledged operation has another id": (asked(0, answers=("t9",)), "acknowledged, but not in the ledger"),
    "an operation is posted twice": (doubled, "posted more than once (1): k2"),
    "a refused operation is posted": (posted_though_refused, "refused, but posted (1): k3"),
    "a key gets two answers": (asked(1, answers=("t2", "t3")), "one key, different answers (1): k2"),
    "two keys share an effect": (asked(2, outcome=DONE, answers=("t2",)), "one effect for several keys (1): t2"),
    "another amount is posted": (asked(1, amount=31), "posted otherwise than asked for (1): k2"),
    "another account is debited": (asked(1, source="b"), "posted otherwise than asked for (1): k2"),
    "another transaction is reversed": (asked(5, about="t3"), "posted otherwise than asked for (1): k6"),
    "money moves that nobody asked for": (asked(4, key="k99"), "posted, but nobody asked for it (1): t3"),
    "a transaction is reversed twice": (
        ledger(transactions=lambda old: put(old.transactions, 2, reverses="t2")),
        "reversed more than once (1): t2",
    ),
    "an acknowledged hold is missing": (asked(6, answers=("h9",)), "there is no such hold (1): h9"),
    "a hold has another amount": (asked(10, amount=4), "a hold is not what was asked for (1): h3"),
    "an unacknowledged hold is placed twice": (
        ledger(holds=lambda old: (*old.holds, replace(old.holds[1], id="h4"))),
        "more holds than were asked for",
    ),
    "a refused hold is placed": (
        asked(9, outcome=REFUSED, answers=("insufficient-funds",)),
        "more holds than were asked for",
    ),
    "an acknowledged capture is lost": (
        ledger(holds=lambda old: put(old.holds, 0, status="active", transaction="")),
        "the end of a hold was acknowledged, but is not in the ledger (1): h1",
    ),
    "a hold is captured that nobody captured": (
        asked(7, outcome=REFUSED, answers=("hold-not-active",)),
        "a hold ended otherwise than asked for (1): h1",
    ),
    "more is captured than was asked for": (asked(7, amount=7), "a hold ended otherwise than asked for (1): h1"),
    "a hold ends twice": (
        lambda world: replace(
            world, asked=(*world.asked, ClientOperation("k13", "void", 10, about="h1", outcome=DONE, answers=("None",)))
        ),
        "two ends of one hold were acknowledged (1): h1",
    ),
    "a capture moves another amount than its hold says": (
        ledger(transactions=lambda old: put(old.transactions, 4, amount=9)),
        "a capture is not what its hold says (1): t5",
    ),
    "seq has a gap": (ledger(entries=lambda old: put(old.entries, 3, seq=9)), "seq has gaps (1): b"),
    "an account's seq is not its last entry's": (
        ledger(accounts=lambda old: put(old.accounts, 1, seq=7)),
        "seq has gaps (1): a",
    ),
    "the chain of balances is broken": (
        ledger(entries=lambda old: put(old.entries, 2, balance_after=71)),
        "balance_after is not the running sum (1): a",
    ),
    "a balance is wrong": (
        ledger(accounts=lambda old: put(old.accounts, 1, balance=86)),
        "a balance is not the sum of its entries (1): a",
    ),
    "money is made": (ledger(accounts=lambda old: put(old.accounts, 1, balance=86)), "balances do not sum to zero (1)"),
    "held money is wrong": (
        ledger(accounts=lambda old: put(old.accounts, 1, held=0)),
        "held is not the sum of the active holds (1): a",
    ),
    "a balance was negative": (
        ledger(entries=lambda old: put(old.entries, 3, balance_after=-30)),
        "a customer's balance was negative (1): b",
    ),
    "an entry has no other side": (
        ledger(entries=lambda old: without(old.entries, 11)),
        "entries are not the two sides of their transaction (1): t6",
    ),
    "an entry belongs to no transaction": (
        ledger(transactions=lambda old: without(old.transactions, 2)),
        "entries without a transaction (1): t3",
    ),
    "an event is missing": (
        events(entries=ENTRIES[1:]),
        "entries of the ledger that are not in the events (1): cash/1",
    ),
    "an event is told twice": (
        events(entries=(*ENTRIES, ENTRIES[0])),
        "entries that are more than once in the events (1): cash/1",
    ),
    "an event tells another balance": (
        events(entries=put(ENTRIES, 0, balance_after=1)),
        "entries in the events that the ledger does not have (1): cash/1",
    ),
    "a hold's event is missing": (events(holds=()), "changes of holds without an event (5)"),
    "a hold's event is told twice": (
        lambda world: events(holds=(*world.events.holds, ("h1", "captured")))(world),
        "events about changes of holds that were not (1)",
    ),
    "an event never arrived": (events(seen=("e1",)), "events that never arrived (1): e2"),
    "an event arrived that was not sent": (events(seen=("e1", "e2", "e3")), "nobody sent (1): e3"),
    "two events have one id": (events(ids=("e1", "e2", "e2")), "two events have one id (1): e2"),
    "an event waits for its position": (events(waiting=3), "events still wait for a position: 3"),
    "a position is missing": (events(gaps=1), "positions of the outbox are missing: 1"),
    "an event is a dead letter": (events(dead_letters=1), "events were dead-lettered: 1"),
    "the history lacks an entry": (
        told(entries=ENTRIES[:-1]),
        "entries of the ledger that are not in the history (1): cash/3",
    ),
    "the history has another entry": (
        told(entries=put(ENTRIES, 0, amount=-99)),
        "entries in the history that the ledger does not have (1): cash/1",
    ),
    "the history lacks a transaction": (
        told(transactions=TRANSACTIONS[1:]),
        "transactions of the ledger that are not in the history (1): t1",
    ),
    "a statement lacks an entry": (
        lambda world: told(statements={**world.told.statements, "b": []})(world),
        "statements that are not the account's entries (1): b",
    ),
}


def test_a_consistent_history_has_no_violations():
    assert sound().findings() == []


@pytest.mark.parametrize("violation", PLANTED)
def test_a_seeded_violation_is_found(violation: str):
    plant, finding = PLANTED[violation]
    found = plant(sound()).findings()
    assert any(finding in line for line in found), found


def test_other_accounts_need_consistent_balances_only():
    others = {"a": [one for one in ENTRIES if one.account == "a"]}
    world = told(statements=others)(replace(sound(), asked=tuple(one for one in sound().asked if one.key != "k11")))
    assert world.findings() == [], "b has no statement here: nobody knows what was asked of it"
    unsound = ledger(entries=lambda old: put(old.entries, 3, seq=9))(world)
    assert "seq has gaps (1): b" in unsound.findings()


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    plan, again, other = (make_plan(seed, 50, 1000, list(KINDS)) for seed in (7, 7, 8))
    assert plan == again and plan.digest == again.digest
    assert plan.faults != other.faults and plan.operations != other.operations


def test_a_plan_has_the_requested_size():
    plan = make_plan(1, 60, 1001, list(KINDS))
    assert (len(plan.faults), plan.transfers) == (60, 1001)
    assert {fault.kind for fault in plan.faults} == set(KINDS)
    assert {one.kind for client in plan.operations for one in client} > {"transfer", "batch", "hold", "reversal"}
    assert not plan.faults[-1].overlaps, "the last one would never be healed"
    for first, second in zip(plan.faults, plan.faults[1:]):
        if first.overlaps:
            assert not {first.target, first.peer} & {second.target, second.peer} - {""}


def test_unavailable_kinds_of_faults_are_not_planned():
    assert {fault.kind for fault in make_plan(1, 40, 10, ["kill", "freeze"]).faults} == {"kill", "freeze"}
