"""Runs plays of the roles on this machine, and a registry with signed images for them."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.release import provenance
from shared.testing.paths import ROOT

SERVICES = ("account-service", "transaction-service", "autoscale-service", "rollout-service")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
COSIGN = str(ROOT / "scripts/release/cosign.sh")
ENVIRONMENT = {**os.environ, "COSIGN_PASSWORD": ""}


def _finish(command: Sequence[str], cwd: Path, variables: Mapping[str, str], seconds: int) -> tuple[int, str, str]:
    """Run a command; return its exit code, output and errors.

    One that takes longer is ended with its descendants, and the failure lists them: the last one is what it waits for.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**ENVIRONMENT, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            tree = _end_with_descendants(process.pid)
            output, errors = process.communicate()
            pytest.fail(
                f"{' '.join(command)} did not end within {seconds} s:\n{tree}\n{output[-3000:]}{errors[-1000:]}",
                pytrace=False,
            )
    return process.returncode, output, errors


def _end_with_descendants(pid: int) -> str:
    """End a process and its descendants; return a line about each."""
    root = psutil.Process(pid)
    lines = []
    # Ansible's workers have sessions of their own, so they are not in one process group.
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(f"{process.pid} {process.status()} {' '.join(process.cmdline())[:300]}")
            process.kill()
    return "\n".join(lines)


def run(*command: str, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command and return its output; a failure includes its standard error."""
    code, output, errors = _finish(command, cwd, variables, 1200)
    assert code == 0, f"{command[0]}: {output[-2000:]}{errors[-2000:]}"
    return output


@dataclass(frozen=True, slots=True)
class Play:
    """The result of a run of Ansible."""

    failed: bool
    output: str

    @property
    def changed(self) -> int:
        """Return the number of changed tasks."""
        return int(self.output.split("changed=")[1].split()[0])


def command(file: Path, variables: Mapping[str, Any]) -> list[str]:
    """Return the command that runs a playbook on this machine from ROOT; the variables are written to `folder`."""
    given = Path(variables["folder"]) / "variables.json"
    given.write_text(json.dumps(variables), encoding="utf-8")
    return [".venv-ops/bin/ansible-playbook", str(file), "-i", "ansible/inventory/hosts.ini", "-e", f"@{given}"]


def play(file: Path, variables: Mapping[str, Any], *arguments: str, seconds: int = 300) -> Play:
    """Run a playbook on this machine, with additional arguments of ansible-playbook; it fails after `seconds`."""
    code, output, errors = _finish([*command(file, variables), *arguments], ROOT, {}, seconds)
    return Play(code != 0, output + errors)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry and its signing keys."""

    address: str
    folder: Path
    names: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def key(self, name: str) -> Path:
        """Return a private key, generated on first use; the public key is next to it, as .pub."""
        private = self.folder / f"{name}.key"
        if not private.exists():
            run(COSIGN, "generate-key-pair", "--output-key-prefix", name, cwd=self.folder)
        return private

    def push(self, service: str) -> str:
        """Push a new small image, and return its reference by digest."""
        tag = f"{self.address}/bank/{service}:{next(self.names)}"
        (self.folder / "file").write_text(tag, encoding="utf-8")
        run("sh", "-c", f"tar -C {self.folder} -c file | docker import - {tag} && docker push --quiet {tag}")
        digest = run("docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", tag).strip()
        run("docker", "image", "rm", tag)
        return digest

    def sign(self, image: str, service: str, *, key: str = "now", release: int = 1) -> None:
        """Sign an image as scripts/release/release.sh does."""
        said = {"service": service, "version": "v1", "commit": COMMIT, "release": str(release)}
        annotations = [word for name, value in said.items() for word in ("-a", f"{name}={value}")]
        run(COSIGN, "sign", "--yes", *self._signs(key), *annotations, image)

    def attest(self, image: str, service: str, *, repository: str) -> None:
        """Attest SBOM and provenance of an image as scripts/release/attest.sh does."""
        documents = {
            "cyclonedx": {"bomFormat": "CycloneDX", "components": [{"type": "library", "name": "small"}]},
            "slsaprovenance1": provenance.predicate(service, "v1", repository, COMMIT, "", datetime.now(UTC)),
        }
        for kind, document in documents.items():
            file = self.folder / "predicate.json"
            file.write_text(json.dumps(document), encoding="utf-8")
            words = ("--type", kind, "--predicate", str(file), image)
            run(COSIGN, "attest", "--yes", *self._signs("now"), *words)

    def _signs(self, key: str) -> tuple[str, ...]:
        """Return the options of Cosign to sign with a key, without a transparency log."""
        signing = self.folder / "signing.json"
        if not signing.exists():
            run(COSIGN, "signing-config", "create", "--out", str(signing))
        return ("--key", str(self.key(key)), "--signing-config", str(signing))

    def signed(self, service: str, *, key: str = "now", release: int = 1) -> str:
        """Push and sign an image; return its reference."""
        image = self.push(service)
        self.sign(image, service, key=key, release=release)
        return image
