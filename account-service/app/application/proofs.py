"""Reads of the transparency log: signed roots, inclusion proofs and consistency proofs."""

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.storage import repository, transparency_log
from app.transparency import leaves, merkle
from app.transparency.checkpoints import Checkpoint
from shared.db.database import reader
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.ids import rfc3339


class Proofs:
    """Reads signed roots and proofs; `root_seconds` is the interval between two roots."""

    def __init__(self, engine: AsyncEngine, root_seconds: float) -> None:
        self._engine = reader(engine)
        self._root_seconds = root_seconds

    async def roots(self, before: str | None, limit: int) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the roots before an id, newest first, and all public keys."""
        async with self._engine.connect() as connection:
            rows = await transparency_log.checkpoints(connection, before, limit)
            keys = await transparency_log.public_keys(connection)
        roots = [
            {
                "id": row.id,
                "size": row.size,
                "root_hash": Checkpoint.parse(row.checkpoint).root_hash.hex(),
                "created_at": rfc3339(row.created_at),
                "checkpoint": row.checkpoint,
            }
            for row in rows
        ]
        return roots, keys

    async def consistency(self, first: int, second: int) -> dict[str, Any]:
        """Return the consistency proof of two sizes. Raises Problem (validation-failed) for other sizes than roots'."""
        async with self._engine.connect() as connection:
            size, _ = await transparency_log.last_checkpoint(connection)
            if not first <= second <= size:
                errors = [{"pointer": "/query/second", "detail": f"must be between `first` and {size}"}]
                raise Problem("validation-failed", "Use the sizes of two roots, the smaller one as `first`.", errors)
            nodes = await transparency_log.nodes(connection, second, first)
        path = merkle.consistency_proof(nodes, first, second)
        return {"first": first, "second": second, "path": [each.hex() for each in path]}

    async def inclusion(self, caller: Caller, transaction_id: str) -> dict[str, Any]:
        """Return the inclusion proof of a transaction with what the caller may see of it.

        Raises Problem: not-found, or not-sealed while no root covers it.
        """
        async with self._engine.connect() as connection:
            posted = await transparency_log.find(connection, transaction_id)
            own = await _own_accounts(connection, caller, posted.transaction) if posted else frozenset()
            if posted is None or not own:
                raise Problem("not-found", "Transaction not found; check the id.")
            leaf = await transparency_log.find_leaf(connection, transaction_id)
            note = await transparency_log.checkpoint_after(connection, leaf.position) if leaf else None
            if leaf is None or note is None:
                seconds = str(math.ceil(self._root_seconds) + 1)
                detail = f"No signed root covers the transaction yet; try again in {seconds} seconds."
                raise Problem("not-sealed", detail, headers={"Retry-After": seconds})
            size = Checkpoint.parse(note).size
            nodes = await transparency_log.nodes(connection, size, leaf.position)
        parts = leaves.disclosures(posted.transaction, posted.entries, leaf.salt)
        visible = [part for part in parts if part.is_visible(own, is_operator=caller.is_operator)]
        return {
            "transaction_id": transaction_id,
            "position": leaf.position,
            "digests": [leaf.data[n : n + 32].hex() for n in range(0, len(leaf.data), 32)],
            "disclosures": [part.text.decode() for part in visible],
            "size": size,
            "path": [each.hex() for each in merkle.inclusion_proof(nodes, leaf.position, size)],
            "checkpoint": note,
        }


async def _own_accounts(connection: AsyncConnection, caller: Caller, transaction: Mapping[str, Any]) -> frozenset[str]:
    """Return the accounts of a transaction that the caller may see."""
    accounts = [await repository.find_account(connection, transaction[side]) for side in ("from_account", "to_account")]
    return frozenset(account.id for account in accounts if account and caller.may_see(account.owner))
