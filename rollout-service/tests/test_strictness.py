"""Ambiguous requests are rejected."""

from pathlib import Path

from app.main import create
from app.settings import RolloutSettings
from shared.testing.fixtures import Lab, assert_nothing_is_ignored


async def test_unknown_input_is_rejected(lab: Lab, tmp_path: Path) -> None:
    settings = RolloutSettings(project="bank", auth_jwks=str(lab.secrets.jwks), state_dir=tmp_path, nginx_dir=tmp_path)
    await assert_nothing_is_ignored(create(settings), lab)
