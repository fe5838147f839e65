"""This machine as a host reached over SSH: a user with sudo rights who exists for one SSH daemon only.

Daemon and user are in a mount namespace with its own /etc, so the machine itself is not changed.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.plays import run
from harness.client import eventually

from shared.testing.ports import free_port

USER = "deployer"
# $1 is the folder, $2 the user, $3 the password for sudo; without one, sudo asks for none. sshd rejects locked
# accounts, but not one without a valid password ("*").
_START = """
cp --archive /etc "$1/etc"
mount --bind "$1/etc" /etc
useradd --password '*' --home-dir "$1/home" --create-home --shell /bin/sh "$2"
[ -z "$3" ] || echo "$2:$3" | chpasswd
[ -n "$3" ] || tag=NOPASSWD:
echo "$2 ALL=(ALL) ${tag-} ALL" >"/etc/sudoers.d/$2"
exec /usr/sbin/sshd -D -e -f "$1/sshd_config"
"""


@dataclass(frozen=True, slots=True)
class SshHost:
    """Port of the daemon on loopback, and the keys to log in as USER."""

    port: int
    private_key: str
    known_hosts: str


def _key(file: Path) -> str:
    """Generate a key pair and return its public key without the comment."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file))
    return " ".join(file.with_suffix(".pub").read_text(encoding="utf-8").split()[:2])


@contextmanager
def ssh_host(folder: Path, sudo_password: str = "") -> Iterator[SshHost]:
    """Serve SSH while the block runs; every user must have access to the folder."""
    run("scripts/local/ensure_packages.sh", "openssh-server", "sudo")
    port, host_key = free_port(), _key(folder / "host_key")
    (folder / "authorized_keys").write_text(_key(folder / "user_key"), encoding="utf-8")
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "AllowUsers": USER,
        "PasswordAuthentication": "no",
        "PidFile": "none",
        # The keys are in /tmp, where OpenSSH would not trust them.
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
    }
    lines = [f"{name} {value}" for name, value in settings.items()]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Required by privilege separation, and otherwise created by an init system.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = ["unshare", "--mount", "sh", "-euc", _START, "sh", str(folder), USER, sudo_password]
    log = folder / "sshd.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as daemon:
        try:
            eventually(lambda: b"Server listening" in log.read_bytes() or daemon.poll() is not None)
            assert daemon.poll() is None, log.read_text(encoding="utf-8")
            yield SshHost(
                port=port,
                private_key=(folder / "user_key").read_text(encoding="utf-8"),
                known_hosts=f"[127.0.0.1]:{port} {host_key}",
            )
        finally:
            daemon.terminate()
