"""What a compromised container can reach according to docker-compose.yml; docs/threat-model.md has a row for each."""

import re
from collections import defaultdict
from typing import Any

import pytest
import yaml

from scripts.stack import revisions
from shared.testing.paths import ROOT

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
_LEDGER = {f"account-service{suffix}" for suffix in ("", "-canary", "-baseline", "-previous")}
_HISTORY = {f"transaction-service{suffix}" for suffix in ("", "-canary", "-baseline", "-previous")}
_BANK = _LEDGER | _HISTORY
_MIGRATIONS = {"account-migrate", "transaction-migrate"}
_EXPORTERS = {"nginx-exporter", "postgres-exporter", "node-exporter", "blackbox-exporter"}
_OBSERVERS = {"prometheus", "alertmanager", "grafana", "loki", "loki-retention", "alloy", "tempo"}

# Which containers share a network; without one in common, two containers cannot reach each other.
NETWORKS = {
    "edge": {"nginx"},
    "outside": {"alertmanager", "grafana", "rollout-service"},
    "backend": _BANK | {"nginx", "nginx-exporter", "blackbox-exporter"},
    "database": _BANK | _MIGRATIONS | {"postgres", "postgres-setup", "postgres-exporter"},
    "broker": _BANK | {"nats", "nats-setup", "blackbox-exporter"},
    "monitoring": _BANK | _EXPORTERS | _OBSERVERS | {"autoscale-service", "rollout-service"},
    "docker": {"autoscale-service", "docker-proxy"},
    "rollout": {"rollout-service", "rollout-proxy"},
    "sink": {"nginx", "alertmanager", "grafana", "autoscale-service", "rollout-service"},
}
# Which container writes where: named volumes, and folders of the host.
WRITABLE = {
    "postgres": {"backups", "postgres"},
    "nats": {"nats"},
    "prometheus": {"prometheus"},
    "alertmanager": {"alertmanager"},
    "grafana": {"grafana"},
    "loki": {"loki"},
    "alloy": {"alloy"},
    "tempo": {"tempo"},
    "autoscale-service": {"autoscale"},
    "docker-proxy": {"${DOCKER_SOCKET}"},
    "rollout-proxy": {"${DOCKER_SOCKET}", "${VAR_DIR}/docker/nginx/selected"},
    "rollout-service": {"${ROLLOUT_DIR}"},
}
# Which containers hold each secret.
SECRETS = {
    "postgres_password": {"postgres", "postgres-setup"},
    "account_database_url": _LEDGER,
    "transaction_database_url": _HISTORY,
    "account_owner_database_url": {"account-migrate"},
    "transaction_owner_database_url": {"transaction-migrate"},
    "account_events_url": _LEDGER | {"account-migrate"},
    "transaction_events_url": _HISTORY | {"transaction-migrate"},
    "setup_events_url": {"nats-setup"},
    "monitor_password": {"postgres-exporter", "postgres-setup"},
    "service_token": _BANK | _MIGRATIONS,
    "ledger_signing_key": _LEDGER | {"account-migrate"},
    "webhook_key": _HISTORY | {"transaction-migrate"},
    "synthetic_token": {"rollout-service"},
    "autoscale_token": {"alertmanager", "grafana", "autoscale-service"},
    "grafana_admin_password": {"grafana"},
    "postgres_key": {"postgres"},
    "nats_key": {"nats"},
    "nats_authorization": {"nats"},
}
_ROOT_USERS = {"nats", "docker-proxy", "rollout-proxy", "alloy"}


