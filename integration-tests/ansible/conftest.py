"""A registry on loopback, two signing keys, and plays of the roles."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.plays import COMMIT, SERVICES, Registry, run

from shared.testing import lab_keys
from shared.testing.ports import free_port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give plays the time that they take on a busy machine."""
    for item in items:
        # A test's own limit takes precedence.
        item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skip without Docker or root, or fail where they are required; have Ansible."""
    if os.geteuid() != 0:
        if os.environ.get("DOCKER_TESTS") == "required":
            pytest.fail("the roles configure this machine and read files of root: run the tests as root, or with sudo")
        pytest.skip("the roles configure this machine, which requires root: sudo make test-ansible")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        if os.environ.get("DOCKER_TESTS") == "required":
            pytest.fail("no Docker engine answers")
        pytest.skip("no Docker engine answers; make up installs one on Debian and Ubuntu")
    run("scripts/local/bootstrap.sh", "deploy")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on a port of its own."""
    folder = tmp_path_factory.mktemp("registry")
    variables = {"REGISTRY_DIR": str(folder), "REGISTRY_PORT": str(free_port())}
    try:
        yield Registry(run("scripts/images/local_registry.sh", "start", **variables).strip(), folder)
    finally:
        run("scripts/images/local_registry.sh", "stop", **variables)


@pytest.fixture(scope="session")
def release(registry: Registry) -> dict[str, Any]:
    """A release of small images, each properly signed."""
    images = {service: registry.signed(service) for service in SERVICES}
    return {"version": "v1", "commit": COMMIT, "release": 1, "images": images}


@pytest.fixture
def settings(registry: Registry, release: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The variables of a deployment to a folder of its own."""
    jwks = lab_keys.ensure(tmp_path / "lab").jwks.read_text(encoding="utf-8")
    return {
        "folder": str(tmp_path),
        "banking_app_release": release,
        # The commit is an invented one.
        "banking_app_rehearsal": True,
        # Those that check attestations ask for them.
        "banking_app_require_attestations": False,
        "banking_app_cosign_keys": [str(registry.key("now").with_suffix(".pub"))],
        "banking_app_dir": str(tmp_path / "opt"),
        "banking_app_state_dir": str(tmp_path / "state"),
        "banking_app_secrets": {"jwks": jwks},
        "banking_app_environment": {"BANK_PORT": str(free_port())},
    }
