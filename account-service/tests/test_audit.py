"""Every change records its actor: in the database, in the audit API, and in its event."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.account_numbers import new_account_number
from app.application.queries import Queries
from app.application.requests import LedgerRequest, RequestContext, TransferBatch
from app.consumer import FlagHandler
from app.domain.audit import AuditFilter
from app.domain.commands import CaptureHold, Command, Deposit, OpenAccount, PlaceHold, ReleaseHold, Reverse, SetStatus
from app.jobs import release_expired_holds
from app.models import audit_log, outbox, transactions
from app.service import AccountService
from shared.http.auth import CASH_DESK, OPERATOR, Caller
from shared.db.database import write_transaction
from shared.events import CloudEvent, new_event
from shared.ids import new_id, utc_now
from shared.testing.fixtures import Lab
from tests.support import ALICE, BOB, OPERATOR_CALLER, key_header, ledger_request, open_account, transfer, withdraw
from tests.test_api import assert_problem, create_account


async def changes(queries: Queries, **criteria: Any) -> list[dict[str, Any]]:
    """Return audit entries as an operator sees them, oldest first."""
    return (await queries.audit_entries(OPERATOR_CALLER, AuditFilter(**criteria), None, 200))[::-1]


async def test_every_command_records_its_actor(service: AccountService, queries: Queries) -> None:
    alice, bob = new_id(), await open_account(service, BOB)
    later = utc_now() + timedelta(hours=1)
    holds = [new_id(), new_id()]

    async def do(command: Command, caller: Caller = ALICE) -> str:
        response = await service.execute(ledger_request(command, caller))
        assert response.status == 201
        return str(json.loads(response.body)["id"])

    await do(OpenAccount(alice, new_account_number(), "USD", None))
    await do(Deposit(new_id(), alice, 1000, "USD", None))
    cash = await do(withdraw(alice, 10))
    paid = await do(transfer(alice, bob, 300))
    returned = await do(Reverse(new_id(), paid, None), BOB)
    await do(PlaceHold(holds[0], alice, 100, "USD", later))
    captured = new_id()
    await do(CaptureHold(captured, holds[0], 50), OPERATOR_CALLER)
    await do(PlaceHold(holds[1], alice, 100, "USD", later))
    await do(ReleaseHold(holds[1], "voided"))
    await do(SetStatus(alice, "frozen"), OPERATOR_CALLER)
    await do(SetStatus(alice, "active"), OPERATOR_CALLER)
    await do(Reverse(new_id(), cash, None), OPERATOR_CALLER)
    await do(SetStatus(bob, "closed"), OPERATOR_CALLER)

    cash_desk, operator, none = CASH_DESK, OPERATOR, ""
    assert [(one["action"], one["subject"], one["scope"]) for one in await changes(queries, account_id=alice)] == [
        ("open", "alice", cash_desk),
        ("deposit", "alice", cash_desk),
        ("withdrawal", "alice", cash_desk),
        ("transfer", "alice", cash_desk),
        ("reversal", "bob", none),
        ("hold", "alice", cash_desk),
        ("capture", "op", operator),
        ("hold", "alice", cash_desk),
        ("void", "alice", cash_desk),
        ("freeze", "op", operator),
        ("unfreeze", "op", operator),
        ("reversal", "op", operator),
    ]
    assert {one["account_id"] for one in await changes(queries, account_id=alice)} == {alice, bob}
    of_bob = await changes(queries, account_id=bob)
    assert [one["action"] for one in of_bob] == ["open", "transfer", "reversal", "close"]
    assert [one["transaction_id"] for one in of_bob] == [None, paid, returned, None]
    assert {one["request_id"] for one in await changes(queries)} == {"request-1"}
    capture = (await changes(queries, action="capture"))[0]
    assert (capture["transaction_id"], capture["hold_id"], capture["account_id"]) == (captured, holds[0], alice)
    for subject, count in (("alice", 7), ("bob", 2), ("op", 5), ("nobody", 0)):
        assert len(await changes(queries, subject=subject)) == count, subject
    assert len(await changes(queries)) == 14


async def test_commands_without_effect_are_not_recorded(service: AccountService, queries: Queries) -> None:
    account = await open_account(service, money=10)
    before = await changes(queries)
    refused = await service.execute(ledger_request(withdraw(account, 11)))
    unchanged = await service.execute(ledger_request(SetStatus(account, "active"), OPERATOR_CALLER))
    first = await service.execute(ledger_request(withdraw(account, 1), key="once"))
    again = await service.execute(ledger_request(withdraw(account, 1), key="once"))
    assert (refused.status, unchanged.status, first.status, again.replayed) == (409, 201, 201, True)
    assert [one["action"] for one in (await changes(queries))[len(before) :]] == ["withdrawal"]


async def test_every_transfer_of_a_batch_is_recorded(service: AccountService, queries: Queries) -> None:
    source, target = await open_account(service, money=100), await open_account(service)
    items = tuple(ledger_request(transfer(source, target, amount)) for amount in (1, 10**6, 2))
    await service.execute(
        LedgerRequest(
            ALICE, TransferBatch(items), 200, RequestContext("/batch", "batch-1"), ("alice", "batch"), b"batch"
        )
    )
    assert len(await changes(queries, account_id=target, action="transfer")) == 2


async def test_changes_by_the_bank_differ_from_those_of_a_token_with_its_subject(
    service: AccountService, engine: AsyncEngine, queries: Queries
) -> None:
    account = await open_account(service, money=100)
    hold = PlaceHold(new_id(), account, 10, "USD", utc_now() - timedelta(seconds=1))
    await service.execute(ledger_request(hold))
    await release_expired_holds(engine, service)
    data = {"transaction_id": new_id(), "account_id": account, "rule": "large-amount", "score": 100, "action": "freeze"}
    flag = new_event(
        source="transaction-service",
        type_="bank.transaction.flagged",
        subject=account,
        time=utc_now(),
        data=data,
        request_id="r" * 500,
    )
    await FlagHandler(engine, service).process([CloudEvent.model_validate(flag)], None)
    impostor = Caller("bank", frozenset({OPERATOR}))
    await service.execute(ledger_request(SetStatus(account, "active"), impostor))

    expired, frozen, unfrozen = (await changes(queries, subject="bank"))[-3:]
    assert (expired["action"], expired["scope"], expired["hold_id"]) == ("expire", "system", hold.id)
    assert (frozen["action"], frozen["scope"], frozen["event_id"]) == ("freeze", "system", flag["id"])
    assert frozen["request_id"] == "r" * 128
    assert (unfrozen["action"], unfrozen["scope"]) == ("unfreeze", OPERATOR)
    async with write_transaction(engine) as connection:
        await outbox.sequence(connection)
    async with engine.connect() as connection:
        events = [event for _, event in await outbox.read(connection, 0, 100)]
    assert [event["actor"] for event in events] == ["alice", "op", "op", "alice", "bank", "bank", "bank"]
    for event in events:
        CloudEvent.model_validate(event)


async def test_a_change_and_its_audit_entry_share_a_database_transaction(
    service: AccountService, monkeypatch: pytest.MonkeyPatch, queries: Queries
) -> None:
    account = await open_account(service, money=100)
    before = await changes(queries)

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("app.storage.audit_log.write", broken)
        with pytest.raises(ZeroDivisionError):
            await service.execute(ledger_request(SetStatus(account, "frozen"), OPERATOR_CALLER, key=None))
    assert (await queries.account(ALICE, account))["status"] == "active"
    assert await changes(queries) == before


async def test_transactions_without_an_actor_are_not_listed(
    service: AccountService, owner: AsyncEngine, queries: Queries
) -> None:
    account = await open_account(service, money=100)
    async with write_transaction(owner) as connection:
        if owner.dialect.name == "postgresql":
            await connection.execute(text("ALTER TABLE transactions DISABLE TRIGGER append_only"))
        await connection.execute(transactions.update().values(subject=None, scope=None, request_id=None))
    assert [one["action"] for one in await changes(queries, account_id=account)] == ["open"]
    async with owner.connect() as connection:
        assert (await connection.execute(select(audit_log.c.action))).scalars().all() == ["open"]


async def audit(client: httpx.AsyncClient, lab: Lab, **query: Any) -> httpx.Response:
    return await client.get("/api/v1/audit", params=query, headers=lab.operator())


async def test_audit_log_api(client: httpx.AsyncClient, lab: Lab) -> None:
    account = await create_account(client, 1000)
    money = {"amount": 1, "currency": "USD"}
    for number in range(5):
        headers = {**key_header(), "X-Request-ID": f"request-{number}"}
        await client.post(f"/api/v1/accounts/{account}/withdrawals", json=money, headers=headers)
    await client.post(f"/api/v1/accounts/{account}/freeze", headers={**lab.operator(), "X-Request-ID": "by-hand"})
    pages, cursor = [], ""
    while True:
        page = (
            await audit(client, lab, account_id=account.upper(), limit=3, **({"cursor": cursor} if cursor else {}))
        ).json()
        pages.append(page["items"])
        if not page["next_cursor"]:
            break
        cursor = page["next_cursor"]
        # Later changes do not shift the pages.
        await client.post(f"/api/v1/accounts/{account}/unfreeze", headers=lab.operator())
    listed = [item for page in pages for item in page]
    assert [item["action"] for item in listed] == ["freeze", *["withdrawal"] * 5, "deposit", "open"]
    assert [len(page) for page in pages] == [3, 3, 2]
    frozen = listed[0]
    assert (frozen["subject"], frozen["scope"], frozen["request_id"]) == (
        "operator",
        "bank:deposit bank:operator",
        "by-hand",
    )
    assert listed[1]["request_id"] == "request-4" and listed[1]["transaction_id"] == listed[1]["id"]

    moment = listed[3]["created_at"]
    since = (await audit(client, lab, account_id=account, **{"from": moment})).json()["items"]
    until = (await audit(client, lab, account_id=account, to=moment)).json()["items"]
    assert [one["id"] for one in since[1:]] + [one["id"] for one in until] == [one["id"] for one in listed]
    assert (await audit(client, lab, to="0001-01-01T00:00:00Z")).json()["items"] == []
    assert len((await audit(client, lab, subject="operator", action="freeze")).json()["items"]) == 1
    assert json.dumps((await audit(client, lab, subject="al")).json()["items"]) == "[]"


@pytest.mark.parametrize(
    "query",
    [
        {"account_id": "x"},
        {"account_id": ""},
        {"subject": ""},
        {"subject": "a\x00b"},
        {"subject": "a" * 201},
        {"action": "delete"},
        {"from": "yesterday"},
        {"limit": 201},
        {"cursor": "x"},
    ],
)
async def test_invalid_queries_are_rejected(client: httpx.AsyncClient, lab: Lab, query: dict[str, Any]) -> None:
    assert_problem(await audit(client, lab, **query), 422, "validation-failed")


async def test_only_operators_can_read_the_audit_log(client: httpx.AsyncClient, lab: Lab) -> None:
    assert_problem(await client.get("/api/v1/audit"), 403, "forbidden")
    assert_problem(await client.get("/api/v1/audit", headers=lab.headers("x", "bank:operators")), 403, "forbidden")
