"""What a container may do, and what a service may do in PostgreSQL: looked up in the running stack, and tried."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness.composed_stack import ComposedBank
from harness.load import assert_exactly_once, retrying_transfers

# Containers that run as root, and why; none of them has a capability. docker-compose.yml says the same beside each.
_ROOT = {
    "nats": "the official image has no user that owns a volume",
    "docker-proxy": "root owns Docker's socket",
    "rollout-proxy": "root owns Docker's socket",
    "alloy": "the containers' logs are root's",
}
_SOCKET_HOLDERS = {"docker-proxy", "rollout-proxy"}
# Folders of the host that a container may write to: the state of rollouts, and which configuration NGINX serves by.
_WRITABLE = {"rollout-service": {"/var/lib/banking"}, "rollout-proxy": {"/etc/nginx/bank/selected"}}
_EVERY_PROFILE = "observability,canary,previous"
# That of the tests, which is no part of the platform.
_NOT_OURS = {"receiver"}
_SECCOMP_FILTER = "2"
_MONEY = 100_000

# Containers stay while they are looked at one by one.
pytestmark = pytest.mark.usefixtures("autoscaler_rests")


def declared(bank: ComposedBank, profiles: str) -> dict[str, Any]:
    """Return the services of docker-compose.yml as compose resolves them."""
    config = bank.compose("config", "--format", "json", COMPOSE_PROFILES=profiles)
    services: dict[str, Any] = json.loads(config[config.index("{") :])["services"]
    return {name: service for name, service in services.items() if name not in _NOT_OURS}


def declared_weaknesses(name: str, service: dict[str, Any]) -> list[str]:
    """Return what a service, as compose resolves it, may do that it must not."""
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    mounts = service.get("volumes", [])
    writable = {
        mount["target"]
        for mount in mounts
        if mount["type"] == "bind" and not mount.get("read_only") and "docker.sock" not in mount["source"]
    }
    expected = {
        "drops every capability": service.get("cap_drop") == ["ALL"] and not service.get("cap_add"),
        "gains no privileges": service.get("security_opt") == ["no-new-privileges:true"],
        "has a read-only root": service.get("read_only") is True,
        "has limits": {"cpus", "memory", "pids"} <= set(limits) and int(limits["pids"]) > 0,
        "is not privileged": not service.get("privileged") and not service.get("devices"),
        "shares nothing with the host": not {"pid", "ipc", "network_mode", "userns_mode", "uts"} & set(service),
        "is root only for a reason": (service.get("user", "").split(":")[0] in ("0", "root")) == (name in _ROOT),
        "mounts Docker's socket only if it may": any("docker.sock" in mount["source"] for mount in mounts)
        == (name in _SOCKET_HOLDERS),
        "writes to the host only where it has to": writable == _WRITABLE.get(name, set()),
    }
    return [what for what, holds in expected.items() if not holds]


def test_every_service_is_declared_with_all_limits(bank: ComposedBank):
    found = {name: declared_weaknesses(name, service) for name, service in declared(bank, _EVERY_PROFILE).items()}
    assert len(found) >= 25, "services are missing from the list"
    assert {name: broken for name, broken in found.items() if broken} == {}


@pytest.mark.parametrize(
    "change",
    [
        {"cap_drop": ["NET_RAW"]},
        {"cap_add": ["SYS_PTRACE"]},
        {"security_opt": ["no-new-privileges:true", "seccomp:unconfined"]},
        {"read_only": False},
        {"deploy": {}},
        {"privileged": True},
        {"devices": [{"source": "/dev/kvm"}]},
        {"network_mode": "host"},
        {"pid": "host"},
        {"user": "0:0"},
        {"volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/x"}]},
        {"volumes": [{"type": "bind", "source": "/etc", "target": "/etc"}]},
    ],
    ids=str,
)
def test_a_weaker_declaration_is_found(bank: ComposedBank, change: dict[str, Any]):
    service = declared(bank, "")["nginx"]
    assert declared_weaknesses("nginx", service) == []
    assert len(declared_weaknesses("nginx", {**service, **change})) == 1


def status_of(pid: str) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path("/proc", pid, "status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def root_options(pid: str) -> set[str]:
    """Return the options with which the root of a process's file system is mounted."""
    lines = Path("/proc", pid, "mountinfo").read_text(encoding="utf-8").splitlines()
    return next(set(fields[5].split(",")) for fields in map(str.split, lines) if fields[4] == "/")


