"""The history checker: the clients' responses against the ledger, the history, the statements and the events.

Plain functions on plain data, without clock, network or database; `findings` is the entry point. An operation is
identified by its key, which clients also use as the reference. Captures and holds have no reference: a capture is
identified by its hold, an unacknowledged hold by its account and amount.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

# The outcome for the client: acknowledged, refused with a final response, or unknown.
DONE, REFUSED, UNKNOWN = "done", "refused", "unknown"
_HOLDS = ("hold", "capture", "void")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ClientOperation:
    """One requested effect with its key and all final responses.

    `about` is the hold of a capture or void, the transaction of a reversal. An answer is the id of the created object
    or the problem code; there are several after retries.
    """

    key: str
    kind: str
    amount: int
    source: str = ""
    target: str = ""
    about: str = ""
    outcome: str = UNKNOWN
    answers: tuple[str, ...] = ()


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
    """A hold in the ledger; `transaction` is its capture."""

    id: str
    account: str
    amount: int
    captured: int
    status: str
    transaction: str = ""


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

    `ids` are the ids of all events of both services, `seen` those that the other one has consumed; `waiting` is
    the number of outbox rows without a position, `gaps` the number of missing positions.
    """

    entries: Sequence[Entry]
    holds: Sequence[tuple[str, str]]
    ids: Sequence[str]
    seen: Sequence[str]
    waiting: int = 0
    gaps: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class HistoryView:
    """The state of transaction-service: its history, and each customer account's statement."""

    transactions: Sequence[Transaction]
    entries: Sequence[Entry]
    statements: Mapping[str, Sequence[Entry]]


def findings(asked: Sequence[ClientOperation], ledger: Ledger, events: Events, told: HistoryView) -> list[str]:
    """Return a line for every violation.

    The clients' accounts are those with a statement. Other accounts may exist: their balances must be consistent, but
    their operations are unknown.
    """
    ours = told.statements.keys()
    return [
        *_answers(asked),
        *_operations(asked, ledger, ours),
        *_holds(asked, ledger, ours),
        *_accounts(ledger),
        *_sums(ledger),
        *_same("the events", ledger.entries, events.entries, once=True),
        *_hold_events(ledger, events),
        *_delivery(events),
        *_same("the history", ledger.entries, told.entries),
        *_same("the history", ledger.transactions, told.transactions),
        *_statements(ledger, told),
    ]


def _listed(meaning: str, examples: Iterable[object]) -> Iterator[str]:
    """Yield one line for all examples of one violation."""
    found = [str(example) for example in examples]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield f"{meaning} ({len(found)}): {', '.join(found[:_SHOWN])}{more}"


def _answers(asked: Sequence[ClientOperation]) -> Iterator[str]:
    """Check that a key always got the same response, and that no two keys share an effect."""
    yield from _listed("one key, different answers", (one.key for one in asked if len(set(one.answers)) > 1))
    made = Counter(one.answers[0] for one in asked if one.outcome == DONE and one.kind not in ("capture", "void"))
    yield from _listed("one effect for several keys", (effect for effect, count in made.items() if count > 1))
    yield from _listed("a key was used twice", (key for key, n in Counter(one.key for one in asked).items() if n > 1))


def _operations(asked: Sequence[ClientOperation], ledger: Ledger, ours: Set[str]) -> Iterator[str]:
    """Check operations with a reference: acknowledged ones once, refused ones never, unknown ones at most once."""
    by_reference: dict[str, list[Transaction]] = defaultdict(list)
    for transaction in ledger.transactions:
        if transaction.type != "capture" and ours & {transaction.source, transaction.target}:
            by_reference[transaction.reference].append(transaction)
    lost, doubled, refused, different = [], [], [], []
    for one in asked:
        if one.kind in _HOLDS:
            continue
        posted = by_reference.pop(one.key, [])
        if len(posted) > 1:
            doubled.append(one.key)
        if one.outcome == REFUSED and posted:
            refused.append(one.key)
        if one.outcome == DONE and one.answers[0] not in [transaction.id for transaction in posted]:
            lost.append(one.key)
        if posted and not all(_is_what_was_asked(one, transaction) for transaction in posted):
            different.append(one.key)
    yield from _listed("acknowledged, but not in the ledger", lost)
    yield from _listed("posted more than once", doubled)
    yield from _listed("refused, but posted", refused)
    yield from _listed("posted otherwise than asked for", different)
    yield from _listed("posted, but nobody asked for it", (one.id for some in by_reference.values() for one in some))
    reversed_ids = Counter(one.reverses for one in ledger.transactions if one.reverses)
    yield from _listed("reversed more than once", (original for original, n in reversed_ids.items() if n > 1))


