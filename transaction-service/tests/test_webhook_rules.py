"""Signatures, back-off and allowed receivers, on plain data."""

from datetime import timedelta

import pytest

from app.domain import webhooks
from app.domain.webhooks import MAX_FAILING, ROTATION, Receiver, is_public, parse_receiver
from shared.ids import new_id
from tests.support import NOON, Ledger

# Published with the Standard Webhooks specification.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_standard_webhooks():
    assert webhooks.signature([SECRET], MESSAGE, TIMESTAMP, BODY) == SIGNATURE
    other = webhooks.secret("key", new_id(), 1)
    both = webhooks.signature([other, SECRET], MESSAGE, TIMESTAMP, BODY).split(" ")
    assert both[1] == SIGNATURE and both[0].startswith("v1,") and both[0] != SIGNATURE


def test_secrets_differ_by_bank_webhook_and_version():
    one, other = new_id(), new_id()
    secrets = [webhooks.secret(*parts) for parts in (("a", one, 1), ("a", one, 2), ("a", other, 1), ("b", one, 1))]
    assert len(set(secrets)) == 4 and all(each.startswith("whsec_") and len(each) == 50 for each in secrets)
    assert webhooks.secret("a", one, 1) == secrets[0]


def test_both_secrets_sign_for_a_day_after_a_rotation():
    assert webhooks.signing_versions(1, None, NOON) == [1]
    assert webhooks.signing_versions(2, NOON, NOON + ROTATION - timedelta(seconds=1)) == [2, 1]
    assert webhooks.signing_versions(2, NOON, NOON + ROTATION) == [2]


def test_a_message_keeps_its_id_and_those_of_two_webhooks_differ():
    one, other, event = new_id(), new_id(), new_id()
    assert (
        webhooks.message_id_of(one, event) == webhooks.message_id_of(one, event) != webhooks.message_id_of(other, event)
    )
    assert len(webhooks.message_id_of(one, event)) == 40
    assert webhooks.new_webhook_id("alice", "k") == webhooks.new_webhook_id("alice", "k")
    assert len({webhooks.new_webhook_id(*parts) for parts in (("alice", "k"), ("alice", "l"), ("bob", "k"))}) == 3


def test_retries_back_off_exponentially_with_jitter_up_to_four_hours():
    delays = [webhooks.retry_delay(failures, 1.0).total_seconds() for failures in range(1, 30)]
    assert delays[:5] == [5, 10, 20, 40, 80] and delays[-1] == 4 * 3600 == max(delays)
    assert webhooks.retry_delay(3, 0.0).total_seconds() == 10
    assert webhooks.retry_delay(10**9, 0.5).total_seconds() == 3 * 3600


def test_a_receiver_is_disabled_after_three_days_or_when_it_is_gone():
    def reason(status: int | None, failing: timedelta) -> str | None:
        return webhooks.disabled_reason(status, "HTTP status 500", NOON, NOON + failing)

    assert reason(500, MAX_FAILING - timedelta(seconds=1)) is None
    assert reason(500, MAX_FAILING) == "failed for 3 days: HTTP status 500"
    assert reason(410, timedelta()) == "the receiver responded 410 Gone"


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1"),
        # Addresses with an IPv4 address inside: mapped, compatible, NAT64, 6to4, Teredo.
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:1.1.1.1", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_other_addresses_are_not_public(address: str):
    assert not is_public(address)


def test_parts_of_a_receiver():
    receiver = parse_receiver("https://Example.com/a/b?c=d", allow_private=False)
    assert receiver == Receiver("https", "example.com", 443, "/a/b?c=d")
    assert receiver.url() == "https://example.com:443/a/b?c=d" and receiver.authority == "example.com"
    assert receiver.url("2606:4700::1") == "https://[2606:4700::1]:443/a/b?c=d"
    other = parse_receiver("https://[2606:4700::1]:8443?x", allow_private=False)
    assert (other.url(), other.authority) == ("https://[2606:4700::1]:8443/?x", "[2606:4700::1]:8443")
    local = parse_receiver("http://localhost:8000", allow_private=True)
    assert (local.url(), local.authority) == ("http://localhost:8000/", "localhost:8000")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https"),
        ("example.com", "https"),
        ("", "https"),
        ("https://example.com:22/", "port"),
        ("https://example.com:99999/", "Port"),
        ("https://user:password@example.com/", "password"),
        ("https://user@example.com/", "user"),
        ("https://@example.com/", "user"),
        ("https://example.com/#part", "fragment"),
        ("https:///path", "host"),
        ("https://example..com/", "host"),
        ("https://exa_mple.com/", "host"),
        ("https://example.com\\@localhost/", "user"),
        ("https://127.1/", "host"),
        ("https://2130706433/", "host"),
        ("https://0177.0.0.1/", "host"),
        ("https://127.0.0.1/", "private"),
        ("https://[::1]/", "private"),
        ("https://[::ffff:127.0.0.1]/", "private"),
        ("https://[fe80::1%25eth0]/", "host|private"),
        ("https://[::1/", "IPv6"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/a b", "ASCII"),
        ("https://example.com/\n", "ASCII"),
    ],
)
def test_receivers_that_are_not_allowed(url: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_receiver(url, allow_private=False)


def test_only_events_of_accounts_are_sent_and_without_what_names_other_clients():
    ledger = Ledger()
    account = ledger.open()
    event = ledger.events[0].model_copy(update={"position": 7, "actor": "olga"})
    assert webhooks.account_of(event) == account
    assert b"olga" not in webhooks.body_of(event) and b"request-1" not in webhooks.body_of(event)
    for changes in (
        *({"type": type_} for type_ in ("bank.transaction.flagged", "bank.ledger.sealed", "bank.something.new")),
        {"subject": "not-an-id"},
    ):
        assert webhooks.account_of(event.model_copy(update=changes)) is None
