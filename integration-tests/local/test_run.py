"""`make run` as a person meets it: it starts, says what to do, stops, and complains clearly."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from harness.client import REQUEST_SECONDS, WAIT_SECONDS, eventually

from shared.testing.paths import ROOT
from shared.testing.ports import free_port


def environment(var: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a run on ports of its own."""
    ports = {"PORT": str(free_port()), "ACCOUNT_PORT": str(free_port()), "TRANSACTION_PORT": str(free_port())}
    return {**os.environ, **ports, "VAR_DIR": str(var), **changes}


Start = Callable[[dict[str, str]], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the bank and wait until it says that it is ready; what a test leaves running is killed."""
    command = [sys.executable, "-m", "scripts.local.run"]
    output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with ExitStack() as stack:

        def make(env: dict[str, str]) -> subprocess.Popen[str]:
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=env, text=True, **output))
            stack.callback(process.kill)
            assert process.stdout is not None
            for line in process.stdout:
                if "Ctrl-C" in line:
                    return process
            raise AssertionError(f"ended with {process.wait()} before it was ready")

        yield make


def refused(env: dict[str, str]) -> str:
    """Start the bank where it cannot run, and return the one line that it says."""
    command = [sys.executable, "-m", "scripts.local.run"]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0], done.stderr
    return lines[0]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_on_signals_and_keeps_its_data(start: Start, tmp_path: Path, sign: signal.Signals):
    env = environment(tmp_path / "var")
    url = f"http://127.0.0.1:{env['PORT']}"
    token = subprocess.check_output(
        [sys.executable, "-m", "shared.testing.lab_keys", "alice"], cwd=ROOT, env=env, text=True
    ).strip()
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "first"}

    def open_account() -> httpx.Response:
        body = {"currency": "USD"}
        return httpx.post(f"{url}/api/v1/accounts", json=body, headers=headers, timeout=REQUEST_SECONDS)

    process = start(env)
    opened = open_account()
    assert opened.status_code == 201
    process.send_signal(sign)
    assert process.wait(2 * WAIT_SECONDS) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)

    process = start(env)
    again = open_account()
    assert (again.content, again.headers["Idempotent-Replayed"]) == (opened.content, "true")
    # Even a supervisor that is killed leaves nobody behind.
    process.kill()
    process.wait(WAIT_SECONDS)

    def gone() -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{env['ACCOUNT_PORT']}/health/live")
        except httpx.TransportError:
            return True
        return False

    eventually(gone)


def test_it_reports_startup_errors_in_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refused(environment(tmp_path / "var", PORT=port))
        assert port in line and "set PORT" in line
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    line = refused(environment(blocked))
    assert str(blocked) in line and "VAR_DIR" in line
    assert "PORT" in refused(environment(tmp_path / "var", PORT="eighty"))
