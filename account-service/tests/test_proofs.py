"""Signed roots and proofs over HTTP: what they prove, and to whom."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine


from app.settings import AccountSettings
from app.transparency.checkpoints import Signer
from scripts.ledger import verify_proof as script
from scripts.ledger.verify_ledger import signed_root
from scripts.ledger.verify_proof import verify_proof
from shared.ids import utc_now
from shared.testing.fixtures import Lab, served_url
from tests.support import key_header, make_settings
from tests.test_api import assert_problem, create_account
from tests.test_merkle import roots_by_consistency
from tests.test_tampering import SIGNER, new_key, seal

ROOTS = "/api/v1/ledger/roots"
KEYS = SIGNER.public_keys


@pytest.fixture
def settings(lab: Lab, database_url: str) -> AccountSettings:
    """Settings whose sealer only runs when a test lets it."""
    return make_settings(lab, served_url(database_url), ledger_seal_seconds=3600)


async def pay(client: httpx.AsyncClient, payer: str, payee: str, amount: int = 5) -> str:
    """Transfer money and return the id of the transaction."""
    body = {"from_account": payer, "to_account": payee, "amount": amount, "currency": "USD"}
    response = await client.post("/api/v1/transfers", json=body, headers=key_header())
    assert response.status_code == 201, response.text
    id_: str = response.json()["id"]
    return id_


async def proof_of(client: httpx.AsyncClient, id_: str, **headers: Any) -> dict[str, Any]:
    response = await client.get(f"/api/v1/transactions/{id_}/proof", **headers)
    assert response.status_code == 200, response.text
    proof: dict[str, Any] = response.json()
    return proof


def kinds(proof: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return kind and account of each disclosure."""
    disclosed = [json.loads(text) for text in proof["disclosures"]]
    return [(kind, columns.get("account_id")) for _, kind, columns in disclosed]


async def test_both_parties_get_a_proof_of_what_they_may_see(
    client: httpx.AsyncClient, engine: AsyncEngine, lab: Lab
) -> None:
    bob = lab.headers("bob")
    payer, payee = await create_account(client, 1000), await create_account(client, headers=bob)
    id_ = await pay(client, payer, payee)
    await pay(client, payer, payee)
    await seal(engine)
    by_alice, by_bob = await proof_of(client, id_), await proof_of(client, id_, headers=bob)
    by_operator = await proof_of(client, id_, headers=lab.operator())
    for proof in (by_alice, by_bob, by_operator):
        assert verify_proof(proof, KEYS)
    assert kinds(by_alice) == [("transaction", None), ("entry", payer)]
    assert kinds(by_bob) == [("transaction", None), ("entry", payee)]
    assert sorted(kind for kind, _ in kinds(by_operator)) == ["entry", "entry", "internal", "transaction"]
    row = json.loads(by_alice["disclosures"][0])[2]
    assert (row["id"], row["amount"], row["type"]) == (id_, 5, "transfer")
    assert_problem(await client.get(f"/api/v1/transactions/{id_}/proof", headers=lab.headers("eve")), 404, "not-found")


async def test_a_forged_proof_is_not_valid(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    payer, payee = await create_account(client, 1000), await create_account(client)
    ids = [await pay(client, payer, payee) for _ in range(6)]
    await seal(engine)
    proof = await proof_of(client, ids[2])
    assert verify_proof(proof, KEYS)
    other = await proof_of(client, ids[3])
    forged = [
        {"disclosures": [text.replace('"amount":5', '"amount":6') for text in proof["disclosures"]]},
        {"disclosures": other["disclosures"]},
        {"disclosures": []},
        {"transaction_id": ids[3]},
        {"position": proof["position"] + 1},
        {"path": proof["path"][1:]},
        {"path": [*proof["path"], "00" * 32]},
        {"digests": other["digests"]},
        {"size": proof["size"] + 1},
        {"checkpoint": Signer("bank.test/ledger", new_key()).sign(proof["size"], bytes(32), utc_now())},
    ]
    for change in forged:
        assert not verify_proof({**proof, **change}, KEYS), change
    assert not verify_proof(proof, Signer("bank.test/ledger", new_key()).public_keys)


async def test_until_a_root_covers_it_a_transaction_has_no_proof(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    payer, payee = await create_account(client, 1000), await create_account(client)
    id_ = await pay(client, payer, payee)
    path = f"/api/v1/transactions/{id_}/proof"
    for signer in (None, SIGNER):
        response = await client.get(path)
        assert_problem(response, 409, "not-sealed")
        assert response.headers["retry-after"] == "11"
        await seal(engine, signer)
    assert (await client.get(path)).status_code == 200
    unknown = path.replace(id_, payer)
    assert_problem(await client.get(unknown), 404, "not-found")


async def test_roots_are_listed_with_all_keys_and_are_consistent(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    empty = (await client.get(ROOTS)).json()
    assert empty == {"items": [], "next_cursor": None, "public_keys": []}
    payer, payee = await create_account(client, 1000), await create_account(client)
    rotated = Signer("bank.test/ledger", new_key())
    for signer, count in ((SIGNER, 2), (SIGNER, 1), (rotated, 5)):
        for _ in range(count):
            await pay(client, payer, payee)
        await seal(engine, signer)
    page = (await client.get(ROOTS, params={"limit": 2})).json()
    rest = (await client.get(ROOTS, params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert page["public_keys"] == rotated.public_keys + KEYS
    roots = page["items"] + rest["items"]
    assert [root["size"] for root in roots] == [9, 4, 3] and rest["next_cursor"] is None
    for root in roots:
        signed = signed_root(root["checkpoint"], page["public_keys"])
        assert signed == (root["size"], bytes.fromhex(root["root_hash"]))
    hashes = {root["size"]: bytes.fromhex(root["root_hash"]) for root in roots}
    for first, second in ((3, 4), (3, 9), (4, 9)):
        response = await client.get("/api/v1/ledger/consistency", params={"first": first, "second": second})
        path = [bytes.fromhex(each) for each in response.json()["path"]]
        assert roots_by_consistency(path, first, second, hashes[first]) == (hashes[first], hashes[second])
    for sizes in ({"first": 4, "second": 3}, {"first": 3, "second": 10}):
        assert_problem(await client.get("/api/v1/ledger/consistency", params=sizes), 422, "validation-failed")


async def test_the_script_verifies_a_proof(
    client: httpx.AsyncClient, engine: AsyncEngine, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = await pay(client, await create_account(client, 1000), await create_account(client))
    await seal(engine)
    file = tmp_path / "proof.json"
    for change, status in (({}, 0), ({"position": 0}, 1)):
        file.write_text(json.dumps({**await proof_of(client, id_), **change}))
        monkeypatch.setattr("sys.argv", ["verify_proof", str(file), "--key", KEYS[0]])
        assert script.main() == status
