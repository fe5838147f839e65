"""Stateful property test: every operation on a real database is compared with a simple model."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.queries import Queries
from app.application.requests import LedgerResponse, TransferBatch
from app.domain.commands import CaptureHold, Deposit, ExtendHold, PlaceHold, PostGroup, ReleaseHold, Reverse
from app.domain.commands import ReverseGroup, SetLimits, SetStatus, Transfer
from app.domain.model import MAX_BLOCKING_HOLDS
from app.models import metadata
from app.service import AccountService
from shared.http.auth import Caller
from shared.db.database import create_engine
from shared.ids import new_id
from shared.testing.fixtures import SEARCH_FACTOR, Lab, create_tables, examples
from tests.support import (
    ALICE,
    OPERATOR_CALLER,
    assert_invariants,
    ledger_request,
    make_settings,
    open_account,
    transfer,
    withdraw,
)

T = TypeVar("T")
AMOUNTS = st.integers(1, 120)
CALLERS = st.sampled_from([ALICE, OPERATOR_CALLER])
# Id, payer, payee and amount; None is the bank.
Posted = tuple[str, str | None, str | None, int]
LEGS = 4
_SQLITE = "sqlite+aiosqlite:///"


@dataclass
class Model:
    """Expected state of an account."""

    balance: int = 0
    status: str = "active"
    overdraft: int = 0
    daily_limit: int | None = None
    # What counts towards the daily limit: time and amount by id of the transaction or hold.
    debits: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    # What is left of each active hold, when it was placed and when it expires.
    holds: dict[str, int] = field(default_factory=dict)
    hold_times: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    operator_holds: set[str] = field(default_factory=set)

    @property
    def available(self) -> int:
        return self.balance - sum(self.holds.values()) + self.overdraft

    def debit_refusal(self, amount: int) -> str | None:
        if self.status != "active":
            return f"account-{self.status}"
        return "insufficient-funds" if self.available < amount else None

    def payment_refusal(self, amount: int, now: datetime) -> str | None:
        """Return why a withdrawal, transfer or hold is refused."""
        if (refusal := self.debit_refusal(amount)) is not None or self.daily_limit is None:
            return refusal
        today = sum(debit for at, debit in self.debits.values() if at.date() == now.date())
        return "daily-limit-exceeded" if today + amount > self.daily_limit else None

    def count(self, id_: str, amount: int, now: datetime) -> None:
        if self.daily_limit is not None:
            self.debits[id_] = now, amount

    def restore(self, hold: str, amount: int, now: datetime) -> None:
        at, debit = self.debits.get(hold, (None, 0))
        if at is not None and at.date() == now.date():
            self.debits[hold] = at, debit - amount

    def hold_refusal(self, hold: str, caller: Caller, now: datetime) -> str | None:
        if hold in self.operator_holds and not caller.is_operator:
            return "forbidden"
        return None if hold in self.holds and now < self.hold_times[hold][1] else "hold-not-active"

    def credit_refusal(self) -> str | None:
        return "account-closed" if self.status == "closed" else None


class Bank(RuleBasedStateMachine):
    """Executes the same operations on the service and the model, and compares them."""

    lab: Lab
    accounts: Bundle[str] = Bundle("accounts")
    holds: Bundle[tuple[str, str]] = Bundle("holds")
    posted: Bundle[Posted] = Bundle("posted")
    groups: Bundle[tuple[str, list[Posted]]] = Bundle("groups")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = self.new_database(Path(self.folder.name) / "bank.db")
        self.queries = Queries(self.engine)
        self.service = AccountService(self.engine, make_settings(self.lab, _SQLITE))
        self.model: dict[str, Model] = {}
        self.reversed: Counter[str] = Counter()
        self.now = datetime(2026, 1, 1, 22, tzinfo=UTC)
        self.clock = mock.patch("app.application.batches.utc_now", lambda: self.now)
        self.clock.start()

    def new_database(self, file: Path) -> AsyncEngine:
        """Return an engine on a new database; the drill fuzz_ledger overrides it with a faster one."""
        url = f"{_SQLITE}{file}"
        self.run(create_tables(url, metadata))
        return create_engine(url)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def execute(self, command: Any, expected: str | None, caller: Caller = OPERATOR_CALLER) -> dict[str, Any]:
        """Execute a command at `self.now`, and let some time pass; compare the refusal with the expected one."""
        response: LedgerResponse = self.run(self.service.execute(ledger_request(command, caller)))
        body: dict[str, Any] = json.loads(response.body)
        assert body.get("code") == expected, (command, body)
        self.now += timedelta(seconds=1)
        return body

    @rule(hours=st.integers(1, 12))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(account=accounts, overdraft=st.integers(0, 100), daily_limit=st.none() | st.integers(0, 300))
    def set_limits(self, account: str, overdraft: int, daily_limit: int | None) -> None:
        model = self.model[account]
        refusal = "account-closed" if model.status == "closed" else None
        in_use = model.overdraft - model.available
        if refusal is None and overdraft < min(in_use, model.overdraft):
            refusal = "overdraft-in-use"
        self.execute(SetLimits(account, overdraft, daily_limit), refusal)
        if refusal is None:
            model.overdraft, model.daily_limit = overdraft, daily_limit
            if daily_limit is None:
                model.debits.clear()

    @initialize(target=accounts)
    def first_account(self) -> str:
        return self.open()

    @rule(target=accounts)
    def open(self) -> str:
        account = self.run(open_account(self.service))
        self.model[account] = Model()
        return account

    @rule(target=posted, account=accounts, amount=AMOUNTS)
    def deposit(self, account: str, amount: int) -> Posted:
        refusal = self.model[account].credit_refusal()
        body = self.execute(Deposit(new_id(), account, amount, "USD", None), refusal)
        if refusal is None:
            self.model[account].balance += amount
        return body.get("id", ""), None, account, amount

    @rule(target=posted, account=accounts, amount=AMOUNTS)
    def withdraw(self, account: str, amount: int) -> Posted:
        model = self.model[account]
        refusal = model.payment_refusal(amount, now := self.now)
        body = self.execute(withdraw(account, amount), refusal)
        if refusal is None:
            model.balance -= amount
            model.count(body["id"], amount, now)
        return body.get("id", ""), account, None, amount

    def try_transfer(self, source: str, to: str, amount: int) -> str | None:
        """Transfer in the model; return why it is refused."""
        payer, payee = self.model[source], self.model[to]
        refusal = "same-account" if source == to else None
        refusal = refusal or payer.payment_refusal(amount, self.now) or payee.credit_refusal()
        if refusal is None:
            payer.count(new_id(), amount, self.now)
            payer.balance -= amount
            payee.balance += amount
        return refusal

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the transfers and reversals of the model from now on."""
        before = {id_: (model.balance, {**model.debits}) for id_, model in self.model.items()}
        reversed_ = Counter(self.reversed)

        def roll_back() -> None:
            self.reversed = reversed_
            for id_, state in before.items():
                self.model[id_].balance, self.model[id_].debits = state

        return roll_back

    @rule(target=posted, source=accounts, to=accounts, amount=AMOUNTS)
    def transfer(self, source: str, to: str, amount: int) -> Posted:
        body = self.execute(transfer(source, to, amount), self.try_transfer(source, to, amount))
        return body.get("id", ""), source, to, amount

    @rule(target=groups, legs=st.lists(st.tuples(accounts, accounts, AMOUNTS), min_size=1, max_size=LEGS))
    def post_group(self, legs: list[tuple[str, str, int]]) -> tuple[str, list[Posted]]:
        roll_back, refusal, refused_leg = self.savepoint(), None, None
        for number, leg in enumerate(legs):
            if (refusal := self.try_transfer(*leg)) is not None:
                refused_leg = number
                roll_back()
                break
        transfers = tuple(Transfer(new_id(), *leg, "USD", None) for leg in legs)
        group_id = new_id()
        body = self.execute(PostGroup(group_id, tuple(replace(one, group_id=group_id) for one in transfers)), refusal)
        assert body.get("leg") == refused_leg
        posted = [(one.id, one.from_account, one.to_account, one.amount) for one in transfers]
        return "" if refusal else group_id, [] if refusal else [*posted]

    @rule(group=groups)
    def reverse_group(self, group: tuple[str, list[Posted]]) -> None:
        id_, legs = group
        if not id_:
            return
        left = [(number, leg) for number, leg in enumerate(legs) if leg[3] > self.reversed[leg[0]]]
        roll_back, refused_leg = self.savepoint(), None
        refusal = None if left else "already-reversed"
        for number, leg in reversed(left):
            if (refusal := self.try_reversal(leg, None)) is not None:
                refused_leg = number
                roll_back()
                break
        ids = tuple(new_id() for _ in range(LEGS))
        assert self.execute(ReverseGroup(new_id(), ids, id_, None), refusal).get("leg") == refused_leg

    @rule(group=groups, number=st.integers(0, LEGS - 1), part=st.none() | AMOUNTS)
    def reverse_leg(self, group: tuple[str, list[Posted]], number: int, part: int | None) -> None:
        _, legs = group
        for leg in legs[number : number + 1]:
            self.execute(Reverse(new_id(), leg[0], None, part), self.try_reversal(leg, part))

    @rule(
        transfers=st.lists(st.tuples(accounts, accounts, AMOUNTS), min_size=1, max_size=4),
        atomic=st.booleans(),
    )
    def transfer_batch(self, transfers: list[tuple[str, str, int]], atomic: bool) -> None:
        roll_back = self.savepoint()
        refusals: list[str | None] = []
        for arguments in transfers:
            refusals.append(self.try_transfer(*arguments))
            if atomic and refusals[-1] is not None:
                break
        if atomic and refusals[-1] is not None:
            refused = len(refusals) - 1
            refusals = [refusals[-1] if number == refused else "batch-refused" for number in range(len(transfers))]
            roll_back()
        items = tuple(ledger_request(transfer(*arguments), OPERATOR_CALLER) for arguments in transfers)
        batch = ledger_request(TransferBatch(items, atomic), OPERATOR_CALLER)
        body = json.loads(self.run(self.service.execute(replace(batch, success_status=200))).body)
        assert [result.get("problem", {}).get("code") for result in body["results"]] == refusals

    @rule(original=posted, part=st.none() | AMOUNTS)
    def reverse(self, original: Posted, part: int | None) -> None:
        if original[0]:
            self.execute(Reverse(new_id(), original[0], None, part), self.try_reversal(original, part))

    def try_reversal(self, original: Posted, part: int | None) -> str | None:
        """Reverse in the model; return why it is refused."""
        id_, source, to, posted_amount = original
        left = posted_amount - self.reversed[id_]
        amount = part or left
        giver = self.model[to] if to else None
        receiver = self.model[source] if source else None
        refusal = "already-reversed" if not left else "reversal-exceeded" if amount > left else None
        refusal = refusal or (giver.debit_refusal(amount) if giver else None)
        refusal = refusal or (receiver.credit_refusal() if receiver else None)
        if refusal is None:
            self.reversed[id_] += amount
            if giver:
                giver.balance -= amount
            if receiver:
                receiver.balance += amount
        return refusal

    @rule(target=holds, account=accounts, amount=AMOUNTS, caller=CALLERS)
    def place_hold(self, account: str, amount: int, caller: Caller) -> tuple[str, str]:
        model, hold = self.model[account], new_id()
        refusal = model.payment_refusal(amount, now := self.now)
        expires_at = now + timedelta(days=1)
        self.execute(PlaceHold(hold, account, amount, "USD", expires_at), refusal, caller)
        if refusal is None:
            model.holds[hold] = amount
            model.hold_times[hold] = now, expires_at
            model.count(hold, amount, now)
            if caller.is_operator:
                model.operator_holds.add(hold)
        return account, "" if refusal else hold

    @rule(hold=holds, part=st.none() | AMOUNTS, final=st.booleans(), caller=CALLERS)
    def capture_hold(self, hold: tuple[str, str], part: int | None, final: bool, caller: Caller) -> None:
        account, id_ = hold
        if not id_:
            return
        model = self.model[account]
        held = model.holds.get(id_)
        amount = part or held or 0
        if (refusal := model.hold_refusal(id_, caller, now := self.now)) is None and held is not None:
            if amount > held:
                refusal = "hold-exceeded"
            elif model.status == "frozen" and not caller.is_operator:
                refusal = "account-frozen"
        body = self.execute(CaptureHold(new_id(), id_, part, final), refusal, caller)
        if refusal is None and held is not None:
            model.balance -= amount
            model.holds[id_] = held - amount
            if final or amount == held:
                del model.holds[id_]
                model.restore(id_, held - amount, now)
            assert body["remaining_amount"] == model.holds.get(id_, 0)
            assert body["status"] == ("active" if id_ in model.holds else "captured")

    @rule(hold=holds, days=st.integers(1, 400), caller=CALLERS)
    def extend_hold(self, hold: tuple[str, str], days: int, caller: Caller) -> None:
        account, id_ = hold
        if not id_:
            return
        model = self.model[account]
        refusal = model.hold_refusal(id_, caller, self.now)
        placed_at, old = model.hold_times[id_]
        expires_at = placed_at + timedelta(days=days)
        if refusal is None and (expires_at <= old or days > 365):
            refusal = "expiry-out-of-range"
        self.execute(ExtendHold(id_, expires_at), refusal, caller)
        if refusal is None:
            model.hold_times[id_] = placed_at, expires_at

    @rule(hold=holds, caller=CALLERS)
    def void_hold(self, hold: tuple[str, str], caller: Caller) -> None:
        account, id_ = hold
        if not id_:
            return
        model = self.model[account]
        refusal = model.hold_refusal(id_, caller, now := self.now)
        self.execute(ReleaseHold(id_, "voided"), refusal, caller)
        if refusal is None:
            model.restore(id_, model.holds.pop(id_), now)

    @rule(account=accounts, status=st.sampled_from(["frozen", "active", "active", "closed"]))
    def set_status(self, account: str, status: str) -> None:
        model = self.model[account]
        refusal = None
        if model.status != status:
            if model.status == "closed":
                refusal = "account-closed"
            elif status == "closed" and (model.balance or model.holds):
                refusal = "balance-not-zero"
        body = self.execute(SetStatus(account, status), refusal)
        if refusal == "balance-not-zero":
            assert body.get("holds", []) == sorted(model.holds)[:MAX_BLOCKING_HOLDS]
        if refusal is None:
            model.status = status

    @invariant()
    def service_and_model_agree(self) -> None:
        shown = self.run(self.queries.accounts(OPERATOR_CALLER, None, len(self.model) + 1))
        assert {account.id: (account.balance, account.available, account.status) for account in shown} == {
            id_: (model.balance, model.available, model.status) for id_, model in self.model.items()
        }

    def teardown(self) -> None:
        self.clock.stop()
        self.run(assert_invariants(self.engine))
        self.run(self.engine.dispose())
        self.loop.close()
        self.folder.cleanup()


@pytest.mark.no_cover
@pytest.mark.timeout(240 * SEARCH_FACTOR)
def test_the_service_agrees_with_the_model(lab: Lab) -> None:
    Bank.lab = lab
    run_state_machine_as_test(
        Bank,
        settings=settings(
            max_examples=examples(40), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
