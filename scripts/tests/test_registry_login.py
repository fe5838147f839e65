"""registry_login.sh authenticates with the credentials of the registry that REGISTRY names, and with no others."""

import os
import subprocess
from pathlib import Path

import pytest

from shared.testing.paths import ROOT

# Records the arguments, and what arrives on standard input.
_DOCKER = """#!/bin/sh
echo "$@" >"$0.called"
[ "$1" != login ] || cat >"$0.stdin"
"""
_REGISTRY = {"REGISTRY_USERNAME": "robot$ops", "REGISTRY_PASSWORD": "of the registry"}
_DOCKERHUB = {"DOCKERHUB_USERNAME": "acme", "DOCKERHUB_TOKEN": "dckr_pat"}
_WORKFLOW = {"GITHUB_ACTOR": "alice", "GHCR_TOKEN": "of the workflow"}
_ALL = _REGISTRY | _DOCKERHUB | _WORKFLOW


def _login(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    docker = folder / "docker"
    docker.write_text(_DOCKER, encoding="utf-8")
    docker.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in _ALL and name != "REGISTRY"}
    return subprocess.run(
        [ROOT / "scripts/images/registry_login.sh", *arguments],
        env={**kept, **variables, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("registry", "given", "username", "password", "host"),
    [
        ("acme", _DOCKERHUB | _WORKFLOW, "acme", "dckr_pat", "docker.io"),
        ("docker.io/acme", _DOCKERHUB, "acme", "dckr_pat", "docker.io"),
        ("index.docker.io/acme/bank", _DOCKERHUB, "acme", "dckr_pat", "docker.io"),
        ("acme", _REGISTRY, "robot$ops", "of the registry", "docker.io"),
        ("ghcr.io/acme", _WORKFLOW | _DOCKERHUB, "alice", "of the workflow", "ghcr.io"),
        ("ghcr.io/acme", _ALL, "robot$ops", "of the registry", "ghcr.io"),
        ("registry.example/bank", _ALL, "robot$ops", "of the registry", "registry.example"),
        ("localhost/bank", _REGISTRY, "robot$ops", "of the registry", "localhost"),
        ("registry:5000/bank", _REGISTRY, "robot$ops", "of the registry", "registry:5000"),
    ],
)
def test_the_credentials_of_the_registry_are_used(
    tmp_path: Path, registry: str, given: dict[str, str], username: str, password: str, host: str
) -> None:
    done = _login(tmp_path, REGISTRY=registry, **given)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "docker.called").read_text(encoding="utf-8")
    assert called == f"login --username {username} --password-stdin {host}\n"
    assert (tmp_path / "docker.stdin").read_text(encoding="utf-8") == f"{password}\n"
    assert password not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("registry", "given", "told"),
    [
        ("", _ALL, "REGISTRY is not set"),
        ("acme", _WORKFLOW, "no credentials for docker.io; set both DOCKERHUB_USERNAME and DOCKERHUB_TOKEN"),
        (
            "registry.example/bank",
            _DOCKERHUB | _WORKFLOW,
            "no credentials for registry.example; set both REGISTRY_USERNAME and",
        ),
        ("ghcr.io/acme", {"GITHUB_ACTOR": "alice", "GHCR_TOKEN": ""}, "no credentials for ghcr.io"),
        ("acme", {"DOCKERHUB_USERNAME": "acme", "DOCKERHUB_TOKEN": ""}, "set both DOCKERHUB_USERNAME"),
        ("acme", {**_DOCKERHUB, "REGISTRY_PASSWORD": "x"}, "set both REGISTRY_USERNAME"),
    ],
)
def test_no_registry_receives_credentials_of_another(
    tmp_path: Path, registry: str, given: dict[str, str], told: str
) -> None:
    done = _login(tmp_path, REGISTRY=registry, **given)
    assert done.returncode == 1 and told in done.stderr
    assert not (tmp_path / "docker.called").exists()


def test_the_login_is_removed(tmp_path: Path) -> None:
    assert _login(tmp_path, "--logout", REGISTRY="acme").returncode == 0
    assert (tmp_path / "docker.called").read_text(encoding="utf-8") == "logout docker.io\n"
