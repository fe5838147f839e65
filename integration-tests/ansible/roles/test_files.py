"""What a deployment brings to a host. Docker is a stand-in that writes down what it is asked: nothing is started."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import plays
import pytest
from harness.plays import SERVICES, play, run

from shared.testing import lab_ca
from shared.testing.paths import ROOT
from scripts.stack.stack_files import certificates

_BRING = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: banking_app, tasks_from: files}
"""
_RELOAD = "-s reload"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with what Docker is asked, a line a command."""
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n', encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setitem(plays.ENVIRONMENT, "PATH", f"{docker.parent}:{plays.ENVIRONMENT['PATH']}")
    return tmp_path / "asked"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The variables of a deployment with TLS, which a file of variables asks for."""
    lab_ca.ensure(tmp_path / "tls")
    (tmp_path / "tls.env").write_text("TLS=1\n", encoding="utf-8")
    project = f"bank-files-{uuid.uuid4().hex[:8]}"
    yield {
        "folder": str(tmp_path),
        "banking_app_project": project,
        "banking_app_dir": str(tmp_path / "opt"),
        "banking_app_state_dir": str(tmp_path / "state"),
        "banking_app_release": {"images": {service: f"{service}@sha256:{'0' * 64}" for service in SERVICES}},
        "banking_app_stable_versions": {},
        "banking_app_deployed": {},
        "banking_app_environment_files": [str(tmp_path / "tls.env")],
        "banking_app_secrets": {"jwks": "{}", **certificates(tmp_path / "tls")},
        "banking_app_tls_certificate": str(tmp_path / "tls/nginx.crt"),
        "banking_app_tls_key": str(tmp_path / "tls/nginx.key"),
    }
    (ROOT / f"var/deploy-{project}.tar").unlink(missing_ok=True)


def test_tls_is_on_everywhere_and_a_new_certificate_is_read(
    tmp_path: Path, asked: Path, secured: dict[str, Any]
) -> None:
    playbook = tmp_path / "bring.yml"
    playbook.write_text(_BRING, encoding="utf-8")
    (tmp_path / "opt").mkdir()
    brought = play(playbook, secured)
    assert not brought.failed, brought.output

    # As scripts/stack/stack_env.sh has it for `make up`.
    names = ("TLS", "POSTGRES_TLS", "POSTGRES_SSLMODE")
    shown = "; ".join(f'echo "{name}=${name}"' for name in names)
    expected = run("bash", "-c", f". scripts/stack/stack_env.sh; {shown}", TLS="1", VAR_DIR=str(tmp_path / "var"))
    written = (tmp_path / "opt/.env").read_text(encoding="utf-8").splitlines()
    assert expected.splitlines() == [line for name in names for line in written if line.startswith(f"{name}=")]
    assert "POSTGRES_TLS=on" in written

    asked.write_text("", encoding="utf-8")
    again = play(playbook, secured)
    assert again.changed == 0, again.output
    assert _RELOAD not in asked.read_text(encoding="utf-8")

    for file in (tmp_path / "tls").iterdir():
        file.unlink()
    lab_ca.ensure(tmp_path / "tls")
    renewed = play(playbook, secured)
    assert not renewed.failed, renewed.output
    assert asked.read_text(encoding="utf-8").count(_RELOAD) == 1