def weaknesses(container: dict[str, Any], service: str) -> list[str]:
    """Return what a running container may do that it must not."""
    host = container["HostConfig"]
    pid = str(container["State"]["Pid"])
    process = status_of(pid)
    expected = {
        "is not root": (process["Uid"].split()[0] == "0") == (service in _ROOT),
        "has no capability": all(int(process[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")),
        "gains no privileges": process["NoNewPrivs"] == "1",
        "has a seccomp filter": process["Seccomp"] == _SECCOMP_FILTER and "seccomp=unconfined" not in str(host),
        "has a read-only root": host["ReadonlyRootfs"] and "ro" in root_options(pid),
        "has a limit of processes": (host["PidsLimit"] or 0) > 0,
        "has a limit of memory": host["Memory"] > 0,
        "is not privileged": not host["Privileged"] and not host["Devices"] and not host["CapAdd"],
        "has namespaces of its own": host["NetworkMode"] != "host"
        and host["PidMode"] == ""
        and host["IpcMode"] in ("private", "none")
        and host["UTSMode"] == "",
        "has Docker's socket only if it may": any("docker.sock" in mount["Source"] for mount in container["Mounts"])
        == (service in _SOCKET_HOLDERS),
    }
    return [what for what, holds in expected.items() if not holds]


def test_the_kernel_enforces_the_limits_of_every_container(bank: ComposedBank):
    label = f"label=com.docker.compose.project={bank.project}"
    containers = json.loads(bank.docker("inspect", *bank.docker("ps", "--quiet", "--filter", label).split()))
    found = {}
    services = set()
    for container in containers:
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        if service not in _NOT_OURS:
            services.add(service)
            found[container["Name"]] = weaknesses(container, service)
    one_shots = {name for name, service in declared(bank, "").items() if service.get("restart") == "no"}
    assert services >= set(declared(bank, "")) - one_shots, "a service of docker-compose.yml does not run"
    assert {name: broken for name, broken in found.items() if broken} == {}


# PostgreSQL -----------------------------------------------------------------------------------------------------------

_AS_ROLE = 'PGPASSWORD=$3 psql -h 127.0.0.1 -U "$1" -qAt -v ON_ERROR_STOP=1 -v VERBOSITY=verbose -d "$2" -c "$4"'


def as_role(bank: ComposedBank, role: str, database: str, statement: str) -> tuple[int, str]:
    """Run a statement as a role; return psql's exit code and what it said."""
    password = bank.secrets.joinpath(f"{role}_password").read_text(encoding="utf-8")
    (container,) = bank.containers("postgres")
    command = ["docker", "exec", container, "sh", "-c", _AS_ROLE, "sh", role, database, password, statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_each_role_can_connect_to_its_own_database_only(bank: ComposedBank):
    own = {
        "account": {"account"},
        "account_owner": {"account"},
        "transaction": {"transaction"},
        "transaction_owner": {"transaction"},
        "monitor": {"postgres"},
    }
    databases = ("account", "transaction", "postgres", "template1")
    allowed = {role: {name for name in databases if as_role(bank, role, name, "SELECT 1")[0] == 0} for role in own}
    assert allowed == own


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount = 0",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE transactions SET amount = 1",
        "DELETE FROM transactions",
        "UPDATE outbox SET events = '[]'",
        "TRUNCATE outbox",
        "UPDATE accounts SET owner = 'mallory'",
        "DELETE FROM accounts",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "DROP TABLE entries",
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE accounts (id int)",
        "SELECT * FROM alembic_version",
        "SET session_replication_role = replica",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY entries TO PROGRAM 'true'",
    ],
)
def test_account_service_cannot_change_posted_entries(bank: ComposedBank, statement: str):
    code, said = as_role(bank, "account", "account", statement)
    assert code != 0 and "42501" in said, said


@pytest.mark.parametrize("role", ["account_owner", "postgres"])
def test_triggers_protect_posted_entries_from_owner_and_superuser(bank: ComposedBank, role: str):
    bank.open_account(10)
    for statement in ("UPDATE entries SET amount = 0", "DELETE FROM transactions", "TRUNCATE entries"):
        code, said = as_role(bank, role, "account", statement)
        assert code != 0 and "BK001" in said, said


def test_no_service_role_owns_database_objects(bank: ComposedBank):
    for database in ("account", "transaction"):
        owners = bank.sql(
            database,
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
            " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        )
        assert owners == [f"{database}_owner"]
    assert bank.sql("account", "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin") == ["postgres"]


def test_ownership_of_an_older_database_is_migrated_under_load(bank: ComposedBank):
    """Once the services owned their databases; the next start takes that from them, and nobody notices."""
    for name in ("account", "transaction"):
        bank.sql(name, f"REASSIGN OWNED BY {name}_owner TO {name}")
    assert as_role(bank, "account", "account", "ALTER TABLE entries DISABLE TRIGGER append_only")[0] == 0
    assert as_role(bank, "account", "account", "ALTER TABLE entries ENABLE TRIGGER append_only")[0] == 0
    source, target = bank.open_account(_MONEY), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        bank.compose("run", "--rm", "--no-deps", "-T", "postgres-setup")
        for name in ("account", "transaction"):
            bank.compose("run", "--rm", "--no-deps", "-T", f"{name}-migrate")
    assert_exactly_once(bank, transfers, source, target, _MONEY)
    assert transfers.retries == []
    test_no_service_role_owns_database_objects(bank)
    test_account_service_cannot_change_posted_entries(bank, "DELETE FROM entries")
