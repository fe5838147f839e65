"""Decisions about groups: transactions, the legs, that are posted in order, all of them or none."""

from collections.abc import Iterator, Set
from dataclasses import replace
from datetime import datetime

from app.decisions import corrections
from app.decisions.transfers import transfer
from app.domain.commands import GroupResult, PostGroup, Refusal, Reverse, ReverseGroup, TransactionResult
from app.domain.model import MAX_CURRENCIES
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller

_NO_GROUP = Refusal("not-found", "Transaction group not found; check the id.")
_TOO_MANY_CURRENCIES = Refusal(
    "too-many-currencies",
    f"The legs of a group may have {MAX_CURRENCIES} currencies; post another group for the others.",
)


def post_group(unit: UnitOfWork, command: PostGroup, caller: Caller, now: datetime) -> GroupResult | Refusal:
    """Post each leg as a transfer after the ones before it."""
    currencies: set[str] = set()
    for index, leg in enumerate(command.legs):
        currencies.add(leg.currency)
        if len(currencies) > MAX_CURRENCIES:
            return replace(_TOO_MANY_CURRENCIES, leg=index)
    results = ((index, transfer(unit, leg, caller, now)) for index, leg in enumerate(command.legs))
    return _all_or_none(unit, command.id, command.references.accounts, results)


def reverse_group(unit: UnitOfWork, command: ReverseGroup, caller: Caller, now: datetime) -> GroupResult | Refusal:
    """Reverse what is left of each leg, the last one first: later legs may have spent the money of earlier ones."""
    # Ids sort in the order of the legs.
    legs = sorted((one for one in unit.reversible.values() if one.group_id == command.group_id), key=lambda leg: leg.id)
    visible = [corrections.may_see(unit, leg, caller) for leg in legs]
    if not any(visible):
        return _NO_GROUP
    if not all(visible):
        return Refusal("forbidden", "Only the recipient of all legs or an operator can reverse this group.")
    left = [(index, leg) for index, leg in enumerate(legs) if corrections.left_to_reverse(unit, leg)]
    if not left:
        return Refusal("already-reversed", "The whole group has already been reversed.")
    results = (
        (index, corrections.reverse(unit, _reversal(command, id_, leg.id), caller, now))
        for id_, (index, leg) in zip(command.ids, reversed(left))
    )
    account_ids = {id_ for leg in legs for id_ in (leg.from_account, leg.to_account)}
    return _all_or_none(unit, command.id, account_ids, results)


def _reversal(command: ReverseGroup, id_: str, transaction_id: str) -> Reverse:
    return Reverse(id_, transaction_id, command.reason, None, command.metadata, command.id)


def _all_or_none(
    unit: UnitOfWork, group_id: str, account_ids: Set[str], results: Iterator[tuple[int, TransactionResult | Refusal]]
) -> GroupResult | Refusal:
    """Decide the legs one by one, as `results` is read; undo them all after the first refusal, and return it."""
    savepoint, posted = unit.savepoint(account_ids), []
    # Of the legs before; only the refused one is published.
    events = len(unit.events)
    for index, result in results:
        if isinstance(result, Refusal):
            unit.roll_back(savepoint)
            del unit.events[:events]
            return replace(result, leg=index)
        posted.append(result)
        events = len(unit.events)
    return GroupResult(group_id, tuple(posted))
