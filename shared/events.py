"""Events as CloudEvents 1.0 in JSON, and the models of their data.

Format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from shared.ids import new_id, rfc3339

BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"

Event = dict[str, Any]


# Not an enumeration: consumers must accept the types of later releases.
TransactionType = Annotated[
    str,
    Field(
        description="deposit, withdrawal, transfer, reversal, capture, or hold if refused; later releases add more.",
    ),
]


Metadata = Annotated[dict[str, str] | None, Field(description="Texts of the client, by name; absent without.")]


GroupId = Annotated[str | None, Field(description="Id of the group that was posted all or none; absent without.")]


class EventData(BaseModel):
    """Base of event data; consumers ignore unknown fields, so that producers can add fields."""

    model_config = ConfigDict(frozen=True)


class AccountData(EventData):
    """State of an account after the event."""

    id: str
    account_number: str
    owner: str
    name: str | None
    currency: str
    status: Literal["active", "frozen", "closed"]
    balance: int
    held: int
    available: int
    seq: int
    created_at: datetime
    # None in events written before the fields existed.
    overdraft_limit: int | None = None
    daily_debit_limit: int | None = Field(None, description="Maximum sum of debits per UTC day; null without a limit.")
    metadata: Metadata = None


class EntryPosted(EventData):
    """One entry of a posted transaction; a negative `amount` is a debit."""

    transaction_id: str
    type: TransactionType
    account_id: str
    counterparty: str = Field(description="Id of the other account of the transaction.")
    amount: int
    currency: str
    seq: int
    balance_after: int
    reference: str | None
    reverses: str | None
    created_at: datetime
    metadata: Metadata = None
    group_id: GroupId = None


class TransactionRefused(EventData):
    """A money movement that the ledger refused to post; `direction` is its direction for the account."""

    transaction_id: str
    type: TransactionType
    code: str
    account_id: str
    counterparty: str | None
    amount: int
    currency: str
    reference: str | None
    created_at: datetime
    # None in events written before the field existed.
    direction: Literal["debit", "credit"] | None = None
    metadata: Metadata = None
    group_id: GroupId = None


class HoldData(EventData):
    """State of a hold after the event."""

    id: str
    account_id: str
    amount: int
    captured_amount: int
    currency: str
    status: Literal["active", "captured", "voided", "expired"]
    expires_at: datetime | None
    transaction_id: str | None
    created_at: datetime
    # None in events written before the fields existed.
    remaining_amount: int | None = Field(None, description="Amount that is still reserved.")
    placed_by: Literal["owner", "operator"] | None = None


class TransactionFlagged(EventData):
    """A finding of a fraud rule; `score` ranges from 0 to 100."""

    transaction_id: str
    account_id: str
    rule: str
    score: int
    action: Literal["review", "freeze"]


class LedgerSealed(EventData):
    """A signed root of the Merkle tree of all posted transactions; the event's subject is the id of the root."""

    size: int = Field(description="Number of transactions in the tree.")
    root_hash: str = Field(description="Root hash (RFC 9162), in hexadecimal.")
    checkpoint: str = Field(description="Root with its signatures, as a signed note.")
    created_at: datetime


class WebhookDisabled(EventData):
    """A webhook to which no events are sent any more; the event's subject is its id."""

    webhook_id: str
    owner: str
    account_id: str | None = Field(description="Null if it is for all accounts.")
    reason: str
    failing_since: datetime


DATA_MODELS: dict[str, type[EventData]] = {
    "bank.account.opened": AccountData,
    "bank.account.frozen": AccountData,
    "bank.account.unfrozen": AccountData,
    "bank.account.closed": AccountData,
    "bank.account.updated": AccountData,
    "bank.entry.posted": EntryPosted,
    "bank.transaction.refused": TransactionRefused,
    "bank.hold.placed": HoldData,
    "bank.hold.captured": HoldData,
    "bank.hold.extended": HoldData,
    "bank.hold.voided": HoldData,
    "bank.hold.expired": HoldData,
    "bank.ledger.sealed": LedgerSealed,
    "bank.transaction.flagged": TransactionFlagged,
    "bank.webhook.disabled": WebhookDisabled,
}
# The events of transaction-service; all others are account-service's.
OF_TRANSACTION_SERVICE = frozenset({"bank.transaction.flagged", "bank.webhook.disabled"})


def known_type(raw: Any) -> str | None:
    """Return the event type of a raw value, or None if it is not a known type."""
    type_ = raw.get("type") if isinstance(raw, dict) else None
    return type_ if isinstance(type_, str) and type_ in DATA_MODELS else None


class CloudEvent(BaseModel):
    """The envelope that consumers require; anything else is a poison event."""

    model_config = ConfigDict(extra="allow", frozen=True)

    specversion: Literal["1.0"]
    id: str = Field(min_length=1, max_length=255)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    subject: str
    time: AwareDatetime
    data: dict[str, Any]
    traceparent: str | None = None
    requestid: str | None = None
    actor: str | None = Field(
        None,
        description="Subject of the token that requested the change; `bank` for changes that the bank makes itself.",
    )
    # Position in the producer's outbox, if known. Added by the consumer, so it is not part of the event.
    position: SkipJsonSchema[int | None] = Field(None, exclude=True)


def new_event(
    *,
    source: str,
    type_: str,
    subject: str,
    time: datetime,
    data: dict[str, Any],
    event_id: str | None = None,
    traceparent: str | None = None,
    request_id: str | None = None,
    actor: str | None = None,
) -> Event:
    """Return an event about `subject` (an account id) as plain data that can be serialized as JSON."""
    event: Event = {
        "specversion": "1.0",
        "id": event_id or new_id(),
        "source": f"/{source}",
        "type": type_,
        "subject": subject,
        "time": rfc3339(time),
        "datacontenttype": "application/json",
        "dataschema": f"urn:bank:schema:{type_}:1",
        "data": data,
    }
    if traceparent:
        event["traceparent"] = traceparent
    if request_id:
        event["requestid"] = request_id
    if actor:
        event["actor"] = actor
    return event
