"""A cluster of three hosts on this machine: `make cluster`, `make cluster-down`, `-status` and `-switchover`.

    python -m scripts.cluster.lab up|down|switchover|status

Each host is a container with a Docker Engine of its own (docker/cluster), on a network with fixed addresses. Their
engines run the data tier: etcd, Patroni with PostgreSQL, and NATS. Reads CLUSTER_LAB, CLUSTER_SUBNET, CLUSTER_SIZE,
VAR_DIR, BUILD and VOLUMES.
"""

import argparse
import http.client
import json
import os
import shutil
import ssl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from scripts.cluster import hosts
from scripts.cluster.commands import Failed, run, wait_until
from scripts.stack import address_pools
from scripts.stack.host_files import write
from shared.testing import lab_keys
from shared.testing.paths import ROOT
from shared.testing.progress import Progress

# Image name prefix.
_REGISTRY = "bank-cluster"
# NATS servers that store each event.
STREAM_REPLICAS = 3
# The last part of the first host's address.
_FIRST_ADDRESS = 11
_DATA_TIER = ("etcd", "postgres", "nats")
# Run once, on the first host.
_SETUP = ("postgres-setup", "account-migrate", "transaction-migrate", "nats-setup")
_START_SECONDS = 300
_SETUP_SECONDS = 60
_PATRONI_SECONDS = 3
# All but CAP_SYS_RESOURCE, which some engines cannot grant and --privileged requires.
_CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK"
    " IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST"
    " NET_RAW SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT"
    " SYS_PTRACE SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
).split()


