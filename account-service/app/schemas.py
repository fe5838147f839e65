"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import pycountry
from pydantic import AfterValidator, BaseModel, FailFast, Field, StringConstraints, model_validator

from app.domain.audit import Action
from shared.http.bodies import StrictBody
from shared.currencies import NO_MINOR_UNIT
from shared.ids import Identifier

MAX_AMOUNT = 10**15
MAX_BATCH = 1000
MAX_HOLD_SECONDS = 365 * 86400

# Amounts are in minor units, so a currency needs one.
_CURRENCIES = frozenset(currency.alpha_3 for currency in pycountry.currencies) - NO_MINOR_UNIT


def _known_currency(code: str) -> str:
    if code not in _CURRENCIES:
        raise ValueError("not an ISO 4217 currency with a minor unit")
    return code


Amount = Annotated[int, Field(ge=1, le=MAX_AMOUNT, description="Minor units, for example cents.", examples=[1050])]
# The list matters when an account is opened and never again: a currency that ISO 4217 withdraws stays that of its
# accounts, which have to be paid out.
NewCurrency = Annotated[
    str,
    AfterValidator(_known_currency),
    Field(
        description="ISO 4217, with a minor unit.",
        examples=["USD"],
        json_schema_extra={"enum": sorted(_CURRENCIES)},
    ),
]
Currency = Annotated[
    str,
    StringConstraints(pattern="^[A-Z]{3}$"),
    Field(description="ISO 4217; the currency of the account.", examples=["USD"]),
]
# Printable: control characters (NUL above all) have no place in what people and databases read.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
Text = Annotated[str, StringConstraints(min_length=1, max_length=140, pattern=PRINTABLE)]


class SeqQuery(StrictBody):
    """Query of the internal `/internal/seqs`: one account, or those of an owner."""

    account_id: Identifier | None = None
    owner: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.account_id is None) == (self.owner is None):
            raise ValueError("give either account_id or owner")
        return self


class OpenAccountBody(StrictBody):
    """Body of `POST /accounts`."""

    currency: NewCurrency
    name: Text | None = None


class MoneyBody(StrictBody):
    """Body of a deposit or withdrawal."""

    amount: Amount
    currency: Currency
    reference: Text | None = None


class TransferBody(StrictBody):
    """Body of `POST /transfers`."""

    from_account: Identifier
    to_account: Identifier
    amount: Amount
    currency: Currency
    reference: Text | None = None


class BatchItemBody(TransferBody):
    """One transfer of a batch; `key` does for it what the Idempotency-Key header does for a single one."""

    key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?$")]


class BatchBody(StrictBody):
    """Body of `POST /transfers:batch`."""

    # A transfer has six names and five texts.
    max_nodes = 25 * MAX_BATCH + 100

    # Read up to the first wrong transfer: errors of all of them would cost more than making the transfers does.
    transfers: Annotated[list[BatchItemBody], FailFast(), Field(min_length=1, max_length=MAX_BATCH)]


class ReversalBody(StrictBody):
    """Body of `POST /reversals`."""

    transaction_id: Identifier
    reason: Text | None = None


class HoldBody(StrictBody):
    """Body of `POST /accounts/{id}/holds`."""

    amount: Amount
    currency: Currency
    expires_in: Annotated[int, Field(ge=1, le=MAX_HOLD_SECONDS, description="Seconds.")] | None = None


class CaptureBody(StrictBody):
    """Body of `POST /holds/{id}/captures`; the whole hold when `amount` is absent."""

    amount: Amount | None = None


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
    available: int
    seq: int
    created_at: datetime


class EntryView(BaseModel):
    """One side of a transaction; `seq` and `balance_after` are null where the account is somebody else's."""

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


class HoldView(BaseModel):
    """A hold; `transaction` is there in the answer to its capture."""

    id: str
    account_id: str
    amount: int
    captured_amount: int
    currency: str
    status: Literal["active", "captured", "voided", "expired"]
    expires_at: datetime
    transaction_id: str | None
    created_at: datetime
    placed_by: Literal["owner", "operator"] | None = Field(
        None, description="Only an operator can end a hold that an operator placed, or one that does not say."
    )
    transaction: TransactionView | None = None


class BatchResultView(BaseModel):
    """What became of one transfer of a batch: a transaction (201) or a problem."""

    key: str
    status: int
    replayed: bool
    transaction: TransactionView | None = None
    problem: dict[str, Any] | None = None


class BatchView(BaseModel):
    """One result per transfer, in the order of the request."""

    results: list[BatchResultView]


class AuditEntryView(BaseModel):
    """A change, and who made it. What the bank does by itself has the subject `bank` and the scope `system`."""

    id: str
    created_at: datetime
    action: Action
    account_id: str = Field(description="The account; of a transaction, the one that pays, or that a deposit goes to.")
    transaction_id: str | None
    hold_id: str | None
    subject: str = Field(description="Subject of the token.")
    scope: str = Field(description="The token's scopes that begin with `bank:`.")
    request_id: str | None
    event_id: str | None = Field(description="The event that the bank acted on.")


class AuditPage(BaseModel):
    """A page of changes."""

    items: list[AuditEntryView]
    next_cursor: str | None


class AccountPage(BaseModel):
    """A page of accounts."""

    items: list[AccountView]
    next_cursor: str | None
