"""How swarm_stack.py converts a resolved compose stack for Swarm; the autoscaling drill deploys it (--swarm)."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.stack.swarm_stack import stack

# As `docker compose config --format json` has it (shortened).
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
            "secrets": [{"source": "jwks", "target": "/run/secrets/jwks"}],
        },
        "account-migrate": {"image": "bank/account-service:v1", "restart": "no"},
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
    """Return how Swarm runs a service."""
    found: dict[str, Any] = STACK["services"][service]["deploy"]
    return found


def test_what_scales_is_found_by_name_and_labelled_where_the_autoscaler_looks() -> None:
    assert all(service["deploy"]["endpoint_mode"] == "dnsrr" for service in STACK["services"].values())
    account = deployed("account-service")
    assert (account["mode"], account["replicas"]) == ("replicated", 2)
    assert account["labels"] == {"banking.autoscale": "true", "banking.track": "stable"}
    assert account["restart_policy"]["condition"] == "any"
    checks = {name: service.get("healthcheck") for name, service in STACK["services"].items()}
    assert checks["account-service"] == {"interval": "2s", "retries": 8} and checks["nginx"] is None
    # Else a migration that takes longer than a service to start would be ended.
    assert checks["account-migrate"] == {"disable": True}


def test_one_shots_are_jobs_that_are_tried_until_they_succeed() -> None:
    job = deployed("account-migrate")
    assert (job["mode"], job["restart_policy"]["condition"]) == ("replicated-job", "on-failure")


def test_only_what_holds_the_socket_is_bound_to_a_manager() -> None:
    placed = {name: service["deploy"].get("placement") for name, service in STACK["services"].items()}
    assert placed.pop("docker-proxy") == {"constraints": ["node.role == manager"]}
    assert set(placed.values()) == {None}


def test_networks_stay_closed_and_every_tmpfs_keeps_its_size() -> None:
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


def test_docker_takes_it(tmp_path: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("no Docker client here")
    file = tmp_path / "stack.yml"
    file.write_text(yaml.safe_dump(STACK), encoding="utf-8")
    done = subprocess.run(
        ["docker", "stack", "config", "--compose-file", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nsupported" not in done.stderr
