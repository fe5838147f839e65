"""Make what docker-compose.yml mounts: secrets, the NGINX configuration and what Prometheus has to know of this stack.

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
    for name in ("slack_webhook", "dead_mans_switch"):
        source = os.environ.get(f"{name.upper()}_URL_FILE")
        url = Path(source).read_text(encoding="utf-8").strip() if source else _SINK
        _write(folder / f"{name}_url", url)
    _write(folder / "nats_authorization", f"authorization {{ users: [\n{''.join(users)}] }}\n")


def nginx_configuration(*, tls: bool) -> str:
    """Return the NGINX configuration of the containers."""
    return render(
        nginx_listen="8080",
        nginx_pools={"account-service": ["account-service:8000"], "transaction-service": ["transaction-service:8000"]},
        nginx_access_log="/dev/stdout",
        nginx_error_log="stderr",
        nginx_temp_dir=".",
        nginx_resolver="127.0.0.11 valid=1s ipv6=off",
        nginx_keepalive_min_timeout="5s",
        nginx_health_listen="8081",
        nginx_rate_limit=os.environ.get("NGINX_RATE_LIMIT", ""),
        nginx_trace_share=os.environ.get("NGINX_TRACE_SHARE", ""),
        nginx_tls_certificate="bank.crt" if tls else "",
        nginx_tls_key="bank.key" if tls else "",
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


def write_nginx(folder: Path) -> bool:
    """Write the NGINX configuration, with the certificate and key it names; tell whether it speaks TLS."""
    files = {"bank.crt": os.environ.get("NGINX_TLS_CERTIFICATE"), "bank.key": os.environ.get("NGINX_TLS_KEY")}
    for name, source in files.items():
        if source:
            _write(folder / name, Path(source).read_text(encoding="utf-8"))
    tls = all(files.values())
    _write(folder / "nginx.conf", nginx_configuration(tls=tls))
    return tls


def main() -> int:
    """Make everything."""
    folder = lab_keys.var_dir() / "docker"
    try:
        for part in ("", "secrets", "nginx", "prometheus"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in ("nginx", "prometheus"):
            (folder / part).chmod(0o755)
        write_secrets(folder / "secrets", lab_keys.ensure(lab_keys.var_dir() / "secrets"))
        tls = write_nginx(folder / "nginx")
        _write(folder / "prometheus" / "rules.yml", prometheus_rules())
        _write(folder / "prometheus" / "api.yml", probed_addresses(tls=tls))
    except (KeyError, ValueError) as error:
        print(f"stack: a variable of .env is missing or wrong: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"stack: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
