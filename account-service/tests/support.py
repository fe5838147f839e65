"""Helpers for the tests of account-service."""

import uuid
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.account_numbers import new_account_number
from app.application.requests import LedgerRequest, RequestContext, TransferBatch
from app.domain.commands import Command, Deposit, OpenAccount, Transfer, Withdraw
from app.service import AccountService
from app.settings import AccountSettings
from app.storage.invariants import broken_invariants
from shared.http.auth import CASH_DESK, OPERATOR, Caller
from shared.ids import new_id
from shared.testing.fixtures import Lab

ALICE = Caller("alice", frozenset({CASH_DESK}))
BOB = Caller("bob", frozenset())
OPERATOR_CALLER = Caller("op", frozenset({OPERATOR}))


def make_settings(lab: Lab, url: str, **changes: Any) -> AccountSettings:
    """Return settings for tests, with changes."""
    values = {"database_url": url, "auth_jwks": str(lab.secrets.jwks), "service_token": lab.service_token}
    return AccountSettings(**{**values, **changes})


async def assert_invariants(engine: AsyncEngine) -> None:
    """Fail if an invariant of the ledger is violated."""
    async with engine.connect() as connection:
        assert await broken_invariants(connection) == []


def ledger_request(
    command: Command | TransferBatch, caller: Caller = ALICE, key: str | None = "", content: bytes = b"hash"
) -> LedgerRequest:
    """Return a request with the command; an empty key is replaced by a new one, None means no key."""
    used = None if key is None else (caller.subject, key or uuid.uuid4().hex)
    return LedgerRequest(caller, command, 201, RequestContext("/test", "request-1"), used, content)


async def open_account(service: AccountService, caller: Caller = ALICE, money: int = 0, currency: str = "USD") -> str:
    """Open an account with some money in it and return its id."""
    account_id = new_id()
    command = OpenAccount(account_id, new_account_number(), currency, None)
    assert (await service.execute(ledger_request(command, caller))).status == 201
    if money:
        deposit = Deposit(new_id(), account_id, money, currency, None)
        assert (await service.execute(ledger_request(deposit, OPERATOR_CALLER))).status == 201
    return account_id


def transfer(source: str, target: str, amount: int) -> Transfer:
    """Return a transfer in USD."""
    return Transfer(new_id(), source, target, amount, "USD", None)


def withdraw(account: str, amount: int) -> Withdraw:
    """Return a withdrawal in USD."""
    return Withdraw(new_id(), account, amount, "USD", None)


def key_header(key: str = "") -> dict[str, str]:
    """Return an Idempotency-Key header."""
    return {"Idempotency-Key": key or uuid.uuid4().hex}
