"""Event transport: an HTTP feed or NATS JetStream, behind one interface."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from shared.messaging import streams
from shared.events import known_type
from shared.messaging.batches import Batch, EncodedBatch, decode
from shared.messaging.streams import STREAM, batch_subject
from shared.runtime.settings import DEFAULT_STREAM_BYTES
from shared.runtime.sockets import detect_silent_peer

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
# Timeout of a request to JetStream, also of a publish.
_REQUEST_SECONDS = 5
# The existence of the streams is checked at most once per interval.
_STREAM_CHECK_SECONDS = 5.0
_INACTIVE_THRESHOLD_SECONDS = 60
_SNAPSHOT_TRIES = 30
_SNAPSHOT_RETRY_SECONDS = 1.0
# Messages that are neither acked nor nacked are redelivered after this time.
_ACK_WAIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Delivery:
    """Batches as received; acked or nacked together."""

    batches: Sequence[Batch]
    ack: Callable[[], Awaitable[None]]
    nack: Callable[[], Awaitable[None]]


class Source(Protocol):
    """A source of events."""

    async def receive(self, after: int) -> Delivery:
        """Wait for events (of a feed: those after a position); the delivery may be empty. Raises on outage."""

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Publish a poison event to the dead-letter stream, in addition to the consumer's table."""

    async def close(self) -> None:
        """Close all connections."""


async def _noop() -> None:
    """Do nothing: consumers of a feed commit the positions with the effect of the events."""


class EventsPruned(Exception):
    """The producer has pruned the next event, so the consumer has to catch up from the snapshot at `feed`.

    `first` is the first position that is available.
    """

    def __init__(self, feed: "FeedSource", first: int) -> None:
        super().__init__(f"the producer has pruned the events before position {first}")
        self.feed = feed
        self.first = first


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A page of a producer's snapshot, with the position of the outbox' last event before the page was read.

    `pruned` is the last position that the outbox no longer had.
    """

    events: Sequence[Any]
    head: int
    pruned: int


class FeedSource:
    """Reads a producer's `/internal/events` by long polling; the addresses are replicas of one producer.

    `limit` is the maximum number of events per delivery.
    """

    def __init__(self, url: str, token: str, *, limit: int = 500, wait_seconds: float = 20) -> None:
        self._addresses = [part.strip().removeprefix("feed+").rstrip("/") for part in url.split(",")]
        self._addresses = [part if "://" in part else f"http://{part}" for part in self._addresses]
        self.limit = limit
        self._wait = wait_seconds
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"}, timeout=httpx.Timeout(5, read=wait_seconds + 10)
        )

    async def receive(self, after: int, *, wait_seconds: float | None = None) -> Delivery:
        """Return the events after a position by long polling; a replica that fails is tried last next time.

        Raises EventsPruned, httpx.HTTPError, or ValueError or KeyError for a response that is no feed.
        """
        wait = int(self._wait if wait_seconds is None else wait_seconds)
        query = {"after": after, "limit": self.limit, "wait": wait}
        with self._next_address_after_errors():
            response = await self._client.get(f"{self._addresses[0]}/internal/events", params=query)
            if response.status_code == HTTPStatus.GONE:
                raise EventsPruned(self, int(response.headers["X-First-Position"]))
            response.raise_for_status()
            events = orjson.loads(response.content)
            first = int(response.headers["X-Next-Position"]) - len(events) + 1
            if first <= after:
                raise ValueError(f"the feed returned {len(events)} events from position {first} after {after}")
        return Delivery([Batch(events, first)], _noop, _noop)

    async def snapshot(self) -> AsyncIterator[SnapshotPage]:
        """Yield the pages of the producer's snapshot (shared.messaging.snapshot), there is at least one.

        Raises httpx.HTTPError, or ValueError or KeyError for a response that is no snapshot, if no replica responds
        within about 30 seconds.
        """
        cursor: str | None = ""
        while cursor is not None:
            page, cursor = await self._snapshot_page(cursor)
            yield page

    async def _snapshot_page(self, cursor: str) -> tuple[SnapshotPage, str | None]:
        # A snapshot may take hours, in which replicas are restarted.
        for attempt in range(1, _SNAPSHOT_TRIES + 1):
            try:
                with self._next_address_after_errors():
                    response = await self._client.get(
                        f"{self._addresses[0]}/internal/snapshot", params={"after": cursor}
                    )
                    response.raise_for_status()
                    headers = response.headers
                    page = SnapshotPage(
                        orjson.loads(response.content), int(headers["X-Head"]), int(headers["X-Pruned"])
                    )
                    return page, headers.get("X-Next-Cursor")
            except (httpx.HTTPError, ValueError, KeyError) as error:
                if attempt == _SNAPSHOT_TRIES:
                    raise
                log.info("snapshot interrupted, retrying in %s s: %r", _SNAPSHOT_RETRY_SECONDS, error)
            await asyncio.sleep(_SNAPSHOT_RETRY_SECONDS)
        raise AssertionError("unreachable")

    @contextmanager
    def _next_address_after_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._addresses.append(self._addresses.pop(0))
            raise

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Do nothing: a feed has no dead-letter stream, only the consumer's table."""

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._client.aclose()


