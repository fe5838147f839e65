"""A missing or well-known credential prevents the start."""

import pytest

from app.settings import AutoscaleSettings
from shared.testing.settings import SettingsEnvironment

SETTINGS = AutoscaleSettings
COMPLETE = {
    "AUTOSCALE_TOKEN": "kept-by-nobody-else-18",
    "PROJECT": "bank",
}


def test_generated_credentials_are_accepted(environment: SettingsEnvironment) -> None:
    environment.load()


def test_required_settings_have_no_default(environment: SettingsEnvironment) -> None:
    environment.unset(*COMPLETE, "AUTH_JWKS")
    assert environment.rejected() == ["AUTH_JWKS", "AUTOSCALE_TOKEN", "PROJECT"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTOSCALE_TOKEN", "changeme-changeme"),
        ("AUTOSCALE_TOKEN", "short"),
        ("AUTOSCALE_TOKEN", "xxxxxxxxxxxxxxxxxxxx"),
        ("AUTH_JWKS", "/nowhere/jwks.json"),
        ("PANIC_THRESHOLD", "-1"),
    ],
)
def test_a_well_known_credential_or_invalid_value_is_rejected(
    name: str, value: str, environment: SettingsEnvironment
) -> None:
    environment.set(**{name: value})
    assert environment.rejected() == [name]
