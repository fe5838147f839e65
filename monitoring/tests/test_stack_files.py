"""What stack_files.py and stack_secrets.py write for Prometheus and Alertmanager about one stack."""

import json
import shutil
import subprocess
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import yaml
from sqlalchemy import make_url

from scripts.stack import stack_files, stack_secrets
from shared.testing import lab_keys
from shared.testing.paths import ROOT

_ROLE = ROOT / "ansible/roles/nginx_canary"
STACK = {
    "ACCOUNT_SERVICE_REPLICAS": "3",
    "TRANSACTION_SERVICE_REPLICAS": "2",
    "ACCOUNT_SERVICE_TARGET_RPS": "400",
    "TRANSACTION_SERVICE_TARGET_RPS": "150",
    "SERVICE_CPUS": "1.5",
    "SERVICE_MEMORY": "256M",
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


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set the variables of .env and VAR_DIR."""
    for name, value in {**STACK, "VAR_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for name in ("SLACK_WEBHOOK_URL_FILE", "DEAD_MANS_SWITCH_URL_FILE", "NGINX_TLS_CERTIFICATE", "NGINX_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"), [("256M", 268435456), ("1g", 1073741824), ("64mb", 67108864), ("1024", 1024), ("5k", 5120)]
)
def test_sizes_are_parsed_like_docker_does(text: str, expected: int) -> None:
    assert stack_secrets.memory_bytes(text) == expected


def test_generated_rules_are_valid_and_contain_replicas_and_limits(tmp_path: Path) -> None:
    assert stack_files.main() == 0
    file = tmp_path / "docker" / "prometheus" / "rules.yml"
    rules = {
        (rule["record"], rule["labels"]["service"]): rule["expr"]
        for rule in json.loads(file.read_text(encoding="utf-8"))["groups"][0]["rules"]
    }
    assert rules["service:replicas:configured", "account-service"] == "vector(3)"
    assert rules["service:cpu:limit_cores", "transaction-service"] == "vector(1.5)"
    assert rules["service:memory:limit_bytes", "transaction-service"] == "vector(268435456)"
    assert rules["autoscale:load:target", "transaction-service"] == "vector(150.0)"
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "rules", str(file)], check=True, capture_output=True)


def test_alerts_go_to_the_sink_without_receivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stack_files.main() == 0
    secrets = tmp_path / "docker" / "secrets"
    for name in ("slack_webhook_url", "dead_mans_switch_url"):
        assert (secrets / name).read_text(encoding="utf-8") == "http://nginx:8081/sink"
    (tmp_path / "slack").write_text("https://hooks.example/1\n", encoding="utf-8")
    monkeypatch.setenv("SLACK_WEBHOOK_URL_FILE", str(tmp_path / "slack"))
    assert stack_files.main() == 0
    assert (secrets / "slack_webhook_url").read_text(encoding="utf-8") == "https://hooks.example/1"


def test_invalid_size_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_MEMORY", "much")
    assert stack_files.main() == 1
    assert "SERVICE_MEMORY: much is not a size" in capsys.readouterr().err


def test_changed_secret_keeps_its_inode_for_mounts(tmp_path: Path) -> None:
    stack_secrets.make(tmp_path, {"jwks": '{"keys": [1]}'}, tls=False)
    jwks = tmp_path / "secrets" / "jwks"
    before = jwks.stat().st_ino
    assert stack_secrets.make(tmp_path, {"jwks": "{}"}, tls=False).updated == [str(jwks)]
    assert (jwks.read_text(encoding="utf-8"), jwks.stat().st_ino, jwks.stat().st_mode & 0o777) == ("{}", before, 0o644)


def test_new_settings_and_secrets_give_another_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"jwks": '{"keys": [1]}'}
    first = stack_secrets.make(tmp_path, given, tls=False)
    assert stack_secrets.make(tmp_path, {}, tls=False) == stack_secrets.Generated([], first.revisions)
    with monkeypatch.context() as patch:
        patch.setenv("AUTH_AUDIENCE", "another")
        second = stack_secrets.make(tmp_path, {}, tls=False).revisions
    # In check mode it is known, and nothing is written.
    third = stack_secrets.make(tmp_path, {"jwks": "{}"}, tls=False, dry_run=True)
    assert third.updated == [str(tmp_path / "secrets/jwks")]
    assert (tmp_path / "secrets/jwks").read_text(encoding="utf-8") == given["jwks"]
    found = [made["account-service"] for made in (first.revisions, second, third.revisions)]
    assert len(set(found)) == 3
    assert [(tmp_path / "revisions" / name).exists() for name in found] == [True, True, False]
    # After a rollback from new keys to the first revision, its keys apply again.
    stack_secrets.make(tmp_path, {"jwks": "{}"}, tls=False)
    assert stack_secrets.make(tmp_path, {}, tls=False, deployed=found[0]).revisions == first.revisions
    assert (tmp_path / "secrets/jwks").read_text(encoding="utf-8") == given["jwks"]
    assert stack_secrets.make(tmp_path, {"jwks": "{}"}, tls=False, deployed=found[0]).revisions == third.revisions


def test_certificate_without_key_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NGINX_TLS_CERTIFICATE", __file__)
    assert stack_files.main() == 1
    assert "NGINX_TLS_KEY: set both or neither" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["grafana_admin_password", "postgres_password", "service_token", "autoscale_token"])
def test_well_known_secret_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        stack_secrets.secret_values(tmp_path, {"jwks": "{}", name: "admin"})


def test_synthetic_token_is_restricted_and_new_each_time(tmp_path: Path) -> None:
    lab = lab_keys.ensure(tmp_path)
    tokens = [stack_files.provided_secrets(lab)["synthetic_token"] for _ in range(2)]
    claims = jwt.decode(tokens[0], options={"verify_signature": False})
    assert tokens[0] != tokens[1] and claims["exp"] - claims["iat"] <= 86400
    assert "bank:synthetic" in claims["scope"].split() and "bank:operator" not in claims["scope"]


def test_missing_secrets_are_generated_and_differ(tmp_path: Path) -> None:
    made = stack_secrets.secret_values(tmp_path, {"jwks": "{}"})
    chosen = [value for name, value in made.items() if name.endswith(("_password", "_token"))]
    assert len(chosen) == len(set(chosen)) >= 10 and min(map(len, chosen)) >= 32


def test_the_generated_signing_key_is_an_ed25519_key(tmp_path: Path) -> None:
    made = [stack_secrets.secret_values(tmp_path, {"jwks": "{}"})["ledger_signing_key"] for _ in range(2)]
    for pem in made:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
    assert made[0] != made[1]


def test_password_is_escaped_in_the_database_url(tmp_path: Path) -> None:
    password = "p@ss/w:rd?100% #1"
    made = stack_secrets.secret_values(tmp_path, {"jwks": "{}", "account_password": f"{password}\n"})
    address = make_url(made["account_database_url"])
    assert (address.host, address.password, made["account_password"]) == ("postgres", password, password)


@pytest.mark.parametrize("password", ["at@the-gate-17", 'quoted"-enough', "per%cent-enough", "two words, and more"])
def test_password_that_nats_cannot_parse_is_rejected(tmp_path: Path, password: str) -> None:
    with pytest.raises(ValueError, match="transaction_events_password: a password for NATS has") as rejected:
        stack_secrets.secret_values(tmp_path, {"jwks": "{}", "transaction_events_password": password})
    assert password not in str(rejected.value)


def test_role_and_composed_stack_give_nginx_the_same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = yaml.safe_load((_ROLE / "tasks" / "prepare.yml").read_text(encoding="utf-8"))
    role = next(task["vars"] for task in tasks if "nginx_listen" in task.get("vars", {}))
    pools = yaml.safe_load((_ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))["nginx_canary_pools_by_track"]
    monkeypatch.setattr(stack_files, "render", lambda **variables: variables)
    stable, previous = (stack_files.nginx_configuration(tls=True, pool_suffix=suffix) for suffix in ("", "-previous"))
    assert stable.keys() == role.keys()
    constant = {name: value for name, value in role.items() if "{{" not in str(value)}
    assert len(constant) > 8 and {name: stable[name] for name in constant} == constant
    assert pools == {
        "stable": stable["nginx_pools"],
        "canary": stable["nginx_canary_pools"],
        "previous": previous["nginx_pools"],
    }
    assert f"'{stable['nginx_tls_certificate']}'" in role["nginx_tls_certificate"]
    assert f"'{stable['nginx_tls_key']}'" in role["nginx_tls_key"]
