"""Programs of the project, as drills run them."""

import os

from support import output_of

# What `make drills` was told is not for the targets that are called from here.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def run(command: list[str], seconds: int = 600, **environment: str) -> str:
    """Run a command in the project and return what it printed; fail with its last words."""
    return output_of(command, {**ENVIRONMENT, **environment}, seconds)
