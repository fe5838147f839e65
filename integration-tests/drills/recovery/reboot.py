"""Reboot a systemd host on which Ansible has deployed the bank, also during a rollout.

    make drills DRILL=reboot

The host is a container with systemd as PID 1 and its own Docker Engine, started by a unit. After the first reboot all
containers must be healthy and the ledger unchanged. Before the second one the driver of a rollout is killed while the
canary serves: afterwards stable must serve all clients. Prints measured values and thresholds; exits 1 when one is
missed.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.client import Bank, eventually, usd
from harness.commands import check, exit_code, info, kill, start
from harness.deployed_stack import Releases
from harness.systemd_host import SystemdHost, inventory, systemd_host

from shared.testing import lab_keys
from shared.testing.paths import ROOT

_REBOOT_SECONDS = 180.0
_PORT = "8080"
_DEPOSIT_AMOUNT = 12_345
_FOLDER = "/opt/banking"


def _variables(releases: Releases, secrets: lab_keys.LabSecrets) -> dict[str, Any]:
    return {
        "banking_app_cosign_keys": [str(releases.public_key)],
        "banking_app_require_attestations": False,
        "banking_app_rehearsal": True,
        "banking_app_environment": {
            "BANK_ADDRESS": "0.0.0.0",  # nosec B104  # in the container
            "BANK_PORT": _PORT,
            "ACCOUNT_SERVICE_REPLICAS": "1",
            "TRANSACTION_SERVICE_REPLICAS": "1",
            "AUTOSCALE_MIN_REPLICAS": "1",
            "COMPOSE_PROFILES": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        },
        "banking_app_environment_files": ["docker/offline/images.env"],
        "banking_app_secrets": {"jwks": secrets.jwks.read_text(encoding="utf-8")},
        "banking_app_healthy_seconds": 600,
        "nginx_canary_baseline": False,
        "nginx_canary_steps": [10],
        # The canary gets no verdict, because there are no requests.
        "nginx_canary_step_timeout_seconds": 600,
    }


def _start_play(hosts: Path, variables: Path, release: Path) -> "subprocess.Popen[str]":
    command = [".venv-ops/bin/ansible-playbook", "ansible/playbooks/deploy.yml", "--inventory", str(hosts)]
    return start([*command, "--extra-vars", f"@{release}", "--extra-vars", f"@{variables}"])


def _containers(host: SystemdHost) -> dict[str, str]:
    """Return the status of each container."""
    lines = host.run("docker", "ps", "--all", "--format", "{{.Names}}\t{{.Status}}").splitlines()
    return dict(line.split("\t") for line in lines)


def _unhealthy(host: SystemdHost) -> list[str]:
    return [name for name, status in _containers(host).items() if "(healthy)" not in status]


def _state(host: SystemdHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("cat", "/var/lib/banking/rollout.json"))
    return found


def _serves_canary(state: dict[str, Any]) -> bool:
    return state["phase"] == "canary" and state["weight"] > 0


def _revision(host: SystemdHost) -> str:
    command = f"cd {_FOLDER} && docker compose exec -T nginx wget -q -O - http://127.0.0.1:8081/revision"
    return host.run("sh", "-c", command).strip()


class _Drill:
    def __init__(self, host: SystemdHost, secrets: lab_keys.LabSecrets) -> None:
        self._host = host
        self._secrets = secrets
        self.missed: list[str] = []

    def check(self, threshold: str, value: object, met: bool) -> None:
        """Print a threshold with the measured value; record it if it is missed."""
        if not check(met, f"{threshold}: {value}"):
            self.missed.append(threshold)

    def bank(self) -> Bank:
        """Return a client of the bank at the current address of the host."""
        return Bank(f"http://{self._host.address}:{_PORT}", self._secrets)

    def reboot(self, name: str, account: str) -> None:
        """Reboot; check that all containers become healthy without intervention and the balance is unchanged."""
        before = set(_containers(self._host))
        started = time.monotonic()
        self._host.reboot()
        info(f"{name}: engine started by its unit after {time.monotonic() - started:.0f} s")
        eventually(lambda: not _unhealthy(self._host), _REBOOT_SECONDS * 2)
        seconds = time.monotonic() - started
        self.check(f"{name}: all healthy within {_REBOOT_SECONDS:.0f} s", f"{seconds:.0f} s", seconds < _REBOOT_SECONDS)
        lost = sorted(one for one in before - set(_containers(self._host)) if "-canary-" not in one)
        self.check(f"{name}: no container lost", lost or "none", not lost)
        with closing(self.bank()) as bank:
            bank.wait_until_answering()
            balance = bank.get(f"/accounts/{account}")["balance"]
        self.check(f"{name}: balance unchanged", balance, balance == _DEPOSIT_AMOUNT)


def _run(folder: Path, host: SystemdHost, releases: Releases) -> list[str]:
    lines = (ROOT / "docker/offline/images.env").read_text(encoding="utf-8").splitlines()
    images = [line.partition("=")[2] for line in lines if "_IMAGE=" in line and not line.startswith("PYTHON")]
    host.load_images(images)
    base = releases.build("base", offline=True)
    host.forward(releases.port)
    secrets = lab_keys.ensure(folder / "secrets")
    variables = folder / "variables.json"
    variables.write_text(json.dumps(_variables(releases, secrets)), encoding="utf-8")
    hosts = inventory(host, folder)
    started = time.monotonic()
    play = _start_play(hosts, variables, base)
    output, _ = play.communicate(timeout=1200)
    assert play.returncode == 0, output[-6000:]
    info(f"deployed after {time.monotonic() - started:.0f} s")

    drill = _Drill(host, secrets)
    with closing(drill.bank()) as bank:
        account = bank.post("/accounts", {"currency": "USD"}).json()["id"]
        done = bank.post(f"/accounts/{account}/deposits", usd(_DEPOSIT_AMOUNT), scope="bank:deposit")
        assert done.status_code == 201, done.text
    drill.reboot("reboot", account)
    units = host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").split()
    drill.check("reboot: no failed unit", units or "none", not units)

    host.forward(releases.port)
    play = _start_play(hosts, variables, releases.derive("new", "base", "none"))
    eventually(lambda: play.poll() is not None or _serves_canary(_state(host)), 600)
    assert play.poll() is None, play.communicate()[0][-6000:]
    info(f"canary serves {_state(host)['weight']} % of the clients; driver killed, host rebooted")
    kill(play)
    drill.reboot("reboot during a rollout", account)
    eventually(lambda: _state(host)["phase"] == "idle", _REBOOT_SECONDS)
    state, revision = _state(host), _revision(host)
    drill.check(
        "reboot during a rollout: rolled back", f"{state['phase']} ({state['reason']})", state["phase"] == "idle"
    )
    drill.check("reboot during a rollout: all clients on stable", revision, revision == "stable")
    eventually(lambda: not [name for name in _containers(host) if "-canary-" in name], 60)
    canaries = [name for name in _containers(host) if "-canary-" in name]
    drill.check("reboot during a rollout: no canary left", canaries or "none", not canaries)
    return drill.missed


def main() -> int:
    """Run the drill."""
    with (
        tempfile.TemporaryDirectory(prefix="bank-reboot-") as folder,
        closing(Releases(Path(folder), info)) as releases,
        systemd_host() as host,
    ):
        return exit_code(_run(Path(folder), host, releases))


if __name__ == "__main__":
    sys.exit(main())
