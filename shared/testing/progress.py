"""Progress output of long-running commands: the current step, the number of steps and the elapsed time.

Colours are used only on a terminal and if NO_COLOR is not set. scripts/lib/progress.sh is the same for shell scripts.
"""

import os
import sys
import time
from typing import TextIO


def style(text: str, code: str, out: TextIO) -> str:
    """Return the text in a colour (an SGR code such as 32) if `out` is a terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if out.isatty() and not os.environ.get("NO_COLOR") else text


def took(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


class Progress:
    """Reports the steps of one command on standard error; standard output is for results."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._step = 0
        self._started = time.monotonic()

    def step(self, what: str) -> None:
        """Start the next step."""
        self._step += 1
        width = len(str(self._total))
        self._print(f"[{self._step:{width}}/{self._total}]", style(what, "1", sys.stderr))

    def info(self, what: str) -> None:
        """Print details of the current step."""
        self._print(" " * (2 * len(str(self._total)) + 3), what)

    def finished(self, what: str, *, good: bool = True) -> None:
        """Print the result of the command."""
        mark = style("✓", "32", sys.stderr) if good else style("✗", "31", sys.stderr)
        print(
            f"{mark} {self._name}: {what}, after {took(time.monotonic() - self._started)}", file=sys.stderr, flush=True
        )

    def _print(self, head: str, what: str) -> None:
        print(f"{head}{time.monotonic() - self._started:5.0f} s  {what}", file=sys.stderr, flush=True)
