"""Nothing that a killed ansible-playbook leaves behind goes on driving a rollout."""

import signal
import subprocess
import time
from pathlib import Path

from harness.plays import ENVIRONMENT, command
from harness.client import eventually

from shared.testing.paths import ROOT

_PLAY = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: nginx_canary, tasks_from: step, rolespec_validate: false}
"""


def test_processes_of_a_killed_driver_do_not_renew_the_lease(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.touch()
    tool = tmp_path / "rollout.sh"
    # So slow that the driver dies before the first answer.
    tool.write_text(
        f'#!/bin/sh\necho "$*" >>{asked}\nsleep 2\necho \'{{"phase": "canary", "step": 0}}\'\n', encoding="utf-8"
    )
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
            eventually(
                lambda: asked.read_text().count("ensure_canaries a-rollout 50") >= 1 or driver.poll() is not None, 60
            )
            assert driver.poll() is None, (tmp_path / "log").read_text()
        finally:
            driver.send_signal(signal.SIGKILL)
    last = asked.read_text()
    time.sleep(8)
    assert asked.read_text() == last
