"""Number of modules that a service imports before it is ready, which determines its start-up time.

Imports are nearly all of the CPU time of a start. Unlike a duration, their number does not depend on load.
"""

import os
import subprocess
import sys

import pytest

from shared.testing.paths import ROOT

# Ten percent above the current number; on two idle cores a thousand modules take 0.8 s of CPU time.
BUDGET = {"account-service": 1030, "transaction-service": 1030, "rollout-service": 1170, "autoscale-service": 1190}
# Packages for tests, migrations, and disabled tracing.
NEVER = {
    *("alembic", "mako", "pytest", "hypothesis", "schemathesis", "jsonschema", "jinja2", "locust"),
    *("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation", "google.protobuf"),
}
_PROGRAM = "import sys, app.main, app.__main__; print('\\n'.join(sys.modules))"


def started(service: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Import what a service's process imports, and print the names of the modules."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *options, "-c", _PROGRAM]
    return subprocess.run(command, cwd=ROOT / service, env=environment, check=True, capture_output=True, text=True)


def slowest_imports(service: str) -> str:
    """Return the twenty imports that take longest, with all that they import."""
    lines = started(service, "-X", "importtime").stderr.splitlines()
    times = [line for line in lines if line.startswith("import time:") and line.split("|")[1].strip().isdigit()]
    return "\n".join(sorted(times, key=lambda line: -int(line.split("|")[1]))[:20])


@pytest.mark.parametrize("service", BUDGET)
def test_a_start_imports_what_it_needs_and_no_more(service: str) -> None:
    modules = started(service).stdout.splitlines()
    unneeded = sorted(name for name in modules if name in NEVER)
    assert unneeded == [], slowest_imports(service)
    assert len(modules) <= BUDGET[service], slowest_imports(service)


def test_every_service_has_a_budget() -> None:
    assert set(BUDGET) == {folder.name for folder in ROOT.glob("*-service")}
