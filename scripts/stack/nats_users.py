"""Who may do what on the event bus: NATS' users, as docker/nats/nats.conf includes them.

Each service publishes its own events and dead letters, and consumes as itself; it may create the two streams where they
are missing, and neither change, purge nor delete anything. `setup` (shared/nats_setup.py) may change the streams.
Nobody subscribes to another user's answers: each has inboxes below a prefix of its own (shared/messaging/transport.py).
Needs nothing but Python: it runs on hosts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

SETUP = "setup"
_STREAMS = ("BANK", "BANK_DEAD_LETTERS")
_API = "$JS.API"


@dataclass(frozen=True, slots=True)
class _Service:
    """What a service publishes and consumes; its durable consumer has its name."""

    consumer: str
    publishes: tuple[str, ...]
    consumes: str


_SERVICES = {
    "account": _Service(
        "account-service",
        ("bank.account.*", "bank.entry.posted", "bank.transaction.refused", "bank.hold.*"),
        "bank.transaction.flagged",
    ),
    "transaction": _Service("transaction-service", ("bank.transaction.flagged",), "bank.>"),
}


def _stream_calls(*calls: str) -> list[str]:
    return [f"{_API}.STREAM.{call}.{stream}" for call in calls for stream in _STREAMS]


def _consumer_calls(name: str, filtered_by: str) -> list[str]:
    """Return what creates, reads and acknowledges a consumer of the events; `*` is any consumer."""
    return [
        f"{_API}.CONSUMER.CREATE.BANK.{name}.{filtered_by}",
        f"{_API}.CONSUMER.MSG.NEXT.BANK.{name}",
        f"$JS.ACK.BANK.{name}.>",
    ]


def _permissions(user: str, shared_inbox: bool) -> dict[str, object]:
    inboxes = [f"_INBOX_{user}.>"]
    if user == SETUP:
        return {"publish": {"allow": _stream_calls("INFO", "CREATE", "UPDATE")}, "subscribe": {"allow": inboxes}}
    own = _SERVICES[user]
    allowed = [
        *own.publishes,
        # Whatever an event that cannot be processed claims to be.
        "dead.bank.>",
        *_stream_calls("INFO", "CREATE"),
        f"{_API}.CONSUMER.INFO.BANK.{own.consumer}",
        # A canary has a consumer of its own with a name that the client chooses, so only the others' are left out.
        *_consumer_calls("*", own.consumes),
    ]
    denied = [call for other in _SERVICES.values() if other is not own for call in _consumer_calls(other.consumer, ">")]
    return {
        "publish": {"allow": allowed, "deny": denied},
        "subscribe": {"allow": inboxes + (["_INBOX.>"] if shared_inbox else [])},
    }


def authorization(passwords: Mapping[str, str], *, shared_inbox: bool = False) -> str:
    """Return NATS' `authorization` for the passwords of `account`, `transaction` and `setup`.

    With shared_inbox, replicas of releases before the inboxes had prefixes get their answers as well.
    """
    users = [
        {"user": user, "password": password, "permissions": _permissions(user, shared_inbox)}
        for user, password in passwords.items()
    ]
    # JSON is a part of NATS' own format.
    return f"authorization {json.dumps({'users': users}, indent=1)}\n"
