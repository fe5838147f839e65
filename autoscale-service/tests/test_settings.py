"""Nothing starts with a credential that is missing, or that is anybody's default."""

import pytest

from app.settings import AutoscaleSettings
from shared.runtime.settings import load_or_exit
from shared.testing.fixtures import Lab, refused_settings

COMPLETE = {
    "AUTOSCALE_TOKEN": "kept-by-nobody-else-18",
    "PROJECT": "bank",
}


@pytest.fixture(autouse=True)
def complete(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an environment in which the service starts."""
    for name, value in {**COMPLETE, "AUTH_JWKS": str(lab.secrets.jwks)}.items():
        monkeypatch.setenv(name, value)


def test_it_starts_with_credentials_of_its_own():
    load_or_exit(AutoscaleSettings)


def test_nothing_that_matters_has_a_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in [*COMPLETE, "AUTH_JWKS"]:
        monkeypatch.delenv(name)
    assert refused_settings(AutoscaleSettings, capsys) == ["AUTH_JWKS", "AUTOSCALE_TOKEN", "PROJECT"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTOSCALE_TOKEN", "changeme-changeme"),
        ("AUTOSCALE_TOKEN", "short"),
        ("AUTOSCALE_TOKEN", "xxxxxxxxxxxxxxxxxxxx"),
        ("AUTH_JWKS", "/nowhere/jwks.json"),
    ],
)
def test_a_well_known_credential_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(name, value)
    assert refused_settings(AutoscaleSettings, capsys) == [name]
