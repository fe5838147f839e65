"""Synthetic requests, for banks with too little traffic to analyze a canary.

They go through NGINX like those of customers, alternately to the canary and to stable, on two dedicated accounts. The
token's subject, the accounts' name and the transfers' reference identify them. The token has the scope bank:synthetic,
so money that it credits to its accounts cannot leave them.
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
_INITIAL_DEPOSIT = 1_000_000
_RETRY_SECONDS = 1.0


class SyntheticTraffic:
    """Sends requests while `enabled`."""

    def __init__(self, client: httpx.AsyncClient, url: str, token_file: Path | None, rate: float) -> None:
        self._client = client
        self._url = url
        self._token_file = token_file
        self._interval_seconds = 1 / rate
        self._accounts: tuple[str, str] | None = None
        self.enabled = False

    async def run(self) -> None:
        """Send requests until cancelled; failures show in the metrics of the replica that responded."""
        tracks = cycle(("always", "never"))
        while True:
            await asyncio.sleep(self._interval_seconds)
            if not self.enabled or self._token_file is None:
                continue
            try:
                await self._send(next(tracks))
            except (httpx.HTTPError, OSError, LookupError, ValueError) as error:
                log.info("synthetic request failed: %r", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _send(self, canary: str) -> None:
        """Transfer 1 minor unit between the two accounts in turn, and read the history."""
        if self._accounts is None:
            self._accounts = (await self._open_account(), await self._open_account())
        source, target = self._accounts
        self._accounts = (target, source)
        transfer = {**_usd(1), "from_account": source, "to_account": target, "reference": MARK}
        await self._post("/transfers", transfer, canary)
        await self._client.get(
            f"{self._url}/api/v1/transactions",
            params={"account_id": source, "limit": 1},
            headers=self._headers(canary),
        )

    async def _open_account(self) -> str:
        account = await self._post("/accounts", {"currency": "USD", "name": MARK}, "never")
        await self._post(f"/accounts/{account['id']}/deposits", {**_usd(_INITIAL_DEPOSIT), "reference": MARK}, "never")
        return str(account["id"])

    async def _post(self, path: str, body: dict[str, Any], canary: str) -> Any:
        headers = self._headers(canary) | {"Idempotency-Key": uuid.uuid4().hex}
        response = await self._client.post(f"{self._url}/api/v1{path}", json=body, headers=headers)
        response.raise_for_status()
        return response.json()

    def _headers(self, canary: str) -> dict[str, str]:
        # Read each time: a deployment replaces it while this runs.
        token = self._token_file.read_text(encoding="utf-8").strip() if self._token_file else ""
        return {"Authorization": f"Bearer {token}", "User-Agent": "bank-rollout", "X-Canary": canary}


def _usd(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "USD"}
