"""What drills have in common: programs of the project as they run them, and what they print."""

import os
from datetime import UTC, datetime

from harness.client import output_of

# What `make drills` was told is not for the targets that are called from here.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def run(command: list[str], seconds: int = 600, **environment: str) -> str:
    """Run a command in the project and return what it printed; fail with its last words."""
    return output_of(command, {**ENVIRONMENT, **environment}, seconds)


def say(text: str) -> None:
    """Print a line of a drill's course, with the time of day (UTC)."""
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


def measured(met: bool | None, text: str) -> bool:
    """Print a figure with its bar, and tell whether it was not missed; `met` is None where there is no bar."""
    print(f"{'      ' if met is None else 'ok    ' if met else 'MISSED'} {text}", flush=True)
    return met is not False
