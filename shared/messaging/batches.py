"""Batches of events in NATS messages: plain functions on plain data.

A message is a JSON array of consecutive events of one outbox (application/cloudevents-batch+json); a header has the
position of the first one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from nats.js.api import Header

from shared.events import BATCH_MEDIA_TYPE, Event
from shared.messaging.positions import Range

# Well below the maximum size of a message, 1 MB: a longer event is a batch of its own.
MAX_BYTES = 256 * 1024
_FIRST_POSITION = "First-Position"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events as received; `first` is the position of the first one, None if they have no positions."""

    events: Sequence[Any]
    first: int | None

    @property
    def positions(self) -> Range | None:
        """The positions of the events; None if there are no events or they have none."""
        return Range(self.first, self.first + len(self.events) - 1) if self.first and self.events else None


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A batch to be published; `event_id` is the id of the first event."""

    positions: Range
    event_id: str
    content: bytes

    def headers(self, source: str) -> dict[str, str]:
        """Return the headers of the message. Its id identifies positions and events.

        A database that was restored from a backup assigns the same positions again, to other events.
        """
        first, last = self.positions
        return {
            Header.MSG_ID.value: f"{source} {first}-{last} {self.event_id}",
            "Content-Type": BATCH_MEDIA_TYPE,
            _FIRST_POSITION: str(first),
        }


def encode(numbered: Sequence[tuple[int, Event]], max_bytes: int = MAX_BYTES) -> Iterator[EncodedBatch]:
    """Yield batches of events, given with their positions; a batch of several events has up to `max_bytes`."""
    parts: list[bytes] = []
    size = start = 0
    for index, (_, event) in enumerate(numbered):
        part = orjson.dumps(event)
        # With a comma or bracket.
        if parts and size + len(part) + 2 > max_bytes:
            yield _encoded(numbered[start:index], parts)
            parts, size, start = [], 0, index
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield _encoded(numbered[start:], parts)


def _encoded(numbered: Sequence[tuple[int, Event]], parts: Sequence[bytes]) -> EncodedBatch:
    positions = Range(numbered[0][0], numbered[-1][0])
    return EncodedBatch(positions, numbered[0][1]["id"], b"[%b]" % b",".join(parts))


def decode(content: bytes | None, headers: Mapping[str, str] | None) -> Batch:
    """Return the events of a message.

    A single event of an earlier release is a batch without positions, and so is unreadable content, which consumers
    dead-letter.
    """
    first = (headers or {}).get(_FIRST_POSITION, "")
    try:
        found = orjson.loads(content or b"")
    except orjson.JSONDecodeError:
        return Batch([(content or b"").decode(errors="replace")], None)
    if isinstance(found, list) and first.isascii() and first.isdigit() and 0 < len(first) < 19 and int(first) > 0:
        return Batch(found, int(first))
    return Batch([found], None)
