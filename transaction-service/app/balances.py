"""Reads the balances of all accounts from account-service."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import httpx
from pydantic import AwareDatetime, BaseModel

from app.reconciliation import Balance
from shared.ids import utc_now

_SECONDS = 10


class _Item(BaseModel):
    id: str
    currency: str
    balance: int
    seq: int
    updated_at: AwareDatetime


class _Page(BaseModel):
    items: list[_Item]
    next_cursor: str | None


class BalanceReader:
    """A client of account-service's `/internal/balances`."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_SECONDS)

    async def pages(self) -> AsyncIterator[tuple[datetime, Sequence[Balance]]]:
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

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
