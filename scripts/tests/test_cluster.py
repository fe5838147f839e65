"""The files of a cluster: which hosts it may have, what its overlay changes, certificates, URLs, Patroni's settings."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy.engine import make_url

from scripts.cluster import hosts
from scripts.cluster.commands import Failed
from scripts.cluster.lab import Lab
from scripts.stack import stack_secrets
from shared.testing import lab_ca
from shared.testing.paths import ROOT

HOSTS = ["10.9.8.11", "10.9.8.12", "10.9.8.13"]


@pytest.fixture(name="patroni")
def patroni_settings() -> Any:
    """The settings of Patroni."""
    return yaml.safe_load((ROOT / "docker/cluster/patroni.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("count", "reason"),
    [(1, "make up"), (2, "no majority"), (4, "as 3 do"), (6, "none safer")],
)
def test_hosts_without_a_useful_majority_are_refused(count: int, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^a cluster of {count}: .*{reason}.* Use 3 or 5 hosts$"):
        hosts.check([f"10.0.0.{number}" for number in range(count)])


@pytest.mark.parametrize("count", [3, 5])
def test_three_and_five_hosts_are_a_cluster(count: int) -> None:
    hosts.check([f"10.0.0.{number}" for number in range(count)])


def test_invalid_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="^a is not an IPv4 address$"):
        hosts.check(["a", "b", "c"])
    with pytest.raises(ValueError, match="twice"):
        hosts.check([*HOSTS[:2], HOSTS[0]])


def test_a_running_lab_keeps_its_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/hosts").write_text(" ".join(HOSTS), encoding="utf-8")
    with pytest.raises(Failed, match="^the lab lab has other hosts: 10.9.8.11 .* make cluster-down VOLUMES=1$"):
        Lab(name="lab", subnet="10.9.7.0/24").write_files()


def test_a_size_that_is_no_number_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_SIZE", "three")
    with pytest.raises(ValueError, match="^CLUSTER_SIZE=three is not a number"):
        Lab()


def test_the_overlay_uses_the_variables_of_a_host(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.cluster.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(CLUSTER_\w+)\}", text)) == set(hosts.variables(HOSTS, 2, tmp_path))


def test_compose_runs_the_data_tier_on_the_network_of_the_host(tmp_path: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("no Docker client here")
    names = ("docker-compose.yml", "docker-compose.cluster.yml")
    files = [part for name in names for part in ("--file", str(ROOT / name))]
    variables = {
        "PATRONI_IMAGE": "patroni",
        "ETCD_IMAGE": "etcd",
        "VAR_DIR": str(tmp_path),
        "ROLLOUT_DIR": str(tmp_path),
    }
    variables |= {f"{name}_SERVICE_REVISION": "r" for name in ("ACCOUNT", "TRANSACTION")}
    variables |= hosts.variables(HOSTS, 2, tmp_path)
    folder = tmp_path / "docker/revisions/r"
    folder.mkdir(parents=True)
    (folder / "environment").touch()
    lines = (ROOT / ".env").read_text(encoding="utf-8")
    (tmp_path / "env").write_text(lines + "".join(f"{key}={value}\n" for key, value in variables.items()), "utf-8")
    command = ["docker", "compose", "--env-file", str(tmp_path / "env"), *files, "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    services = found["services"]
    for name in ("etcd", "postgres", "nats"):
        assert services[name]["network_mode"] == "host" and not services[name].get("networks"), name
        assert services[name]["cap_drop"] == ["ALL"] and services[name]["read_only"], name
    assert services["postgres"]["entrypoint"] == ["/etc/cluster/patroni.sh"] and not services["postgres"]["command"]
    # An internal network has no route to the other hosts.
    assert not any(found["networks"][name].get("internal") for name in ("database", "broker"))
    assert services["etcd"]["environment"]["ETCD_INITIAL_CLUSTER"] == (
        "host-1=https://10.9.8.11:2380,host-2=https://10.9.8.12:2380,host-3=https://10.9.8.13:2380"
    )


def test_hosts_have_certificates_as_client_and_server(tmp_path: Path) -> None:
    lab_ca.ensure(tmp_path, HOSTS)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    for number, address in enumerate(HOSTS, 1):
        certificate = x509.load_pem_x509_certificate((tmp_path / f"host-{number}.crt").read_bytes())
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == [address, "127.0.0.1"]
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == both
    edge = x509.load_pem_x509_certificate((tmp_path / "nginx.crt").read_bytes())
    assert list(edge.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == both[:1]


def test_urls_name_all_hosts_of_a_cluster(tmp_path: Path) -> None:
    single = stack_secrets.secret_values(tmp_path, {"jwks": "{}"})
    assert single["account_database_url"].endswith("@postgres:5432/account")
    assert single["account_events_url"].endswith("@nats:4222") and "replication_password" not in single
    values = stack_secrets.secret_values(tmp_path, {"jwks": "{}", "account_password": "a/b?c&d=e@f:0"}, hosts=HOSTS)
    url = make_url(values["account_database_url"])
    assert url.password == "a/b?c&d=e@f:0" and url.database == "account"
    assert url.query == {"host": tuple(f"{host}:5432" for host in HOSTS)}
    servers = values["account_events_url"].split(",")
    assert [server.rpartition("@")[2] for server in servers] == [f"{host}:4222" for host in HOSTS]
    assert values["replication_password"]


def test_patroni_acknowledges_nothing_that_is_on_one_host_only(patroni: Any) -> None:
    settings = patroni["bootstrap"]["dcs"]
    assert settings["synchronous_mode"] == "quorum" and settings["synchronous_mode_strict"] is True
    assert settings["synchronous_node_count"] >= 1
    assert "data-checksums" in patroni["bootstrap"]["initdb"]


def test_patroni_changes_none_of_its_times(patroni: Any) -> None:
    settings = patroni["bootstrap"]["dcs"]
    assert settings["ttl"] >= 20 and settings["loop_wait"] + 2 * settings["retry_timeout"] <= settings["ttl"]


def test_only_tls_connections_with_a_password_reach_postgresql(patroni: Any) -> None:
    rules = [rule.split() for rule in patroni["postgresql"]["pg_hba"]]
    remote = [rule for rule in rules if rule[0] != "local" and rule[3] != "127.0.0.1/32"]
    assert {rule[0] for rule in remote} == {"hostssl"} and {rule[4] for rule in remote} == {"scram-sha-256"}
    replication = next(rule for rule in remote if rule[1] == "replication")
    assert replication[5] == "clientcert=verify-ca"
