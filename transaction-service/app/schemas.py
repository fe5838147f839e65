"""What the API takes and gives."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

TransactionType = Literal["deposit", "withdrawal", "transfer", "reversal", "capture", "hold"]

# A `+` that was not percent-encoded arrives as a space; it can only mean one thing here.
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?)"
    r"(?:([Zz])|([+ -])((?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)


def _moment(text: Any) -> datetime:
    match = _RFC_3339.fullmatch(str(text))
    if match is None:
        raise ValueError("not an RFC 3339 time with a zone, for example 2026-11-23T12:00:00Z")
    date, time, zulu, sign, offset = match.groups()
    zone = "+00:00" if zulu else f"{'-' if sign == '-' else '+'}{offset}"
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{zone}")
        moment.astimezone(UTC)  # the first and last hours of all years may have no time in UTC
    except (ValueError, OverflowError) as error:
        raise ValueError("there is no such time") from error
    # With the client's offset: that decides which month a time is in.
    return moment


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-01T00:00:00Z"]}),
]


class EntryView(BaseModel):
    """One side of a transaction; `seq` and `balance_after` are null where the account is somebody else's."""

    account_id: str
    amount: int = Field(description="Negative where money leaves the account.")
    seq: int | None
    balance_after: int | None


class TransactionView(BaseModel):
    """A transaction; a refused one says why in `code` and has no entries, because nothing moved."""

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
    code: str = Field(default="", description="Only there where the transaction was refused.")


_COMPLETE = Field(
    description="True only if no entry before `to` (or before the request) is known to be missing: account-service was "
    "asked how far the accounts go. False while entries are on their way, or where that is not known."
)
_COMPLETE_THROUGH = Field(description="Nothing that was posted before this time is missing; null where not known.")


class TransactionPage(BaseModel):
    """A page of transactions. Completeness is about posted ones; refused ones have no `seq` to count."""

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
    """How far the history of an account goes."""

    seq: int = Field(description="Entries 1 to this one are here, without a gap.")
    account_seq: int | None = Field(description="The account's last entry; null where account-service did not answer.")
    as_of: datetime | None = Field(description="When account-service was asked.")


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
    """Result of comparing all accounts; `pending` ones lag behind by recent entries only."""

    checked: int
    mismatches: int
    pending: int
    items: list[MismatchView] = Field(description="The mismatching accounts, at most 100.")
    checked_at: datetime
