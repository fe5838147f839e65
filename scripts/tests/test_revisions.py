"""Revisions of the services' configuration: what they depend on, and that a folder never changes (docs/adr/0020)."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.stack import revisions, stack_files
from shared.testing.paths import ROOT

VARIABLES = {
    "POSTGRES_SSLMODE": "disable",
    "AUTH_ISSUER": "issuer",
    "AUTH_AUDIENCE": "audience",
    "EVENTS_STREAM_BYTES": "1048576",
    "EVENTS_STREAM_REPLICAS": "1",
    "LEDGER_ORIGIN": "bank.test/ledger",
    "WEBHOOK_PROXY": "",
    "LOG_LEVEL": "INFO",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
}
_NAMES = {source for names in revisions.SECRETS.values() for source in names.values()}
VALUES = {name: f"the {name}\n" for name in _NAMES}
SERVICES = tuple(revisions.SECRETS)


def revision(service: str, variables: dict[str, str] | None = None, values: dict[str, str] | None = None) -> str:
    content = revisions.files(VARIABLES | (variables or {}), VALUES | (values or {}), service)
    return revisions.revision(content)


def test_a_revision_is_a_hash_of_environment_and_secrets_alone() -> None:
    found = {service: revision(service) for service in SERVICES}
    assert all(revisions.REVISION.fullmatch(one) for one in found.values()) and len(set(found.values())) == 2
    shuffled = dict(reversed(VARIABLES.items()))
    for service in SERVICES:
        assert revisions.revision(revisions.files(shuffled, VALUES, service)) == found[service]
        # Variables of other services, and secrets that no replica has.
        assert revision(service, {"NGINX_RATE_LIMIT": "1r/s"}, {"grafana_admin_password": "x"}) == found[service]
        for name, value in VARIABLES.items():
            assert revision(service, {name: f"{value}x"}) != found[service], name
        for name in revisions.SECRETS[service].values():
            assert revision(service, None, {name: "x"}) != found[service], name


def test_a_secret_of_one_service_changes_the_revision_of_this_service_alone() -> None:
    for name in ("account_database_url", "account_events_url", "ledger_signing_key"):
        changed = [service for service in SERVICES if revision(service, None, {name: "x"}) != revision(service)]
        assert changed == ["account-service"]


def test_values_cannot_move_between_names() -> None:
    """The hash keeps names and values apart, whatever characters they contain."""
    one = {"environment": "A='1'\n", "secrets/jwks": "B"}
    assert revisions.revision(one) != revisions.revision({"environment": "A='1'\nsecrets/jwks", "secrets/jwks": "B"})
    assert revisions.revision(one) != revisions.revision({"environment": "A='1'\nB", "secrets/jwks": ""})


@pytest.mark.parametrize("value", ["a\nEVIL=1", "a\rb", "it's", "a\\", "\x00", "\u2028"])
def test_a_value_that_would_not_stay_itself_is_rejected(value: str) -> None:
    with pytest.raises(ValueError, match="^AUTH_ISSUER: ") as refused:
        revision("account-service", {"AUTH_ISSUER": value})
    assert "EVIL" not in str(refused.value)


def test_compose_reads_every_value_literally(tmp_path: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("no Docker client here")
    odd = {"AUTH_ISSUER": '$HOME ${X} "a" #b \\n %', "AUTH_AUDIENCE": " #a "}
    folder = revisions.save(tmp_path, revisions.files(VARIABLES | odd, VALUES, "account-service"))
    compose = {"services": {"one": {"image": "one", "env_file": [str(folder / "environment")]}}}
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(compose), encoding="utf-8")
    command = ["docker", "compose", "--file", str(tmp_path / "compose.yml"), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["services"]["one"]["environment"]
    # In its output, Compose escapes dollar signs.
    assert {name: found[name].replace("$$", "$") for name in odd} == odd
    assert found["AUTH_JWKS"] == "/run/secrets/jwks" and found["OTEL_EXPORTER_OTLP_ENDPOINT"] == ""


def test_a_folder_is_readable_for_containers_and_never_changes(tmp_path: Path) -> None:
    content = revisions.files(VARIABLES, VALUES, "account-service")
    temporary = tmp_path / f".{revisions.revision(content)}.tmp"
    # Left by an interrupted run.
    (temporary / "secrets").mkdir(parents=True)
    (temporary / "secrets/jwks").write_text("incomplete", encoding="utf-8")
    old = os.umask(0o077)
    try:
        folder = revisions.save(tmp_path, content)
    finally:
        os.umask(old)
    assert folder == tmp_path / revisions.revision(content) and not temporary.exists()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path, folder, folder / "secrets")} == {0o755}
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {name: path.read_text(encoding="utf-8") for name, path in files.items()} == content
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert revisions.save(tmp_path, content) == folder
    assert {name: path.stat().st_mtime_ns for name, path in files.items()} == before
    files["secrets/jwks"].write_text("forged", encoding="utf-8")
    with pytest.raises(ValueError, match="was changed after it was written"):
        revisions.save(tmp_path, content)


def test_after_a_rollback_the_deployed_keys_apply_again(tmp_path: Path) -> None:
    folder = revisions.save(tmp_path, revisions.files(VARIABLES, VALUES, "account-service"))
    found = revisions.restored(tmp_path, folder.name)
    assert found == {name: VALUES[name] for name in ("jwks", "service_token", "ledger_signing_key")}
    assert revisions.restored(tmp_path, "") == {} and revisions.restored(tmp_path, "0" * 64) == {}
    for name in ("../" + folder.name, folder.name + "\n", folder.name.upper(), "."):
        with pytest.raises(ValueError, match="is not a revision"):
            revisions.restored(tmp_path, name)


def test_unused_configurations_are_removed(tmp_path: Path) -> None:
    used, kept, unused = ("1" * 64, "2" * 64, "3" * 64)
    for name in (used, kept, unused, f".{'4' * 64}.tmp"):
        (tmp_path / "revisions" / name / "secrets").mkdir(parents=True)
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n[ -e {tmp_path}/fails ] && exit 1\nprintf '%s\\n\\n' {used}\n", encoding="utf-8")
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(ROOT / "scripts/stack/prune_revisions.sh"), str(tmp_path / "revisions"), kept]
    (tmp_path / "fails").touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and len(list((tmp_path / "revisions").iterdir())) == 4
    (tmp_path / "fails").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert {path.name for path in (tmp_path / "revisions").iterdir()} == {used, kept}
    assert done.stdout.splitlines() == [str(tmp_path / "revisions" / name) for name in (unused, f".{'4' * 64}.tmp")]


def test_make_up_names_the_revisions_of_all_tracks(tmp_path: Path) -> None:
    found = {service: revision(service) for service in SERVICES}
    stack_files.write_revisions(tmp_path, found)
    lines = (tmp_path / "revisions.env").read_text(encoding="utf-8").splitlines()
    names = set(re.findall(r"\$\{(\w+_REVISION)\}", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert {line.partition("=")[0] for line in lines} == names and len(lines) == 6
    assert f"TRANSACTION_SERVICE_CANARY_REVISION={found['transaction-service']}" in lines