def _is_what_was_asked(one: ClientOperation, posted: Transaction) -> bool:
    if (posted.type, posted.amount) != (one.kind, one.amount):
        return False
    if one.kind == "reversal":
        return posted.reverses == one.about
    # The other side of deposits and withdrawals is the bank's own account.
    source, target = posted.source, posted.target
    return (one.source in ("", source)) and (one.target in ("", target))


def _holds(asked: Sequence[ClientOperation], ledger: Ledger, ours: Set[str]) -> Iterator[str]:
    """Check holds, captures and voids."""
    holds = {hold.id: hold for hold in ledger.holds if hold.account in ours}
    placed = [one for one in asked if one.kind == "hold"]
    known = {one.answers[0]: one for one in placed if one.outcome == DONE}
    yield from _listed("acknowledged, but there is no such hold", known.keys() - holds.keys())
    wrong = (
        hold_id
        for hold_id, one in known.items()
        if hold_id in holds and (holds[hold_id].account, holds[hold_id].amount) != (one.source, one.amount)
    )
    yield from _listed("a hold is not what was asked for", wrong)
    # Holds without an acknowledgement: at most as many as there are unknown operations.
    extra = Counter((hold.account, hold.amount) for hold in holds.values() if hold.id not in known)
    extra.subtract((one.source, one.amount) for one in placed if one.outcome == UNKNOWN)
    yield from _listed("more holds than were asked for", (what for what, count in extra.items() if count > 0))
    yield from _ends_of_holds(asked, holds)
    yield from _captures(ledger)


def _ends_of_holds(asked: Sequence[ClientOperation], holds: Mapping[str, Hold]) -> Iterator[str]:
    """Check that each hold ended by an operation that was sent, and as acknowledged."""
    done: dict[str, str] = {}
    possible: dict[str, set[str]] = defaultdict(set)
    amounts: dict[str, set[int]] = defaultdict(set)
    exact: dict[str, int] = {}
    twice = []
    for one in asked:
        if one.kind not in ("capture", "void") or one.outcome == REFUSED:
            continue
        status = "captured" if one.kind == "capture" else "voided"
        possible[one.about].add(status)
        if one.kind == "capture":
            amounts[one.about].add(one.amount)
        if one.outcome == DONE:
            exact[one.about] = one.amount
            if one.about in done:
                twice.append(one.about)
            done[one.about] = status
    yield from _listed("two ends of one hold were acknowledged", twice)
    lost = (hold_id for hold_id, status in done.items() if hold_id in holds and holds[hold_id].status != status)
    yield from _listed("the end of a hold was acknowledged, but is not in the ledger", lost)
    unasked = (
        hold.id
        for hold in holds.values()
        if hold.status != "active"
        and (
            hold.status not in possible[hold.id]
            or (hold.status == "captured" and hold.captured not in amounts[hold.id])
            or (hold.status == "captured" and hold.captured != exact.get(hold.id, hold.captured))
        )
    )
    yield from _listed("a hold ended otherwise than asked for", unasked)


def _captures(ledger: Ledger) -> Iterator[str]:
    """Check that captures and captured holds are the same."""
    captures = {one.id: one for one in ledger.transactions if one.type == "capture"}
    of_holds = {hold.transaction: hold for hold in ledger.holds if hold.status == "captured"}
    yield from _listed("captures without a hold, or holds without their capture", captures.keys() ^ of_holds.keys())
    differ = (
        id_
        for id_ in captures.keys() & of_holds.keys()
        if (captures[id_].source, captures[id_].amount) != (of_holds[id_].account, of_holds[id_].captured)
    )
    yield from _listed("a capture is not what its hold says", differ)


