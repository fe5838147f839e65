"""Requests of a rollout's own, for banks whose customers make too few to judge a canary by.

They go through NGINX as everybody's do, half of them asked to the canary and half to stable, on two accounts of their
own; the token's subject, the accounts' name and the transfers' reference say what they are. The token has the scope
bank:synthetic: what it credits to its own accounts cannot leave them.
"""

import asyncio
import logging
import uuid
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

log = logging.getLogger(__name__)

MARK = "synthetic"
_MONEY = 1_000_000
_RETRY_SECONDS = 1.0


class Synthetic:
    """Makes requests while it is switched on."""

    def __init__(self, client: httpx.AsyncClient, url: str, token_file: Path | None, rate: float) -> None:
        self._client = client
        self._url = url
        self._token_file = token_file
        self._seconds = 1 / rate
        self._accounts: tuple[str, str] | None = None
        self.on = False

    async def run(self) -> None:
        """Go on until cancelled; failures are the canary's, and are measured where it answers."""
        tracks = cycle(("always", "never"))
        while True:
            await asyncio.sleep(self._seconds)
            if not self.on or self._token_file is None:
                continue
            try:
                await self._one(next(tracks))
            except (httpx.HTTPError, OSError, LookupError, ValueError) as error:
                log.info("a request of the rollout's own failed: %r", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _one(self, canary: str) -> None:
        """Move 1 to and fro, and look at the history."""
        if self._accounts is None:
            self._accounts = (await self._open(), await self._open())
        source, target = self._accounts
        self._accounts = (target, source)
        transfer = {**_usd(1), "from_account": source, "to_account": target, "reference": MARK}
        await self._post("/transfers", transfer, canary)
        await self._client.get(
            f"{self._url}/api/v1/transactions",
            params={"account_id": source, "limit": 1},
            headers=self._headers(canary),
        )

    async def _open(self) -> str:
        account = await self._post("/accounts", {"currency": "USD", "name": MARK}, "never")
        await self._post(f"/accounts/{account['id']}/deposits", {**_usd(_MONEY), "reference": MARK}, "never")
        return str(account["id"])

    async def _post(self, path: str, body: dict[str, Any], canary: str) -> Any:
        headers = self._headers(canary) | {"Idempotency-Key": uuid.uuid4().hex}
        answer = await self._client.post(f"{self._url}/api/v1{path}", json=body, headers=headers)
        answer.raise_for_status()
        return answer.json()

    def _headers(self, canary: str) -> dict[str, str]:
        # Read each time: a deployment brings a new one while this runs.
        token = self._token_file.read_text(encoding="utf-8").strip() if self._token_file else ""
        return {"Authorization": f"Bearer {token}", "User-Agent": "bank-rollout", "X-Canary": canary}


def _usd(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "USD"}