@dataclass(frozen=True, slots=True)
class LastBatch:
    """The last batch of a source in the stream: its sequence number there, and the position of its last event."""

    sequence: int
    position: int


class NatsConnection:
    """A connection to NATS JetStream that creates missing streams, with a stream of events of up to `stream_bytes`.

    `stream_replicas` is the number of servers that store each message.
    `url` may name several servers of a cluster, separated by commas. With tls://…, the certificate of the server must
    be issued by `ca` (PEM) or, if empty, by a CA of the system.
    """

    def __init__(
        self, url: str, ca: str = "", stream_bytes: int = DEFAULT_STREAM_BYTES, stream_replicas: int = 1
    ) -> None:
        self._servers = url.split(",")
        self._streams = streams.configurations(stream_bytes, stream_replicas)
        self._tls = ssl.create_default_context(cadata=ca or None) if url.startswith("tls://") else None
        # Each user has its own inbox prefix, which other users may not subscribe to (scripts/stack/nats_users.py).
        user = urlsplit(self._servers[0]).username
        self._inbox_prefix = f"_INBOX_{user}" if user else "_INBOX"
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._stream = ""
        self._streams_checked_at = float("-inf")

    async def jetstream(self) -> JetStreamContext:
        """Return the JetStream context; connect and create the streams if necessary. Raises on outage."""
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                # The client retries the first connection forever, which would block the caller.
                async with asyncio.timeout(_CONNECT_SECONDS):
                    client = await nats.connect(
                        self._servers,
                        connect_timeout=2,
                        inbox_prefix=self._inbox_prefix,
                        tls=self._tls,
                        # TLS first: otherwise a server without TLS gets an unencrypted connection.
                        tls_handshake_first=self._tls is not None,
                        max_reconnect_attempts=-1,
                        reconnect_time_wait=1,
                        error_cb=_log_error,
                        reconnected_cb=self._on_reconnect,
                    )
                _detect_silent_server(client)
                self._streams_checked_at = float("-inf")
                try:
                    await self._ensure_streams(client)
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            elif time.monotonic() - self._streams_checked_at > _STREAM_CHECK_SECONDS:
                await self._ensure_streams(self._client)
            return self._client.jetstream(timeout=_REQUEST_SECONDS)

    async def _on_reconnect(self) -> None:
        # It may be another server, or one that has lost its disk.
        self._streams_checked_at = float("-inf")
        if self._client is not None:
            _detect_silent_server(self._client)

    async def _ensure_streams(self, client: Client) -> None:
        """Create missing streams."""
        stream = client.jetstream(timeout=_REQUEST_SECONDS)
        self._stream, _ = [await streams.ensure(stream, configuration) for configuration in self._streams]
        self._streams_checked_at = time.monotonic()

    async def stream(self) -> str:
        """Return an id of the event stream; a stream recreated after the loss of the broker's disk has another one.

        Creates missing streams. Raises on outage.
        """
        await self.jetstream()
        return self._stream

    async def last_batch(self, source: str) -> LastBatch:
        """Return the last batch of a source in the stream; 0 and 0 if there is none. Raises on outage."""
        stream = await self.jetstream()
        try:
            found = await stream.get_msg(STREAM, subject=batch_subject(source), direct=True)
        except NotFoundError:
            return LastBatch(0, 0)
        positions = decode(found.data, found.headers).positions
        return LastBatch(found.seq or 0, positions.last if positions else 0)

    async def publish(self, source: str, batch: EncodedBatch, after: int) -> int:
        """Publish a batch as one message and return its sequence number when it is stored.

        `after` is the sequence number of the source's last message. Raises if the batch may not have been stored, and
        if the stream has another last message: another relay has published, or the server has lost messages. Publishing
        the same batch again is safe: it is rejected, or acknowledged as a duplicate.
        """
        stream = await self.jetstream()
        headers = {**batch.headers(source), Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(after)}
        try:
            return (await stream.publish(batch_subject(source), batch.content, headers=headers)).seq
        except Exception:
            # The stream may have been deleted.
            self._streams_checked_at = float("-inf")
            raise

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            with suppress(Exception):
                await self._client.close()


