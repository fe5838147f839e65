"""Cosign on a host that has neither it nor package sources: from a folder with its release, by checksum."""

import hashlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from harness.plays import COSIGN, play, run

_INSTALL = """
- hosts: bare
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: banking_app, tasks_from: cosign}
"""
_IMAGES = ("bank-offline/python:3.13", "python:3.13-slim")


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
        """Write no log."""


@pytest.fixture(name="mirror")
def release_on_a_file_server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A file server on loopback with this machine's Cosign as both architectures: its URL, and the checksum."""
    run(COSIGN, "version")
    program = shutil.which("cosign", path="/usr/local/bin:/usr/bin:.venv-ops/bin:.tools")
    assert program is not None
    folder = tmp_path / "release"
    folder.mkdir()
    for architecture in ("amd64", "arm64"):
        (folder / f"cosign-linux-{architecture}").symlink_to(Path(program).resolve())
    handler = partial(_QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", hashlib.sha256(Path(program).read_bytes()).hexdigest()
        server.shutdown()


@pytest.fixture(name="host")
def bare_host(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A container without package sources, and an inventory with it."""
    found = [
        image
        for image in _IMAGES
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0
    ]
    name = f"bare-{uuid.uuid4().hex[:8]}"
    run("docker", "run", "--detach", "--rm", "--network", "host", "--name", name, (found or _IMAGES)[0], "sleep", "600")
    run("docker", "exec", name, "sh", "-c", "rm -rf /etc/apt/sources.list*; ! command -v cosign")
    inventory = tmp_path / "bare.ini"
    connection = "ansible_connection=community.docker.docker ansible_python_interpreter=/usr/local/bin/python3"
    inventory.write_text(f"[bare]\n{name} {connection}\n", encoding="utf-8")
    try:
        yield name, inventory
    finally:
        run("docker", "rm", "--force", name)


def test_cosign_is_installed_from_a_folder_by_checksum(
    tmp_path: Path, mirror: tuple[str, str], host: tuple[str, Path]
) -> None:
    playbook = tmp_path / "install.yml"
    playbook.write_text(_INSTALL, encoding="utf-8")
    url, checksum = mirror
    name, inventory = host
    arguments = ("--inventory", str(inventory))
    given = {"folder": str(tmp_path), "banking_app_cosign_url": url}
    # Neither another program than that of the checksum nor, without sources, a package.
    refused = play(playbook, given, *arguments)
    assert refused.failed and "set banking_app_cosign_url" in " ".join(refused.output.split())
    run("docker", "exec", name, "test", "!", "-e", "/usr/local/bin/cosign")
    checksums = {"amd64": checksum, "arm64": checksum}
    for expected in (1, 0):
        installed = play(playbook, {**given, "banking_app_cosign_sha256": checksums}, *arguments)
        assert not installed.failed and installed.changed == expected, installed.output
    assert "GitVersion" in run("docker", "exec", name, "cosign", "version")