def _accounts(ledger: Ledger) -> Iterator[str]:
    """Check each account: seq without gaps, balances after each entry, held amount."""
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in ledger.entries:
        entries[entry.account].append(entry)
    held: Counter[str] = Counter()
    for hold in ledger.holds:
        held[hold.account] += hold.amount if hold.status == "active" else 0
    gaps, chains, balances, negative, reserved = [], [], [], [], []
    for account in ledger.accounts:
        own = sorted(entries.pop(account.id, []), key=lambda entry: entry.seq)
        if [entry.seq for entry in own] != list(range(1, len(own) + 1)) or account.seq != len(own):
            gaps.append(account.id)
        balance = 0
        for entry in own:
            balance += entry.amount
            if entry.balance_after != balance:
                chains.append(account.id)
                break
        if account.balance != sum(entry.amount for entry in own):
            balances.append(account.id)
        if not account.cash and any(entry.balance_after < 0 for entry in own):
            negative.append(account.id)
        if account.held != held[account.id] or (not account.cash and account.held > account.balance):
            reserved.append(account.id)
    yield from _listed("seq has gaps", gaps)
    yield from _listed("balance_after is not the running sum", chains)
    yield from _listed("a balance is not the sum of its entries", balances)
    yield from _listed("a customer's balance was negative", negative)
    yield from _listed("held is not the sum of the active holds", reserved)
    yield from _listed("entries of an unknown account", entries)


def _sums(ledger: Ledger) -> Iterator[str]:
    """Check that balances sum to zero, and that each transaction has its two entries."""
    currencies: Counter[str] = Counter()
    for account in ledger.accounts:
        currencies[account.currency] += account.balance
    yield from _listed("balances do not sum to zero", (one for one, total in currencies.items() if total))
    sides: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in ledger.entries:
        sides[entry.transaction].append((entry.account, entry.amount))
    wrong = []
    for one in ledger.transactions:
        if sorted(sides.pop(one.id, [])) != sorted([(one.source, -one.amount), (one.target, one.amount)]):
            wrong.append(one.id)
    yield from _listed("entries are not the two sides of their transaction", wrong)
    yield from _listed("entries without a transaction", sides)


def _same(
    where: str, ours: Sequence[Entry | Transaction], theirs: Sequence[Entry | Transaction], once: bool = False
) -> Iterator[str]:
    """Check that both have the same items; with `once`, theirs must not have duplicates."""
    kind = "entries" if ours and isinstance(ours[0], Entry) else "transactions"
    mine, yours = set(ours), set(theirs)
    yield from _listed(f"{kind} of the ledger that are not in {where}", (_name(one) for one in mine - yours))
    yield from _listed(f"{kind} in {where} that the ledger does not have", (_name(one) for one in yours - mine))
    if once:
        doubled = (_name(one) for one, count in Counter(theirs).items() if count > 1)
        yield from _listed(f"{kind} that are more than once in {where}", doubled)


def _name(one: Entry | Transaction) -> str:
    return f"{one.account}/{one.seq}" if isinstance(one, Entry) else one.id


def _hold_events(ledger: Ledger, events: Events) -> Iterator[str]:
    expected = Counter((hold.id, status) for hold in ledger.holds for status in dict.fromkeys(("active", hold.status)))
    found = Counter(events.holds)
    yield from _listed("changes of holds without an event", (expected - found).elements())
    yield from _listed("events about changes of holds that were not", (found - expected).elements())


def _delivery(events: Events) -> Iterator[str]:
    """Check that every event was published and consumed."""
    yield from _listed("two events have one id", (one for one, count in Counter(events.ids).items() if count > 1))
    yield from _listed("events that never arrived", set(events.ids) - set(events.seen))
    yield from _listed("events that arrived, but nobody sent", set(events.seen) - set(events.ids))
    for meaning, count in (
        ("events still wait for a position", events.waiting),
        ("positions of the outbox are missing", events.gaps),
        ("events were dead-lettered", events.dead_letters),
    ):
        if count:
            yield f"{meaning}: {count}"


def _statements(ledger: Ledger, told: HistoryView) -> Iterator[str]:
    """Check that each statement has the account's entries in order."""
    own: dict[str, list[Entry]] = {account: [] for account in told.statements}
    for entry in sorted(ledger.entries, key=lambda entry: entry.seq):
        if entry.account in own:
            own[entry.account].append(entry)
    wrong = (account for account, entries in own.items() if list(told.statements[account]) != entries)
    yield from _listed("statements that are not the account's entries", wrong)
