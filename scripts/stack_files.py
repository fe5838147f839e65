"""Make what docker-compose.yml mounts: secrets, NGINX's configurations and what Prometheus has to know of this stack.

    python -m scripts.stack_files

It all goes to VAR_DIR/docker. Secrets are made on first use and kept. Reads the variables of .env from the environment.
"""

import json
import os
import re
import secrets
import sys
from pathlib import Path

from scripts import lab_keys
from scripts.render_nginx import render

_SERVICES = ("account", "transaction")
_POOLS = tuple(f"{name}-service" for name in _SERVICES)
# The lab's token of the load that rollout-service makes; a production issuer gives one of its own.
_SYNTHETIC_SECONDS = 10 * 365 * 86400
# Of the image.
_ROLLOUT_USER = 10001
# Takes every message (banking.conf.j2): without an address of one's own, alerts are told to nobody.
_SINK = "http://nginx:8081/sink"
_UNITS = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _write(path: Path, text: str) -> None:
    """Write a file that containers can read, whole or not at all."""
    half = path.with_name(f".{path.name}.half")
    half.write_text(text, encoding="utf-8")
    # Docker mounts it as it is here, and each container has a user of its own. The folder above is closed to others.
    half.chmod(0o644)
    half.replace(path)


def _give_to_rollout_service(folder: Path) -> None:
    if os.geteuid() == 0:
        os.chown(folder, _ROLLOUT_USER, _ROLLOUT_USER)
        folder.chmod(0o755)
    else:
        # Who may not give away opens; the folder above is closed to others.
        folder.chmod(0o777)


def _password(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="utf-8")


def write_secrets(folder: Path, lab: lab_keys.LabSecrets) -> None:
    """Write the secrets that are not there, and those that follow from others."""
    _write(folder / "jwks", lab.jwks.read_text(encoding="utf-8"))
    _write(folder / "service_token", lab.service_token.read_text(encoding="utf-8"))
    _password(folder / "postgres_password")
    users = []
    for name in _SERVICES:
        password = _password(folder / f"{name}_password")
        _write(folder / f"{name}_database_url", f"postgresql+asyncpg://{name}:{password}@postgres:5432/{name}")
        events = _password(folder / f"{name}_events_password")
        _write(folder / f"{name}_events_url", f"nats://{name}:{events}@nats:4222")
        users.append(f'  {{ user: "{name}", password: "{events}" }}\n')
    _password(folder / "monitor_password")
    _password(folder / "autoscale_token")
    _password(folder / "grafana_admin_password")
    if not (folder / "synthetic_token").exists():
        _write(folder / "synthetic_token", lab_keys.sign(lab.key, "rollout-service", ttl=_SYNTHETIC_SECONDS))
    for name in ("slack_webhook", "dead_mans_switch"):
        source = os.environ.get(f"{name.upper()}_URL_FILE")
        url = Path(source).read_text(encoding="utf-8").strip() if source else _SINK
        _write(folder / f"{name}_url", url)
    _write(folder / "nats_authorization", f"authorization {{ users: [\n{''.join(users)}] }}\n")


def nginx_configuration(*, tls: bool, revision: str = "stable", pool_suffix: str = "", canary_share: int = 0) -> str:
    """Return an NGINX configuration of the containers; the share is the percentage of clients that canaries get."""
    return render(
        nginx_listen="8080",
        nginx_pools={name: [f"{name}{pool_suffix}:8000"] for name in _POOLS},
        nginx_canary_pools={name: [f"{name}-canary:8000"] for name in _POOLS},
        nginx_canary_share=canary_share,
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
    )


def memory_bytes(text: str) -> int:
    """Return what Docker understands by a size like 256M. Raises ValueError."""
    found = re.fullmatch(r"(\d+)([BKMG]?)B?", text.upper())
    if found is None:
        raise ValueError(f"SERVICE_MEMORY={text}: say a size like 256M")
    return int(found[1]) * _UNITS[found[2]]


