"""A missing or well-known credential prevents the start."""

from pathlib import Path

import pytest

from app.settings import RolloutSettings
from shared.testing.settings import SettingsEnvironment

SETTINGS = RolloutSettings
COMPLETE = {
    "PROJECT": "bank",
}


def test_generated_credentials_are_accepted(environment: SettingsEnvironment) -> None:
    environment.load()


def test_required_settings_have_no_default(environment: SettingsEnvironment) -> None:
    environment.unset(*COMPLETE, "AUTH_JWKS")
    assert environment.rejected() == ["AUTH_JWKS", "PROJECT"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_JWKS", "/nowhere/jwks.json"),
        ("AUTH_JWKS", ""),
    ],
)
def test_a_well_known_credential_is_rejected(name: str, value: str, environment: SettingsEnvironment) -> None:
    environment.set(**{name: value})
    assert environment.rejected() == [name]


def test_own_criteria_are_read_from_a_file(tmp_path: Path, environment: SettingsEnvironment) -> None:
    file = tmp_path / "metrics.json"
    file.write_text('[{"name": "late", "canary": "a", "stable": "b", "direction": "lower_is_worse", "tolerance": 0.2}]')
    environment.set(ANALYSIS_METRICS_FILE=str(file))
    (metric,) = environment.load().analysis_metrics
    assert (metric.name, metric.direction, metric.tolerance, metric.analyses) == ("late", "lower_is_worse", 0.2, 3)
