"""The service does not start with missing or well-known credentials."""

import pytest

from app.settings import AccountSettings
from shared.testing.settings import SettingsEnvironment

SETTINGS = AccountSettings
COMPLETE = {
    "DATABASE_URL": "postgresql+asyncpg://bank:9c1dUxr4Lw@postgres/bank",
    "SERVICE_TOKEN": "kept-by-nobody-else-17",
}


def test_valid_credentials_are_accepted(environment: SettingsEnvironment) -> None:
    environment.load()


def test_credentials_have_no_defaults(environment: SettingsEnvironment) -> None:
    environment.unset(*COMPLETE, "AUTH_JWKS")
    assert environment.rejected() == ["AUTH_JWKS", "DATABASE_URL", "SERVICE_TOKEN"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_TOKEN", "changeme-changeme"),
        ("DATABASE_URL", "postgresql+asyncpg://account:account@postgres/account"),
        ("EVENTS_URL", "nats://nats:nats@nats:4222"),
        ("AUTH_JWKS", "/nowhere/jwks.json"),
    ],
)
def test_well_known_credentials_are_rejected(name: str, value: str, environment: SettingsEnvironment) -> None:
    environment.set(**{name: value})
    assert environment.rejected() == [name]
