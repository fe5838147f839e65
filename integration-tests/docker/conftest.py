"""One composed stack for all tests of this folder."""

import os
import subprocess
from collections.abc import Iterator

import pytest
from composed import ComposedBank


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedBank]:
    """The bank on PostgreSQL, NATS and NGINX, two replicas of each service."""
    found = subprocess.run(["docker", "info"], capture_output=True, check=False)
    if found.returncode != 0 and os.environ.get("DOCKER_TESTS") != "required":
        pytest.skip("no Docker engine answers; make up installs one on Debian and Ubuntu")
    bank = ComposedBank(tmp_path_factory.mktemp("composed"))
    yield bank
    bank.close()
