"""A registry with users: hosts authenticate while they verify and pull. Other failures are not reported as unsigned."""

import base64
import dataclasses
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import plays
from harness.plays import COMMIT, SERVICES, Play, Registry, play, run

from shared.testing.ports import free_port

_PLAY = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {{name: banking_app, tasks_from: "{{{{ item }}}}"}}
      loop: {parts}
"""
_USER = "robot$ops"
_PASSWORD = "s3cret:of/the $registry"
_HASH = "$2b$04$DRL36zaTNJEfsEY0pLnOB.Sl9wiySM2TSm/0W1JMZD0cd6Lz/iFju"


def _run_parts(parts: Sequence[str], tmp_path: Path, variables: dict[str, Any], *arguments: str) -> Play:
    playbook = tmp_path / "parts.yml"
    playbook.write_text(_PLAY.format(parts=json.dumps(parts)), encoding="utf-8")
    done = play(playbook, variables, *arguments)
    return dataclasses.replace(done, output=" ".join(done.output.split()))


@pytest.fixture
def private(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry that answers only its user, with this test logged in."""
    registry.key("now")
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "users").write_text(f"{_USER}:{_HASH}\n", encoding="utf-8")
    settings = {"REGISTRY_DIR": str(folder), "REGISTRY_PORT": str(free_port())}
    start = ("scripts/images/local_registry.sh", "start")
    try:
        address = run(*start, **settings, REGISTRY_HTPASSWD=str(folder / "users")).strip()
        # Ours, not that of this machine's root.
        monkeypatch.setitem(plays.ENVIRONMENT, "DOCKER_CONFIG", str(folder / "docker"))
        login = {"REGISTRY": f"{address}/bank", "REGISTRY_USERNAME": _USER, "REGISTRY_PASSWORD": _PASSWORD}
        run("scripts/images/registry_login.sh", **login)
        assert (folder / "docker/config.json").stat().st_mode & 0o077 == 0
        for name in ("now.key", "now.pub"):
            (folder / name).write_bytes((registry.folder / name).read_bytes())
        yield Registry(address, folder)
    finally:
        run("scripts/images/local_registry.sh", "stop", **settings)


@pytest.fixture
def pushed_release(private: Registry, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The variables of a release in this registry; nobody is logged in any more."""
    images = {service: private.signed(service) for service in SERVICES}
    run("scripts/images/registry_login.sh", "--logout", REGISTRY=f"{private.address}/bank")
    yield {**settings, "banking_app_release": {"version": "v1", "commit": COMMIT, "release": 1, "images": images}}
    subprocess.run(["docker", "image", "rm", *images.values()], capture_output=True, check=False)


def test_a_host_pulls_with_the_credentials_of_the_deployment(tmp_path: Path, pushed_release: dict[str, Any]) -> None:
    login = {"banking_app_registry_username": _USER, "banking_app_registry_password": _PASSWORD}
    folders = set(Path("/tmp").glob("*bank-credentials-*"))

    refused = _run_parts(["verify"], tmp_path, pushed_release)
    assert refused.failed and "could not be verified, because the registry did not return" in refused.output
    assert "has no valid signature" not in refused.output
    refused = _run_parts(["verify"], tmp_path, {**pushed_release, **login, "banking_app_registry_password": "wrong"})
    assert refused.failed and "could not be verified, because the registry did not return" in refused.output

    parts = ["preflight", "cosign", "verify", "pull"]
    pulled = _run_parts(parts, tmp_path, {**pushed_release, **login}, "-vvv", "--diff")
    assert not pulled.failed, pulled.output
    for image in pushed_release["banking_app_release"]["images"].values():
        run("docker", "image", "inspect", image)
    # Neither in the log nor on the host.
    encoded = base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
    assert _PASSWORD not in pulled.output and encoded not in pulled.output
    assert set(Path("/tmp").glob("*bank-credentials-*")) <= folders


def test_a_registry_that_is_down_is_reported_as_such(tmp_path: Path, settings: dict[str, Any]) -> None:
    images = {service: f"127.0.0.1:{free_port()}/bank/{service}@sha256:{'a' * 64}" for service in SERVICES}
    release = {**settings["banking_app_release"], "images": images}
    refused = _run_parts(["verify"], tmp_path, {**settings, "banking_app_release": release})
    assert refused.failed and "the registry did not return its signatures" in refused.output
    assert "connection refused" in refused.output and "has no valid signature" not in refused.output


def test_another_version_of_cosign_is_reported_as_such(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GitVersion:    v2.4.1'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setitem(plays.ENVIRONMENT, "PATH", f"{program.parent}:{plays.ENVIRONMENT['PATH']}")
    refused = _run_parts(["cosign"], tmp_path, settings)
    assert refused.failed and "Cosign 2.4.1 does not find signatures of Cosign 3" in refused.output


def test_an_index_of_two_platforms_has_the_digest_that_is_signed(registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.address}/bank/index:v1"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n", encoding="utf-8")
    for platform in ("amd64", "arm64"):
        build = ("docker", "buildx", "build", "--builder", "default", "--platform", f"linux/{platform}", "--load")
        run(*build, "--tag", f"{name}-{platform}", str(tmp_path))
        run("docker", "push", "--quiet", f"{name}-{platform}")
    script = f'. scripts/lib/registry.sh; index_digest "{name}"; create_index "{name}"'
    platforms = "linux/amd64,linux/arm64"
    digest = run("bash", "-euc", script, PLATFORMS=platforms).split()[0]
    index = json.loads(
        run("docker", "buildx", "imagetools", "inspect", "--raw", f"{registry.address}/bank/index@{digest}")
    )
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    run("docker", "image", "rm", f"{name}-amd64", f"{name}-arm64")
    missing = f'. scripts/lib/registry.sh; index_digest "{name}" || echo no digest'
    assert run("bash", "-uc", missing, PLATFORMS=platforms).strip() == "no digest"
