"""A missing or well-known credential prevents the start."""

import pytest

from app.settings import TransactionSettings
from shared.runtime.settings import load_or_exit
from shared.testing.fixtures import Lab, refused_settings

COMPLETE = {
    "ACCOUNT_SERVICE_URL": "http://account-service:8000",
    "DATABASE_URL": "postgresql+asyncpg://bank:9c1dUxr4Lw@postgres/bank",
    "SERVICE_TOKEN": "kept-by-nobody-else-17",
}


@pytest.fixture(autouse=True)
def complete(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an environment in which the service starts."""
    for name, value in {**COMPLETE, "AUTH_JWKS": str(lab.secrets.jwks)}.items():
        monkeypatch.setenv(name, value)


def test_generated_credentials_are_accepted():
    load_or_exit(TransactionSettings)


def test_required_settings_have_no_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in [*COMPLETE, "AUTH_JWKS"]:
        monkeypatch.delenv(name)
    assert refused_settings(TransactionSettings, capsys) == [
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
    ],
)
def test_a_well_known_credential_is_rejected(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(name, value)
    assert refused_settings(TransactionSettings, capsys) == [name]


@pytest.mark.parametrize("name", ["FRAUD_REVIEW_AMOUNT", "FRAUD_FREEZE_AMOUNT", "FRAUD_PASS_THROUGH_AMOUNT"])
@pytest.mark.parametrize("value", ["", "0", "1000,EUR", "EUR=1", "1000,EUR=1,EUR=2"])
def test_amounts_by_currency_are_checked_at_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(name, value)
    assert refused_settings(TransactionSettings, capsys) == [name]


def test_amounts_by_currency(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_FREEZE_AMOUNT", "5000,EUR=4000")
    limits = load_or_exit(TransactionSettings).thresholds
    assert [limits.freeze_amount.of(currency) for currency in ("USD", "EUR", "JPY")] == [5000, 4000, 7500]
