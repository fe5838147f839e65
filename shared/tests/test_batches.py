"""Batches of events in messages."""

from typing import Any

import orjson
import pytest

from shared.messaging.batches import decode, encode
from shared.tests.support import event, events, names


def numbered(count: int, first: int = 1) -> list[tuple[int, Any]]:
    return [*enumerate(events(count), first)]


@pytest.mark.parametrize("max_bytes", [1, 700, 2000, 10**6])
def test_batches_are_limited_by_size_and_lose_no_event(max_bytes: int) -> None:
    given = numbered(30, 5)
    batches = [*encode(given, max_bytes)]
    assert [one for batch in batches for one in orjson.loads(batch.content)] == [one for _, one in given]
    assert all(len(batch.content) <= max_bytes or len(orjson.loads(batch.content)) == 1 for batch in batches)
    ends = [batch.positions for batch in batches]
    assert ends[0].first == 5 and ends[-1].last == 34
    assert all(one.last + 1 == other.first for one, other in zip(ends, ends[1:]))
    received = [decode(batch.content, batch.headers("s")) for batch in batches]
    assert [batch.positions for batch in received] == ends
    assert [name for batch in received for name in names(list(batch.events))] == names(events(30))
    assert not [*encode([])]


def test_the_id_of_a_message_identifies_positions_and_events() -> None:
    """After a restore, the same positions are those of other events."""
    ids = {
        next(encode(items)).headers(source)["Nats-Msg-Id"]
        for source in ("a", "b")
        for items in (numbered(2), numbered(3), numbered(2, 2), [*enumerate([event("x"), event("y")], 1)])
    }
    assert len(ids) == 8


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    [
        (b'{"id": 1}', None, [{"id": 1}]),
        (b'{"id": 1}', {"First-Position": "1"}, [{"id": 1}]),
        (b"[1, 2]", None, [[1, 2]]),
        (b"\xff", {"First-Position": "1"}, ["\ufffd"]),
        (b"", {}, [""]),
        (None, None, [""]),
        *((b"[1]", {"First-Position": bad}, [[1]]) for bad in ("0", "-1", "x", "", "\u0663", "9" * 19)),
    ],
)
def test_other_messages_are_one_event_without_position(content: Any, headers: Any, expected: list[Any]) -> None:
    batch = decode(content, headers)
    assert (batch.events, batch.first, batch.positions) == (expected, None, None)
