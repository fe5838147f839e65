"""The sealer: appends posted transactions to the transparency log, in the order of the outbox, and signs its root.

It follows the outbox, whose positions have no gaps: a transaction and its events are committed together, so none is
skipped. Transactions are sealed after they were posted, and cost the request path nothing.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.models import outbox
from app.prometheus import SEALED
from app.storage import transparency_log
from app.storage.transparency_log import Leaf
from app.transparency import merkle
from app.transparency.checkpoints import Signer
from app.transparency.leaves import SALT_BYTES, disclosures, leaf_data
from shared.db.database import reader, write_all, write_transaction
from shared.events import Event, new_event
from shared.ids import new_id, rfc3339, utc_now
from shared.prometheus.checks import CHECKED

log = logging.getLogger(__name__)

# Events per database transaction; between two of them, requests go on.
_LIMIT = 200
# Maximum share of the time that sealing takes: under load it falls behind rather than slow down requests.
_MAX_SHARE = 0.04


class Sealer:
    """Seals what was posted since the last pass; replicas take turns, one at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        signer: Signer | None,
        root_interval: timedelta,
        committed: Callable[[Sequence[Event]], None] = lambda events: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._reader = reader(engine)
        self._signer = signer
        self._root_interval = root_interval
        self._committed = committed
        self._pause = pause
        # Events up to this position are sealed, or have nothing to seal.
        self._after = 0
        if signer is None:
            log.warning("no root of the ledger will be published: LEDGER_SIGNING_KEY_FILE is not set")
        CHECKED.labels("sealer").set_to_current_time()

    async def run(self) -> None:
        """Seal everything that is in the outbox, then publish a root if one is due."""
        async with self._reader.connect() as connection:
            head = await outbox.head(connection)
        clock = asyncio.get_running_loop().time
        started = clock()
        while self._after < head and await self._seal():
            # Roots are published on time, also while sealing is behind.
            await self._publish_root()
            await self._pause((clock() - started) * (1 / _MAX_SHARE - 1))
            started = clock()
        await self._publish_root()
        if self._after >= head:
            CHECKED.labels("sealer").set_to_current_time()

    async def sealed(self, connection: AsyncConnection) -> int:
        """Return the position of the event of the last leaf, before which everything is sealed."""
        return (await transparency_log.end(connection))[1]

    async def _seal(self) -> bool:
        """Append the leaves of some events; return False if another replica is sealing."""
        async with write_transaction(self._engine) as connection:
            if not await transparency_log.try_lock(connection):
                return False
            size, sealed = await transparency_log.end(connection)
            self._after = max(self._after, sealed)
            numbered = await outbox.read(connection, self._after, _LIMIT)
            if not numbered:
                return False
            leaves = await _new_leaves(connection, size, numbered)
            if leaves:
                await transparency_log.append(connection, leaves)
        self._after = numbered[-1][0]
        SEALED.inc(len(leaves))
        return True

    async def _publish_root(self) -> None:
        signer = self._signer
        if signer is None:
            return
        async with self._reader.connect() as connection:
            if not await self._is_due(connection):
                return
        async with write_transaction(self._engine) as connection:
            if not await transparency_log.try_lock(connection) or not await self._is_due(connection):
                return
            now = utc_now()
            size, _ = await transparency_log.end(connection)
            root_hash = merkle.range_hash(await transparency_log.nodes(connection, size), 0, size)
            note = signer.sign(size, root_hash, now)
            root_id = new_id()
            await transparency_log.add_checkpoint(connection, root_id, size, note, signer.public_keys, now)
            event = _event(root_id, size, root_hash, note, now)
            await write_all(connection, [outbox.write([event], now)])
        self._committed([event])

    async def _is_due(self, connection: AsyncConnection) -> bool:
        size, created_at = await transparency_log.last_checkpoint(connection)
        leaves, _ = await transparency_log.end(connection)
        return leaves > size and (created_at is None or utc_now() >= created_at + self._root_interval)


async def _new_leaves(connection: AsyncConnection, size: int, numbered: Sequence[tuple[int, Event]]) -> list[Leaf]:
    """Return a leaf for each transaction of these events that has none, in their order."""
    entries = [(position, event["data"]) for position, event in numbered if event["type"] == "bank.entry.posted"]
    keys = [(data["transaction_id"], data["account_id"], data["seq"]) for _, data in entries]
    posted = await transparency_log.unsealed(connection, keys)
    leaves: list[Leaf] = []
    for position, data in entries:
        found = posted.pop(data["transaction_id"], None)
        if found is not None:
            salt = secrets.token_bytes(SALT_BYTES)
            content = leaf_data(disclosures(found.transaction, found.entries, salt))
            leaves.append(Leaf(size + len(leaves), found.transaction["id"], position, salt, content))
    return leaves


def _event(root_id: str, size: int, root_hash: bytes, note: str, now: datetime) -> Event:
    data = {"size": size, "root_hash": root_hash.hex(), "checkpoint": note, "created_at": rfc3339(now)}
    return new_event(source="account-service", type_="bank.ledger.sealed", subject=root_id, time=now, data=data)
