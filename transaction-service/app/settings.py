"""Settings of transaction-service."""

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator

from app.domain import amounts
from app.fraud import Thresholds
from shared.runtime.settings import OptionalSecret, ServiceSettings


def _validated(text: str) -> str:
    amounts.parse(text)
    return text


# Validated at the start; a plain number is accepted, too.
_AmountByCurrency = Annotated[str, BeforeValidator(str), AfterValidator(_validated)]


class TransactionSettings(ServiceSettings):
    """Settings of transaction-service, read from the environment."""

    service: str = "transaction-service"
    account_service_url: str = Field(
        description="Base URL of account-service, for completeness, reconciliation and rebuild."
    )
    bank_name: str = Field(
        "Distributed Bank",
        min_length=1,
        max_length=140,
        description="Name of the bank in statements as XML (CAMT.053) and PDF.",
    )
    fraud_review_amount: _AmountByCurrency = Field(
        "1000000",
        description="Minimum amount of a debit that is flagged for review, in US cents, converted to other currencies "
        "unless CUR=amount pairs in minor units follow: `1000000,EUR=900000,JPY=1500000`.",
    )
    fraud_freeze_amount: _AmountByCurrency = Field(
        "10000000",
        description="A single debit above this amount freezes the account; same format as the review amount.",
    )
    fraud_velocity_count: int = Field(
        20, ge=2, description="Number of debits within the velocity window that are flagged for review."
    )
    fraud_velocity_seconds: int = Field(60, ge=1, le=86400, description="Velocity window, in seconds.")
    fraud_pass_through_share: Decimal = Field(
        Decimal("0.9"), gt=0, le=1, description="Minimum fraction of a credit whose rapid payout is flagged for review."
    )
    fraud_pass_through_seconds: int = Field(
        60, ge=1, le=86400, description="Maximum time between credit and payout, in seconds."
    )
    fraud_pass_through_amount: _AmountByCurrency = Field(
        "100000", description="Minimum credit that is checked for a rapid payout; same format as the review amount."
    )
    reconciliation_seconds: float = Field(60.0, gt=0, description="Interval of the reconciliation, in seconds.")
    reconciliation_grace_seconds: float = Field(
        60.0, ge=0, description="Maximum delay of an entry before it counts as missing, in seconds."
    )

    webhook_key: OptionalSecret = Field(
        SecretStr(""), description="Secret from which the webhooks' signing secrets follow; empty: no webhooks."
    )
    webhook_proxy: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="HTTP proxy for webhooks, which must refuse private addresses; empty: none.",
    )
    webhook_allow_private: bool = Field(
        False, description="Whether webhooks may use http, private addresses and any port; for development only."
    )
    webhook_retention_days: int = Field(
        7, ge=4, description="Retention of events for webhooks and of the delivery log, in days."
    )

    @field_validator("account_service_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds of the fraud rules."""
        return Thresholds(
            review_amount=amounts.parse(self.fraud_review_amount),
            freeze_amount=amounts.parse(self.fraud_freeze_amount),
            velocity_count=self.fraud_velocity_count,
            velocity_seconds=self.fraud_velocity_seconds,
            pass_through_share=self.fraud_pass_through_share,
            pass_through_seconds=self.fraud_pass_through_seconds,
            pass_through_amount=amounts.parse(self.fraud_pass_through_amount),
        )
