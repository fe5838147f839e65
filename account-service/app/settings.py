"""Settings of account-service."""

from pydantic import Field, SecretStr, field_validator

from app.transparency.checkpoints import Signer
from shared.runtime.settings import ServiceSettings


class AccountSettings(ServiceSettings):
    """Settings of account-service, read from the environment."""

    service: str = "account-service"
    transaction_service_url: str = Field(
        "", description="Base URL of transaction-service, for events that the broker has lost; empty: not recovered."
    )
    group_commit_max_batch: int = Field(
        256,
        ge=1,
        le=2000,
        description="Maximum number of operations per database transaction; a batch of transfers is never split.",
    )
    group_commit_max_waiting: int = Field(
        4096, ge=1, description="Maximum number of queued operations; above it requests get 503."
    )
    subject_operations_per_second: float = Field(
        100.0,
        ge=0,
        description="Maximum average rate of operations per subject and replica, per second; above it requests get "
        "429. 0 disables the limit. A batch counts as its transfers; operators are not limited.",
    )
    subject_operations_burst: int = Field(
        20_000,
        ge=1000,
        description="Maximum number of operations that a subject can send to a replica at once.",
    )
    hold_default_seconds: int = Field(
        7 * 86400, ge=1, description="Lifetime of a hold without `expires_in`, in seconds."
    )
    hold_sweep_seconds: float = Field(1.0, gt=0, description="Interval between releases of expired holds, in seconds.")
    ledger_check_seconds: float = Field(
        15.0, gt=0, description="Interval between measurements of the imbalance metric, in seconds."
    )
    event_check_seconds: float = Field(
        2.0,
        gt=0,
        description="Interval between comparisons of new transactions with their events, and of changed holds with the "
        "held money of their accounts, in seconds.",
    )
    ledger_signing_key: SecretStr = Field(
        SecretStr(""),
        description="Ed25519 private key in PEM (PKCS #8) that signs the roots of the ledger; empty: none are "
        "published. During a rotation, the new key followed by the old one: both sign.",
    )
    ledger_origin: str = Field(
        "bank.example/ledger",
        pattern="^[!-*,-~]+$",
        max_length=255,
        description="Name of this ledger in its signed roots, unique among ledgers.",
    )
    ledger_seal_seconds: float = Field(
        1.0, gt=0, description="Interval between passes that add posted transactions to the Merkle tree, in seconds."
    )
    ledger_root_seconds: float = Field(
        10.0, gt=0, description="Minimum interval between two signed roots of the ledger, in seconds."
    )
    idempotency_retention_days: int = Field(30, ge=1, description="Retention of idempotency keys, in days.")

    @property
    def signer(self) -> Signer | None:
        """The signer of the ledger's roots; None without a key."""
        pem = self.ledger_signing_key.get_secret_value()
        return Signer(self.ledger_origin, pem) if pem else None

    @field_validator("ledger_signing_key")
    @classmethod
    def _usable_key(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            Signer("", value.get_secret_value())
        return value
