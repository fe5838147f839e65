"""Ports for tests: no two runs get the same one, and none gets one that is in use."""

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from shared.testing import ports
from shared.testing.paths import ROOT

_PRINT = "from shared.testing.ports import free_port; print(*(free_port() for _ in range(120)), flush=True); input()"


def test_concurrent_runs_get_different_ports() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as running:
        command = [sys.executable, "-c", _PRINT]
        runs = [running.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes)) for _ in range(3)]
        found = [port for run in runs for port in run.stdout.readline().split()]
        for run in runs:
            run.communicate("\n")
    assert len(found) == len(set(found)) == 360


def test_a_port_in_use_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ports.free_port(50)
    with socket.create_server(("127.0.0.1", first + 1)):
        monkeypatch.setattr(ports._Reserved, "ports", range(first, first + 6))  # pylint: disable=protected-access
        assert ports.free_port(2) == first + 2
