"""Settings of account-service."""

from pydantic import Field

from shared.runtime.settings import ServiceSettings


class AccountSettings(ServiceSettings):
    """Settings of account-service, read from the environment."""

    service: str = "account-service"
    group_commit_max_batch: int = Field(
        256, ge=1, le=2000, description="Most operations in one database transaction; a batch of transfers stays whole."
    )
    group_commit_max_waiting: int = Field(
        4096,
        ge=1,
        description="While so many operations wait for a transaction, more are answered 503.",
    )
    subject_operations_per_second: float = Field(
        100.0,
        ge=0,
        description="Operations per second that one subject may ask a replica for in the long run; 0: no limit. A "
        "batch counts as its transfers, operators are not counted. Beyond: 429.",
    )
    subject_operations_burst: int = Field(
        20_000, ge=1000, description="Operations that a subject may ask a replica for at once, after a pause."
    )
    hold_default_seconds: int = Field(7 * 86400, ge=1, description="Life of a hold that names no `expires_in`.")
    hold_sweep_seconds: float = Field(1.0, gt=0, description="How often expired holds are released.")
    ledger_check_seconds: float = Field(15.0, gt=0, description="How often the imbalance metric is measured.")
    idempotency_retention_days: int = Field(30, ge=1, description="How long an Idempotency-Key is remembered.")
