"""A whole deployment to this machine, by the playbook that people use, with the services' real images."""

import json
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.client import REQUEST_SECONDS
from harness.plays import Registry, play, run
from harness.ssh_host import USER, SshHost, ssh_host

from scripts.stack import stack_files
from shared.testing import lab_keys
from shared.testing.paths import ROOT
from shared.testing.ports import free_port

_DEPLOY = ROOT / "ansible/playbooks/deploy.yml"
# Limits that only a failure reaches: beside other suites on a slow machine, a deployment has taken nine minutes and the
# whole test 26.
_SECONDS = 1200
_TEST_SECONDS = 3000
_OFFLINE = "docker/offline/images.env"


def _offline_images() -> dict[str, str]:
    """Return the base images made of Debian packages, where those are what this machine has."""
    lines = (ROOT / _OFFLINE).read_text(encoding="utf-8").splitlines()
    images = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    found = subprocess.run(["docker", "image", "inspect", *images.values()], capture_output=True, check=False)
    return images if found.returncode == 0 else {}


@pytest.fixture
def bank(registry: Registry, settings: dict[str, Any], tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The variables of a deployment of a real release, which is gone afterwards."""
    offline = _offline_images()
    release = tmp_path / "release.json"
    run(
        "scripts/release/release.sh",
        str(release),
        REGISTRY=f"{registry.address}/real",
        COSIGN_KEY=str(registry.key("now")),
        VERSION="deployed",
        ATTEST="0",
        REHEARSAL="1",
        **offline,
    )
    variables = {
        **settings,
        **json.loads(release.read_text(encoding="utf-8")),
        "banking_app_project": f"bank-deploy-{uuid.uuid4().hex[:8]}",
        "banking_app_environment": {
            "BANK_PORT": str(free_port()),
            # As few replicas as a rollout allows.
            "ACCOUNT_SERVICE_REPLICAS": "1",
            "TRANSACTION_SERVICE_REPLICAS": "1",
            "AUTOSCALE_MIN_REPLICAS": "1",
            **({"COMPOSE_PROFILES": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""} if offline else {}),
        },
        "banking_app_environment_files": [_OFFLINE] if offline else [],
        "nginx_canary_steps": [10],
        "nginx_canary_baseline": False,
    }
    yield variables
    if (tmp_path / "opt/.env").exists():
        run("docker", "compose", "--profile", "*", "down", "--volumes", "--remove-orphans", cwd=tmp_path / "opt")
    # By name: another suite may have the same image under another one.
    name = '{{.Repository}}{{if eq .Tag "<none>"}}@{{.Digest}}{{else}}:{{.Tag}}{{end}}'
    listed = run("docker", "image", "ls", "--digests", "--format", name, f"{registry.address}/*/*").split()
    run("docker", "image", "rm", "--force", *dict.fromkeys(listed))


@pytest.fixture
def ssh() -> Iterator[SshHost]:
    """This machine, reached as somebody who is not root."""
    with tempfile.TemporaryDirectory(prefix="bank-ssh-") as folder:
        # pytest's own folders are closed to other users.
        Path(folder).chmod(0o755)
        with ssh_host(Path(folder)) as host:
            yield host


def _deploy_over_ssh(host: SshHost, variables: dict[str, Any], release: Path) -> str:
    """Deploy as the workflow does, and return what Ansible printed."""
    return run(
        "scripts/release/run_playbook.sh",
        TARGET="staging",
        INVENTORY=f"[staging]\nhost ansible_host=127.0.0.1 ansible_port={host.port} ansible_user={USER}"
        " ansible_python_interpreter=/usr/bin/python3\n[docker_hosts:children]\nstaging",
        SSH_PRIVATE_KEY=host.private_key,
        SSH_KNOWN_HOSTS=host.known_hosts,
        COSIGN_PUBLIC_KEYS="".join(Path(key).read_text("utf-8") for key in variables["banking_app_cosign_keys"]),
        REPOSITORY="https://git.example/bank",
        SETTINGS=json.dumps(variables),
        RELEASE=str(release),
    )


@pytest.mark.timeout(_TEST_SECONDS)
def test_a_deployment_over_ssh_works_keeps_secrets_and_is_idempotent(
    bank: dict[str, Any], ssh: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = _deploy_over_ssh(ssh, bank, tmp_path / "release.json")

    port = bank["banking_app_environment"]["BANK_PORT"]
    token = lab_keys.sign(tmp_path / "lab/lab-key.pem", "alice")
    for path in ("accounts", "transactions"):
        url = f"http://127.0.0.1:{port}/api/v1/{path}"
        response = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=REQUEST_SECONDS)
        assert response.status_code == httpx.codes.OK

    folder = tmp_path / "opt"
    secrets = folder / "var/docker/secrets"
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert secrets.parent.stat().st_mode & 0o777 == 0o700
    assert (secrets / "postgres_password").read_text(encoding="utf-8") not in output

    # The role and `make up` render the one template with the same values.
    rendered = (folder / "var/docker/nginx/prepared/canary-10.conf").read_text(encoding="utf-8")
    monkeypatch.setenv("NGINX_TRACE_SHARE", "10%")
    assert rendered == stack_files.nginx_configuration(tls=False, revision="canary-10", canary_weight=10)

    # As root on the machine itself it is the same deployment.
    second = play(_DEPLOY, bank, seconds=_SECONDS)
    assert not second.failed, second.output
    assert second.changed == 0, second.output
    assert "keep their current limits" not in second.output

    # New settings of the same images are rolled out as new images are, and a rollback restores the former ones.
    before = _replicas(bank, "stable")
    environment = {**bank["banking_app_environment"], "LOG_LEVEL": "WARNING"}
    reason = {"nginx_canary_skip_analysis": True, "nginx_canary_skip_analysis_reason": "a test of settings"}
    changed = {**bank, **reason, "banking_app_environment": environment}
    checked = play(_DEPLOY, changed, "--check", "--diff", seconds=_SECONDS)
    assert not checked.failed and "+LOG_LEVEL=WARNING" in checked.output, checked.output
    assert checked.output.count(": configuration ") == 2 and _replicas(bank, "stable") == before
    third = play(_DEPLOY, changed, seconds=_SECONDS)
    assert not third.failed, third.output
    after = _replicas(bank, "stable")
    assert {one.level for one in after} == {"WARNING"} and {one.level for one in before} == {"INFO"}
    assert {one.image for one in after} == {one.image for one in before}
    assert not {one.revision for one in after} & {one.revision for one in before}
    assert {one.level for one in _replicas(bank, "previous")} == {"INFO"}
    for one in (*before, *after):
        assert one.secrets == str(folder / "var/docker/revisions" / one.revision / "secrets")
    record = json.loads((folder / "deployed.json").read_text(encoding="utf-8"))
    assert set(record["revisions"].values()) == {one.revision for one in after}
    assert set(record["previous"]["revisions"].values()) == {one.revision for one in before}

    again = play(_DEPLOY, changed, "--check", seconds=_SECONDS)
    assert not again.failed and again.changed == 0, again.output

    back = play(ROOT / "ansible/playbooks/rollback.yml", changed, seconds=_SECONDS)
    assert not back.failed, back.output
    restored = _replicas(bank, "stable")
    assert {one.revision for one in restored} == {one.revision for one in before}
    assert {one.level for one in restored} == {"INFO"}
    record = json.loads((folder / "deployed.json").read_text(encoding="utf-8"))
    assert set(record["revisions"].values()) == {one.revision for one in before}
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == httpx.codes.OK


@dataclass(frozen=True, slots=True)
class _Replica:
    """A running replica: its image, the revision of its configuration, a setting, and where its secrets are."""

    image: str
    revision: str
    level: str
    secrets: str


def _replicas(bank: dict[str, Any], track: str) -> list[_Replica]:
    """Return the running replicas of both services on a track."""
    labels = [f"com.docker.compose.project={bank['banking_app_project']}", f"banking.track={track}"]
    found = run("docker", "ps", "--quiet", *(f"--filter=label={label}" for label in labels)).split()
    documents = json.loads(run("docker", "inspect", *found))
    assert {one["Config"]["Labels"]["com.docker.compose.service"].split("-")[0] for one in documents} == {
        "account",
        "transaction",
    }
    return [
        _Replica(
            one["Image"],
            one["Config"]["Labels"]["banking.configuration"],
            next(line.partition("=")[2] for line in one["Config"]["Env"] if line.startswith("LOG_LEVEL=")),
            next(mount["Source"] for mount in one["Mounts"] if mount["Destination"] == "/run/secrets"),
        )
        for one in documents
    ]
