"""Check mode of the deployment: it tells what would change, and changes nothing."""

from pathlib import Path
from typing import Any

from harness.plays import Play, play

from shared.testing.paths import ROOT

_DEPLOY = ROOT / "ansible/playbooks/deploy.yml"


def _check(settings: dict[str, Any], *arguments: str) -> Play:
    return play(_DEPLOY, settings, "--check", "--diff", *arguments)


def test_a_fresh_host_can_be_checked(settings: dict[str, Any]) -> None:
    checked = _check(settings)
    assert not checked.failed, checked.output
    assert "v1 would be the first release on this host" in checked.output
    assert "+LOG_LEVEL=INFO" in checked.output and checked.changed > 5
    assert not Path(settings["banking_app_dir"]).exists() and not Path(settings["banking_app_state_dir"]).exists()