def prometheus_rules() -> str:
    """Return recording rules that tell replicas, limits and target loads of this stack, as .env has them."""
    rules = []
    for name in _SERVICES:
        figures = {
            "replicas:configured": int(os.environ[f"{name.upper()}_SERVICE_REPLICAS"]),
            "cpu:limit_cores": float(os.environ["SERVICE_CPUS"]),
            "memory:limit_bytes": memory_bytes(os.environ["SERVICE_MEMORY"]),
        }
        for record, figure in figures.items():
            labels = {"service": f"{name}-service"} | ({"track": "stable"} if "replicas" in record else {})
            rules.append({"record": f"service:{record}", "labels": labels, "expr": f"vector({figure})"})
        target = float(os.environ[f"{name.upper()}_SERVICE_TARGET_RPS"])
        labels = {"service": f"{name}-service", "metric": "requests_per_second"}
        rules.append({"record": "autoscale:load:target", "labels": labels, "expr": f"vector({target})"})
    # JSON is YAML.
    return json.dumps({"groups": [{"name": "stack", "rules": rules}]}, indent=2)


def probed_addresses(*, tls: bool) -> str:
    """Return the targets of Prometheus' probe of the way in: a page of each service, through NGINX."""
    base = f"{'https' if tls else 'http'}://nginx:8080/docs"
    services = [f"{name}-service" for name in _SERVICES]
    return json.dumps(
        [{"targets": [f"{base}/{service}/openapi.json"], "labels": {"service": service}} for service in services],
        indent=2,
    )


def write_tls(folder: Path) -> bool:
    """Write certificate and key, if the stack has them; tell whether NGINX speaks TLS."""
    files = {"bank.crt": os.environ.get("NGINX_TLS_CERTIFICATE"), "bank.key": os.environ.get("NGINX_TLS_KEY")}
    for name, source in files.items():
        if source:
            _write(folder / name, Path(source).read_text(encoding="utf-8"))
    return all(files.values())


def write_nginx(folder: Path, *, tls: bool) -> None:
    """Write the configurations that a rollout chooses from, and stable as the one in force.

    Raises ValueError for a step that is no percentage.
    """
    steps = [int(step) for step in os.environ.get("ROLLOUT_STEPS", "").split()]
    if not all(0 < step <= 100 for step in steps):
        raise ValueError(f"ROLLOUT_STEPS={steps}: say percentages")
    prepared = {
        "stable": nginx_configuration(tls=tls),
        "previous": nginx_configuration(tls=tls, revision="previous", pool_suffix="-previous"),
    }
    for step in steps:
        name = f"canary-{step}"
        prepared[name] = nginx_configuration(tls=tls, revision=name, canary_share=step)
    for name, text in prepared.items():
        _write(folder / "prepared" / f"{name}.conf", text)
    _write(folder / "nginx.conf", prepared["stable"])


class RolloutUnderWay(Exception):
    """A rollout has chosen NGINX's configuration, and it is not to be touched."""


def check_no_rollout(state: Path) -> None:
    """Raise RolloutUnderWay if rollout-service's state file says so."""
    if state.exists():
        phase = json.loads(state.read_text(encoding="utf-8"))["phase"]
        if phase not in ("idle", "done"):
            raise RolloutUnderWay(f"a rollout is under way ({phase}); wait for its end, or end it: make rollback")


def main() -> int:
    """Make everything."""
    folder = lab_keys.var_dir() / "docker"
    try:
        for part in ("", "secrets", "tls", "nginx", "nginx/prepared", "prometheus"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in ("tls", "nginx/prepared", "prometheus"):
            (folder / part).chmod(0o755)
        rollout = Path(os.environ.get("ROLLOUT_DIR") or folder / "rollout")
        rollout.mkdir(mode=0o755, parents=True, exist_ok=True)
        check_no_rollout(rollout / "rollout.json")
        # rollout-service writes here, as a user of its own.
        for writable in (folder / "nginx", rollout):
            _give_to_rollout_service(writable)
        write_secrets(folder / "secrets", lab_keys.ensure(lab_keys.var_dir() / "secrets"))
        tls = write_tls(folder / "tls")
        write_nginx(folder / "nginx", tls=tls)
        _write(folder / "prometheus" / "rules.yml", prometheus_rules())
        _write(folder / "prometheus" / "api.yml", probed_addresses(tls=tls))
    except RolloutUnderWay as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except (KeyError, ValueError) as error:
        print(f"stack: a variable of .env is missing or wrong: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"stack: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
