"""Transaction groups over HTTP and through the group commit, on both databases."""

import asyncio
from collections import Counter

import httpx
import orjson
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.queries import Queries
from app.domain.commands import PostGroup, ReverseGroup, Transfer
from app.domain.model import MAX_LEGS
from app.models import outbox, transactions
from app.service import AccountService
from shared.ids import new_id
from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from tests.support import ALICE, OPERATOR_CALLER, key_header, ledger_request, open_account, transfer
from tests.test_api import assert_problem, create_account

GROUPS = "/api/v1/transaction-groups"


def leg(payer: str, payee: str, amount: int = 1, **fields: object) -> dict[str, object]:
    return {"from_account": payer, "to_account": payee, "amount": amount, "currency": "USD", **fields}


async def events(engine: AsyncEngine) -> list[dict]:
    """Return the data of all events about transactions."""
    async with engine.connect() as connection:
        rows = (await connection.scalars(select(outbox.rows.c.events))).all()
    return [event["data"] for row in rows for event in orjson.loads(row) if "transaction_id" in event["data"]]


async def test_a_group_is_posted_once_and_reversed(client: httpx.AsyncClient, lab: Lab, engine: AsyncEngine):
    bob = lab.headers("bob")
    alices, bobs = await create_account(client, 1000), await create_account(client, headers=bob)
    legs = [leg(alices, bobs, 200, reference="goods", metadata={"order": "7"}), leg(alices, bobs, 50, reference="fee")]
    posted = await client.post(GROUPS, json={"legs": legs}, headers=key_header("order-7"))
    assert posted.status_code == 201
    group = posted.json()
    shown = [(one["amount"], one["type"], one["reference"], one["group_id"]) for one in group["legs"]]
    assert shown == [(200, "transfer", "goods", group["id"]), (50, "transfer", "fee", group["id"])]
    assert group["legs"][0]["metadata"] == {"order": "7"} and "metadata" not in group["legs"][1]
    # As in a transfer, the payer does not learn the payee's balance.
    assert [entry["balance_after"] for entry in group["legs"][1]["entries"]] == [750, None]
    again = await client.post(GROUPS, json={"legs": legs}, headers=key_header("order-7"))
    assert (again.content, again.headers["idempotent-replayed"]) == (posted.content, "true")
    other = await client.post(GROUPS, json={"legs": legs[:1]}, headers=key_header("order-7"))
    assert_problem(other, 422, "idempotency-key-reused")

    path = f"{GROUPS}/{group['id']}/reversals"
    assert_problem(await client.post(path, headers=key_header()), 403, "forbidden")
    body = {"reason": "returned", "metadata": {"order": "7"}}
    reversed_ = await client.post(path, json=body, headers={**bob, **key_header()})
    assert reversed_.status_code == 201
    back = reversed_.json()
    assert [(one["type"], one["reverses"]) for one in back["legs"]] == [
        ("reversal", one["id"]) for one in reversed(group["legs"])
    ]
    assert {(one["group_id"], one["reference"], one["metadata"]["order"]) for one in back["legs"]} == {
        (back["id"], "returned", "7")
    }
    assert_problem(await client.post(path, headers={**bob, **key_header()}), 409, "already-reversed")
    assert (await client.get(f"/api/v1/accounts/{alices}")).json()["balance"] == 1000

    counted = Counter(data.get("group_id") for data in await events(engine))
    assert counted == {None: 2, group["id"]: 4, back["id"]: 4}
    async with engine.connect() as connection:
        stored = Counter((await connection.scalars(select(transactions.c.group_id))).all())
    assert stored == {None: 1, group["id"]: 2, back["id"]: 2}
    changes = (await client.get("/api/v1/audit", headers=lab.operator())).json()["items"]
    made = Counter((change["action"], change["subject"]) for change in changes)
    assert made["transfer", "alice"] == 2 and made["reversal", "bob"] == 2


async def test_the_problem_names_the_refused_leg(client: httpx.AsyncClient, engine: AsyncEngine):
    source, target = await create_account(client, 10), await create_account(client)
    body = {"legs": [leg(source, target, 10), leg(source, target, 1)]}
    first = await client.post(GROUPS, json=body, headers=key_header("too-much"))
    problem = assert_problem(first, 409, "insufficient-funds")
    assert problem["leg"] == 1
    assert problem["detail"] == "Insufficient funds: available 0.00 USD, requested 0.01 USD."
    replayed = await client.post(GROUPS, json=body, headers=key_header("too-much"))
    assert replayed.json() == {**problem, "request_id": replayed.json()["request_id"]}
    assert replayed.headers["idempotent-replayed"] == "true"
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["seq"] == 1
    refused = [data for data in await events(engine) if data.get("code")]
    assert len(refused) == 1 and refused[0]["amount"] == 1 and "group_id" in refused[0]
    unknown = await client.post(f"{GROUPS}/{new_id()}/reversals", headers=key_header())
    assert "leg" not in assert_problem(unknown, 404, "not-found")


