"""The history checker: compares the clients' responses with ledger, events, history and statements.

Pure functions on plain data, without clock, network or database; `find_violations` is the entry point. An operation is
identified by its idempotency key, which clients also send as the reference. Captures and holds have no reference: a
capture is identified by its hold, an unacknowledged hold by its account and amount.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

# Outcome of an operation according to its responses; unknown if there was no final response.
ACKNOWLEDGED, REFUSED, UNKNOWN = "acknowledged", "refused", "unknown"
# A partial capture leaves the rest of the hold reserved; a capture and a void end the hold.
CAPTURE_KINDS = ("capture", "partial-capture")
_HOLD_KINDS = ("hold", *CAPTURE_KINDS, "void")
_MAX_EXAMPLES = 5
_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a client, and its outcome.

    `refers_to` is the hold of a capture or void, or the transaction of a reversal. `results` are those of all
    final responses to this key: the id of the created object, or the problem code.
    """

    key: str
    kind: str
    amount: int
    source: str = ""
    target: str = ""
    refers_to: str = ""
    outcome: str = UNKNOWN
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction in the ledger or the history."""

    id: str
    type: str
    amount: int
    source: str
    target: str
    reference: str = ""
    reverses: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transaction."""

    account: str
    seq: int
    transaction: str
    amount: int
    balance_after: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account in the ledger; `cash` accounts may go below zero."""

    id: str
    currency: str
    cash: bool
    balance: int
    held: int
    seq: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold in the ledger; `captures` are the transactions of its captures."""

    id: str
    account: str
    amount: int
    captured: int
    status: str
    captures: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """The amount that is still reserved."""
        return self.amount - self.captured if self.status == "active" else 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The state of account-service."""

    accounts: Sequence[Account]
    transactions: Sequence[Transaction]
    entries: Sequence[Entry]
    holds: Sequence[Hold]


@dataclass(frozen=True, slots=True)
class Events:
    """The published events: entries and holds (id, status), in any order.

    `published_ids` are the ids of all events of both services, `consumed_ids` those that the other one has consumed,
    `without_position` is the number of outbox rows without a position, `missing_positions` the number of gaps.
    """

    entries: Sequence[Entry]
    holds: Sequence[tuple[str, str]]
    published_ids: Sequence[str]
    consumed_ids: Sequence[str]
    without_position: int = 0
    missing_positions: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class HistoryView:
    """The state of transaction-service: its history, and each customer account's statement."""

    transactions: Sequence[Transaction]
    entries: Sequence[Entry]
    statements: Mapping[str, Sequence[Entry]]


def find_violations(operations: Sequence[Operation], ledger: Ledger, events: Events, history: HistoryView) -> list[str]:
    """Return a line for each kind of violation, with examples.

    The clients' accounts are those with a statement. Other accounts may exist: their balances must be consistent, but
    their operations are unknown.
    """
    customers = history.statements.keys()
    return [
        *_check_responses(operations),
        *_check_transactions(operations, ledger, customers),
        *_check_holds(operations, ledger, customers),
        *_check_accounts(ledger),
        *_check_double_entry(ledger),
        *_check_same("the events", ledger.entries, events.entries, once=True),
        *_check_hold_events(ledger, events),
        *_check_delivery(events),
        *_check_same("the history", ledger.entries, history.entries),
        *_check_same("the history", ledger.transactions, history.transactions),
        *_check_statements(ledger, history),
    ]


def _violation(meaning: str, examples: Iterable[object]) -> Iterator[str]:
    """Yield one line that lists all examples of a violation; nothing if there are none."""
    found = [str(example) for example in examples]
    if found:
        more = f" and {len(found) - _MAX_EXAMPLES} more" if len(found) > _MAX_EXAMPLES else ""
        yield f"{meaning} ({len(found)}): {', '.join(found[:_MAX_EXAMPLES])}{more}"


def _repeated(values: Iterable[_T]) -> Iterator[_T]:
    return (value for value, count in Counter(values).items() if count > 1)


