"""Settings of account-service."""

from pydantic import Field

from shared.settings import ServiceSettings


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
    hold_default_seconds: int = Field(7 * 86400, ge=1, description="Life of a hold that names no `expires_in`.")
    hold_sweep_seconds: float = Field(1.0, gt=0, description="How often expired holds are released.")
    ledger_check_seconds: float = Field(15.0, gt=0, description="How often the imbalance metric is measured.")
    idempotency_retention_days: int = Field(30, ge=1, description="How long an Idempotency-Key is remembered.")
