"""Request and response bodies of the API."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import pycountry
from pydantic import AfterValidator, BaseModel, FailFast, Field, StringConstraints, model_validator

from app.domain.audit import Action
from app.domain.model import MAX_HOLD_SECONDS, MAX_LEGS, MAX_LIMIT
from shared.http.bodies import StrictBody
from shared.currencies import NO_MINOR_UNIT
from shared.ids import Identifier

MAX_AMOUNT = 10**15
MAX_BATCH = 1000

# Amounts are in minor units, so a currency needs one.
_CURRENCIES = frozenset(currency.alpha_3 for currency in pycountry.currencies) - NO_MINOR_UNIT


def _known_currency(code: str) -> str:
    if code not in _CURRENCIES:
        raise ValueError("not an ISO 4217 currency with a minor unit")
    return code


Amount = Annotated[
    int, Field(ge=1, le=MAX_AMOUNT, description="Amount in minor units, for example cents.", examples=[1050])
]
# Only checked when an account is opened: accounts in a currency that ISO 4217 withdraws later can still be paid out.
NewCurrency = Annotated[
    str,
    AfterValidator(_known_currency),
    Field(
        description="ISO 4217 code of a currency with a minor unit.",
        examples=["USD"],
        json_schema_extra={"enum": sorted(_CURRENCIES)},
    ),
]
Currency = Annotated[
    str,
    StringConstraints(pattern="^[A-Z]{3}$"),
    Field(description="ISO 4217 code; must be the currency of the account.", examples=["USD"]),
]
# No control characters: PostgreSQL rejects NUL, and line breaks would forge log lines.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
Text = Annotated[str, StringConstraints(min_length=1, max_length=140, pattern=PRINTABLE)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,40}$")],
        Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTABLE)],
    ],
    Field(
        max_length=20,
        description="Up to 20 texts of the client, by name.",
        examples=[{"invoice": "2026-11"}],
        json_schema_extra={"additionalProperties": False},
    ),
]


Limit = Annotated[int, Field(ge=0, le=MAX_LIMIT, description="Limit in minor units.", examples=[50000])]


class SeqQuery(StrictBody):
    """Query of `/internal/seqs`: an account, or the accounts of an owner."""

    account_id: Identifier | None = None
    owner: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        if (self.account_id is None) == (self.owner is None):
            raise ValueError("specify either account_id or owner")
        return self


class MetadataBody(StrictBody):
    """Base of bodies with metadata."""

    added_fields = frozenset({"metadata"})

    metadata: Metadata | None = None


class OpenAccountBody(MetadataBody):
    """Body of `POST /accounts`."""

    currency: NewCurrency
    name: Text | None = None


class LimitsBody(StrictBody):
    """Body of `POST /accounts/{id}/limits`; both limits are replaced."""

    overdraft_limit: Annotated[Limit, Field(description="How far the balance may go below zero, in minor units.")]
    daily_debit_limit: Annotated[
        Limit | None, Field(description="Maximum sum of debits per UTC day, in minor units; null for no limit.")
    ]


class MoneyBody(MetadataBody):
    """Body of a deposit or withdrawal."""

    amount: Amount
    currency: Currency
    reference: Text | None = None


class _TransferFields(StrictBody):
    from_account: Identifier
    to_account: Identifier
    amount: Amount
    currency: Currency
    reference: Text | None = None


class TransferBody(_TransferFields, MetadataBody):
    """Body of `POST /transfers`."""


class BatchItemBody(_TransferFields):
    """One transfer of a batch; `key` is its idempotency key."""

    key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?$")]


class BatchBody(StrictBody):
    """Body of `POST /transfers:batch`."""

    added_fields = frozenset({"atomic"})
    # A transfer has up to 24 nodes: its object, 6 names, 5 texts, 6 colons and 6 commas.
    max_nodes = 25 * MAX_BATCH + 100

    # Stops at the first invalid transfer: reporting all errors would cost more than the transfers.
    transfers: Annotated[list[BatchItemBody], FailFast(), Field(min_length=1, max_length=MAX_BATCH)]
    atomic: bool | None = Field(
        None, description="True executes all transfers or none; by default a refused one does not stop the others."
    )


class GroupBody(StrictBody):
    """Body of `POST /transaction-groups`: transfers that are posted in order, all of them or none."""

    # A leg has up to 24 nodes, as in a batch, and its metadata up to 83: 20 names, texts, colons and commas.
    max_nodes = 110 * MAX_LEGS + 100

    legs: Annotated[list[TransferBody], FailFast(), Field(min_length=1, max_length=MAX_LEGS)]


class GroupReversalBody(MetadataBody):
    """Body of `POST /transaction-groups/{id}/reversals`."""

    reason: Text | None = None


class ReversalBody(MetadataBody):
    """Body of `POST /reversals`; without `amount` all that is left of the transaction is reversed."""

    added_fields = frozenset({"amount", "metadata"})

    transaction_id: Identifier
    reason: Text | None = None
    amount: Amount | None = None


class HoldBody(StrictBody):
    """Body of `POST /accounts/{id}/holds`."""

    amount: Amount
    currency: Currency
    expires_in: (
        Annotated[int, Field(ge=1, le=MAX_HOLD_SECONDS, description="Time until the hold expires, in seconds.")] | None
    ) = None


class CaptureBody(MetadataBody):
    """Body of `POST /holds/{id}/captures`; without `amount` all that is left of the hold is captured."""

    added_fields = frozenset({"final", "metadata"})

    amount: Amount | None = None
    final: bool | None = Field(
        None,
        description="False keeps the rest of the hold for further captures; by default it is released.",
    )


class ExtensionBody(StrictBody):
    """Body of `POST /holds/{id}/extensions`."""

    expires_in: Annotated[
        int, Field(ge=1, le=MAX_HOLD_SECONDS, description="Time until the hold expires, in seconds from now.")
    ]


class AccountView(BaseModel):
    """An account."""

    id: str
    account_number: str
    owner: str
    name: str | None
    currency: str
    status: Literal["active", "frozen", "closed"]
    balance: int
    held: int
    available: int = Field(description="What can be spent: `balance` − `held` + `overdraft_limit`.")
    overdraft_limit: int
    daily_debit_limit: int | None = Field(description="Null if there is no limit.")
    seq: int
    created_at: datetime
    metadata: dict[str, str] | None = Field(None, description="Only present if it was given.")


class BalanceView(BaseModel):
    """The balance of an account after its last entry at a time."""

    account_id: str
    currency: str
    balance: int
    seq: int = Field(description="Number of the last entry that is included; 0 before the first one.")
    transaction_id: str | None = Field(description="Transaction of this entry.")
    posted_at: datetime | None = Field(description="Time of this entry.")


class EntryView(BaseModel):
    """One side of a transaction; `seq` and `balance_after` are null if the account belongs to another owner."""

    account_id: str
    amount: int
    seq: int | None
    balance_after: int | None


class TransactionView(BaseModel):
    """A posted transaction."""

    id: str
    type: Literal["deposit", "withdrawal", "transfer", "reversal", "capture"]
    status: Literal["posted"]
    amount: int
    currency: str
    from_account: str
    to_account: str
    reference: str | None
    reverses: str | None
    entries: list[EntryView]
    created_at: datetime
    metadata: dict[str, str] | None = Field(None, description="Only present if it was given.")
    group_id: str | None = Field(None, description="Only present if the transaction is a leg of a group.")


class GroupView(BaseModel):
    """A posted transaction group."""

    id: str
    legs: list[TransactionView] = Field(description="The transactions in the order in which they were posted.")


HoldStatus = Literal["active", "captured", "voided", "expired"]


class _HoldFields(BaseModel):
    id: str
    account_id: str
    amount: int = Field(description="Amount that was reserved when the hold was placed.")
    captured_amount: int = Field(description="Sum of the captures.")
    remaining_amount: int = Field(description="Amount that is still reserved; 0 once the hold has ended.")
    currency: str
    status: HoldStatus
    expires_at: datetime
    transaction_id: str | None = Field(description="Transaction of the last capture.")
    created_at: datetime
    placed_by: Literal["owner", "operator"] | None = Field(
        None,
        description="Who placed the hold; null if an earlier version did not record it. Only operators can capture, "
        "extend or void a hold with `operator` or null.",
    )


class HoldView(_HoldFields):
    """A hold; the response to its capture has the `transaction`."""

    transaction: TransactionView | None = None


class HoldPage(BaseModel):
    """A page of holds."""

    items: list[HoldView]
    next_cursor: str | None


class HoldChangeView(BaseModel):
    """A change of a hold and who made it."""

    action: Literal["hold", "capture", "extend", "void", "expire"]
    made_by: Literal["owner", "operator", "bank"] = Field(description="`bank`: the hold has expired.")
    subject: str | None = Field(description="Subject of the token; null for customers if it was not the owner's.")
    transaction_id: str | None = Field(description="Transaction of a capture.")
    amount: int | None = Field(description="Amount of a capture.")
    created_at: datetime


class HoldDetailView(_HoldFields):
    """A hold with its changes."""

    changes: list[HoldChangeView] = Field(description="The newest 100 changes, newest first.")


class BatchResultView(BaseModel):
    """Result of one transfer of a batch: a transaction (201) or a problem."""

    key: str
    status: int
    replayed: bool
    transaction: TransactionView | None = None
    problem: dict[str, Any] | None = None


class BatchView(BaseModel):
    """Results of the transfers, in the order of the request."""

    results: list[BatchResultView]


class AuditEntryView(BaseModel):
    """A change and who made it."""

    id: str
    created_at: datetime
    action: Action
    account_id: str = Field(
        description="The changed account. Of a transaction the debited account, or the credited one if a cash account "
        "was debited, as by a deposit."
    )
    transaction_id: str | None
    hold_id: str | None
    subject: str = Field(description="Subject of the token; `bank` for a change by the bank itself.")
    scope: str = Field(
        description="Scopes of the token that begin with `bank:`; `system` for a change by the bank itself."
    )
    request_id: str | None
    event_id: str | None = Field(description="Event that caused a change by the bank itself.")


class AuditPage(BaseModel):
    """A page of changes."""

    items: list[AuditEntryView]
    next_cursor: str | None


class AccountPage(BaseModel):
    """A page of accounts."""

    items: list[AccountView]
    next_cursor: str | None
