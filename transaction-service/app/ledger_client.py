"""Asks account-service, over its internal endpoints, for balances and for how far accounts go."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import httpx
from pydantic import AwareDatetime, BaseModel, ValidationError

from app.domain.completeness import LedgerAccount, LedgerState
from app.domain.reconciliation import Balance
from shared.ids import utc_now

log = logging.getLogger(__name__)

_SECONDS = 10
_SEQ_SECONDS = 0.3
# How long nobody asks for a `seq` again after account-service did not answer: readers shall not queue up for it.
_PAUSE_SECONDS = 1.0


class _Item(BaseModel):
    id: str
    currency: str
    balance: int
    seq: int
    updated_at: AwareDatetime


class _Page(BaseModel):
    items: list[_Item]
    next_cursor: str | None


class _Seq(BaseModel):
    id: str
    owner: str
    currency: str
    seq: int


class _Seqs(BaseModel):
    items: list[_Seq]
    more: bool


class LedgerClient:
    """A client of account-service's `/internal/balances` and `/internal/seqs`."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_SECONDS)
        self._silent_until = 0.0

    async def balances(self) -> AsyncIterator[tuple[datetime, Sequence[Balance]]]:
        """Yield pages of balances, each with the time just before it was asked for.

        Raises httpx.HTTPError or pydantic.ValidationError when account-service does not answer as it should.
        """
        cursor: str | None = None
        while True:
            asked_at = utc_now()
            query = {} if cursor is None else {"after": cursor}
            answer = (await self._client.get("/internal/balances", params=query)).raise_for_status()
            page = _Page.model_validate_json(answer.content)
            yield asked_at, [Balance(**item.model_dump()) for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return

    async def account(self, account_id: str) -> LedgerState | None:
        """Return an account as it is now, or no account; None when account-service does not answer in time."""
        return await self._seqs({"account_id": account_id})

    async def accounts_of(self, owner: str) -> LedgerState | None:
        """Return all accounts of an owner; None when account-service does not answer in time, or there are too many."""
        return await self._seqs({"owner": owner})

    async def _seqs(self, query: dict[str, str]) -> LedgerState | None:
        """Ask once, and not for long: what is read can be answered without it."""
        if time.monotonic() < self._silent_until:
            return None
        as_of = utc_now()
        try:
            async with asyncio.timeout(_SEQ_SECONDS):
                answer = (await self._client.get("/internal/seqs", params=query)).raise_for_status()
            found = _Seqs.model_validate_json(answer.content)
        except (httpx.HTTPError, TimeoutError, ValidationError) as error:
            self._silent_until = time.monotonic() + _PAUSE_SECONDS
            log.warning("account-service does not tell how far accounts go: %r", error)
            return None
        accounts = {item.id: LedgerAccount(**item.model_dump()) for item in found.items}
        return None if found.more else LedgerState(as_of, accounts)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
