"""Programs of the project, as drills run them."""

import os
import subprocess

from scripts.embedded import ROOT

# What `make drills` was told is not for the targets that are called from here.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def run(command: list[str], seconds: int = 600, **environment: str) -> str:
    """Run a command in the project and return what it printed; fail with its last words."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}"
    return done.stdout
