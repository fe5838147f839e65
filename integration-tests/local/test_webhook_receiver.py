"""The receiver of the drill `webhooks` detects wrong signatures, a wrong order and changed ids."""

from collections.abc import Iterator, Sequence

import httpx
import pytest
from harness.webhook_receiver import Receiver, Request

# The example of the libraries of Standard Webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SENT_AT = 1614265330
EXAMPLE = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(SENT_AT),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
BODY = b'{"test": 2432232314}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A healthy receiver."""
    receiver = Receiver("healthy")
    yield receiver
    receiver.close()


def _received(receiver: Receiver, arrivals: Sequence[tuple[str, int, str]]) -> Receiver:
    for account, position, message_id in arrivals:
        event = {"id": f"event-{position}", "subject": account, "position": position}
        receiver.requests.append(Request(0, {"webhook-id": message_id}, b"", event))
    return receiver


@pytest.mark.parametrize(
    ("changed", "body", "at", "verified"),
    [
        ({}, BODY, SENT_AT + 299, True),
        ({"webhook-signature": f"v1,b3RoZXI= {EXAMPLE['webhook-signature']}"}, BODY, SENT_AT, True),
        ({}, BODY, SENT_AT + 301, False),
        ({}, BODY + b" ", SENT_AT, False),
        ({"webhook-id": "msg_other"}, BODY, SENT_AT, False),
        ({"webhook-timestamp": str(SENT_AT + 1)}, BODY, SENT_AT, False),
        ({"webhook-signature": EXAMPLE["webhook-signature"].replace("v1", "v2")}, BODY, SENT_AT, False),
    ],
)
def test_a_signature_must_be_valid_and_current(changed: dict[str, str], body: bytes, at: float, verified: bool) -> None:
    assert Request(at, {**EXAMPLE, **changed}, body, {}).verifies(SECRET) is verified


@pytest.mark.parametrize(
    ("arrivals", "count"),
    [
        ([("a", 1, "m1"), ("a", 1, "m1"), ("b", 2, "m2"), ("a", 3, "m3"), ("a", 1, "m1")], 0),
        ([("b", 2, "m2"), ("a", 1, "m1"), ("a", 3, "m3")], 0),
        ([("a", 3, "m3"), ("b", 2, "m2"), ("a", 1, "m1"), ("a", 3, "m3")], 1),
    ],
)
def test_the_order_of_first_arrivals_counts_per_account(
    receiver: Receiver, arrivals: Sequence[tuple[str, int, str]], count: int
) -> None:
    assert _received(receiver, arrivals).out_of_order() == count


@pytest.mark.parametrize(
    ("arrivals", "count"),
    [
        ([("a", 1, "m1"), ("a", 1, "m1"), ("a", 2, "m2")], 0),
        ([("a", 1, "m1"), ("a", 1, "other"), ("a", 2, "m2")], 1),
        ([("a", 1, "m1"), ("a", 2, "m1")], 1),
    ],
)
def test_an_event_and_its_webhook_id_belong_together(
    receiver: Receiver, arrivals: Sequence[tuple[str, int, str]], count: int
) -> None:
    assert _received(receiver, arrivals).changed_ids() == count


@pytest.mark.parametrize(("kind", "status"), [("healthy", 200), ("rejecting", 500), ("redirecting", 307)])
def test_only_accepted_events_count_until_it_recovers(kind: str, status: int) -> None:
    receiver = Receiver(kind, "http://127.0.0.1:9/")
    try:
        response = httpx.post(receiver.url, json={"id": "first"})
        assert response.status_code == status
        assert ("location" in response.headers) is (kind == "redirecting")
        assert receiver.accepted_ids() == ({"first"} if status == 200 else set())
        receiver.recover()
        assert httpx.post(receiver.url, json={"id": "second"}).status_code == 200
        assert "second" in receiver.accepted_ids()
    finally:
        receiver.close()


def test_a_dead_receiver_refuses_connections_until_it_recovers() -> None:
    receiver = Receiver("dead")
    try:
        with pytest.raises(httpx.ConnectError):
            httpx.post(receiver.url, json={"id": "first"})
        receiver.recover()
        assert httpx.post(receiver.url, json={"id": "second"}).status_code == 200
    finally:
        receiver.close()
