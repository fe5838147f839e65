"""`make up` falls back to Debian packages only if no registry answers."""

import re
import subprocess
from pathlib import Path

import pytest

from shared.testing.paths import ROOT
from shared.testing.timing import BUSY_SECONDS

_FUNCTIONS = "".join(
    match[0]
    for name in ("probe_registry", "debian_mirror")
    if (
        match := re.search(
            rf"^{name}\(\) \{{\n.*?^\}}\n", (ROOT / "scripts/stack/up.sh").read_text("utf-8"), re.M | re.S
        )
    )
)
_SCRIPT = """
info() { echo "$*"; }
fail() { echo "FAILED: $*"; exit 1; }
probe_seconds=$PROBE_SECONDS registry_timed_out= PYTHON_IMAGE=python:3.13-slim
probe_registry
echo "images=${IMAGES-registry} timed_out=$registry_timed_out"
"""


@pytest.mark.parametrize(
    ("docker", "mirror", "told"),
    [
        ("exit 0", "x", "images=registry timed_out=\n"),
        ("echo 'dial tcp: lookup registry: no such host' >&2; exit 1", "x", "images=offline timed_out=\n"),
        ("exec sleep 600", "x", "images=offline timed_out=1\n"),
        (
            "echo 'ERROR: unexpected status: 429 Too Many Requests' >&2; exit 1",
            "x",
            "rejected the request: ERROR: unex",
        ),
        ("echo 'toomanyrequests: You have reached your pull rate limit' >&2; exit 1", "x", "rejected the request"),
        ("echo 'unauthorized: authentication required' >&2; exit 1", "x", "rejected the request"),
        ("echo '503 Service Unavailable' >&2; exit 1", "x", "rejected the request"),
        ("echo 'connection refused' >&2; exit 1", "", "this machine has no Debian mirror"),
    ],
)
def test_a_registry_that_answers_is_not_replaced(tmp_path: Path, docker: str, mirror: str, told: str) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\n{docker}\n", encoding="utf-8")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", _FUNCTIONS + _SCRIPT],
        env={
            **{"PATH": f"{tmp_path}:/usr/bin:/bin", "DEBIAN_MIRROR": mirror},
            "PROBE_SECONDS": "0.5" if "sleep" in docker else str(BUSY_SECONDS),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert told in done.stdout
    assert ("FAILED" in done.stdout) == (done.returncode == 1)
