"""Users and permissions of NATS, included by docker/nats/nats.conf.

Each service may publish its own events and dead letters, use its own consumers and create missing streams, but not
change, purge or delete streams. `setup` (shared/nats_setup.py) may change the streams.
No user can subscribe to the replies of another: each has its own inbox prefix (shared/messaging/transport.py).
Requires only Python: it runs on hosts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

SETUP = "setup"
_STREAMS = ("BANK", "BANK_DEAD_LETTERS")
_API = "$JS.API"


@dataclass(frozen=True, slots=True)
class _Service:
    """A service with its durable consumers: the subject that each consumes, by name."""

    name: str
    consumers: Mapping[str, str]
    # Single events, published by replicas of earlier releases.
    publishes: tuple[str, ...]


_SERVICES = {
    "account": _Service(
        "account-service",
        {"account-service-batches": "events.transaction-service", "account-service": "bank.transaction.flagged"},
        ("bank.account.*", "bank.entry.posted", "bank.transaction.refused", "bank.hold.*", "bank.ledger.sealed"),
    ),
    "transaction": _Service(
        "transaction-service",
        {"transaction-service-batches": "events.account-service", "transaction-service": "bank.>"},
        ("bank.transaction.flagged", "bank.webhook.disabled"),
    ),
}


def _stream_calls(*calls: str) -> list[str]:
    return [f"{_API}.STREAM.{call}.{stream}" for call in calls for stream in _STREAMS]


def _consumer_calls(name: str, filtered_by: str) -> list[str]:
    """Return the API calls that create, read and acknowledge a consumer of the events; `*` is any consumer."""
    return [
        f"{_API}.CONSUMER.CREATE.BANK.{name}.{filtered_by}",
        f"{_API}.CONSUMER.MSG.NEXT.BANK.{name}",
        f"$JS.ACK.BANK.{name}.>",
    ]


def _permissions(user: str, shared_inbox: bool) -> dict[str, object]:
    inboxes = [f"_INBOX_{user}.>"]
    if user == SETUP:
        return {"publish": {"allow": _stream_calls("INFO", "CREATE", "UPDATE")}, "subscribe": {"allow": inboxes}}
    service = _SERVICES[user]
    batches = f"events.{service.name}"
    allowed = [
        batches,
        *service.publishes,
        # The type of a poison event can be anything.
        "dead.bank.>",
        *_stream_calls("INFO", "CREATE"),
        # To read its last batch.
        f"{_API}.DIRECT.GET.BANK.{batches}",
        *(f"{_API}.CONSUMER.INFO.BANK.{consumer}" for consumer in service.consumers),
        # A canary's consumer has a name chosen by the client, so any name is allowed except those of other services.
        *dict.fromkeys(call for subject in service.consumers.values() for call in _consumer_calls("*", subject)),
    ]
    denied = [
        call
        for other in _SERVICES.values()
        if other is not service
        for consumer in other.consumers
        for call in _consumer_calls(consumer, ">")
    ]
    return {
        "publish": {"allow": allowed, "deny": denied},
        "subscribe": {"allow": inboxes + (["_INBOX.>"] if shared_inbox else [])},
    }


def authorization(passwords: Mapping[str, str], *, shared_inbox: bool = False) -> str:
    """Return NATS' `authorization` block for the passwords of `account`, `transaction` and `setup`.

    shared_inbox also permits the common inbox prefix, for replicas of releases without separate prefixes.
    """
    users = [
        {"user": user, "password": password, "permissions": _permissions(user, shared_inbox)}
        for user, password in passwords.items()
    ]
    # NATS' configuration format is a superset of JSON.
    return f"authorization {json.dumps({'users': users}, indent=1)}\n"