@dataclass(frozen=True)
class Host:
    """A host of the lab: a container of this machine's engine."""

    lab: "Lab"
    number: int

    @property
    def container(self) -> str:
        """The name of the container."""
        return f"{self.lab.name}-{self.number}"

    @property
    def name(self) -> str:
        """The name of the host's etcd, Patroni and NATS."""
        return hosts.name(self.number)

    @property
    def address(self) -> str:
        """The fixed address of the host."""
        return self.lab.addresses[self.number - 1]

    @property
    def folder(self) -> Path:
        """The folder of the host's own files."""
        return self.lab.var / "docker" / "cluster" / self.name

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment of commands on the host's engine."""
        own = hosts.variables(self.lab.addresses, self.number, self.folder)
        files = "docker-compose.yml:docker-compose.cluster.yml"
        engine = f"unix://{self.folder}/run/docker.sock"
        return {**self.lab.environment, **own, "COMPOSE_FILE": files, "DOCKER_HOST": engine, "COMPOSE_ANSI": "never"}

    def docker(self, *arguments: str, seconds: float = 300) -> str:
        """Run a `docker` command on the host's engine and return its output. Raises Failed."""
        return run("docker", *arguments, seconds=seconds, environment=self.environment)

    def compose(self, *arguments: str, seconds: float = _START_SECONDS) -> str:
        """Run `docker compose` on the host's engine and return its output. Raises Failed."""
        return run("scripts/stack/compose.sh", *arguments, seconds=seconds, environment=self.environment)

    def inside(self, service: str, *command: str, seconds: float = 60) -> str:
        """Run a command in a container of a service and return its output. Raises Failed."""
        return self.compose("exec", "-T", service, *command, seconds=seconds)

    def shell(self, *command: str, seconds: float = 60) -> str:
        """Run a command on the host itself and return its output. Raises Failed."""
        return run("docker", "exec", self.container, *command, seconds=seconds)

    def patroni_members(self) -> list[dict[str, Any]]:
        """Return the members of the cluster from this host's Patroni. Raises OSError, HTTPException, ValueError."""
        context = ssl.create_default_context(cafile=self.lab.secrets / "ca_certificate")
        context.load_cert_chain(self.folder / "certificate", self.folder / "key")
        connection = http.client.HTTPSConnection(self.address, 8008, timeout=_PATRONI_SECONDS, context=context)
        try:
            connection.request("GET", "/cluster")
            found: list[dict[str, Any]] = json.load(connection.getresponse())["members"]
            return found
        finally:
            connection.close()

    def create(self) -> None:
        """Create and start the container, or start an existing one; wait until its engine answers."""
        if not run("docker", "ps", "--all", "--quiet", "--filter", f"name=^{self.container}$").strip():
            (self.folder / "run").mkdir(parents=True, exist_ok=True)
            options = [f"--cap-add={name}" for name in _CAPABILITIES]
            options += [f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")]
            options += ["--device-cgroup-rule=a *:* rwm", "--cgroupns=private"]
            options += [f"--network={self.lab.name}", f"--ip={self.address}", f"--hostname={self.name}"]
            options += [f"--volume={self.container}:/var/lib/docker", f"--volume={ROOT}:{ROOT}:ro"]
            options += [f"--volume={self.lab.var}:{self.lab.var}"]
            image = self.lab.environment["HOST_IMAGE"]
            run(
                "docker", "run", "--detach", "--name", self.container, *options, image, f"{self.folder}/run/docker.sock"
            )
        self.start()

    def start(self) -> None:
        """Start the container and wait until its engine answers."""
        run("docker", "start", self.container)
        wait_until(lambda: self.docker("version", seconds=5), 60, f"the engine of {self.name}")


def _size(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"CLUSTER_SIZE={text} is not a number of hosts")
    return int(text)


@dataclass
class Lab:
    """The hosts, their network, and their files in a folder of VAR_DIR with the name of the lab."""

    name: str = field(default_factory=lambda: os.environ.get("CLUSTER_LAB") or "bank-cluster")
    subnet: str = field(default_factory=lambda: os.environ.get("CLUSTER_SUBNET") or "10.89.23.0/24")
    size: int = field(default_factory=lambda: _size(os.environ.get("CLUSTER_SIZE") or "3"))

    @property
    def var(self) -> Path:
        """The folder of the lab's files, which replaces VAR_DIR on its hosts."""
        return lab_keys.var_dir() / self.name

    @property
    def secrets(self) -> Path:
        """The folder of the stack's secrets, with the URLs of the databases and the broker."""
        return self.var / "docker" / "secrets"

    @cached_property
    def addresses(self) -> list[str]:
        """The addresses of the hosts."""
        network = IPv4Network(self.subnet)
        return [str(network[_FIRST_ADDRESS + number]) for number in range(self.size)]

    @cached_property
    def hosts(self) -> list[Host]:
        """The hosts."""
        return [Host(self, number) for number in range(1, self.size + 1)]

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables of the stack that all hosts have in common."""
        images = dict(
            line.split("=", 1)
            for file in ("docker/offline/images.env", "docker/cluster/images.env")
            for line in (ROOT / file).read_text(encoding="utf-8").splitlines()
            if line[:1].isupper()
        )
        tag = run("git", "describe", "--always", "--dirty").strip()
        own = {
            f"{name}_SERVICE_IMAGE": f"{_REGISTRY}/{name.lower()}-service:{tag}" for name in ("ACCOUNT", "TRANSACTION")
        }
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "CLUSTER_"))},
            **images,
            **own,
            "VERSION": tag,
            "REGISTRY": _REGISTRY,
            "VAR_DIR": str(self.var),
            "CLUSTER_HOSTS": " ".join(self.addresses),
            "COMPOSE_PROJECT_NAME": "bank",
            "COMPOSE_PROFILES": "",
            "TLS": "1",
            "EVENTS_STREAM_REPLICAS": str(STREAM_REPLICAS),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        }

    def on_all(self, action: Callable[[Host], object]) -> None:
        """Run an action on all hosts in parallel. Raises the first error."""
        with ThreadPoolExecutor(self.size) as pool:
            for _ in pool.map(action, self.hosts):
                pass

    def build(self) -> None:
        """Build all images."""
        run("scripts/cluster/build_images.sh", seconds=3600, environment=self.environment)
        services = {"SERVICES": "account-service transaction-service"}
        run("scripts/build-images.sh", seconds=1800, environment={**self.environment, **services})

    def write_files(self) -> None:
        """Write secrets and configurations of the stack, and the certificate of each host. Raises Failed."""
        self.var.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = self.var / "hosts"
        if record.exists() and record.read_text(encoding="utf-8").split() != self.addresses:
            raise Failed(
                f"the lab {self.name} has other hosts: {record.read_text(encoding='utf-8').strip()};"
                " remove it first: make cluster-down VOLUMES=1"
            )
        record.write_text(" ".join(self.addresses), encoding="utf-8")
        environment = dict(self.environment)
        command = '. scripts/stack/stack_env.sh; exec "$@"'
        python = (sys.executable, "-m", "scripts.stack.stack_files")
        run("bash", "-euc", command, "bash", *python, environment=environment)
        certificates = self.var / "secrets" / "tls"
        for host in self.hosts:
            host.folder.mkdir(parents=True, exist_ok=True)
            for target, suffix in (("certificate", "crt"), ("key", "key")):
                write(host.folder / target, (certificates / f"{host.name}.{suffix}").read_text(encoding="utf-8"))

    def create_network(self) -> None:
        """Create the network of the hosts. Raises Failed if its addresses are in use."""
        if run("docker", "network", "ls", "--quiet", "--filter", f"name=^{self.name}$").strip():
            return
        wanted = IPv4Network(self.subnet)
        networks = json.loads(run("docker", "network", "inspect", *run("docker", "network", "ls", "--quiet").split()))
        routes = address_pools.routes(Path("/proc/net/route").read_text(encoding="ascii"))
        for used in [*address_pools.subnets(networks), *routes]:
            if used.overlaps(wanted):
                raise Failed(f"{wanted} overlaps {used}, which is in use; choose another: CLUSTER_SUBNET=10.90.0.0/24")
        run("docker", "network", "create", "--subnet", self.subnet, self.name)

    def load_images(self, host: Host) -> None:
        """Copy the images that the host lacks from this machine's engine; migrations run on the first host only."""
        needed = ["PATRONI", "ETCD", "NATS"] + (["ACCOUNT_SERVICE", "TRANSACTION_SERVICE"] if host.number == 1 else [])
        names = [self.environment[f"{name}_IMAGE"] for name in needed]
        identifier = ("image", "inspect", "--format", "{{.Id}}")
        wanted = {name: run("docker", *identifier, name).strip() for name in names}
        present = host.docker("images", "--quiet", "--no-trunc").split()
        missing = [name for name, found in wanted.items() if found not in present]
        if missing:
            copy = 'docker save "$@" | DOCKER_HOST="$ENGINE" docker load'
            environment = {**os.environ, "ENGINE": host.environment["DOCKER_HOST"]}
            run("bash", "-euo", "pipefail", "-c", copy, "bash", *missing, environment=environment)

    def members(self) -> list[dict[str, Any]]:
        """Return Patroni's members from the first host that knows them. Raises Failed."""
        reasons = []
        for host in self.hosts:
            try:
                return host.patroni_members()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                reasons.append(f"{host.name}: {error!r}")
        raise Failed(f"no host knows the members of the cluster: {'; '.join(reasons)}")

    def primary(self) -> Host | None:
        """Return the host of the primary; None while there is none."""
        found = [one["name"] for one in self.members() if one["role"] == "leader" and one["state"] == "running"]
        return next((host for host in self.hosts if host.name in found), None)

    def set_up(self, service: str) -> bool:
        """Run a one-shot service on the first host. Raises Failed, e.g. while NATS elects its leader."""
        self.hosts[0].compose("run", "--rm", "--no-deps", service)
        return True

    def is_complete(self) -> bool:
        """Return whether all hosts have a running member, one of them the primary and one a synchronous standby."""
        members = self.members()
        # A standby that only runs may still be a former primary, which has to rewind.
        healthy = all(one["state"] == ("running" if one["role"] == "leader" else "streaming") for one in members)
        roles = {one["role"] for one in members}
        return healthy and len(members) == self.size and {"leader", "quorum_standby"} <= roles


def up(lab: Lab, progress: Progress) -> None:
    """Start the lab, or update a running one, and wait until the data tier is complete. Raises Failed, ValueError."""
    hosts.check(lab.addresses)
    progress.step("images")
    if os.environ.get("BUILD") != "0":
        lab.build()
    progress.step("secrets and configuration")
    lab.write_files()
    progress.step(f"hosts {', '.join(lab.addresses)}")
    lab.create_network()
    lab.on_all(Host.create)
    progress.step("copy the images to the hosts")
    lab.on_all(lab.load_images)
    progress.step("etcd, Patroni with PostgreSQL, and NATS")
    lab.on_all(lambda host: host.compose("up", "--detach", "--no-deps", *_DATA_TIER))
    wait_until(lab.is_complete, _START_SECONDS, "PostgreSQL with a primary and standbys")
    progress.step("roles, migrations and streams, from the first host")
    for service in _SETUP:
        wait_until(partial(lab.set_up, service), _SETUP_SECONDS, service)


def down(lab: Lab, *, volumes: bool) -> None:
    """Remove the hosts and their network, and with `volumes` all their data and secrets, too."""
    # A lab of another size may have left some behind.
    for host in (Host(lab, number) for number in range(1, hosts.MAX_HOSTS + 1)):
        _remove("rm", "--force", host.container)
        if volumes:
            _remove("volume", "rm", host.container)
    _remove("network", "rm", lab.name)
    if volumes:
        shutil.rmtree(lab.var, ignore_errors=True)


def _remove(*words: str) -> None:
    """Run a docker command that removes something, which may not exist."""
    with suppress(Failed):
        run("docker", *words)


def switchover(lab: Lab) -> str:
    """Make another host's PostgreSQL the primary; return the name of its host. Raises Failed."""
    before = lab.primary()
    if before is None:
        raise Failed("there is no primary; wait for the failover to end, and see: make cluster-status")
    command = ("patronictl", "--config-file", "/etc/cluster/patroni.yml", "switchover", "--force")
    before.inside("postgres", *command, "--primary", before.name)
    after = wait_until(lambda: (now := lab.primary()) and now != before and now, 60, "the new primary")
    return str(after.name)


def main() -> int:
    """Run a command on the lab."""
    parser = argparse.ArgumentParser(prog="python -m scripts.cluster.lab", description="A cluster on this machine.")
    parser.add_argument("command", choices=("up", "down", "switchover", "status"))
    command = parser.parse_args().command
    progress = Progress(f"cluster {command}", 6)
    try:
        lab = Lab()
        if command == "up":
            up(lab, progress)
            result = f"{lab.size} hosts, one database and one broker; their URLs are in {lab.secrets}"
        elif command == "down":
            down(lab, volumes=os.environ.get("VOLUMES") == "1")
            result = "the hosts are removed" + ("" if os.environ.get("VOLUMES") == "1" else "; their data is kept")
        elif command == "switchover":
            result = f"the primary is on {switchover(lab)}"
        else:
            for one in lab.members():
                print(f"{one['name']} {one['host']} {one['role']} {one['state']} timeline {one['timeline']}")
            return 0
    except (Failed, ValueError) as error:
        progress.finished(str(error), good=False)
        return 1
    progress.finished(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
