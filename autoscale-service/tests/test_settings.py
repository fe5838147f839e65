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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DOWN_WINDOW", "SCALE_DOWN_STABILIZATION_SECONDS"),
        ("backoff", "BACKOFF_SECONDS"),
        ("UP_RATE_FILE", "SCALE_UP_P"),
    ],
)
def test_an_old_name_is_rejected_and_the_new_one_named(
    old: str, new: str, environment: SettingsEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    # A new name beside it does not help: which one counts would be a guess.
    environment.set(**{old: "5", "BACKOFF_SECONDS": "7"})
    with pytest.raises(SystemExit) as caught:
        environment.load()
    assert caught.value.code == 2 and f"setting {old} was renamed to {new}" in capsys.readouterr().err


def test_an_old_name_of_another_service_is_ignored(environment: SettingsEnvironment) -> None:
    environment.set(JUDGE_SECONDS="5")
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
