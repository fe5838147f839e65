"""Generate the files that docker-compose.yml uses: secrets, configurations of the services and of NGINX, and Prometheus
files of this stack.

    python -m scripts.stack.stack_files

Writes to VAR_DIR/docker. Secrets are generated on first use and kept. Reads the variables of .env from the environment.
"""

import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from scripts.stack import host_files, stack_secrets
from shared.testing import lab_ca, lab_keys
from scripts.stack.host_files import write
from shared.testing.nginx_config import render

_POOLS = tuple(f"{name}-service" for name in stack_secrets.SERVICES)
# Lifetime of the lab token for rollout-service's synthetic requests; each `make up` renews it. In production the issuer
# provides one per deployment.
_SYNTHETIC_SECONDS = 86400
# Phases in rollout-service's state file, and whether a rollout is in progress.
_IN_PROGRESS = dict.fromkeys(("provisioning", "canary", "promoting", "rolling-back"), True)
_IN_PROGRESS |= {"idle": False, "done": False}


def cluster_hosts() -> list[str]:
    """Return CLUSTER_HOSTS, the addresses of the hosts of a cluster (scripts/cluster); empty on a single host."""
    return os.environ.get("CLUSTER_HOSTS", "").split()


def certificates(folder: Path) -> dict[str, str]:
    """Return the TLS secrets: ca.crt, SERVICE.crt and SERVICE.key of a folder; the lab's are created if missing."""
    if folder == lab_keys.var_dir() / "secrets" / "tls":
        lab_ca.ensure(folder, cluster_hosts())
    files = {"ca_certificate": "ca.crt"}
    for service in ("postgres", "nats"):
        files |= {f"{service}_certificate": f"{service}.crt", f"{service}_key": f"{service}.key"}
    return {name: (folder / file).read_text(encoding="utf-8") for name, file in files.items()}


def provided_secrets(lab: lab_keys.LabSecrets) -> dict[str, str]:
    """Return the secrets provided by the lab issuer and the environment."""
    provided = {
        "jwks": lab.jwks.read_text(encoding="utf-8"),
        "service_token": lab.service_token.read_text(encoding="utf-8"),
        "ledger_signing_key": lab.ledger_key.read_text(encoding="utf-8"),
        "synthetic_token": lab_keys.sign(lab.key, "rollout-service", "bank:synthetic", _SYNTHETIC_SECONDS),
    }
    if os.environ.get("TLS") == "1":
        provided |= certificates(Path(os.environ["TLS_CERTIFICATES"]))
    for name in ("slack_webhook", "dead_mans_switch"):
        if source := os.environ.get(f"{name.upper()}_URL_FILE"):
            provided[f"{name}_url"] = Path(source).read_text(encoding="utf-8").strip()
    return provided


def _same_host_as_grafana() -> bool:
    """Return whether Grafana is reachable at the same address as the bank."""
    same_address = os.environ.get("GRAFANA_ADDRESS") == os.environ.get("BANK_ADDRESS")
    return bool(os.environ.get("COMPOSE_PROFILES")) and same_address


def trusted_proxies() -> list[str]:
    """Return NGINX_TRUSTED_PROXIES. Raises ValueError if an item is no address or network, or trusts everybody."""
    proxies = os.environ.get("NGINX_TRUSTED_PROXIES", "").split()
    for proxy in proxies:
        try:
            trusts_all = not ipaddress.ip_network(proxy).prefixlen
        except ValueError as error:
            raise ValueError(f"NGINX_TRUSTED_PROXIES: {error}") from error
        if trusts_all:
            raise ValueError(f"NGINX_TRUSTED_PROXIES: {proxy} trusts every client; list the addresses of the proxies")
    if os.environ.get("NGINX_PROXY_PROTOCOL", "") not in ("", "1"):
        raise ValueError("NGINX_PROXY_PROTOCOL: set it to 1, or leave it empty")
    if os.environ.get("NGINX_PROXY_PROTOCOL") and not proxies:
        raise ValueError("NGINX_PROXY_PROTOCOL=1 requires NGINX_TRUSTED_PROXIES, the addresses that send it")
    return proxies


def nginx_configuration(*, tls: bool, revision: str = "stable", pool_suffix: str = "", canary_weight: int = 0) -> str:
    """Return an NGINX configuration for the containers; canary_weight is the canary weight in percent."""
    return render(
        nginx_listen="8080",
        nginx_internal_listen="8082",
        nginx_trusted_proxies=trusted_proxies(),
        nginx_proxy_protocol=os.environ.get("NGINX_PROXY_PROTOCOL") == "1",
        nginx_pools={name: [f"{name}{pool_suffix}:8000"] for name in _POOLS},
        nginx_canary_pools={name: [f"{name}-canary:8000"] for name in _POOLS},
        nginx_canary_weight=canary_weight,
        nginx_revision=revision,
        nginx_access_log="/dev/stdout",
        nginx_error_log="stderr",
        nginx_temp_dir=".",
        nginx_resolver="127.0.0.11 valid=1s ipv6=off",
        nginx_keepalive_min_timeout="5s",
        nginx_health_listen="8081",
        nginx_rate_limit=os.environ.get("NGINX_RATE_LIMIT", ""),
        nginx_trace_share=os.environ.get("NGINX_TRACE_SHARE", ""),
        nginx_tls_certificate="/etc/nginx/tls/bank.crt" if tls else "",
        nginx_tls_key="/etc/nginx/tls/bank.key" if tls else "",
        nginx_page="/usr/share/bank/page",
        nginx_page_parts={name: f"{name}:8000" for name in ("autoscale-service", "rollout-service")},
        nginx_grafana_url=os.environ.get("GRAFANA_URL", ""),
        nginx_grafana_port=os.environ.get("GRAFANA_PORT", "") if _same_host_as_grafana() else "",
        nginx_prometheus_url=os.environ.get("PROMETHEUS_URL", ""),
    )


