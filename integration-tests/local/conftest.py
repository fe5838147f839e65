"""Local stacks for the end-to-end tests, on free ports."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.local_stack import LocalBank

from shared.testing.local_stack import LocalStack, Setting
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresServer
from shared.testing.processes import Process, stop_all

MakeBank = Callable[..., LocalBank]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test the time it takes to start a bank on a busy machine."""
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def nginx() -> None:
    """Skip where NGINX is not installed."""
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("NGINX is not installed; on Debian: apt-get install nginx")


def _start(folder: Path, replicas: int, urls: list[str], events_url: str, **extra_env: str) -> LocalStack:
    account_url, transaction_url = urls or ["", ""]
    stack = LocalStack(
        folder / "var",
        http_port=free_port(),
        account=Setting(free_port(replicas), replicas, account_url),
        transaction=Setting(free_port(replicas), replicas, transaction_url),
        events_url=events_url,
        extra_env=extra_env,
    )
    stack.start()
    return stack


@pytest.fixture(scope="session", params=["SQLite, one replica", "PostgreSQL, two replicas"])
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBank]:
    """A running bank of either kind, shared by all tests: each uses its own accounts and restarts what it kills."""
    folder = tmp_path_factory.mktemp("stack")
    if request.param.startswith("SQLite"):
        stack = _start(folder, 1, [], "")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        urls = [server.create_database(f"{folder.name}_{name}") for name in ("accounts", "transactions")]
        stack = _start(folder, 2, urls, "")
    bank = LocalBank(stack)
    yield bank
    bank.close()


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """Restart the replicas of the shared bank that a failed test has left stopped."""
    stack: LocalStack | None = request.getfixturevalue("bank").stack if "bank" in request.fixturenames else None
    yield
    for service, replicas in stack.processes.items() if stack else ():
        for index, replica in enumerate(replicas):
            if replica.pid is None:
                stack.restart(service, index)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[tuple[str, Process]]:
    """A NATS server with JetStream on files: its URL, and the process to stop and start."""
    program = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("nats-server is not installed; on Debian: apt-get install nats-server")
    port = free_port()
    command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / "nats")]
    server = Process("nats", command, tmp_path / "nats.log")
    server.start()
    yield f"nats://127.0.0.1:{port}", server
    stop_all([server])


@pytest.fixture
def make_bank(tmp_path: Path) -> Iterator[MakeBank]:
    """Start a dedicated bank: make_bank(replicas, urls, events_url, NAME=value …)."""
    banks: list[LocalBank] = []

    def make(replicas: int = 1, urls: list[str] | None = None, events_url: str = "", **extra_env: str) -> LocalBank:
        banks.append(LocalBank(_start(tmp_path, replicas, urls or [], events_url, **extra_env)))
        return banks[-1]

    yield make
    for bank in banks:
        bank.close()
