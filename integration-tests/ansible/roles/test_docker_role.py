"""The role that installs Docker, looked at where it has been: CI and bare machines get their engine from it."""

import subprocess
from pathlib import Path

import pytest
from harness.plays import play

from shared.testing.paths import ROOT

_PLAYBOOK = ROOT / "ansible/playbooks/docker.yml"


@pytest.fixture(autouse=True)
def installed_by_the_role() -> None:
    """Skip where Docker came from elsewhere: the role would replace it."""
    found = subprocess.run(["dpkg-query", "--show", "docker.io"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip("Docker is not the distribution's here")


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    done = play(_PLAYBOOK, {"folder": str(tmp_path)}, "--check")
    assert not done.failed, done.output
    assert done.changed == 0, done.output


def test_check_mode_reports_pending_changes(tmp_path: Path) -> None:
    done = play(_PLAYBOOK, {"folder": str(tmp_path), "docker_users": ["nobody"]}, "--check")
    assert not done.failed, done.output
    assert done.changed == 1, done.output