def _check_responses(operations: Sequence[Operation]) -> Iterator[str]:
    """Check that a key always got the same result, and that no two keys have the same result."""
    yield from _violation("one key, different results", (one.key for one in operations if len(set(one.results)) > 1))
    created = (one.results[0] for one in operations if one.outcome == ACKNOWLEDGED and one.kind != "void")
    yield from _violation("several keys, one result", _repeated(created))
    yield from _violation("a key was used twice", _repeated(one.key for one in operations))


def _check_transactions(operations: Sequence[Operation], ledger: Ledger, customers: Set[str]) -> Iterator[str]:
    """Check transactions with a reference: acknowledged exactly once, refused never, unknown at most once."""
    by_reference: dict[str, list[Transaction]] = defaultdict(list)
    for transaction in ledger.transactions:
        if transaction.type != "capture" and customers & {transaction.source, transaction.target}:
            by_reference[transaction.reference].append(transaction)
    lost, duplicated, refused, different = [], [], [], []
    for operation in operations:
        if operation.kind in _HOLD_KINDS:
            continue
        posted = by_reference.pop(operation.key, [])
        if len(posted) > 1:
            duplicated.append(operation.key)
        if operation.outcome == REFUSED and posted:
            refused.append(operation.key)
        if operation.outcome == ACKNOWLEDGED and operation.results[0] not in [one.id for one in posted]:
            lost.append(operation.key)
        if not all(_matches(operation, transaction) for transaction in posted):
            different.append(operation.key)
    unrequested = (transaction.id for transactions in by_reference.values() for transaction in transactions)
    yield from _violation("acknowledged, but not in the ledger", lost)
    yield from _violation("posted more than once", duplicated)
    yield from _violation("refused, but posted", refused)
    yield from _violation("posted with other accounts or another amount than requested", different)
    yield from _violation("posted, but not requested", unrequested)
    left = Counter({transaction.id: transaction.amount for transaction in ledger.transactions})
    for transaction in ledger.transactions:
        left[transaction.reverses] -= transaction.amount if transaction.reverses else 0
    yield from _violation("reversals exceed the transaction", (id_ for id_, amount in left.items() if amount < 0))


def _matches(operation: Operation, posted: Transaction) -> bool:
    if (posted.type, posted.amount) != (operation.kind, operation.amount):
        return False
    if operation.kind == "reversal":
        return posted.reverses == operation.refers_to
    # The counterparty of deposits and withdrawals is the cash account.
    return operation.source in ("", posted.source) and operation.target in ("", posted.target)


def _check_holds(operations: Sequence[Operation], ledger: Ledger, customers: Set[str]) -> Iterator[str]:
    """Check holds, captures and voids."""
    holds = {hold.id: hold for hold in ledger.holds if hold.account in customers}
    requested = [one for one in operations if one.kind == "hold"]
    acknowledged = {one.results[0]: one for one in requested if one.outcome == ACKNOWLEDGED}
    yield from _violation("hold acknowledged, but not in the ledger", acknowledged.keys() - holds.keys())
    different = (
        hold_id
        for hold_id, one in acknowledged.items()
        if hold_id in holds and (holds[hold_id].account, holds[hold_id].amount) != (one.source, one.amount)
    )
    yield from _violation("hold with another account or amount than requested", different)
    # Of the holds that were not acknowledged, there are at most as many as requests with an unknown outcome.
    extra = Counter((hold.account, hold.amount) for hold in holds.values() if hold.id not in acknowledged)
    extra.subtract((one.source, one.amount) for one in requested if one.outcome == UNKNOWN)
    yield from _violation("more holds than requested", (hold for hold, count in extra.items() if count > 0))
    yield from _check_ended_holds(operations, holds)
    yield from _check_requested_captures(operations, ledger, holds)
    yield from _check_captures(ledger)