def _detect_silent_server(client: Client) -> None:
    # The client has no option for it, and publishes in flight to a host without power would wait for its pings.
    writer = client._transport._bare_io_writer  # type: ignore[union-attr]  # pylint: disable=protected-access
    detect_silent_peer(writer.transport)


async def _log_error(error: Exception) -> None:
    """Log one line; the client would log a traceback every second of an outage."""
    log.warning("NATS: %r", error)


class NatsSource:
    """A pull consumer; replicas with the same `durable` name share the messages.

    Without a name it is ephemeral: it receives all new messages, and the server deletes it when it is inactive.
    `limit` is the maximum number of messages per delivery.
    """

    def __init__(
        self, bus: NatsConnection, durable: str | None, subject: str, *, limit: int = 8, wait_seconds: float = 5
    ) -> None:
        self._bus = bus
        self._durable = durable
        self._subject = subject
        self._limit = limit
        self._wait = wait_seconds
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._subscribed_to = ""

    async def receive(self, after: int) -> Delivery:
        """Return the next messages; those of a consumer that died are redelivered after 30 seconds."""
        del after  # the server stores the position of the consumer
        # A recreated stream has no consumers, so an old subscription would never receive anything.
        name = await self._bus.stream()
        if self._subscription is None or self._subscribed_to != name:
            await self._unsubscribe()
            stream = await self._bus.jetstream()
            config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=_ACK_WAIT_SECONDS, max_ack_pending=5000)
            if self._durable is None:
                config.deliver_policy, config.inactive_threshold = DeliverPolicy.NEW, _INACTIVE_THRESHOLD_SECONDS
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
            [decode(message.data, message.headers) for message in messages],
            lambda: _each(messages, "ack"),
            lambda: _each(messages, "nak"),
        )

    async def _unsubscribe(self) -> None:
        """Unsubscribe; otherwise the inbox would be kept as long as the connection."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(Exception):  # it is replaced anyway
                await subscription.unsubscribe()

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Publish the event under `dead.<type>`, with the reason in a header."""
        stream = await self._bus.jetstream()
        # Only known types: others may contain characters that are invalid in a subject.
        subject = f"dead.{known_type(raw) or 'bank.unreadable'}"
        summary = " ".join(reason.split())[:200].encode("utf-8", "replace").decode()
        await stream.publish(subject, json.dumps(raw, default=repr).encode(), headers={"Reason": summary})

    async def close(self) -> None:
        """Close the connection."""
        await self._bus.close()


async def _each(messages: Sequence[Msg], action: str) -> None:
    for message in messages:
        await getattr(message, action)()