async def test_the_legs_are_validated(client: httpx.AsyncClient):
    one, other = await create_account(client), await create_account(client)
    for legs in (
        [],
        [leg(one, other)] * (MAX_LEGS + 1),
        [leg(one, other, 0)],
        [leg(one, other, key="a")],
        [leg(one, other, metadata={"a b": "c"})],
    ):
        problem = await client.post(GROUPS, json={"legs": legs}, headers=key_header())
        assert_problem(problem, 422, "validation-failed")
    invalid = {"legs": [leg(one, other), leg(one, other, 0)]}
    problem = (await client.post(GROUPS, json=invalid, headers=key_header())).json()
    assert [error["pointer"] for error in problem["errors"]] == ["/legs/1/amount"]
    assert_problem(await client.post(GROUPS, json=invalid), 400, "idempotency-key-missing")


async def test_the_largest_group_is_posted(client: httpx.AsyncClient):
    euro = await client.post("/api/v1/accounts", json={"currency": "EUR"}, headers=key_header())
    account, other = await create_account(client, MAX_LEGS), await create_account(client)
    metadata = {f"{number:040}": '{":,[' * 10 for number in range(20)}
    legs = [leg(account, other, reference="a" * 140, metadata=metadata)] * MAX_LEGS
    posted = await client.post(GROUPS, json={"legs": legs}, headers=key_header())
    assert posted.status_code == 201 and len(posted.json()["legs"]) == MAX_LEGS
    reversed_ = await client.post(f"{GROUPS}/{posted.json()['id']}/reversals", headers=key_header())
    assert reversed_.status_code == 201
    assert [one["reverses"] for one in reversed_.json()["legs"]] == [one["id"] for one in posted.json()["legs"]][::-1]
    empty = leg(euro.json()["id"], account, currency="EUR")
    problem = await client.post(GROUPS, json={"legs": [leg(account, other), empty]}, headers=key_header())
    assert assert_problem(problem, 422, "currency-mismatch")["leg"] == 1


def post_group(*legs: tuple[str, str, int]) -> PostGroup:
    id_ = new_id()
    return PostGroup(id_, tuple(Transfer(new_id(), *one, "USD", None, None, id_) for one in legs))


async def test_groups_and_their_neighbours_in_one_flush(service: AccountService, engine: AsyncEngine, queries: Queries):
    source, target = await open_account(service, money=10), await open_account(service)
    refused = post_group((source, target, 5), (target, source, 3), (source, target, 100))
    posted = post_group((source, target, 2), (target, source, 1))
    commands = [transfer(source, target, 1), refused, posted, transfer(source, target, 1)]
    before = REGISTRY.get_sample_value("bank_transactions_total", _LABELS) or 0
    responses = await asyncio.gather(*(service.execute(ledger_request(command)) for command in commands))
    assert [response.status for response in responses] == [201, 409, 201, 201]
    assert (await queries.account(ALICE, source))["balance"] == 10 - 1 - 2 + 1 - 1
    assert REGISTRY.get_sample_value("bank_transactions_total", _LABELS) == before + 4
    told = Counter(data.get("group_id") for data in await events(engine))
    assert told == {None: 6, posted.id: 4, refused.id: 1}
    # Both groups are reversed at once, in one flush.
    second = post_group((source, target, 6))
    assert (await service.execute(ledger_request(second))).status == 201
    ids = tuple(new_id() for _ in range(MAX_LEGS))
    reversals = [ReverseGroup(new_id(), ids[:2], posted.id, None), ReverseGroup(new_id(), ids[2:], second.id, None)]
    both = await asyncio.gather(*(service.execute(ledger_request(one, OPERATOR_CALLER)) for one in reversals))
    assert [response.status for response in both] == [201, 201]
    assert (await queries.account(ALICE, source))["balance"] == 8


_LABELS = {"type": "transfer", "status": "posted", "currency": "USD"}


@pytest.mark.parametrize("legs", [1, 7])
def test_a_group_counts_as_its_legs(legs: int):
    group = post_group(*[("a", "b", 1)] * legs)
    assert ledger_request(group).operations == legs
    assert ledger_request(ReverseGroup("r", (), group.id, None)).operations == MAX_LEGS
