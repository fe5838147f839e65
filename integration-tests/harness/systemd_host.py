"""A host with systemd as PID 1 in a container of this engine, with an engine of its own; it can be rebooted."""

import contextlib
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.client import eventually
from harness.commands import run

from shared.testing.paths import ROOT

_IMAGE = "bank-offline/systemd-host:bookworm"
_PACKAGES = "systemd-sysv,dbus,docker.io,iptables,python3,python3-apt,ca-certificates,procps,socat,wget"
# All but CAP_SYS_RESOURCE, which some engines cannot grant and --privileged requires.
_CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK"
    " IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST"
    " NET_RAW SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT"
    " SYS_PTRACE SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
).split()
_INIT = """
for folder in /sys /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,rw "$folder" || true; done
exec /sbin/init
"""
_BUILD = r"""
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' |
    awk '$1 !~ /-/ && !n++ { print $2 }')
echo "deb $mirror bookworm main" >"$1/suite.list"
mmdebstrap --quiet --variant=minbase --include="$2" --format=tar --dpkgopt=force-unsafe-io bookworm - "$1/suite.list" |
    docker import --change 'ENV container=docker' - "$3"
"""


class SystemdHost:
    """The running container."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._forwarded: set[int] = set()

    def run(self, *command: str, seconds: int = 120) -> str:
        """Run a command on the host and return its output; fail unless it exits with 0."""
        return run(["docker", "exec", self.name, *command], seconds)

    def succeeds(self, *command: str) -> bool:
        done = subprocess.run(["docker", "exec", self.name, *command], capture_output=True, check=False)
        return done.returncode == 0

    @property
    def address(self) -> str:
        """The IP address of the host; another one after a reboot, possibly."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return run(["docker", "inspect", "--format", template, self.name]).strip()

    def reboot(self) -> None:
        """Shut down and boot again."""
        run(["docker", "restart", "--time", "60", self.name])
        self.wait_booted()

    def wait_booted(self) -> None:
        """Wait until systemd has started all units and the engine responds."""
        eventually(lambda: self.succeeds("systemctl", "is-active", "--quiet", "docker"))
        eventually(lambda: self.succeeds("docker", "info"))

    def load_images(self, images: Sequence[str]) -> None:
        """Copy images of this machine to the host's engine."""
        run(["sh", "-euc", f'docker save "$@" | docker exec --interactive {self.name} docker load', "sh", *images])

    def forward(self, port: int) -> None:
        """Forward a port of the host's loopback to the same one of this machine; ends with a reboot."""
        gateway = run(["docker", "inspect", "--format", "{{.NetworkSettings.Gateway}}", self.name]).strip()
        if port not in self._forwarded:
            _listen(gateway, port)
            self._forwarded.add(port)
        listening = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"
        run(["docker", "exec", "--detach", self.name, "socat", listening, f"TCP:{gateway}:{port}"])


def _listen(address: str, port: int) -> None:
    """Forward connections to this port of an address to the same port of loopback, in threads."""
    server = socket.create_server((address, port))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            client, _ = server.accept()
            registry = socket.create_connection(("127.0.0.1", port))
            for ends in ((client, registry), (registry, client)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


@contextmanager
def systemd_host() -> Iterator[SystemdHost]:
    """Boot a host, with this machine's Compose and Cosign; remove it afterwards."""
    if not run(["docker", "image", "ls", "--quiet", _IMAGE]).strip():
        run(["scripts/local/ensure_packages.sh", "mmdebstrap"])
        with tempfile.TemporaryDirectory() as folder:
            run(["bash", "-euo", "pipefail", "-c", _BUILD, "bash", folder, _PACKAGES, _IMAGE], 1200)
    host = SystemdHost(f"bank-systemd-{uuid.uuid4().hex[:8]}")
    volume = f"{host.name}-docker"
    options = [f"--cap-add={name}" for name in _CAPABILITIES]
    options += [f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")]
    options += ["--device-cgroup-rule=a *:* rwm", "--cgroupns=private", "--stop-signal=SIGRTMIN+3"]
    options += ["--tmpfs=/run", "--tmpfs=/run/lock", f"--volume={volume}:/var/lib/docker"]
    try:
        run(["docker", "run", "--detach", "--name", host.name, *options, _IMAGE, "sh", "-c", _INIT])
        plugin, cosign = "/usr/libexec/docker/cli-plugins", run(["sh", "-c", "command -v cosign"]).strip()
        eventually(lambda: host.succeeds("mkdir", "--parents", plugin))
        compose = run(["docker", "info", "--format", "{{range .ClientInfo.Plugins}}{{println .Name .Path}}{{end}}"])
        path = next(line.split()[1] for line in compose.splitlines() if line.startswith("compose "))
        run(["docker", "cp", "--follow-link", path, f"{host.name}:{plugin}/docker-compose"])
        run(["docker", "cp", "--follow-link", cosign, f"{host.name}:/usr/local/bin/cosign"])
        host.wait_booted()
        yield host
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", host.name], capture_output=True, check=False)
        subprocess.run(["docker", "volume", "rm", volume], cwd=ROOT, capture_output=True, check=False)


def inventory(host: SystemdHost, folder: Path) -> Path:
    """Write an inventory with the host; Ansible reaches it by `docker exec`."""
    file = folder / "hosts.ini"
    # It is root already.
    connection = "ansible_connection=community.docker.docker ansible_become=false"
    line = f"{host.name} {connection} ansible_python_interpreter=/usr/bin/python3"
    file.write_text(f"[docker_hosts]\n{line}\n", encoding="utf-8")
    return file