def write_tls(folder: Path) -> bool:
    """Write certificate and key if they are configured; return whether NGINX uses TLS."""
    files = {"bank.crt": os.environ.get("NGINX_TLS_CERTIFICATE"), "bank.key": os.environ.get("NGINX_TLS_KEY")}
    for name, source in files.items():
        if source:
            write(folder / name, Path(source).read_text(encoding="utf-8"))
    if any(files.values()) and not all(files.values()):
        raise ValueError("NGINX_TLS_CERTIFICATE and NGINX_TLS_KEY: set both or neither")
    return all(files.values())


def write_nginx(folder: Path, *, tls: bool) -> None:
    """Write the configurations of all rollout steps, and select stable. Raises ValueError for an invalid step."""
    steps = [int(step) for step in os.environ.get("ROLLOUT_STEPS", "").split()]
    if not all(0 < step < 100 for step in steps):
        raise ValueError(f"ROLLOUT_STEPS={steps}: steps are percentages between 1 and 99")
    prepared = {
        "stable": nginx_configuration(tls=tls),
        "previous": nginx_configuration(tls=tls, revision="previous", pool_suffix="-previous"),
    }
    for step in steps:
        name = f"canary-{step}"
        prepared[name] = nginx_configuration(tls=tls, revision=name, canary_weight=step)
    for name, text in prepared.items():
        write(folder / "prepared" / f"{name}.conf", text)
    for file in (folder / "prepared").iterdir():
        if file.stem not in prepared:
            file.unlink()
    # The same text that rollout-proxy writes (rollout-service/app/selection.py).
    write(folder / "selected" / "nginx.conf", "include /etc/nginx/bank/prepared/stable.conf;\n")


class RolloutInProgress(Exception):
    """NGINX's configuration must not be changed, because a rollout uses it."""


def check_no_rollout(state: Path) -> None:
    """Raise RolloutInProgress if rollout-service's state file reports one or is invalid."""
    try:
        phase = json.loads(host_files.read(state))["phase"]
        in_progress = _IN_PROGRESS[phase]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RolloutInProgress(
            f"{state} is not a valid state file of rollout-service; see docs/runbooks/RolloutServiceDown.md"
        ) from error
    if in_progress:
        raise RolloutInProgress(f"a rollout is in progress ({phase}); wait until it ends, or run: make rollback")


def _make_folders(folder: Path) -> None:
    """Create the folders of NGINX, TLS and the analysis; containers only write to `selected` (rollout-proxy)."""
    (folder / "tls").mkdir(exist_ok=True)
    (folder / "tls").chmod(0o755)
    # rollout-proxy is root without capabilities: in a folder of another user it has only the permissions of others.
    modes = {"": 0o755, "prepared": 0o755, "selected": 0o755 if os.geteuid() == 0 else 0o777}
    for part, mode in modes.items():
        host_files.make_private_folder(folder / "nginx" / part, mode)
    host_files.make_private_folder(folder / "analysis", 0o755)
    metrics = folder / "analysis" / "metrics.json"
    if not metrics.exists():
        write(metrics, "[]\n")


def write_revisions(folder: Path, revisions: Mapping[str, str]) -> None:
    """Write the variables of docker-compose.yml that name the services' configurations, one on all tracks."""
    names = {service: service.upper().replace("-", "_") for service in revisions}
    lines = [
        f"{names[service]}{track}_REVISION={revision}\n"
        for service, revision in revisions.items()
        for track in ("", "_CANARY", "_PREVIOUS")
    ]
    write(folder / "revisions.env", "".join(lines))


def main() -> int:
    """Generate all files."""
    folder = lab_keys.var_dir() / "docker"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        rollout = Path(os.environ.get("ROLLOUT_DIR") or folder / "rollout")
        host_files.make_container_folder(rollout)
        check_no_rollout(rollout / "rollout.json")
        _make_folders(folder)
        lab = lab_keys.ensure(lab_keys.var_dir() / "secrets")
        provided = provided_secrets(lab)
        tls = write_tls(folder / "tls")
        generated = stack_secrets.make(folder, provided, tls=tls, hosts=cluster_hosts())
        write_revisions(folder, generated.revisions)
        write_nginx(folder / "nginx", tls=tls)
    except RolloutInProgress as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except (KeyError, ValueError) as error:
        print(f"stack: a variable of .env is missing or invalid: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"stack: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
