"""Revisions of the configuration of account-service and transaction-service: their environment and their secrets.

Each revision is a folder named after the SHA-256 of its content, with the files `environment` and `secrets/NAME`. It is
never changed, so that replicas of two revisions run side by side, and each keeps its own when it restarts.
Requires only Python: it runs on hosts.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template

from scripts.stack.host_files import read, write

_TEMPLATE = Path(__file__).parents[2] / "docker" / "services.env"
REVISION = re.compile("[0-9a-f]{64}")
# Secrets of a service by the names of their files in its containers; the values name the files of all secrets.
SECRETS = {
    f"{name}-service": {
        "ca_certificate": "ca_certificate",
        "jwks": "jwks",
        "service_token": "service_token",  # nosec B105  # the name of a file
        "database_url": f"{name}_database_url",
        "events_url": f"{name}_events_url",
    }
    for name in ("account", "transaction")
}
SECRETS["account-service"]["ledger_signing_key"] = "ledger_signing_key"
SECRETS["transaction-service"]["webhook_key"] = "webhook_key"  # nosec B105  # the name of a file
# Secrets that only take effect in the replicas: after a rollback, those of the deployed revision apply again.
RESTORED = ("jwks", "service_token", "ledger_signing_key")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the services for variables of .env. Raises KeyError, ValueError."""
    lines = _TEMPLATE.read_text(encoding="utf-8").splitlines()
    assignments = (line.partition("=")[::2] for line in lines if line and not line.startswith("#"))
    rendered = {name: Template(value).substitute(variables) for name, value in assignments}
    for name, value in rendered.items():
        # Compose reads any other text in single quotes literally.
        if not value.isprintable() or "'" in value or value.endswith("\\"):
            raise ValueError(f"{name}: its value has a control character or a single quote, or ends with a backslash")
    return rendered


def files(variables: Mapping[str, str], secrets: Mapping[str, str], service: str) -> dict[str, str]:
    """Return the files of a service's configuration by their paths in its folder. Raises KeyError, ValueError."""
    rendered = environment(variables)
    content = {"environment": "".join(f"{name}='{rendered[name]}'\n" for name in sorted(rendered))}
    return content | {f"secrets/{name}": secrets[source] for name, source in SECRETS[service].items()}


def revision(content: Mapping[str, str]) -> str:
    """Return the revision of a configuration: the SHA-256 of its files."""
    return hashlib.sha256(json.dumps(sorted(content.items())).encode()).hexdigest()


def save(folder: Path, content: Mapping[str, str]) -> Path:
    """Write the folder of a configuration if it is new; return it. Raises ValueError if an existing one has changed."""
    final = folder / revision(content)
    if final.exists():
        if {name: read(final / name) for name in content} != content:
            raise ValueError(f"{final} was changed after it was written; restore it, or remove it and its replicas")
        return final
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "secrets").mkdir(parents=True)
    for part in (folder, temporary, temporary / "secrets"):
        # Readable for the users of containers; the parent folder is not accessible to other users of the host.
        part.chmod(0o755)
    for name, text in content.items():
        write(temporary / name, text)
    temporary.rename(final)
    return final


def restored(folder: Path, revision_: str) -> dict[str, str]:
    """Return the secrets of a deployed revision that apply unless others are provided; none for an empty name."""
    if not revision_:
        return {}
    if not REVISION.fullmatch(revision_):
        raise ValueError(f"{revision_[:80]!r} is not a revision")
    secrets = folder / revision_ / "secrets"
    return {name: read(secrets / name) for name in RESTORED if (secrets / name).exists()}
