"""Client of account-service's internal endpoints: balances, and the last sequence number of each account."""

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

_TIMEOUT_SECONDS = 10
_SEQ_TIMEOUT_SECONDS = 0.3
# After a failure, queries for `seq` fail at once for this time, so that callers do not wait for each timeout.
_RETRY_DELAY_SECONDS = 1.0


class _AccountBalance(BaseModel):
    id: str
    currency: str
    balance: int
    seq: int
    updated_at: AwareDatetime


class _BalancePage(BaseModel):
    items: list[_AccountBalance]
    next_cursor: str | None


class _AccountSeq(BaseModel):
    id: str
    owner: str
    currency: str
    seq: int


class _AccountSeqPage(BaseModel):
    items: list[_AccountSeq]
    more: bool


class LedgerClient:
    """A client of account-service's `/internal/balances` and `/internal/seqs`."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_SECONDS
        )
        self._unavailable_until = 0.0

    async def balances(self) -> AsyncIterator[tuple[datetime, Sequence[Balance]]]:
        """Yield pages of balances, each with the time just before its request.

        Raises httpx.HTTPError or pydantic.ValidationError if the request fails.
        """
        cursor: str | None = None
        while True:
            requested_at = utc_now()
            query = {} if cursor is None else {"after": cursor}
            response = (await self._client.get("/internal/balances", params=query)).raise_for_status()
            page = _BalancePage.model_validate_json(response.content)
            yield requested_at, [Balance(**item.model_dump()) for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return

    async def state_of_account(self, account_id: str) -> LedgerState | None:
        """Return the ledger's state of an account, empty if it does not exist; None if unavailable."""
        return await self._fetch_state({"account_id": account_id})

    async def state_of_owner(self, owner: str) -> LedgerState | None:
        """Return the ledger's state of an owner's accounts; None if unavailable, or if there are too many."""
        return await self._fetch_state({"owner": owner})

    async def _fetch_state(self, query: dict[str, str]) -> LedgerState | None:
        """Query once, with a short timeout: callers can respond without the result."""
        if time.monotonic() < self._unavailable_until:
            return None
        as_of = utc_now()
        try:
            async with asyncio.timeout(_SEQ_TIMEOUT_SECONDS):
                response = (await self._client.get("/internal/seqs", params=query)).raise_for_status()
            page = _AccountSeqPage.model_validate_json(response.content)
        except (httpx.HTTPError, TimeoutError, ValidationError) as error:
            self._unavailable_until = time.monotonic() + _RETRY_DELAY_SECONDS
            log.warning("cannot read account sequence numbers from account-service: %r", error)
            return None
        accounts = {item.id: LedgerAccount(**item.model_dump()) for item in page.items}
        return None if page.more else LedgerState(as_of, accounts)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
