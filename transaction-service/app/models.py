"""The tables of transaction-service: a projection of account-service's events, and the findings of the fraud rules."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from shared.db.database import UtcDateTime
from shared.messaging.inbox import Inbox
from shared.messaging.outbox import Outbox

metadata = MetaData()

_ID = Uuid(as_uuid=False)

# No foreign keys: events arrive in any order, for example an entry before its account.
accounts = Table(
    "accounts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("account_number", String(16), nullable=False),
    Column("name", String(140)),
    Index("accounts_by_owner", "owner", "id"),
)

transactions = Table(
    "transactions",
    metadata,
    # UUIDv7: sorts by time, up to differences between the clocks of replicas.
    Column("id", _ID, primary_key=True),
    Column("type", String(10), nullable=False),
    Column("status", String(7), nullable=False),
    Column("code", String(40), comment="why it was refused"),
    Column("amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("from_account", _ID),
    Column("to_account", _ID),
    Column("reference", String(140)),
    Column("reverses", _ID),
    Column("metadata", Text, comment="JSON object of texts, names in order; null without"),
    Column("group_id", _ID, comment="group that was posted all or none; null for a single transaction"),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("status IN ('posted', 'refused')", name="known_status"),
    CheckConstraint("(status = 'refused') = (code IS NOT NULL)", name="refused_has_code"),
    Index(
        "transactions_by_group",
        "group_id",
        postgresql_where=text("group_id IS NOT NULL"),
        sqlite_where=text("group_id IS NOT NULL"),
    ),
)

entries = Table(
    "entries",
    metadata,
    Column("account_id", _ID, primary_key=True),
    Column("transaction_id", _ID, primary_key=True),
    Column("seq", BigInteger, comment="null where the transaction was refused and nothing moved"),
    Column("counterparty", _ID),
    Column("amount", BigInteger, nullable=False, comment="negative where money leaves the account"),
    Column("balance_after", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("account_id", "seq", name="one_entry_per_seq"),
    CheckConstraint("(seq IS NULL) = (balance_after IS NULL)", name="posted_has_balance"),
    Index("entries_by_time", "account_id", "created_at"),
)

# Avoids reading checked entries again: an account may have millions of them, and they never change.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("account_id", _ID, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="entries 1 to seq are all here"),
    Column("balance", BigInteger, nullable=False, comment="what they add up to"),
)

flags = Table(
    "flags",
    metadata,
    Column("id", _ID, primary_key=True, comment="id of the event too; follows from rule, account and occurrence"),
    Column("transaction_id", _ID, nullable=False),
    Column("account_id", _ID, nullable=False),
    Column("rule", String(20), nullable=False),
    Column("occurrence", String(40), nullable=False, comment="what keeps a rule from finding the same thing twice"),
    Column("score", Integer, nullable=False),
    Column("action", String(6), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("rule", "account_id", "occurrence", name="one_flag_per_occurrence"),
    CheckConstraint("action IN ('review', 'freeze')", name="known_action"),
    Index("flags_by_time", "created_at", "id"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("all_accounts", Boolean, nullable=False, comment="created by an operator: not only the owner's accounts"),
    Column("account_id", _ID, comment="null: all accounts that the owner may see"),
    Column("types", Text, comment="JSON array of event types; null: all"),
    Column("url", String(2000), nullable=False),
    Column("position", BigInteger, nullable=False, comment="no event up to here is still to be delivered"),
    Column("secret_version", Integer, nullable=False),
    Column("secret_rotated_at", UtcDateTime),
    Column("failures", Integer, nullable=False, comment="failed attempts of the next event"),
    Column("failing_since", UtcDateTime),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("claimed_until", UtcDateTime, nullable=False, comment="until then one replica delivers"),
    Column("disabled_reason", String(200), comment="null while enabled"),
    Column("created_at", UtcDateTime, nullable=False),
    Index("webhooks_by_owner", "owner", "id"),
)

# Events that a webhook may want, at their positions in account-service's outbox.
webhook_events = Table(
    "webhook_events",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("account_id", _ID, nullable=False),
    Column("type", String(40), nullable=False),
    Column("id", String(255), nullable=False),
    Column("content", LargeBinary, nullable=False, comment="the body that is sent"),
    Column("created_at", UtcDateTime, nullable=False),
    Index("webhook_events_by_account", "account_id", "position"),
    Index("webhook_events_by_time", "created_at"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("webhook_id", _ID, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("message_id", String(40), nullable=False),
    Column("type", String(40), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Integer, comment="HTTP status; null without a response"),
    Column("error", String(200), comment="null if delivered"),
    Column("created_at", UtcDateTime, nullable=False),
    Index("webhook_deliveries_by_webhook", "webhook_id", "id"),
)

inbox = Inbox(metadata)
# Replicas of earlier releases use it during an upgrade. To be dropped with the next migration.
Table(
    "inbox",
    metadata,
    Column("event_id", String(255), primary_key=True),
    Column("received_at", UtcDateTime, nullable=False),
)
outbox = Outbox(metadata)
