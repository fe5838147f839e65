"""Request and response bodies of the API."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from app.domain.webhooks import TYPES
from shared.http.bodies import StrictBody
from shared.ids import Identifier

TransactionType = Literal["deposit", "withdrawal", "transfer", "reversal", "capture", "hold"]


# As account-service accepts them.
Reference = Annotated[str, StringConstraints(min_length=1, max_length=140, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
SearchedAmount = Annotated[int, Field(ge=0, le=10**15)]
MetadataKey = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]{1,40}$")]
MetadataValue = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Code = Annotated[str, StringConstraints(pattern="^[a-z][a-z-]{0,39}$")]


class EntryView(BaseModel):
    """One side of a transaction; `seq` and `balance_after` are null for accounts of other owners."""

    account_id: str
    amount: int = Field(description="Negative for a debit.")
    seq: int | None
    balance_after: int | None


class TransactionView(BaseModel):
    """A transaction; a refused one has the reason in `code` and no entries."""

    id: str
    type: TransactionType
    status: Literal["posted", "refused"]
    amount: int
    currency: str
    from_account: str | None
    to_account: str | None
    reference: str | None
    reverses: str | None
    entries: list[EntryView]
    created_at: datetime
    metadata: dict[str, str] | None = Field(None, description="Only present if it was given.")
    group_id: str | None = Field(None, description="Only present if the transaction is a leg of a group.")
    code: str = Field(default="", description="Reason of a refusal; only present if the transaction was refused.")


_COMPLETE = Field(
    description="True only if all entries before `to` (or before the request) are known to be included, compared with "
    "account-service. False while entries are pending, or if this is unknown."
)
_COMPLETE_THROUGH = Field(description="All entries posted before this time are included; null if unknown.")


class TransactionPage(BaseModel):
    """A page of transactions. Completeness covers posted ones; refused ones have no `seq`."""

    items: list[TransactionView]
    next_cursor: str | None
    complete: bool = _COMPLETE
    complete_through: datetime | None = _COMPLETE_THROUGH


class LineView(BaseModel):
    """One entry of a statement."""

    transaction_id: str
    type: TransactionType
    seq: int
    amount: int
    balance_after: int
    counterparty: str | None
    reference: str | None
    created_at: datetime


class WatermarkView(BaseModel):
    """The watermark of an account's history."""

    seq: int = Field(description="Entries 1 to this one are present, without a gap.")
    account_seq: int | None = Field(description="The account's last entry; null if account-service was unavailable.")
    as_of: datetime | None = Field(description="Time of the query to account-service.")


class StatementView(BaseModel):
    """A statement: opening balance + credits − debits = closing balance, if it is complete."""

    account_id: str
    currency: str
    from_: datetime = Field(alias="from")
    to: datetime
    opening_balance: int
    closing_balance: int
    total_credits: int
    total_debits: int
    complete: bool = _COMPLETE
    complete_through: datetime | None = _COMPLETE_THROUGH
    watermark: WatermarkView
    entries: list[LineView]


class FlagView(BaseModel):
    """A finding of a fraud rule."""

    id: str
    transaction_id: str
    account_id: str
    rule: Literal["amount", "large-amount", "velocity", "rapid-in-and-out"]
    score: int = Field(ge=0, le=100)
    action: Literal["review", "freeze"]
    created_at: datetime


class FlagPage(BaseModel):
    """A page of flags."""

    items: list[FlagView]
    next_cursor: str | None


class MismatchView(BaseModel):
    """An account whose history differs from account-service's balance."""

    account_id: str
    kind: Literal["gap", "sum", "missing-entries", "balance", "local-ahead"]
    seq: int
    account_service_seq: int
    balance: int
    account_service_balance: int


class ReconciliationView(BaseModel):
    """Result of comparing all accounts; `pending` ones miss recent entries only."""

    checked: int
    mismatches: int
    pending: int
    items: list[MismatchView] = Field(description="The mismatching accounts, at most 100.")
    checked_at: datetime


EventType = Annotated[str, StringConstraints(pattern=f"^({'|'.join(TYPES).replace('.', '[.]')})$")]
_Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2000),
    Field(
        description="The receiver: https on port 443 or 8443 of a public address.",
        examples=["https://example.com/bank-events"],
        json_schema_extra={"pattern": '^https://[A-Za-z0-9.-]+(:8443)?(/[!-"$-~]*)?$'},
    ),
]
_Types = Annotated[list[EventType], Field(min_length=1, max_length=len(TYPES))]


class WebhookBody(StrictBody):
    """A new webhook."""

    url: _Url
    account_id: Identifier | None = Field(None, description="Send events of this account; null: of all accounts.")
    types: _Types | None = Field(None, description="Send events of these types; null: of all types.")


class WebhookChangeBody(StrictBody):
    """A change of a webhook; what is absent or null stays as it is."""

    url: _Url | None = None
    types: _Types | None = None
    enabled: bool | None = Field(None, description="True also ends the waiting time after failures.")
    position: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        None, description="Send the events after this position again, as far as they are kept."
    )
    secret_version: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="The next version rotates the secret; both sign for 24 hours."
    )


class WebhookView(BaseModel):
    """A webhook."""

    id: str
    owner: str
    url: str
    account_id: str | None
    types: list[str] | None
    enabled: bool
    disabled_reason: str | None
    position: int = Field(description="No event up to this position is still to be sent.")
    failures: int = Field(description="Failed attempts since the last accepted one.")
    failing_since: datetime | None
    next_attempt_at: datetime | None = Field(description="Null unless failing.")
    secret_version: int
    created_at: datetime
    secret: str = Field(default="", description="Signing secret; only in responses to the owner's POST and PATCH.")


class WebhookPage(BaseModel):
    """A page of webhooks."""

    items: list[WebhookView]
    next_cursor: str | None


class WebhookDeliveryView(BaseModel):
    """An attempt to deliver an event."""

    id: str
    message_id: str = Field(description="Value of the header `webhook-id`.")
    position: int = Field(description="Position of the event.")
    type: str
    attempt: int
    status: int | None = Field(description="HTTP status of the response; null without one.")
    error: str | None = Field(description="Null if the event was accepted.")
    created_at: datetime


class WebhookDeliveryPage(BaseModel):
    """A page of delivery attempts."""

    items: list[WebhookDeliveryView]
    next_cursor: str | None
