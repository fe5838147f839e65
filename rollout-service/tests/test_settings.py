"""A missing or well-known credential prevents the start."""

import pytest

from app.settings import RolloutSettings
from shared.runtime.settings import load_or_exit
from shared.testing.fixtures import Lab, refused_settings

COMPLETE = {
    "PROJECT": "bank",
}


@pytest.fixture(autouse=True)
def complete(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a complete environment."""
    for name, value in {**COMPLETE, "AUTH_JWKS": str(lab.secrets.jwks)}.items():
        monkeypatch.setenv(name, value)


def test_generated_credentials_are_accepted():
    load_or_exit(RolloutSettings)


def test_required_settings_have_no_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in [*COMPLETE, "AUTH_JWKS"]:
        monkeypatch.delenv(name)
    assert refused_settings(RolloutSettings, capsys) == ["AUTH_JWKS", "PROJECT"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_JWKS", "/nowhere/jwks.json"),
        ("AUTH_JWKS", ""),
    ],
)
def test_a_well_known_credential_is_rejected(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(name, value)
    assert refused_settings(RolloutSettings, capsys) == [name]
