"""Convert the resolved configuration of docker-compose.yml into a stack file for Docker Swarm.

    docker compose config --format json | python -m scripts.stack.swarm_stack | docker stack deploy --compose-file - …

Differences from the composed stack:

- Endpoints use DNS round-robin, so that NGINX and Prometheus resolve the service name to all tasks, as with Compose.
- Ports are published in host mode; Swarm cannot bind them to one address.
- Labels are set on the service as well, where the autoscaler reads them.
- Scaled services have a shorter health check interval: a task gets requests once it is healthy, not when it starts.
- One-shot services are jobs without the image's health check, because Swarm stops unhealthy tasks. Swarm has no start
  order: tasks that need another service are restarted until it is available.
- `docker stack deploy` does not support `dns_opt` and `security_opt`, so they are removed. Each tmpfs becomes a mount
  that is writable for all users of the container, because Swarm cannot set its owner.
- Services that mount Docker's socket run on managers.
- The secrets of a configuration (scripts/stack/revisions.py) are secrets of the stack with the revision in their names,
  because Swarm secrets cannot be changed.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from scripts.stack import revisions
from scripts.stack.stack_secrets import memory_bytes

_UNSUPPORTED = {"depends_on", "dns_opt", "profiles", "restart", "security_opt", "shm_size", "tmpfs"}
_SOCKET = "/var/run/docker.sock"
_SECRETS = "/run/secrets"
_AUTOSCALE_LABEL = "banking.autoscale"


def _tmpfs(entry: str) -> dict[str, Any]:
    """Return the mount for an entry like `/tmp:uid=1,size=16m`."""
    target, _, options = entry.partition(":")
    size = dict(option.partition("=")[::2] for option in options.split(","))["size"]
    return {"type": "tmpfs", "target": target, "tmpfs": {"size": memory_bytes(size)}}


def _mount(volume: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in volume.items() if name in ("type", "source", "target", "read_only")}


def _configuration_secrets(name: str, service: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the secrets of the stack, by name, for the secrets of a service's configuration: target and file."""
    folders = [volume["source"] for volume in service.get("volumes", []) if volume["target"] == _SECRETS]
    return {
        # Shortened: Swarm limits names to 64 characters, including that of the stack.
        f"{name.removesuffix('-service')}-{secret}-{folder.split('/')[-2][:8]}": {
            "target": secret,
            "file": f"{folder}/{secret}",
        }
        for folder in folders
        for secret in revisions.SECRETS[name]
    }


def _mounts(service: Mapping[str, Any]) -> list[dict[str, Any]]:
    mounts = [_mount(volume) for volume in service.get("volumes", []) if volume["target"] != _SECRETS]
    mounts += [_tmpfs(entry) for entry in service.get("tmpfs", [])]
    if "shm_size" in service:
        mounts.append(_tmpfs(f"/dev/shm:size={service['shm_size']}"))  # nosec B108  # a path in the container
    return mounts


def _deploy(service: Mapping[str, Any], mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the `deploy` section of a service."""
    composed: Mapping[str, Any] = service.get("deploy", {})
    is_job = service.get("restart") == "no"
    limits = dict(composed.get("resources", {}).get("limits", {}))
    if "cpus" in limits:
        # A number in Compose's output, a string in stack files.
        limits["cpus"] = str(limits["cpus"])
    deploy: dict[str, Any] = {
        "mode": "replicated-job" if is_job else "replicated",
        "endpoint_mode": "dnsrr",
        "labels": service.get("labels", {}),
        "resources": {"limits": limits},
        "restart_policy": {"condition": "on-failure" if is_job else "any", "delay": "2s"},
    }
    if "replicas" in composed:
        deploy["replicas"] = composed["replicas"]
    if any(mount["target"] == _SOCKET for mount in mounts):
        deploy["placement"] = {"constraints": ["node.role == manager"]}
    return deploy


def _service(name: str, service: Mapping[str, Any]) -> dict[str, Any]:
    mounts = _mounts(service)
    ports = [
        {"mode": "host", "target": port["target"], "published": int(port["published"]), "protocol": port["protocol"]}
        for port in service.get("ports", [])
    ]
    converted = {name: value for name, value in service.items() if name not in _UNSUPPORTED and value is not None}
    converted |= {"deploy": _deploy(service, mounts)}
    converted.pop("volumes", None)
    if secrets := _configuration_secrets(name, service):
        converted["secrets"] = [{"source": source, "target": secret["target"]} for source, secret in secrets.items()]
    if service.get("restart") == "no":
        converted["healthcheck"] = {"disable": True}
    elif _AUTOSCALE_LABEL in service.get("labels", {}):
        # The check is the image's; interval times retries stays the same.
        converted["healthcheck"] = {**service.get("healthcheck", {}), "interval": "2s", "retries": 8}
    return converted | ({"volumes": mounts} if mounts else {}) | ({"ports": ports} if ports else {})


def stack(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stack file for the output of `docker compose config --format json`."""
    networks = {
        name: {"driver": "overlay", "attachable": True, "internal": network.get("internal", False)}
        for name, network in config["networks"].items()
    }
    secrets = {name: secret["file"] for name, secret in config.get("secrets", {}).items()}
    for name, service in config["services"].items():
        secrets |= {source: secret["file"] for source, secret in _configuration_secrets(name, service).items()}
    return {
        "services": {name: _service(name, service) for name, service in config["services"].items()},
        "networks": networks,
        "volumes": {name: {} for name in config.get("volumes", {})},
        "secrets": {name: {"file": file} for name, file in secrets.items()},
    }


if __name__ == "__main__":
    json.dump(stack(json.load(sys.stdin)), sys.stdout, indent=2)
