"""The tables of account-service."""

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    event,
    text,
)

from app.storage import triggers
from shared.http import idempotency
from shared.db.database import UtcDateTime
from shared.messaging.inbox import Inbox
from shared.messaging.outbox import Outbox

metadata = MetaData()

_ID = Uuid(as_uuid=False)

# Must match the predicate of the index literally, or PostgreSQL does not use it.
BY_OPERATOR = "scope LIKE '%bank:operator%'"

accounts = Table(
    "accounts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("account_number", String(16), nullable=False, unique=True),
    Column("owner", String(255), nullable=False),
    Column("name", String(140)),
    Column(
        "kind",
        String(8),
        nullable=False,
        comment="customer, or cash: counterparty of deposits and withdrawals, one per currency",
    ),
    Column("currency", String(3), nullable=False),
    Column("status", String(8), nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="seq of the account's last entry"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("overdraft_limit", BigInteger, comment="null if it was never set"),
    Column("daily_debit_limit", BigInteger, comment="null without a limit"),
    Column("debited", BigInteger, comment="debits since debited_since that count towards the daily limit"),
    Column("metadata", Text, comment="JSON object of texts; null without"),
    Column("debited_since", UtcDateTime, comment="start of the UTC day, or when the daily limit was set"),
    CheckConstraint(triggers.BALANCE_WITHIN_OVERDRAFT, name="balance_within_overdraft"),
    CheckConstraint(triggers.HELD_IS_COVERED, name="held_is_covered"),
    CheckConstraint("kind IN ('customer', 'cash')", name="known_kind"),
    CheckConstraint("status IN ('active', 'frozen', 'closed')", name="known_status"),
    Index("accounts_by_owner", "owner", "id"),
    Index(
        "one_cash_account_per_currency",
        "currency",
        unique=True,
        postgresql_where=text("kind = 'cash'"),
        sqlite_where=text("kind = 'cash'"),
    ),
)

transactions = Table(
    "transactions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("type", String(10), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("from_account", _ID, nullable=False),
    Column("to_account", _ID, nullable=False),
    Column("reference", String(140)),
    Column("reverses", _ID),
    Column("created_at", UtcDateTime, nullable=False),
    Column("subject", String(255), comment="subject of the actor; null if the posting version did not record it"),
    Column("scope", String(255), comment="scopes of the token that begin with bank:"),
    Column("request_id", String(128)),
    Column("metadata", Text, comment="JSON object of texts; null without"),
    Column("group_id", _ID, comment="group that was posted all or none; null for a single transaction"),
    CheckConstraint("amount > 0", name="amount_is_positive"),
    CheckConstraint("from_account <> to_account", name="two_accounts"),
    Index(
        "reversals_by_original",
        "reverses",
        postgresql_where=text("reverses IS NOT NULL"),
        sqlite_where=text("reverses IS NOT NULL"),
    ),
    Index(
        "transactions_by_group",
        "group_id",
        postgresql_where=text("group_id IS NOT NULL"),
        sqlite_where=text("group_id IS NOT NULL"),
    ),
    # Transactions of owners are found through their accounts.
    Index(
        "transactions_by_operator",
        "subject",
        "id",
        postgresql_where=text(BY_OPERATOR),
        sqlite_where=text(BY_OPERATOR),
    ),
)

entries = Table(
    "entries",
    metadata,
    Column("account_id", _ID, ForeignKey("accounts.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("transaction_id", _ID, ForeignKey("transactions.id"), nullable=False),
    Column("amount", BigInteger, nullable=False, comment="negative for a debit"),
    Column("balance_after", BigInteger, nullable=False),
    CheckConstraint("seq > 0", name="seq_starts_at_one"),
)

holds = Table(
    "holds",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("captured_amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("status", String(8), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("transaction_id", _ID, comment="transaction of the capture"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("placed_by", String(8), comment="owner or operator; null if the placing version did not record it"),
    Column("placed_amount", BigInteger, comment="amount as placed, if a part was captured while the hold was active"),
    CheckConstraint("amount > 0", name="hold_is_positive"),
    CheckConstraint("captured_amount BETWEEN 0 AND amount", name="capture_within_hold"),
    CheckConstraint("status IN ('active', 'captured', 'voided', 'expired')", name="known_hold_status"),
    Index("active_holds_by_expiry", "expires_at", postgresql_where=text("status = 'active'")),
    Index("holds_by_account", "account_id", "id"),
    Index("holds_by_account_and_status", "account_id", "status", "id"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _ID, primary_key=True, comment="UUIDv7: ids sort by time"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("action", String(10), nullable=False),
    Column("account_id", _ID, nullable=False),
    Column("transaction_id", _ID),
    Column("hold_id", _ID),
    Column("subject", String(255), nullable=False),
    Column(
        "scope",
        String(255),
        nullable=False,
        comment="scopes of the token that begin with bank:; system for the bank itself",
    ),
    Column("request_id", String(128)),
    Column("event_id", String(255), comment="event that caused a change by the bank itself"),
    Index("audit_log_by_account", "account_id", "id"),
    Index("audit_log_by_subject", "subject", "id"),
    Index(
        "audit_log_by_hold",
        "hold_id",
        "id",
        postgresql_where=text("hold_id IS NOT NULL"),
        sqlite_where=text("hold_id IS NOT NULL"),
    ),
)

ledger_leaves = Table(
    "ledger_leaves",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False, comment="from 0, without gaps"),
    Column("transaction_id", _ID, nullable=False, unique=True),
    Column("event_position", BigInteger, nullable=False, comment="position of the transaction's event in the outbox"),
    Column("salt", LargeBinary(16), nullable=False),
    Column("data", LargeBinary, nullable=False, comment="digests of the transaction and its entries"),
)

ledger_nodes = Table(
    "ledger_nodes",
    metadata,
    Column("level", SmallInteger, primary_key=True, autoincrement=False, comment="8, 16, 24 …"),
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(32), nullable=False, comment="root of the complete subtree of 2^level leaves"),
)

ledger_roots = Table(
    "ledger_roots",
    metadata,
    Column("id", _ID, primary_key=True, comment="UUIDv7: ids sort by time"),
    Column("size", BigInteger, nullable=False, unique=True, comment="number of leaves"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("checkpoint", Text, nullable=False, comment="signed note"),
)

ledger_keys = Table(
    "ledger_keys",
    metadata,
    Column("public_key", String(512), primary_key=True, comment="verifier key, also after it was replaced"),
    Column("created_at", UtcDateTime, nullable=False),
)

idempotency_keys = idempotency.table(metadata)
outbox = Outbox(metadata)
inbox = Inbox(metadata)

for _statement in (
    *triggers.CHECK_ENTRIES,
    *triggers.APPEND_ONLY,
    triggers.append_only("audit_log"),
    *map(triggers.append_only, triggers.TRANSPARENCY_LOG),
    *triggers.CHECK_REVERSALS,
):
    # DDL() applies % formatting.
    _ddl = DDL(_statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
    event.listen(metadata, "after_create", _ddl.execute_if(dialect="postgresql"))