def _mounts(service: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the mounts of a service, and whether they are writable."""
    found = []
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, _target, *mode = re.split(r":(?![^{]*\})", volume)
            found.append((source, mode != ["ro"]))
        else:
            found.append((volume["source"], not volume.get("read_only")))
    return found


def test_containers_are_only_in_their_networks() -> None:
    found = defaultdict(set)
    for name, service in SERVICES.items():
        assert service["networks"], name
        for network in service["networks"]:
            found[network].add(name)
    assert found == NETWORKS
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"edge", "outside"}


def test_every_container_writes_to_its_own_data_and_nothing_else() -> None:
    found = {name: {source for source, writable in _mounts(service) if writable} for name, service in SERVICES.items()}
    assert {name: sources for name, sources in found.items() if sources} == WRITABLE
    # rollout-service selects NGINX's configuration, but cannot read configurations and key.
    seen = {name for name, service in SERVICES.items() for source, _ in _mounts(service) if "/docker/tls" in source}
    assert seen == {"nginx"}
    assert not any("nginx" in source for source, _ in _mounts(SERVICES["rollout-service"]))


@pytest.mark.parametrize("secret", SECRETS)
def test_each_secret_has_only_its_holders(secret: str) -> None:
    holders = {
        name
        for name, service in SERVICES.items()
        for one in service.get("secrets", [])
        if (one if isinstance(one, str) else one["source"]) == secret
    }
    # Those of the rolled services are files of their configurations.
    holders |= {
        f"{service}{track}"
        for service, names in revisions.SECRETS.items()
        for track in ("", "-canary", "-baseline", "-previous")
        if secret in names.values()
    }
    assert holders == SECRETS[secret]


@pytest.mark.parametrize("name", sorted(_BANK))
def test_each_track_has_the_configuration_that_its_label_names(name: str) -> None:
    service, _, track = name.partition("-service")
    track = {"-baseline": "-previous"}.get(track, track)
    variable = f"{service}-service{track}-revision".upper().replace("-", "_")
    folder = f"${{VAR_DIR}}/docker/revisions/${{{variable}}}"
    found = SERVICES[name]
    assert found["labels"]["banking.configuration"] == f"${{{variable}}}"
    assert found["env_file"] == [f"{folder}/environment"]
    assert [(volume["source"], volume["target"]) for volume in found["volumes"]] == [
        (f"{folder}/secrets", "/run/secrets")
    ]
    assert not found["volumes"][0]["bind"]["create_host_path"] and "secrets" not in found
    # Everything else would be changed for all tracks at once, without a canary.
    assert found["environment"] == {"APP_TRACK": "canary" if track == "-canary" else "stable"}


def test_no_container_has_more_rights_than_the_least() -> None:
    odd = {
        "privileged",
        "cap_add",
        "devices",
        "pid",
        "ipc",
        "network_mode",
        "userns_mode",
        "uts",
        "group_add",
    }
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"] and not odd & set(service), name
        assert (str(service.get("user", "")).split(":")[0] in ("0", "root")) == (name in _ROOT_USERS), name
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"nginx", "grafana"}
    assert {name for name, service in SERVICES.items() if "env_file" in service} == _BANK | _MIGRATIONS


def test_the_threat_model_has_a_row_for_each_of_them() -> None:
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    part = text.partition("## Compromised containers")[2].partition("\n## ")[0]
    rows = {
        name
        for line in part.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([a-z-]+)`", line.split("|")[1])
    }
    assert rows == set(SERVICES)


def test_no_container_leaves_an_anonymous_volume() -> None:
    """The image of PostgreSQL declares a volume; what is not mounted there becomes an anonymous one."""
    for name, service in SERVICES.items():
        if service["image"] == "${POSTGRES_IMAGE}":
            mounts = [
                str(mount).split(":")[1 if "/" in str(mount).partition(":")[2] else 0]
                for mount in [*service.get("volumes", []), *service.get("tmpfs", [])]
            ]
            assert "/var/lib/postgresql/data" in mounts, name


def test_no_container_is_signalled_by_docker_kill() -> None:
    """After it the engine treats the container as stopped, and does not start it when the host boots."""
    folders = ("ansible", "scripts", "docs/runbooks", "docker")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".yml", ".sh", ".md")]
    signalled = re.compile(r"(docker|compose(\.sh)?) kill (-s|--signal)")
    assert [str(file) for file in files if signalled.search(file.read_text(encoding="utf-8"))] == []


def test_nginx_starts_although_the_engine_has_signalled_it() -> None:
    """rollout-service's proxy reloads it by a signal (app.docker_proxy)."""
    assert SERVICES["nginx"]["restart"] == "always"
