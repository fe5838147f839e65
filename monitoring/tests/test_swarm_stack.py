"""Stack files that scripts/stack/swarm_stack.py generates from Compose's; the autoscaling drill runs one (--swarm)."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.stack import revisions
from scripts.stack.swarm_stack import stack
from shared.testing.paths import ROOT

# Output of `docker compose config --format json` (shortened).
CONFIG: dict[str, Any] = {
    "name": "bank",
    "services": {
        "nginx": {
            "image": "nginx:1.30",
            "command": None,
            "depends_on": {"account-service": {"condition": "service_started", "required": True}},
            "deploy": {"resources": {"limits": {"cpus": 0.5, "memory": "134217728", "pids": 64}}, "placement": {}},
            "dns_opt": ["timeout:1"],
            "networks": {"edge": None, "backend": None},
            "ports": [
                {"mode": "ingress", "host_ip": "127.0.0.1", "target": 8080, "published": "8080", "protocol": "tcp"}
            ],
            "restart": "unless-stopped",
            "security_opt": ["no-new-privileges:true"],
            "tmpfs": ["/run/nginx:uid=101,mode=0700,size=16m"],
            "volumes": [
                {"type": "bind", "source": "/srv/nginx", "target": "/etc/nginx/bank", "read_only": True, "bind": {}}
            ],
        },
        "account-service": {
            "image": "bank/account-service:v1",
            "deploy": {"replicas": 2},
            "labels": {"banking.autoscale": "true", "banking.track": "stable"},
            "restart": "unless-stopped",
            "volumes": [
                {"type": "bind", "source": f"/srv/revisions/{'1' * 64}/secrets", "target": "/run/secrets", "bind": {}}
            ],
        },
        "account-migrate": {
            "image": "bank/account-service:v1",
            "restart": "no",
            "secrets": [{"source": "jwks", "target": "/run/secrets/jwks"}],
        },
        "postgres": {"image": "postgres:17", "restart": "unless-stopped", "shm_size": "268435456"},
        "docker-proxy": {
            "image": "bank/autoscale-service:v1",
            "restart": "unless-stopped",
            "volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/var/run/docker.sock"}],
        },
    },
    "networks": {"edge": {"name": "bank_edge", "ipam": {}}, "backend": {"name": "bank_backend", "internal": True}},
    "volumes": {"postgres": {"name": "bank_postgres"}},
    "secrets": {"jwks": {"name": "bank_jwks", "file": "/srv/secrets/jwks"}},
    "x-hardened": {"restart": "unless-stopped"},
}
STACK = stack(CONFIG)


def deployed(service: str) -> dict[str, Any]:
    """Return the deploy section of a service."""
    found: dict[str, Any] = STACK["services"][service]["deploy"]
    return found


def test_services_use_dns_round_robin_and_have_autoscaler_labels() -> None:
    assert all(service["deploy"]["endpoint_mode"] == "dnsrr" for service in STACK["services"].values())
    account = deployed("account-service")
    assert (account["mode"], account["replicas"]) == ("replicated", 2)
    assert account["labels"] == {"banking.autoscale": "true", "banking.track": "stable"}
    assert account["restart_policy"]["condition"] == "any"
    checks = {name: service.get("healthcheck") for name, service in STACK["services"].items()}
    assert checks["account-service"] == {"interval": "2s", "retries": 8} and checks["nginx"] is None
    # Otherwise a migration that takes longer than the start of a service would be killed.
    assert checks["account-migrate"] == {"disable": True}


def test_one_shot_services_become_jobs_with_retries() -> None:
    job = deployed("account-migrate")
    assert (job["mode"], job["restart_policy"]["condition"]) == ("replicated-job", "on-failure")


def test_only_socket_proxies_are_placed_on_managers() -> None:
    placed = {name: service["deploy"].get("placement") for name, service in STACK["services"].items()}
    assert placed.pop("docker-proxy") == {"constraints": ["node.role == manager"]}
    assert set(placed.values()) == {None}


def test_secrets_of_a_configuration_are_named_after_their_revision() -> None:
    """Otherwise Swarm would refuse changed ones. With the name of a test's stack they are within its limit of 64."""
    service = STACK["services"]["account-service"]
    assert "volumes" not in service
    assert {"source": "account-database_url-11111111", "target": "database_url"} in service["secrets"]
    assert STACK["secrets"]["account-database_url-11111111"] == {
        "file": f"/srv/revisions/{'1' * 64}/secrets/database_url"
    }
    assert STACK["secrets"]["jwks"] == {"file": "/srv/secrets/jwks"} and len(STACK["secrets"]) == 7
    longest = max(len(secret) for secret in revisions.SECRETS["transaction-service"])
    assert len("bank-test-01234567_transaction--11111111") + longest <= 64


def test_networks_stay_internal_and_tmpfs_mounts_keep_their_size() -> None:
    assert STACK["networks"] == {
        "edge": {"driver": "overlay", "attachable": True, "internal": False},
        "backend": {"driver": "overlay", "attachable": True, "internal": True},
    }
    nginx = STACK["services"]["nginx"]
    assert nginx["ports"] == [{"mode": "host", "target": 8080, "published": 8080, "protocol": "tcp"}]
    assert nginx["volumes"] == [
        {"type": "bind", "source": "/srv/nginx", "target": "/etc/nginx/bank", "read_only": True},
        {"type": "tmpfs", "target": "/run/nginx", "tmpfs": {"size": 16777216}},
    ]
    (shared_memory,) = STACK["services"]["postgres"]["volumes"]
    assert shared_memory == {"type": "tmpfs", "target": "/dev/shm", "tmpfs": {"size": 268435456}}
    assert deployed("nginx")["resources"]["limits"] == {"cpus": "0.5", "memory": "134217728", "pids": 64}


def _seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


@pytest.mark.parametrize("name", ["postgres", "nats", "prometheus", "grafana", "loki", "alloy", "tempo"])
def test_slow_starts_are_not_restarted(name: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    check = services[name]["healthcheck"]
    limit = _seconds(check.get("start_period", "0s")) + _seconds(check["interval"]) * check.get("retries", 3)
    assert limit >= 60


def test_docker_accepts_the_stack_file(tmp_path: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("no Docker client here")
    file = tmp_path / "stack.yml"
    file.write_text(yaml.safe_dump(STACK), encoding="utf-8")
    done = subprocess.run(
        ["docker", "stack", "config", "--compose-file", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nsupported" not in done.stderr
