"""The service does not start with missing or well-known credentials."""

import pytest

from app.settings import AccountSettings
from shared.runtime.settings import load_or_exit
from shared.testing.fixtures import Lab, refused_settings

COMPLETE = {
    "DATABASE_URL": "postgresql+asyncpg://bank:9c1dUxr4Lw@postgres/bank",
    "SERVICE_TOKEN": "kept-by-nobody-else-17",
}


@pytest.fixture(autouse=True)
def complete(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set valid settings in the environment."""
    for name, value in {**COMPLETE, "AUTH_JWKS": str(lab.secrets.jwks)}.items():
        monkeypatch.setenv(name, value)


def test_valid_credentials_are_accepted():
    load_or_exit(AccountSettings)


def test_credentials_have_no_defaults(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in [*COMPLETE, "AUTH_JWKS"]:
        monkeypatch.delenv(name)
    assert refused_settings(AccountSettings, capsys) == ["AUTH_JWKS", "DATABASE_URL", "SERVICE_TOKEN"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_TOKEN", "changeme-changeme"),
        ("DATABASE_URL", "postgresql+asyncpg://account:account@postgres/account"),
        ("EVENTS_URL", "nats://nats:nats@nats:4222"),
        ("AUTH_JWKS", "/nowhere/jwks.json"),
    ],
)
def test_well_known_credentials_are_rejected(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(name, value)
    assert refused_settings(AccountSettings, capsys) == [name]
