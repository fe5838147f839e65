"""Turn the stack as compose resolves it into what Docker Swarm takes: there is one definition, docker-compose.yml.

    docker compose config --format json | python -m scripts.stack.swarm_stack | docker stack deploy --compose-file - …

What differs, and why:

- Endpoints are DNS round-robin: NGINX and Prometheus find every task by the service's name, as with compose.
- Ports are published by the node that the task is on. Swarm cannot bind them to one address.
- Labels are the service's as well, because that is where the autoscaler looks.
- What scales is asked for its health more often: a task gets requests from when it is healthy, not from its start.
- One-shots are jobs, without the health check of their image: Swarm ends what is not healthy. It knows no order, so
  what needs another service is started again until that is there.
- `dns_opt` and `security_opt` are not known to `docker stack deploy` and are left out; each tmpfs is a mount, which
  everybody in the container may write to: Swarm gives it no owner.
- Whatever holds Docker's socket runs on a manager.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from scripts.stack.stack_secrets import memory_bytes

_LEFT_OUT = {"depends_on", "dns_opt", "profiles", "restart", "security_opt", "shm_size", "tmpfs"}
_SOCKET = "/var/run/docker.sock"
_SCALES = "banking.autoscale"


def _tmpfs(entry: str) -> dict[str, Any]:
    """Return the mount for an entry like `/tmp:uid=1,size=16m`."""
    target, _, options = entry.partition(":")
    size = dict(option.partition("=")[::2] for option in options.split(","))["size"]
    return {"type": "tmpfs", "target": target, "tmpfs": {"size": memory_bytes(size)}}


def _mount(volume: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in volume.items() if name in ("type", "source", "target", "read_only")}


def _mounts(service: Mapping[str, Any]) -> list[dict[str, Any]]:
    mounts = [_mount(volume) for volume in service.get("volumes", [])]
    mounts += [_tmpfs(entry) for entry in service.get("tmpfs", [])]
    if "shm_size" in service:
        mounts.append(_tmpfs(f"/dev/shm:size={service['shm_size']}"))  # nosec B108  # a path in the container
    return mounts


def _deploy(service: Mapping[str, Any], mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how Swarm shall run a service."""
    given: Mapping[str, Any] = service.get("deploy", {})
    once = service.get("restart") == "no"
    limits = dict(given.get("resources", {}).get("limits", {}))
    if "cpus" in limits:
        # Compose says a number, Swarm wants text.
        limits["cpus"] = str(limits["cpus"])
    deploy: dict[str, Any] = {
        "mode": "replicated-job" if once else "replicated",
        "endpoint_mode": "dnsrr",
        "labels": service.get("labels", {}),
        "resources": {"limits": limits},
        "restart_policy": {"condition": "on-failure" if once else "any", "delay": "2s"},
    }
    if "replicas" in given:
        deploy["replicas"] = given["replicas"]
    if any(mount["target"] == _SOCKET for mount in mounts):
        deploy["placement"] = {"constraints": ["node.role == manager"]}
    return deploy


def _service(service: Mapping[str, Any]) -> dict[str, Any]:
    mounts = _mounts(service)
    ports = [
        {"mode": "host", "target": port["target"], "published": int(port["published"]), "protocol": port["protocol"]}
        for port in service.get("ports", [])
    ]
    kept = {name: value for name, value in service.items() if name not in _LEFT_OUT and value is not None}
    kept |= {"deploy": _deploy(service, mounts)}
    if service.get("restart") == "no":
        kept["healthcheck"] = {"disable": True}
    elif _SCALES in service.get("labels", {}):
        # The check itself is the image's, and so is how long it has to fail.
        kept["healthcheck"] = {**service.get("healthcheck", {}), "interval": "2s", "retries": 8}
    return kept | ({"volumes": mounts} if mounts else {}) | ({"ports": ports} if ports else {})


def stack(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stack file for what `docker compose config --format json` says."""
    networks = {
        name: {"driver": "overlay", "attachable": True, "internal": network.get("internal", False)}
        for name, network in config["networks"].items()
    }
    return {
        "services": {name: _service(service) for name, service in config["services"].items()},
        "networks": networks,
        "volumes": {name: {} for name in config.get("volumes", {})},
        "secrets": {name: {"file": secret["file"]} for name, secret in config.get("secrets", {}).items()},
    }


if __name__ == "__main__":
    json.dump(stack(json.load(sys.stdin)), sys.stdout, indent=2)
