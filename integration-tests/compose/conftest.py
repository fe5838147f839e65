"""One composed stack for all tests of this folder."""

import json
import os
import subprocess
from collections.abc import Generator, Iterator
from functools import partial

import pytest
from harness.client import eventually
from harness.composed_stack import ComposedBank
from harness.manual_rollout import SERVICES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test the time it takes to build every image on a bare machine."""
    for item in items:
        item.add_marker(pytest.mark.timeout(1500))


_SESSIONS = (
    "SELECT pid, usename, application_name, state, wait_event_type, wait_event, now() - xact_start, left(query, 120)"
    " FROM pg_stat_activity WHERE datname IS NOT NULL ORDER BY xact_start NULLS LAST"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the stack was doing to the report of a failed test: containers, database sessions and logs."""
    report = yield
    bank = getattr(item, "funcargs", {}).get("bank")
    if report.failed and call.when == "call" and isinstance(bank, ComposedBank):
        for title, look in (
            ("containers", lambda: bank.compose("ps", "--all")),
            ("sessions of PostgreSQL", lambda: "\n".join(bank.sql("account", _SESSIONS))),
            *((f"log of {name}", partial(_log, bank, name)) for name in ("nginx", *SERVICES, "postgres")),
        ):
            try:
                report.sections.append((title, look()))
            except Exception as error:  # pylint: disable=broad-exception-caught  # the test's own failure matters
                report.sections.append((title, f"not available: {error!r}"))
    return report


def _log(bank: ComposedBank, service: str) -> str:
    """Return the last lines of each container of a service."""
    return "\n".join(bank.logs(container, "--tail", "15") for container in bank.containers(service))


@pytest.fixture(scope="session")
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedBank]:
    """The bank on PostgreSQL, NATS and NGINX, two replicas of each service."""
    found = subprocess.run(["docker", "info"], capture_output=True, check=False)
    if found.returncode != 0 and os.environ.get("DOCKER_TESTS") != "required":
        pytest.skip("no Docker engine answers; make up installs one on Debian and Ubuntu")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        bank = ComposedBank(tmp_path_factory.mktemp("composed"))
    yield bank
    bank.close()


@pytest.fixture(scope="module")
def autoscaler_rests(bank: ComposedBank) -> Iterator[None]:
    """Two replicas of each service, and an autoscaler that neither mends what a test breaks nor decides."""

    def at_two() -> bool:
        """Undo what earlier tests' load has led to, once the autoscaler has ended what it had begun."""
        if any(one["operation_in_progress"] for one in json.loads(bank.autoscale_cli("status"))["services"].values()):
            return False
        for service in SERVICES:
            bank.autoscale_cli("scale", service, "2")
        return all(len(bank.containers(service)) == 2 for service in SERVICES)

    bank.autoscale_cli("pause")
    try:
        eventually(at_two, 120)
        yield
    finally:
        bank.autoscale_cli("resume")
