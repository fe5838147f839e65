"""A simulated JetStream with faults: the parts of the NATS client that the bank uses.

Messages are stored once they are accepted; publishing may fail before or after that. Deliveries are lost, shuffled and
repeated, acknowledgements are lost, and unacknowledged messages are redelivered. The stream drops its oldest messages
and, at a restart, loses its last ones.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

from nats.errors import ConnectionClosedError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import Header
from nats.js.errors import BadRequestError, NotFoundError

# A fifteenth of the real AckWait.
ACK_WAIT_SECONDS = 2.0
_NEVER = float("inf")


class Network(Protocol):
    """The network to the broker, with its faults."""

    def time(self) -> float:
        """Return the time in seconds."""

    async def travel(self, what: str) -> None:
        """Delay a message. Raises CancelledError if its sender was killed, OSError during an outage."""

    def happens(self, fault: str) -> bool:
        """Return whether a fault happens now."""

    def shuffle(self, items: list[Any]) -> None:
        """Shuffle items."""


@dataclass
class Stored:
    """A message in the stream, and by durable consumer when it may be delivered (acknowledged: never)."""

    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]
    due: dict[str, float] = field(default_factory=dict)


class Broker:
    """The server: one stream of events and one of dead letters."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.events: list[Stored] = []
        self.dead: list[bytes] = []
        self._last_sequence = 0
        self._seen: dict[str, int] = {}
        self._arrived = asyncio.Event()

    def store(self, subject: str, data: bytes, headers: dict[str, str]) -> int:
        """Store a message unless its id is a duplicate; return its sequence number.

        Raises BadRequestError if its predecessor is not the last message of the subject.
        """
        if subject.startswith("dead."):
            self.dead.append(data)
            return 0
        identifier = headers.get(Header.MSG_ID.value)
        if identifier in self._seen and not self.network.happens("forgotten id"):
            return self._seen[identifier]
        last = self.last(subject)
        predecessor = headers.get(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value)
        if predecessor is not None and int(predecessor) != (last.sequence if last else 0):
            raise BadRequestError(description="wrong last sequence")
        self._last_sequence += 1
        if identifier is not None:
            self._seen[identifier] = self._last_sequence
        self.events.append(Stored(self._last_sequence, subject, data, headers))
        self.drop_oldest()
        self._arrived.set()
        return self._last_sequence

    def drop_oldest(self) -> None:
        """Drop the oldest batch, as a stream does that has reached its limits.

        Messages without headers stay: they are poison events that are in no outbox, and could not be recovered.
        """
        batches = [event for event in self.events if event.headers]
        if len(batches) > 1 and self.network.happens("dropped message"):
            self.events.remove(batches[0])

    def last(self, subject: str) -> Stored | None:
        """Return the last message of a subject."""
        return next((event for event in reversed(self.events) if event.subject == subject), None)

    def restart(self) -> None:
        """Restart; the last message may be lost, as if it had not been synced to the disk."""
        if self.events and self.events[-1].headers and self.network.happens("lost tail"):
            lost = self.events.pop()
            self._last_sequence = lost.sequence - 1
            self._seen = {identifier: at for identifier, at in self._seen.items() if at < lost.sequence}

    def waiting(self, durable: str, subject: str) -> list[Stored]:
        """Return the messages that a consumer has not acknowledged."""
        wanted = subject.removesuffix(">")
        return [one for one in self.events if one.subject.startswith(wanted) and one.due.get(durable, 0) < _NEVER]

    async def wait(self, seconds: float) -> None:
        """Wait until an event is stored, at most some seconds."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            pass

    async def connect(self, _url: str, **_options: Any) -> "Client":
        """Connect, like `nats.connect`."""
        await self.network.travel("nats connect")
        return Client(self)


class Client:
    """A connection to the broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.is_closed = False

    def jetstream(self, **_options: Any) -> "JetStream":
        """Return the JetStream context."""
        return JetStream(self._broker)

    async def close(self) -> None:
        """Close the connection."""
        self.is_closed = True


class JetStream:
    """A JetStream context."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def stream_info(self, _name: str) -> Any:
        """Return the same information for every stream; creating streams is tested on a real broker."""
        await self._broker.network.travel("nats stream info")
        return SimpleNamespace(created=None)

    async def get_msg(self, _stream: str, subject: str, direct: bool) -> Any:
        """Return the last message of a subject. Raises NotFoundError if there is none."""
        assert direct
        await self._broker.network.travel("nats get")
        last = self._broker.last(subject)
        if last is None:
            raise NotFoundError
        return SimpleNamespace(seq=last.sequence, data=last.data, headers=last.headers)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Any:
        """Store a message and acknowledge it; a lost acknowledgement leaves the publisher in doubt."""
        network = self._broker.network
        await network.travel(f"nats publish {subject}")
        if network.happens("lost publication"):
            raise NatsTimeoutError
        sequence = self._broker.store(subject, payload, headers or {})
        if network.happens("lost confirmation"):
            raise NatsTimeoutError
        await network.travel("nats confirm")
        return SimpleNamespace(seq=sequence)

    async def pull_subscribe(self, subject: str, durable: str, _stream: str, **_options: Any) -> "Subscription":
        """Return the consumer of that name."""
        await self._broker.network.travel("nats subscribe")
        return Subscription(self._broker, subject, durable)


class Subscription:
    """A durable pull consumer, shared by all that use its name."""

    def __init__(self, broker: Broker, subject: str, durable: str) -> None:
        self._broker = broker
        self._subject = subject
        self._durable = durable

    async def fetch(self, batch: int, timeout: float) -> Sequence[Any]:
        """Return some of the messages that are due. Raises nats.errors.TimeoutError if there are none for a while."""
        network = self._broker.network
        await network.travel("nats fetch")
        deadline = network.time() + timeout
        while not (due := self._due()):
            left = deadline - network.time()
            if left <= 0:
                raise NatsTimeoutError
            await self._broker.wait(min(left, 1.0))
        if network.happens("broker restart"):
            self._broker.restart()
            raise ConnectionClosedError
        network.shuffle(due)
        if network.happens("split delivery"):
            del due[1 + len(due) // 2 :]
        delivered = []
        for stored in due[:batch]:
            stored.due[self._durable] = network.time() + ACK_WAIT_SECONDS
            if network.happens("lost delivery"):
                continue
            delivered.append(self._message(stored))
            if network.happens("repeated delivery"):
                delivered.append(self._message(stored))
        await network.travel(f"nats deliver {len(delivered)}")
        if not delivered:
            raise NatsTimeoutError
        return delivered

    def _due(self) -> list[Stored]:
        now = self._broker.network.time()
        return [
            one for one in self._broker.waiting(self._durable, self._subject) if one.due.get(self._durable, 0) <= now
        ]

    def _message(self, stored: Stored) -> Any:
        async def settle(name: str, due: float) -> None:
            await self._broker.network.travel(f"nats {name}")
            if not self._broker.network.happens(f"lost {name}"):
                # A later nak does not revoke an acknowledgement.
                stored.due[self._durable] = max(due, stored.due[self._durable]) if due == _NEVER else due

        async def ack() -> None:
            await settle("ack", _NEVER)

        async def nak() -> None:
            if stored.due[self._durable] < _NEVER:
                await settle("nak", 0)

        return SimpleNamespace(data=stored.data, headers=stored.headers, ack=ack, nak=nak)
