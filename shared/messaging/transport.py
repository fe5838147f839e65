"""Where events come from and go to: an HTTP feed or NATS JetStream, behind one small interface."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext

from shared.messaging import streams
from shared.events import Event, known_type
from shared.messaging.streams import STREAM

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
# How long a stream that was there is taken to be there still.
_STREAM_TRUSTED_SECONDS = 5.0
_FORGOTTEN_AFTER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Delivery:
    """Some events as received; `position` is set where the reader remembers its own position in a feed."""

    raw: Sequence[Any]
    position: int | None
    after: int | None
    acknowledge: Callable[[], Awaitable[None]]
    give_back: Callable[[], Awaitable[None]]


class Source(Protocol):
    """Somewhere to consume events from."""

    async def receive(self, after: int) -> Delivery:
        """Wait a while for events (a feed: those after a position); the delivery may be empty. Raises on outage."""

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Set an event aside where operators find it, besides the consumer's own table."""

    async def close(self) -> None:
        """Let go of connections."""


async def _nothing() -> None:
    """Acknowledge nothing: a feed's reader commits its position with the effect of the events."""


class FeedSource:
    """Reads a producer's `/internal/events` by long polling; several addresses are replicas of one producer."""

    def __init__(self, url: str, token: str, *, limit: int = 500, wait_seconds: float = 20) -> None:
        self._addresses = [part.strip().removeprefix("feed+").rstrip("/") for part in url.split(",")]
        self._addresses = [part if "://" in part else f"http://{part}" for part in self._addresses]
        self._limit = limit
        self._wait = wait_seconds
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"}, timeout=httpx.Timeout(5, read=wait_seconds + 10)
        )

    async def receive(self, after: int, *, wait_seconds: float | None = None) -> Delivery:
        """Return the events after a position, waiting for some; a replica that fails is tried last next time."""
        wait = int(self._wait if wait_seconds is None else wait_seconds)
        query = {"after": after, "limit": self._limit, "wait": wait}
        try:
            answer = await self._client.get(f"{self._addresses[0]}/internal/events", params=query)
            answer.raise_for_status()
            raw = orjson.loads(answer.content)
            position = int(answer.headers["X-Next-Position"])
        except Exception:
            self._addresses.append(self._addresses.pop(0))
            raise
        return Delivery(raw, position, after, _nothing, _nothing)

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Do nothing: a feed has no place for dead letters, the consumer's table keeps them."""

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._client.aclose()


class NatsBus:
    """A connection to NATS JetStream with the streams that the bank uses.

    With a tls://… address, the server's certificate has to be of the authority `ca` (PEM), or of one of the system's.
    """

    def __init__(self, url: str, ca: str = "") -> None:
        self._url = url
        self._tls = ssl.create_default_context(cadata=ca or None) if url.startswith("tls://") else None
        # Each user has inboxes of its own, which nobody else may subscribe to (scripts/stack/nats_users.py).
        user = urlsplit(url).username
        self._inbox_prefix = f"_INBOX_{user}" if user else "_INBOX"
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._stream = ""
        self._stream_seen_at = float("-inf")

    async def jetstream(self) -> JetStreamContext:
        """Return the JetStream context, connecting and creating the streams when needed. Raises on outage."""
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                # Without a limit the first connection is tried for ever, and whoever waits for it stands still.
                async with asyncio.timeout(_CONNECT_SECONDS):
                    client = await nats.connect(
                        self._url,
                        connect_timeout=2,
                        inbox_prefix=self._inbox_prefix,
                        tls=self._tls,
                        # Nothing is said before: else a server that offers no TLS is talked to without.
                        tls_handshake_first=self._tls is not None,
                        max_reconnect_attempts=-1,
                        reconnect_time_wait=1,
                        error_cb=_log_error,
                        reconnected_cb=self._look_again,
                    )
                self._stream_seen_at = float("-inf")
                try:
                    await self._look_for_streams(client)
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            elif time.monotonic() - self._stream_seen_at > _STREAM_TRUSTED_SECONDS:
                await self._look_for_streams(self._client)
            return self._client.jetstream(timeout=5)

    async def _look_again(self) -> None:
        # It may be another server, or the same with an empty disk.
        self._stream_seen_at = float("-inf")

    async def _look_for_streams(self, client: Client) -> None:
        """Create the streams that are not there (any more)."""
        stream = client.jetstream(timeout=5)
        created = await streams.ensure(stream, STREAM)
        await streams.ensure(stream, streams.DEAD_LETTERS)
        self._stream, self._stream_seen_at = created, time.monotonic()

    async def stream(self) -> str:
        """Return what tells the stream of events from one that took its place, as after the loss of the broker's disk.

        Creates the stream where there is none. Raises on outage.
        """
        await self.jetstream()
        return self._stream

    async def publish(self, events: Sequence[Event]) -> None:
        """Publish the events and return when all are stored. Raises when one may not be; publishing again is safe."""
        stream = await self.jetstream()
        acknowledgements = [
            stream.publish(event["type"], orjson.dumps(event), headers={"Nats-Msg-Id": event["id"]}) for event in events
        ]
        try:
            await asyncio.gather(*acknowledgements)
        except Exception:
            # Perhaps there is no stream any more.
            await self._look_again()
            raise

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            with suppress(Exception):
                await self._client.close()


