"""Nothing that a killed or frozen ansible-playbook leaves behind drives a rollout, or ends that of another driver."""

import json
import signal
import subprocess
import time
from pathlib import Path

from harness.plays import ENVIRONMENT, command, play
from harness.client import eventually

from shared.testing.paths import ROOT

_PLAY = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: nginx_canary, tasks_from: step, rolespec_validate: false}
"""
# Answers only when the driver is dead.
_SLOW_TOOL = """#!/bin/sh
echo "$*" >>{asked}
waited=0
until [ -e {answer} ] || [ $waited -ge 600 ]; do
    sleep 0.5
    waited=$((waited + 1))
done
echo '{{"phase": "canary", "step": 0}}'
"""


def test_processes_of_a_killed_driver_do_not_renew_the_lease(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.touch()
    tool = tmp_path / "rollout.sh"
    response = tmp_path / "answer"
    tool.write_text(_SLOW_TOOL.format(asked=asked, answer=response), encoding="utf-8")
    tool.chmod(0o755)
    (tmp_path / "play.yml").write_text(_PLAY, encoding="utf-8")
    variables = {
        "folder": str(tmp_path),
        "nginx_canary_dir": str(tmp_path),
        "nginx_canary_id": "a-rollout",
        "nginx_canary_environment": {},
        "nginx_canary_steps": [10, 50],
        "nginx_canary_step": 0,
        "nginx_canary_step_timeout_seconds": 600,
        "nginx_canary_driver": "somebody",
        "nginx_canary_gates": [],
        "nginx_canary_gate_timeout_minutes": 60,
    }
    with (
        (tmp_path / "log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command(tmp_path / "play.yml", variables),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as driver,
    ):
        try:
            eventually(lambda: "ensure_canaries a-rollout 50" in asked.read_text() or driver.poll() is not None, 300)
            assert driver.poll() is None, (tmp_path / "log").read_text()
        finally:
            driver.send_signal(signal.SIGKILL)
    response.touch()
    last = asked.read_text()
    time.sleep(8)
    assert asked.read_text() == last


_ROLE = """
- hosts: docker_hosts
  gather_facts: false
  roles: [nginx_canary]
"""
_OWN, _OTHER = "20260131T120000.000001Z", "20260131T130000.000002Z"
_IMAGES = {service: f"bank/{service}@sha256:{'a' * 64}" for service in ("account-service", "transaction-service")}
_REVISIONS = dict.fromkeys(_IMAGES, "1" * 64)
# Starts the driver's own rollout; by the next command another one is current, which rejects everything else.
_TOOL = """#!/bin/sh
echo "$*" >>{folder}/asked
case $1 in
    replicas | canary_count) echo '{{"account-service": 1, "transaction-service": 1}}' ;;
    begin) cat >/dev/null; echo '{{"id": "{own}", "phase": "provisioning"}}' ;;
    status) echo '{{"id": "{other}", "phase": "canary", "version": "v3", "driver": "bob"}}' ;;
    *) echo "rejected: Rollout {own} is not the current one ({other})" >&2; exit 3 ;;
esac
"""


def test_a_driver_that_wakes_up_late_leaves_the_rollout_of_another_alone(tmp_path: Path) -> None:
    tool = tmp_path / "rollout.sh"
    tool.write_text(_TOOL.format(folder=tmp_path, own=_OWN, other=_OTHER), encoding="utf-8")
    tool.chmod(0o755)
    (tmp_path / "play.yml").write_text(_ROLE, encoding="utf-8")
    variables = {
        "folder": str(tmp_path),
        "nginx_canary_dir": str(tmp_path),
        "nginx_canary_version": "v2",
        "nginx_canary_images": _IMAGES,
        "nginx_canary_running_images": _IMAGES,
        "nginx_canary_revisions": _REVISIONS,
        "nginx_canary_running_revisions": _REVISIONS,
        "nginx_canary_driver": "alice",
    }
    done = play(tmp_path / "play.yml", variables)
    output = " ".join(done.output.split())
    assert done.failed and f"Rollout {_OWN} of v2 is not the current one any more" in output, done.output
    assert f"{_OTHER} of v3 (bob, canary), was not changed" in output
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert asked[-2:] == [f"abort {_OWN} alice failed", "status"] and len(asked) == 6, asked
    assert json.loads((tmp_path / "rollout-record.json").read_text(encoding="utf-8"))["id"] == _OWN
