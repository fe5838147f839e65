"""The load test fails when a threshold is exceeded, on reports as Locust writes them."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.testing.paths import ROOT

_STATS = "Type,Name,Request Count,Failure Count,Requests/s,50%,95%,99%\n"
_EXCEPTIONS = "Count,Message,Traceback,Nodes\n"


def check(folder: Path, stats: str, exceptions: str = "") -> subprocess.CompletedProcess[str]:
    """Check a report against 250 ms and 0.1 %."""
    (folder / "load_stats.csv").write_text(_STATS + stats, encoding="utf-8")
    (folder / "load_exceptions.csv").write_text(_EXCEPTIONS + exceptions, encoding="utf-8")
    command = [sys.executable, str(ROOT / "load-tests" / "check_report.py"), str(folder / "load"), "250", "0.1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_good_run_passes_and_prints_its_values(tmp_path: Path):
    # Only the total counts, and values equal to the thresholds pass.
    done = check(tmp_path, "GET,/slow,1,0,0.1,900,900,900\n,Aggregated,1000,1,16.6,12,250,400\n")
    assert done.returncode == 0, done.stderr
    assert "1000 requests" in done.stdout and "1 errors = 0.10 % (at most 0.1 %)" in done.stdout
    assert "p95 250 ms (at most 250 ms)" in done.stdout


@pytest.mark.parametrize(
    ("stats", "exceptions", "messages"),
    [
        (",Aggregated,1000,50,16.6,12,30,40\n", "", ["error rate 5.00 % exceeds 0.1 %"]),
        (",Aggregated,1000,0,16.6,12,260,400\n", "", ["p95 260 ms exceeds 250 ms"]),
        (",Aggregated,1000,50,16.6,12,260,400\n", "", ["error rate 5.00 %", "p95 260 ms"]),
        (",Aggregated,1000,0,16.6,12,30,40\n", '2,oops,"line\nline",local\n', ["error rate 0.20 %"]),
        (",Aggregated,0,0,0.0,N/A,N/A,N/A\n", "", ["no requests"]),
        ("", "", ["no requests"]),
    ],
)
def test_each_missed_threshold_is_reported(tmp_path: Path, stats: str, exceptions: str, messages: list[str]):
    done = check(tmp_path, stats, exceptions)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(messages), done.stderr
    assert all(message in line for message, line in zip(messages, lines))


def test_it_reports_a_bank_that_does_not_respond():
    with socket.socket() as taken:
        # Bound but not listening, so that no other process can respond on this port.
        taken.bind(("127.0.0.1", 0))
        command = [str(ROOT / "load-tests" / "run_load_test.sh"), f"BASE_URL=http://127.0.0.1:{taken.getsockname()[1]}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "no response from http://127.0.0.1:" in done.stderr
