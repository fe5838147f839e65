"""`make run` as a person meets it: it starts, says what to do, stops, and complains clearly."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from shared.testing.paths import ROOT
from shared.testing.ports import free_port


def environment(var: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a run on ports of its own."""
    ports = {"PORT": str(free_port()), "ACCOUNT_PORT": str(free_port()), "TRANSACTION_PORT": str(free_port())}
    return {**os.environ, **ports, "VAR_DIR": str(var), **changes}


def start(env: dict[str, str]) -> subprocess.Popen[str]:
    """Start the bank and wait until it says that it is ready."""
    command = [sys.executable, "-m", "scripts.local.run"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C" in line:
            return process
    raise AssertionError(f"ended with {process.wait()} before it was ready")


def refused(env: dict[str, str]) -> str:
    """Start the bank where it cannot run, and return the one line that it says."""
    command = [sys.executable, "-m", "scripts.local.run"]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0], done.stderr
    return lines[0]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_on_signals_and_keeps_its_data(tmp_path: Path, sign: signal.Signals):
    env = environment(tmp_path / "var")
    url = f"http://127.0.0.1:{env['PORT']}"
    token = subprocess.check_output(
        [sys.executable, "-m", "shared.testing.lab_keys", "alice"], cwd=ROOT, env=env, text=True
    ).strip()
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "first"}
    process = start(env)
    assert process.stdout is not None
    opened = httpx.post(f"{url}/api/v1/accounts", json={"currency": "USD"}, headers=headers)
    assert opened.status_code == 201
    process.send_signal(sign)
    assert process.wait(20) == 0
    process.stdout.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)

    process = start(env)
    again = httpx.post(f"{url}/api/v1/accounts", json={"currency": "USD"}, headers=headers)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (opened.content, "true")
    # Even a supervisor that is killed leaves nobody behind.
    process.kill()
    process.communicate(timeout=5)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{env['ACCOUNT_PORT']}/health/live")
        except httpx.TransportError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("account-service outlived its supervisor")


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
