"""Generate the secrets, the Prometheus files, and the configurations of the two services of a stack.

    python3 -m scripts.stack.stack_secrets FOLDER [--deployed REVISION] [--check] < PROVIDED.json

PROVIDED.json maps names of secrets to values; other secrets are generated on first use and kept. After a rollback, the
secrets that only take effect in the replicas are those of REVISION, which account-service runs. Prints the changed
files, and the revision of each service's configuration, as JSON; with --check nothing is written. Reads the variables
of .env from the environment. Requires only Python: Ansible runs it on hosts, scripts/stack/stack_files.py calls it for
`make up`.
"""

import argparse
import base64
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from scripts.stack import nats_users, revisions
from scripts.stack.host_files import UnsafeFile, read, write

SERVICES = ("account", "transaction")
# Endpoint that discards messages (banking.conf.j2), for alerts without a configured receiver.
_SINK = "http://nginx:8081/sink"
# Minimum length of provided passwords and tokens; generated ones are longer.
_MIN_LENGTH = 12
# Characters of NATS passwords: its client does not decode URLs, and its configuration has its own escapes.
_NATS_PASSWORD = re.compile(r"[A-Za-z0-9._~-]*")
# Content of the TLS secrets without TLS: Swarm rejects empty secrets.
_WITHOUT_TLS = "TLS is off\n"
_TLS_FILES = ("ca_certificate", "postgres_certificate", "postgres_key", "nats_certificate", "nats_key")
_NATS_TLS = "tls { cert_file: /run/secrets/nats_certificate, key_file: /run/secrets/nats_key, handshake_first: true }\n"
REVISIONS = "revisions"
_Texts = Mapping[str, str]
# The DER of an Ed25519 private key (PKCS #8, RFC 8410) before its 32 random bytes.
_ED25519_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
_POSTGRES_PORT, _NATS_PORT = 5432, 4222
_UNITS = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True)
class Generated:
    """The files that have changed, and the revision of each service's configuration."""

    updated: list[str]
    revisions: dict[str, str]


def secret_values(
    folder: Path, provided: _Texts, restored: _Texts | None = None, hosts: Sequence[str] = ()
) -> dict[str, str]:
    """Return all secrets by file name: provided, restored, existing or newly generated.

    With `hosts`, the addresses of a cluster, the URLs name all of them. Raises KeyError without `jwks`, ValueError for
    an unknown name or an invalid value.
    """
    paths = folder.iterdir() if folder.exists() else ()
    existing = {path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()} | dict(restored or {})

    def value(name: str) -> str:
        # Editors append a line break, which the readers of these files strip.
        return (provided.get(name) or existing.get(name) or secrets.token_urlsafe(24)).strip()

    values = {"jwks": provided.get("jwks") or existing["jwks"], "service_token": value("service_token")}
    # A generated value is not a valid token: without one from the issuer, synthetic requests get 401.
    values["synthetic_token"] = value("synthetic_token")
    values["webhook_key"] = value("webhook_key")
    values["ledger_signing_key"] = (
        provided.get("ledger_signing_key") or existing.get("ledger_signing_key") or _new_signing_key()
    )
    for name in ("postgres_password", "monitor_password", "autoscale_token", "grafana_admin_password"):
        values[name] = value(name)
    for name in _TLS_FILES:
        values[name] = provided.get(name) or existing.get(name) or _WITHOUT_TLS
    tls = os.environ.get("TLS") == "1"
    if tls and _WITHOUT_TLS in values.values():
        missing = ", ".join(name for name in _TLS_FILES if values[name] == _WITHOUT_TLS)
        raise ValueError(f"TLS=1 needs certificates: {missing}")
    if hosts:
        values["replication_password"] = value("replication_password")
    for name in SERVICES:
        # Migrations run as the owner; the role of the service owns nothing.
        for role in (name, f"{name}_owner"):
            password = values[f"{role}_password"] = value(f"{role}_password")
            values[f"{role}_database_url"] = _database_url(role, password, name, hosts)
    users = {}
    for name in (*SERVICES, nats_users.SETUP):
        users[name] = values[f"{name}_events_password"] = value(f"{name}_events_password")
        server = f"{'tls' if tls else 'nats'}://{name}:{users[name]}@"
        values[f"{name}_events_url"] = ",".join(f"{server}{host}:{_NATS_PORT}" for host in hosts or ["nats"])
    # Set during a rollout from a release without separate inbox prefixes (roles/banking_app).
    shared_inbox = os.environ.get("EVENTS_SHARED_INBOX") == "1"
    values["nats_authorization"] = nats_users.authorization(users, shared_inbox=shared_inbox) + (
        _NATS_TLS if tls else ""
    )
    for name in ("slack_webhook_url", "dead_mans_switch_url"):
        values[name] = provided.get(name) or _SINK
    _check(provided, values)
    return values


def _database_url(role: str, password: str, database: str, hosts: Sequence[str]) -> str:
    """Return the URL of a database at its single host, or at the hosts of a cluster, of which one accepts writes."""
    user = f"postgresql+asyncpg://{role}:{quote(password, safe='')}@"
    if not hosts:
        return f"{user}postgres:{_POSTGRES_PORT}/{database}"
    return f"{user}/{database}?" + "&".join(f"host={host}:{_POSTGRES_PORT}" for host in hosts)