def _check_ended_holds(operations: Sequence[Operation], holds: Mapping[str, Hold]) -> Iterator[str]:
    """Check that each hold was ended only as requested, and as acknowledged."""
    acknowledged: dict[str, str] = {}
    requested: dict[str, set[str]] = defaultdict(set)
    ended_twice = []
    for operation in operations:
        if operation.kind not in ("capture", "void") or operation.outcome == REFUSED:
            continue
        status = "captured" if operation.kind == "capture" else "voided"
        requested[operation.refers_to].add(status)
        if operation.outcome == ACKNOWLEDGED:
            if operation.refers_to in acknowledged:
                ended_twice.append(operation.refers_to)
            acknowledged[operation.refers_to] = status
    yield from _violation("two captures or voids of one hold acknowledged", ended_twice)
    lost = (hold_id for hold_id, status in acknowledged.items() if hold_id in holds and holds[hold_id].status != status)
    yield from _violation("capture or void acknowledged, but not in the ledger", lost)
    unrequested = (
        hold.id
        for hold in holds.values()
        if hold.status != "active" and hold.status not in requested[hold.id]
        # The last of several partial captures ends the hold as well.
        and (hold.status, hold.captured) != ("captured", hold.amount)
    )
    yield from _violation("hold captured or voided otherwise than requested", unrequested)


def _check_requested_captures(
    operations: Sequence[Operation], ledger: Ledger, holds: Mapping[str, Hold]
) -> Iterator[str]:
    """Check that acknowledged captures are those of their holds, and that there are no more than requested."""
    amounts = {transaction.id: transaction.amount for transaction in ledger.transactions}
    captures = [operation for operation in operations if operation.kind in CAPTURE_KINDS]
    lost = []
    for operation in captures:
        if operation.outcome == ACKNOWLEDGED and operation.refers_to in holds:
            id_ = operation.results[0]
            if id_ not in holds[operation.refers_to].captures or amounts.get(id_) != operation.amount:
                lost.append(operation.key)
    yield from _violation("capture acknowledged, but not of this hold and amount", lost)
    acknowledged = {operation.results[0] for operation in captures if operation.outcome == ACKNOWLEDGED}
    extra = Counter(
        (hold.id, amounts.get(id_, 0)) for hold in holds.values() for id_ in hold.captures if id_ not in acknowledged
    )
    extra.subtract((operation.refers_to, operation.amount) for operation in captures if operation.outcome == UNKNOWN)
    yield from _violation("more captures than requested", (hold for (hold, _), count in extra.items() if count > 0))


def _check_captures(ledger: Ledger) -> Iterator[str]:
    """Check that captures and their holds correspond."""
    captures = {transaction.id: transaction for transaction in ledger.transactions if transaction.type == "capture"}
    of_holds = [id_ for hold in ledger.holds for id_ in hold.captures]
    yield from _violation(
        "capture without a hold, or of a hold without the transaction", captures.keys() ^ set(of_holds)
    )
    yield from _violation("capture of several holds", _repeated(of_holds))
    different = (
        hold.id
        for hold in ledger.holds
        if hold.captured > hold.amount
        or hold.captured != sum(captures[id_].amount for id_ in hold.captures if id_ in captures)
        or any(captures[id_].source != hold.account for id_ in hold.captures if id_ in captures)
    )
    yield from _violation("captures with another account or sum than their hold", different)


def _check_accounts(ledger: Ledger) -> Iterator[str]:
    """Check each account: seq without gaps, balance after each entry, held amount."""
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in ledger.entries:
        entries[entry.account].append(entry)
    held: Counter[str] = Counter()
    for hold in ledger.holds:
        held[hold.account] += hold.held
    gaps, wrong_balances_after, wrong_balances, negative, wrong_held = [], [], [], [], []
    for account in ledger.accounts:
        own = sorted(entries.pop(account.id, []), key=lambda entry: entry.seq)
        if [entry.seq for entry in own] != list(range(1, len(own) + 1)) or account.seq != len(own):
            gaps.append(account.id)
        balances = list(accumulate(entry.amount for entry in own))
        if [entry.balance_after for entry in own] != balances:
            wrong_balances_after.append(account.id)
        if account.balance != (balances[-1] if balances else 0):
            wrong_balances.append(account.id)
        if not account.cash and any(entry.balance_after < 0 for entry in own):
            negative.append(account.id)
        if account.held != held[account.id] or (not account.cash and account.held > account.balance):
            wrong_held.append(account.id)
    yield from _violation("seq has gaps", gaps)
    yield from _violation("balance_after is not the running sum", wrong_balances_after)
    yield from _violation("balance is not the sum of the entries", wrong_balances)
    yield from _violation("a customer's balance was negative", negative)
    yield from _violation("held is not the sum of the active holds", wrong_held)
    yield from _violation("entries of an unknown account", entries)


