"""The role that installs Docker, looked at where it has been: CI and bare machines get their engine from it."""

import subprocess
from pathlib import Path

import pytest
from harness import plays
from harness.plays import play, run

from shared.testing.paths import ROOT

_CONFIGURE = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: docker, tasks_from: address_pools}
"""
# A mount namespace in which /etc/docker is empty, and with `new` no engine is installed.
_HOST = """
[ "$1" != new ] || mount --bind /dev/null "$(PATH=$PATH:/usr/sbin command -v dockerd)"
mount -t tmpfs tmpfs /etc/docker
shift
"$@" >&2
cat /etc/docker/daemon.json 2>/dev/null || true
"""
# A mount namespace without an engine, its client, its group and its configuration folder.
_FRESH_HOST = """
cp -a /etc "$1"
rm -rf "$1/docker"
sed -i /^docker:/d "$1/group" "$1/gshadow"
mount --bind "$1" /etc
for program in $(PATH=$PATH:/usr/sbin type -aP docker dockerd); do
    mount --bind /dev/null "$program"
done
shift
"$@"
test ! -e /etc/docker
"""
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


@pytest.mark.parametrize("engine, configured", [("new", "172.17.0.0/16"), ("existing", "")])
def test_only_a_new_engine_gets_small_subnets(tmp_path: Path, engine: str, configured: str) -> None:
    playbook = tmp_path / "configure.yml"
    playbook.write_text(_CONFIGURE, encoding="utf-8")
    command = plays.command(playbook, {"folder": str(tmp_path)})
    written = run("unshare", "--mount", "bash", "-ec", _HOST, "host", engine, *command)
    assert configured in written and bool(written) == bool(configured)


def test_a_fresh_host_can_be_checked(tmp_path: Path) -> None:
    given = {"folder": str(tmp_path), "docker_users": ["nobody"]}
    command = [*plays.command(_PLAYBOOK, given), "--check", "--diff"]
    output = run("unshare", "--mount", "bash", "-ec", _FRESH_HOST, "host", str(tmp_path / "etc"), *command)
    assert "172.17.0.0/16" in output and "failed=0" in output
