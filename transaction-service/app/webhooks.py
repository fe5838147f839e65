"""Webhooks of customers and operators: who may create, see, change and delete which."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain import webhooks
from app.storage import queries
from app.storage import webhooks as storage
from app.webhook_client import ATTEMPT_SECONDS
from shared.db.database import reader, write_transaction
from shared.http import idempotency
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.ids import rfc3339, utc_now

MAX_PER_OWNER = 20


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client subscribes to: None means all accounts or all types that the client may see."""

    url: str
    account_id: str | None
    types: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a webhook; fields that are None stay as they are."""

    url: str | None = None
    types: tuple[str, ...] | None = None
    enabled: bool | None = None
    position: int | None = None
    secret_version: int | None = None


class WebhookService:
    """Creates, lists, changes and deletes webhooks. Every method raises Problem (webhooks-disabled) without a key."""

    def __init__(self, engine: AsyncEngine, key: str, *, allow_private: bool) -> None:
        self._engine = engine
        self._reader = reader(engine)
        self._key = key
        self._allow_private = allow_private

    async def create(self, caller: Caller, key: str, wanted: Subscription) -> dict[str, Any]:
        """Create a webhook for events from now on, or return the one that this Idempotency-Key has created.

        Raises Problem: not-found for an account that the caller may not see, validation-failed for a URL that is not
        allowed, idempotency-key-reused, or webhook-limit.
        """
        self._check_enabled()
        self._check_url(wanted.url)
        id_ = webhooks.new_webhook_id(caller.subject, key)
        async with write_transaction(self._engine) as connection:
            await storage.lock_creation(connection)
            existing = await storage.find(connection, id_)
            if existing is not None:
                if _subscription(existing) != wanted:
                    raise idempotency.reused(key)
                return self._view(caller, existing, with_secret=True)
            await _check_account(connection, caller, wanted.account_id)
            if await storage.count(connection, caller.subject) >= MAX_PER_OWNER:
                raise Problem("webhook-limit", f"A client can have {MAX_PER_OWNER} webhooks; delete one first.")
            now = utc_now()
            await storage.add(
                connection,
                {
                    "id": id_,
                    "owner": caller.subject,
                    "all_accounts": caller.is_operator,
                    "account_id": wanted.account_id,
                    "types": _dumps(wanted.types),
                    "url": wanted.url,
                    "position": await storage.last_consumed(connection),
                    "secret_version": 1,  # nosec B105  # a number
                    "failures": 0,
                    "next_attempt_at": now,
                    "claimed_until": now,
                    "created_at": now,
                },
            )
            return self._view(caller, await _visible(connection, caller, id_), with_secret=True)

    async def list_all(self, caller: Caller, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Return the caller's webhooks (operators: all), in the order of their ids."""
        self._check_enabled()
        owner = None if caller.is_operator else caller.subject
        async with self._reader.connect() as connection:
            return [self._view(caller, row) for row in await storage.listed(connection, owner, after, limit)]

    async def get(self, caller: Caller, id_: str) -> dict[str, Any]:
        """Return one of the caller's webhooks (operators: any). Raises Problem (not-found)."""
        self._check_enabled()
        async with self._reader.connect() as connection:
            return self._view(caller, await _visible(connection, caller, id_))

    async def change(self, caller: Caller, id_: str, change: Change) -> dict[str, Any]:
        """Change a webhook. Raises Problem: not-found, or validation-failed."""
        self._check_enabled()
        if change.url is not None:
            self._check_url(change.url)
        async with write_transaction(self._engine) as connection:
            webhook = await _visible(connection, caller, id_)
            values = _changed(webhook, change, await storage.last_consumed(connection))
            return self._view(caller, await storage.change(connection, id_, **values), with_secret=True)

    async def delete(self, caller: Caller, id_: str) -> None:
        """Delete a webhook with its delivery log. Raises Problem (not-found)."""
        self._check_enabled()
        async with write_transaction(self._engine) as connection:
            await _visible(connection, caller, id_)
            await storage.remove(connection, id_)

    async def deliveries(self, caller: Caller, id_: str, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Return the attempts of a webhook, newest first. Raises Problem (not-found)."""
        self._check_enabled()
        async with self._reader.connect() as connection:
            await _visible(connection, caller, id_)
            rows = await storage.deliveries(connection, id_, before, limit)
        return [
            {
                "id": row.id,
                "message_id": row.message_id,
                "position": row.position,
                "type": row.type,
                "attempt": row.attempt,
                "status": row.status,
                "error": row.error,
                "created_at": rfc3339(row.created_at),
            }
            for row in rows
        ]

    def _check_enabled(self) -> None:
        if not self._key:
            raise Problem("webhooks-disabled", "This bank sends no webhooks; its operators can set WEBHOOK_KEY.")

    def _check_url(self, url: str) -> None:
        try:
            webhooks.parse_receiver(url, allow_private=self._allow_private)
        except ValueError as error:
            raise _invalid("url", str(error)) from error

    def _view(self, caller: Caller, row: Row[Any], *, with_secret: bool = False) -> dict[str, Any]:
        subscription = _subscription(row)
        view = {
            "id": row.id,
            "owner": row.owner,
            "url": row.url,
            "account_id": row.account_id,
            "types": subscription.types,
            "enabled": row.disabled_reason is None,
            "disabled_reason": row.disabled_reason,
            "position": row.position,
            "failures": row.failures,
            "failing_since": rfc3339(row.failing_since) if row.failing_since else None,
            "next_attempt_at": rfc3339(row.next_attempt_at) if row.failures and not row.disabled_reason else None,
            "secret_version": row.secret_version,
            "created_at": rfc3339(row.created_at),
        }
        if with_secret and caller.subject == row.owner:
            view["secret"] = webhooks.secret(self._key, row.id, row.secret_version)
        return view


def _changed(webhook: Row[Any], change: Change, last: int) -> dict[str, Any]:
    """Return the new values of columns. Raises Problem (validation-failed)."""
    now = utc_now()
    values: dict[str, Any] = {"next_attempt_at": now}
    if webhook.claimed_until > now:
        # Ends the claim, and starts no other delivery before a running attempt has ended.
        values["claimed_until"] = now + timedelta(seconds=ATTEMPT_SECONDS)
    if change.url is not None:
        values["url"] = change.url
    if change.types is not None:
        values["types"] = _dumps(change.types)
    if change.enabled is False and webhook.disabled_reason is None:
        values["disabled_reason"] = "disabled by a client"
    if change.enabled:
        values |= {"disabled_reason": None, "failures": 0, "failing_since": None}
    if change.position is not None:
        if change.position > last:
            raise _invalid("position", f"is after the last event, {last}")
        values["position"] = change.position
    return values | _rotated(webhook, change.secret_version or webhook.secret_version, now)


def _rotated(webhook: Row[Any], version: int, now: datetime) -> dict[str, Any]:
    """Return the columns of another version of the secret. Raises Problem (validation-failed)."""
    if not 0 <= version - webhook.secret_version <= 1:
        raise _invalid("secret_version", f"must be {webhook.secret_version} or {webhook.secret_version + 1}")
    is_new = version > webhook.secret_version
    return {"secret_version": version, "secret_rotated_at": now} if is_new else {}


async def _visible(connection: AsyncConnection, caller: Caller, id_: str) -> Row[Any]:
    """Return a webhook. Raises Problem (not-found) unless it is the caller's, or the caller is an operator."""
    row = await storage.find(connection, id_)
    if row is None or not caller.may_see(row.owner):
        raise Problem("not-found", "Webhook not found.")
    return row


async def _check_account(connection: AsyncConnection, caller: Caller, account_id: str | None) -> None:
    if account_id is None:
        return
    account = await queries.account(connection, account_id)
    if account is None or not caller.may_see(account.owner):
        raise Problem("not-found", "Account not found.")


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(row.url, row.account_id, None if row.types is None else tuple(json.loads(row.types)))


def _dumps(types: Sequence[str] | None) -> str | None:
    return None if types is None else json.dumps(types)


def _invalid(name: str, detail: str) -> Problem:
    return Problem("validation-failed", "See `errors` for what to change.", [{"pointer": f"/{name}", "detail": detail}])