def _check_double_entry(ledger: Ledger) -> Iterator[str]:
    """Check that balances sum to zero, and that each transaction has its two entries."""
    totals: Counter[str] = Counter()
    for account in ledger.accounts:
        totals[account.currency] += account.balance
    yield from _violation("balances do not sum to zero", (currency for currency, total in totals.items() if total))
    entries: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in ledger.entries:
        entries[entry.transaction].append((entry.account, entry.amount))
    wrong = []
    for one in ledger.transactions:
        if sorted(entries.pop(one.id, [])) != sorted([(one.source, -one.amount), (one.target, one.amount)]):
            wrong.append(one.id)
    yield from _violation("transaction without exactly its two entries", wrong)
    yield from _violation("entries without a transaction", entries)


def _check_same(
    where: str, ledger: Sequence[Entry | Transaction], copy: Sequence[Entry | Transaction], once: bool = False
) -> Iterator[str]:
    """Check that a copy has the same items as the ledger; with `once`, the copy must not have duplicates."""
    kind = "entries" if ledger and isinstance(ledger[0], Entry) else "transactions"
    expected, found = set(ledger), set(copy)
    yield from _violation(f"{kind} of the ledger that are not in {where}", map(_name, expected - found))
    yield from _violation(f"{kind} in {where} that the ledger does not have", map(_name, found - expected))
    if once:
        yield from _violation(f"{kind} that are more than once in {where}", map(_name, _repeated(copy)))


def _name(one: Entry | Transaction) -> str:
    return f"{one.account}/{one.seq}" if isinstance(one, Entry) else one.id


def _check_hold_events(ledger: Ledger, events: Events) -> Iterator[str]:
    expected: Counter[tuple[str, str]] = Counter()
    for hold in ledger.holds:
        # Placed and, for each capture that did not end it, captured in part.
        expected[hold.id, "active"] = 1 + len(hold.captures) - (hold.status == "captured")
        if hold.status != "active":
            expected[hold.id, hold.status] = 1
    found = Counter(events.holds)
    yield from _violation("hold changed, but there is no event", (expected - found).elements())
    yield from _violation("event about a hold that did not change", (found - expected).elements())


def _check_delivery(events: Events) -> Iterator[str]:
    """Check that every event was published and consumed."""
    yield from _violation("several events with one id", _repeated(events.published_ids))
    yield from _violation("events not consumed", set(events.published_ids) - set(events.consumed_ids))
    yield from _violation("events consumed, but not published", set(events.consumed_ids) - set(events.published_ids))
    for meaning, count in (
        ("events without a position", events.without_position),
        ("positions missing in the outbox", events.missing_positions),
        ("dead letters", events.dead_letters),
    ):
        if count:
            yield f"{meaning}: {count}"


def _check_statements(ledger: Ledger, history: HistoryView) -> Iterator[str]:
    """Check that each statement has the account's entries in order."""
    expected: dict[str, list[Entry]] = {account: [] for account in history.statements}
    for entry in sorted(ledger.entries, key=lambda entry: entry.seq):
        if entry.account in expected:
            expected[entry.account].append(entry)
    different = (account for account, entries in expected.items() if list(history.statements[account]) != entries)
    yield from _violation("statement with other entries than the ledger", different)
