"""Settings of account-service."""

from pydantic import Field

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
    idempotency_retention_days: int = Field(30, ge=1, description="Retention of idempotency keys, in days.")
