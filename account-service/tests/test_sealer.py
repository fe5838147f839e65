"""The sealer: every posted transaction gets one leaf, in the order of the outbox, and roots are signed."""

import asyncio
import secrets
import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import sealer
from app.application.requests import TransferBatch
from app.application.sealer import Sealer
from app.domain.commands import OpenAccount
from app.application.account_numbers import new_account_number
from app.models import ledger_leaves, ledger_nodes, ledger_roots, outbox, transactions
from app.service import AccountService
from app.storage import transparency_log
from app.transparency import merkle
from app.transparency.checkpoints import Checkpoint, Signer
from app.transparency.leaves import disclosures
from scripts.ledger.verify_ledger import canonical, signed_root
from shared.ids import new_id, utc_now
from shared.messaging import retention
from shared.messaging.outbox import Outbox
from shared.messaging.relay import Relay
from tests.support import ALICE, ledger_request, open_account, transfer
from tests.test_tampering import AT_ONCE, SIGNER, new_key, seal, without_pause


async def leaves_of(engine: AsyncEngine) -> list[Any]:
    """Return all leaves in order."""
    async with engine.connect() as connection:
        return list(await connection.execute(select(ledger_leaves).order_by(ledger_leaves.c.position)))


async def assert_sealed(engine: AsyncEngine) -> None:
    """Fail unless every transaction has one leaf, without gaps, and the stored nodes and the root are theirs."""
    leaves = await leaves_of(engine)
    async with engine.connect() as connection:
        posted = set(await connection.scalars(select(transactions.c.id)))
        nodes = (await connection.execute(select(ledger_nodes))).all()
        note = await transparency_log.checkpoint_after(connection, 0)
    assert [leaf.position for leaf in leaves] == list(range(len(posted)))
    assert {leaf.transaction_id for leaf in leaves} == posted
    hashes = [merkle.leaf_hash(leaf.data) for leaf in leaves]
    expected = {
        (8, index): merkle.root_of(hashes[256 * index : 256 * index + 256]) for index in range(len(hashes) // 256)
    }
    assert {(node.level, node.index): node.hash for node in nodes} == expected
    assert note and signed_root(note, SIGNER.public_keys) == (len(hashes), merkle.root_of(hashes))


async def post(service: AccountService, count: int) -> None:
    """Post transfers in batches."""
    source, target = await open_account(service, money=10**6), await open_account(service)
    for first in range(0, count, 200):
        items = tuple(ledger_request(transfer(source, target, 1)) for _ in range(first, min(first + 200, count)))
        assert (await service.execute(ledger_request(TransferBatch(items)))).status == 201


async def test_every_transaction_gets_one_leaf(service: AccountService, engine: AsyncEngine) -> None:
    """Also one whose events are read in two parts: the limit of a pass is even, and the refusal is a single event."""
    poor = await open_account(service)
    refused = ledger_request(transfer(poor, await open_account(service), 5))
    assert (await service.execute(refused)).status == 409
    await post(service, 600)
    await seal(engine)
    await assert_sealed(engine)
    await post(service, 10)
    await seal(engine)
    await assert_sealed(engine)
    # Leaves follow the outbox.
    positions = [leaf.event_position for leaf in await leaves_of(engine)]
    assert positions == sorted(set(positions))


async def test_concurrent_sealers_leave_no_gaps_and_no_duplicates(service: AccountService, engine: AsyncEngine) -> None:
    sealers = [Sealer(engine, SIGNER, AT_ONCE, pause=without_pause) for _ in range(3)]
    stopped = False

    async def run(each: Sealer) -> None:
        while not stopped:
            await each.run()
            await asyncio.sleep(0)

    await seal(engine)
    running = [asyncio.create_task(run(each)) for each in sealers]
    for _ in range(4):
        await post(service, 100)
        await seal(engine)
    stopped = True
    await asyncio.gather(*running)
    await sealers[0].run()
    await assert_sealed(engine)


async def test_a_page_of_events_without_entries_does_not_stop_the_sealer(
    service: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer, "_LIMIT", 3)
    for _ in range(10):
        opened = OpenAccount(new_id(), new_account_number(), "USD", None)
        assert (await service.execute(ledger_request(opened, ALICE))).status == 201
    await post(service, 3)
    await seal(engine)
    await assert_sealed(engine)


async def test_events_that_are_written_twice_give_one_leaf(
    service: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Outbox.write
    monkeypatch.setattr(Outbox, "write", lambda self, events, now: write(self, [*events, *events], now))
    await post(service, 3)
    await seal(engine)
    await post(service, 3)
    await seal(engine)
    await assert_sealed(engine)


async def test_a_root_is_published_when_it_is_due_and_there_is_something_new(
    service: AccountService, engine: AsyncEngine
) -> None:
    async def roots() -> list[tuple[int, str]]:
        async with engine.connect() as connection:
            found = await connection.execute(select(ledger_roots.c.size, ledger_roots.c.checkpoint).order_by("size"))
        return [tuple(row) for row in found]

    await seal(engine)
    assert await roots() == [], "nothing is sealed yet"
    await post(service, 2)
    await seal(engine)
    await seal(engine)
    ((size, note),) = await roots()
    await post(service, 2)
    await seal(engine, interval=timedelta(hours=1))
    assert len(await roots()) == 1, "not due yet"
    await seal(engine)
    assert [size for size, _ in await roots()] == [3, 6]
    async with engine.connect() as connection:
        events = [event for _, event in await outbox.read(connection, 0, 1000)]
    published = [event for event in events if event["type"] == "bank.ledger.sealed"]
    checkpoint = Checkpoint.parse(note)
    assert (checkpoint.size, checkpoint.origin, size) == (3, "bank.test/ledger", 3)
    assert published[0]["data"]["root_hash"] == checkpoint.root_hash.hex()
    assert published[0]["data"]["checkpoint"] == note


async def test_without_a_key_transactions_are_sealed_and_no_root_is_published(
    service: AccountService, engine: AsyncEngine
) -> None:
    await post(service, 2)
    await seal(engine, None)
    assert len(await leaves_of(engine)) == 3
    async with engine.connect() as connection:
        assert await transparency_log.last_checkpoint(connection) == (0, None)


async def test_sealing_pauses_so_that_requests_are_served(service: AccountService, engine: AsyncEngine) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    await post(service, 300)
    await seal(engine)
    before = len(await leaves_of(engine))
    await post(service, 300)
    while await Relay(engine, outbox, None, "test").step():
        pass
    started = time.monotonic()
    await Sealer(engine, None, AT_ONCE, pause=pause).run()
    took = time.monotonic() - started
    assert len(await leaves_of(engine)) > before
    # 24 times the work is 4 % of the time; a busy machine also delays what lies between two pauses.
    assert len(pauses) >= 3 and 2 * took < sum(pauses) <= 24.1 * took


def test_during_a_rotation_both_keys_sign() -> None:
    old, new = new_key(), new_key()
    both = Signer("bank.test/ledger", new + old)
    note = both.sign(7, bytes(32), utc_now())
    for pem in (old, new):
        assert signed_root(note, Signer("bank.test/ledger", pem).public_keys) == (7, bytes(32))
    assert signed_root(note, SIGNER.public_keys) is None
    assert signed_root(note.replace("\n7\n", "\n8\n"), both.public_keys) is None
    assert signed_root(note, Signer("other/ledger", new).public_keys) is None


@pytest.mark.parametrize("pem", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_an_unusable_key_is_an_error(pem: str) -> None:
    with pytest.raises(ValueError):
        Signer("bank.test/ledger", pem)


PLAIN = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.dictionaries(st.text(), st.text()), st.booleans())


@given(st.dictionaries(st.text("abcdefg_", min_size=1), PLAIN))
def test_the_service_and_the_verifier_have_the_same_canonical_form(columns: dict[str, Any]) -> None:
    salt = secrets.token_bytes(16)
    public, internal = disclosures({"id": "t", **columns}, [], salt)
    own_salt = public.text[2:34].decode(), internal.text[2:34].decode()
    assert own_salt[0] != own_salt[1]
    assert internal.text == canonical([own_salt[1], "internal", columns])


async def test_pruning_keeps_what_is_not_sealed(service: AccountService, engine: AsyncEngine) -> None:
    relay = Relay(engine, outbox, None, "account-service")
    readers = [relay.published, Sealer(engine, SIGNER, timedelta(0)).sealed]

    async def prune() -> int:
        return await retention.prune(engine, outbox, readers, timedelta(days=-1))

    await post(service, 3)
    await relay.step()
    assert await prune() == 0
    await seal(engine)
    await post(service, 1)
    await relay.step()
    assert await prune() > 0
    await seal(engine)
    await assert_sealed(engine)
