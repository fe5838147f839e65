"""Helpers of the drills: run the project's commands, and print progress, thresholds and the result."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from harness.client import output_of

from shared.testing.paths import ROOT
from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

# Without the flags of `make drills`, because drills run other make targets.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def run(command: list[str], seconds: int = 600, **environment: str) -> str:
    """Run a command in the project's folder and return its output; fail unless it exits with 0."""
    return output_of(command, {**ENVIRONMENT, **environment}, seconds)


def start(command: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> "subprocess.Popen[str]":
    """Start a command in the project's folder and in its own process group; its output is piped, errors included."""
    return subprocess.Popen(  # pylint: disable=consider-using-with  # the caller waits for it
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a started command with all its child processes."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def info(text: str) -> None:
    """Print a line of a drill's progress with the time (UTC)."""
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


def check(met: bool | None, text: str) -> bool:
    """Print a measured value and whether its threshold is met (None: it has none); return False if it is missed."""
    print(f"{'       ' if met is None else 'met    ' if met else 'missed '} {text}", flush=True)
    return met is not False


def check_threshold(threshold: Threshold) -> bool:
    """Print a threshold with the measured value; return whether it is met."""
    return check(threshold.met, f"{threshold.name}: {threshold.value}")


def finish(progress: Progress, thresholds: Sequence[Threshold]) -> int:
    """Print every threshold with its value and the number of thresholds met; return a drill's exit code."""
    met = [check_threshold(threshold) for threshold in thresholds]
    progress.finished(f"{sum(met)} of {len(met)} thresholds met", good=all(met))
    return 0 if all(met) else 1


def exit_code(missed: Sequence[str]) -> int:
    """Print the thresholds that were missed; return a drill's exit code."""
    for line in missed:
        info(f"missed: {line}")
    return 1 if missed else 0
