"""Make what docker-compose.yml mounts: secrets and the NGINX configuration, in VAR_DIR/docker.

    python -m scripts.stack_files

Secrets are made on first use and kept. Reads NGINX_RATE_LIMIT, NGINX_TLS_CERTIFICATE and NGINX_TLS_KEY.
"""

import os
import secrets
import sys
from pathlib import Path

from scripts import lab_keys
from scripts.render_nginx import render

_SERVICES = ("account", "transaction")


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
    _password(folder / "autoscale_token")
    _password(folder / "postgres_password")
    users = []
    for name in _SERVICES:
        password = _password(folder / f"{name}_password")
        _write(folder / f"{name}_database_url", f"postgresql+asyncpg://{name}:{password}@postgres:5432/{name}")
        events = _password(folder / f"{name}_events_password")
        _write(folder / f"{name}_events_url", f"nats://{name}:{events}@nats:4222")
        users.append(f'  {{ user: "{name}", password: "{events}" }}\n')
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
        nginx_health_listen="127.0.0.1:8081",
        nginx_rate_limit=os.environ.get("NGINX_RATE_LIMIT", ""),
        nginx_tls_certificate="bank.crt" if tls else "",
        nginx_tls_key="bank.key" if tls else "",
    )


def write_nginx(folder: Path) -> None:
    """Write the NGINX configuration, with the certificate and key it names."""
    files = {"bank.crt": os.environ.get("NGINX_TLS_CERTIFICATE"), "bank.key": os.environ.get("NGINX_TLS_KEY")}
    for name, source in files.items():
        if source:
            _write(folder / name, Path(source).read_text(encoding="utf-8"))
    _write(folder / "nginx.conf", nginx_configuration(tls=all(files.values())))


def main() -> int:
    """Make everything."""
    folder = lab_keys.var_dir() / "docker"
    try:
        for part in (folder, folder / "secrets", folder / "nginx"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "nginx").chmod(0o755)
        write_secrets(folder / "secrets", lab_keys.ensure(lab_keys.var_dir() / "secrets"))
        write_nginx(folder / "nginx")
    except OSError as error:
        print(f"stack: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