async def _log_error(error: Exception) -> None:
    """Take one line for what the client would report with a traceback every second of an outage."""
    log.warning("NATS: %r", error)


class NatsSource:
    """A pull consumer; replicas with the same `durable` name compete for events.

    Without a name it gets, from now on, every event, whatever others get; the server forgets it soon after it is gone.
    """

    def __init__(
        self, bus: NatsBus, durable: str | None, subject: str, *, limit: int = 500, wait_seconds: float = 5
    ) -> None:
        self._bus = bus
        self._durable = durable
        self._subject = subject
        self._limit = limit
        self._wait = wait_seconds
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._subscribed_to = ""

    async def receive(self, after: int) -> Delivery:
        """Return the next events; those of a consumer that died come again after 30 seconds."""
        del after  # the server remembers what was acknowledged
        # A stream that took the place of another knows of no subscription, and would only stay silent.
        name = await self._bus.stream()
        if self._subscription is None or self._subscribed_to != name:
            await self._unsubscribe()
            stream = await self._bus.jetstream()
            config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=5000)
            if self._durable is None:
                config.deliver_policy, config.inactive_threshold = DeliverPolicy.NEW, _FORGOTTEN_AFTER_SECONDS
            self._subscription = await stream.pull_subscribe(self._subject, self._durable, STREAM, config=config)
            self._subscribed_to = name
        try:
            messages = await self._subscription.fetch(self._limit, timeout=self._wait)
        except (NatsTimeoutError, TimeoutError):
            messages = []
        except Exception:
            await self._unsubscribe()
            raise
        return Delivery(
            [_decode(message) for message in messages],
            None,
            None,
            lambda: _each(messages, "ack"),
            lambda: _each(messages, "nak"),
        )

    async def _unsubscribe(self) -> None:
        """Give the inbox up, which would else be kept for as long as the connection lasts."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(Exception):  # whatever is wrong with it, another one takes its place
                await subscription.unsubscribe()

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Publish the event under `dead.<type>`, with the reason in a header."""
        stream = await self._bus.jetstream()
        # Only of a known type: others may hold what a subject must not.
        subject = f"dead.{known_type(raw) or 'bank.unreadable'}"
        summary = " ".join(reason.split())[:200].encode("utf-8", "replace").decode()
        await stream.publish(subject, json.dumps(raw, default=repr).encode(), headers={"Reason": summary})

    async def close(self) -> None:
        """Close the connection."""
        await self._bus.close()


def _decode(message: Msg) -> Any:
    try:
        return orjson.loads(message.data)
    except orjson.JSONDecodeError:
        return message.data.decode(errors="replace")


async def _each(messages: Sequence[Msg], action: str) -> None:
    for message in messages:
        await getattr(message, action)()
