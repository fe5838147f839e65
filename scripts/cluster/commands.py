"""Run commands on this machine, and wait for what they start."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from shared.testing.paths import ROOT


class Failed(Exception):
    """A command failed; the message ends with its output."""


def run(*command: str, seconds: float = 600, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in the project's folder and return its output. Raises Failed."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment or os.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)}: no result within {seconds:.0f} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {(done.stderr + done.stdout)[-2000:]}")
    return done.stdout


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the condition's result as soon as it is true; one that raises Failed is not. Raises Failed."""
    deadline, reason = time.monotonic() + seconds, ""
    while True:
        try:
            if found := condition():
                return found
        except Failed as error:
            reason = f": {error}"
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not ready within {seconds:.0f} s{reason}")
        time.sleep(0.5)
