"""A missing or well-known credential prevents the start."""

import pytest

from app.settings import TransactionSettings
from shared.testing.settings import SettingsEnvironment

SETTINGS = TransactionSettings
COMPLETE = {
    "ACCOUNT_SERVICE_URL": "http://account-service:8000",
    "DATABASE_URL": "postgresql+asyncpg://bank:9c1dUxr4Lw@postgres/bank",
    "SERVICE_TOKEN": "kept-by-nobody-else-17",
}


def test_generated_credentials_are_accepted(environment: SettingsEnvironment) -> None:
    environment.load()


def test_required_settings_have_no_default(environment: SettingsEnvironment) -> None:
    environment.unset(*COMPLETE, "AUTH_JWKS")
    assert environment.rejected() == [
        "ACCOUNT_SERVICE_URL",
        "AUTH_JWKS",
        "DATABASE_URL",
        "SERVICE_TOKEN",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_TOKEN", "changeme-changeme"),
        ("DATABASE_URL", "postgresql+asyncpg://postgres:postgres@postgres/x"),
        ("EVENTS_URL", "nats://nats:4222"),
        ("AUTH_JWKS", "/nowhere/jwks.json"),
        ("WEBHOOK_KEY", "changeme-changeme"),
        ("WEBHOOK_KEY", "9c1dUxr4Lw"),
        ("WEBHOOK_PROXY", "egress:3128"),
        ("WEBHOOK_RETENTION_DAYS", "3"),
    ],
)
def test_a_well_known_credential_is_rejected(name: str, value: str, environment: SettingsEnvironment) -> None:
    environment.set(**{name: value})
    assert environment.rejected() == [name]


@pytest.mark.parametrize("name", ["FRAUD_REVIEW_AMOUNT", "FRAUD_FREEZE_AMOUNT", "FRAUD_PASS_THROUGH_AMOUNT"])
@pytest.mark.parametrize("value", ["", "0", "1000,EUR", "EUR=1", "1000,EUR=1,EUR=2"])
def test_amounts_by_currency_are_checked_at_the_start(name: str, value: str, environment: SettingsEnvironment) -> None:
    environment.set(**{name: value})
    assert environment.rejected() == [name]


def test_without_a_key_there_are_no_webhooks(environment: SettingsEnvironment) -> None:
    assert environment.load().webhook_key.get_secret_value() == ""
    environment.set(WEBHOOK_KEY="kept-by-nobody-else-18")
    assert environment.load().webhook_key.get_secret_value() == "kept-by-nobody-else-18"


def test_amounts_by_currency(environment: SettingsEnvironment) -> None:
    environment.set(FRAUD_FREEZE_AMOUNT="5000,EUR=4000")
    limits = environment.load().thresholds
    assert [limits.freeze_amount.in_currency(currency) for currency in ("USD", "EUR", "JPY")] == [5000, 4000, 7500]