def _new_signing_key() -> str:
    """Return a new Ed25519 private key in PEM; Python alone has no other means to make one."""
    content = base64.b64encode(_ED25519_PREFIX + secrets.token_bytes(32)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{content}\n-----END PRIVATE KEY-----\n"


def _check(provided: _Texts, values: _Texts) -> None:
    """Raise ValueError for unknown names, short passwords and invalid NATS passwords."""
    unknown = sorted(set(provided) - set(values))
    if unknown:
        raise ValueError(f"unknown secrets: {', '.join(unknown)}")
    short = (name for name, value in provided.items() if len(value) < _MIN_LENGTH)
    weak = sorted(name for name in short if name.endswith(("_password", "_token")))
    if weak:
        raise ValueError(f"{', '.join(weak)}: a secret needs at least {_MIN_LENGTH} characters")
    events_passwords = (name for name in values if name.endswith("_events_password"))
    invalid = sorted(name for name in events_passwords if not _NATS_PASSWORD.fullmatch(values[name]))
    if invalid:
        raise ValueError(f"{', '.join(invalid)}: a password for NATS has letters, digits and -._~ only")


def memory_bytes(text: str) -> int:
    """Return the number of bytes of a size like 256M, as Docker parses it. Raises ValueError."""
    match = re.fullmatch(r"(\d+)([BKMG]?)B?", text.upper())
    if match is None:
        raise ValueError(f"{text} is not a size like 256M")
    return int(match[1]) * _UNITS[match[2]]


def _service_memory() -> int:
    try:
        return memory_bytes(os.environ["SERVICE_MEMORY"])
    except ValueError as error:
        raise ValueError(f"SERVICE_MEMORY: {error}") from error


def prometheus_rules() -> str:
    """Return recording rules with the configured replicas, resource limits and target loads of this stack."""
    rules = []
    for name in SERVICES:
        values = {
            "replicas:configured": int(os.environ[f"{name.upper()}_SERVICE_REPLICAS"]),
            "cpu:limit_cores": float(os.environ["SERVICE_CPUS"]),
            "memory:limit_bytes": _service_memory(),
        }
        for record, value in values.items():
            labels = {"service": f"{name}-service"} | ({"track": "stable"} if "replicas" in record else {})
            rules.append({"record": f"service:{record}", "labels": labels, "expr": f"vector({value})"})
        target = float(os.environ[f"{name.upper()}_SERVICE_TARGET_RPS"])
        labels = {"service": f"{name}-service", "metric": "requests_per_second"}
        rules.append({"record": "autoscale:load:target", "labels": labels, "expr": f"vector({target})"})
    # JSON is YAML.
    return json.dumps({"groups": [{"name": "stack", "rules": rules}]}, indent=2)


def probe_targets(*, tls: bool) -> str:
    """Return the targets of the blackbox probes: the OpenAPI document of each service, through NGINX."""
    base = f"{'https' if tls else 'http'}://nginx:8080/docs"
    if os.environ.get("NGINX_PROXY_PROTOCOL"):
        # The exporter does not support it.
        base = "http://nginx:8082/docs"
    services = [f"{name}-service" for name in SERVICES]
    return json.dumps(
        [{"targets": [f"{base}/{service}/openapi.json"], "labels": {"service": service}} for service in services],
        indent=2,
    )


def make(
    folder: Path,
    provided: _Texts,
    *,
    tls: bool,
    deployed: str = "",
    dry_run: bool = False,
    hosts: Sequence[str] = (),
) -> Generated:
    """Generate all files below a folder; return what has changed. Raises KeyError, ValueError, OSError."""
    restored = revisions.restored(folder / REVISIONS, deployed)
    secret_texts = secret_values(folder / "secrets", provided, restored, hosts)
    contents = {service: revisions.files(os.environ, secret_texts, service) for service in revisions.SECRETS}
    texts = {folder / "secrets" / name: text for name, text in secret_texts.items()}
    texts |= {folder / "prometheus" / "rules.yml": prometheus_rules()}
    texts |= {folder / "prometheus" / "api.yml": probe_targets(tls=tls)}
    changed = [str(path) for path, text in texts.items() if _differs(path, text)]
    if not dry_run:
        for part in ("", "secrets", "prometheus"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "prometheus").chmod(0o755)
        for path, text in texts.items():
            write(path, text, keep_inode=path.parent.name == "secrets")
        for content in contents.values():
            revisions.save(folder / REVISIONS, content)
    return Generated(changed, {service: revisions.revision(content) for service, content in contents.items()})


def _differs(path: Path, text: str) -> bool:
    try:
        return read(path) != text
    except (FileNotFoundError, UnsafeFile):
        return True


def main() -> int:
    """Generate all files below the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m scripts.stack.stack_secrets", description="Generate secrets.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--deployed", default="", metavar="REVISION")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    tls = bool(os.environ.get("NGINX_TLS_CERTIFICATE"))
    try:
        provided = json.load(sys.stdin)
        generated = make(options.folder, provided, tls=tls, deployed=options.deployed, dry_run=options.check)
    except KeyError as error:
        print(f"stack: missing: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(generated)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
