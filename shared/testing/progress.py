"""What a command that takes long tells whoever waits: what is happening, how far it is, how long it takes.

Colours only on a terminal, and not where NO_COLOR is set. scripts/lib/progress.sh is the same for shell scripts.
"""

import os
import sys
import time
from typing import TextIO


def style(text: str, code: str, out: TextIO) -> str:
    """Return the text in a colour (an SGR code such as 32) if it goes to a terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if out.isatty() and not os.environ.get("NO_COLOR") else text


def took(seconds: float) -> str:
    """Return a time as one says it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


class Progress:
    """The steps of one command, on standard error: standard output is for what it found."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._step = 0
        self._began = time.monotonic()

    def step(self, what: str) -> None:
        """Say that the next step begins."""
        self._step += 1
        width = len(str(self._total))
        self._print(f"[{self._step:{width}}/{self._total}]", style(what, "1", sys.stderr))

    def say(self, what: str) -> None:
        """Say more about the step."""
        self._print(" " * (2 * len(str(self._total)) + 3), what)

    def finished(self, what: str, *, good: bool = True) -> None:
        """Say the last line, the one to remember."""
        mark = style("✓", "32", sys.stderr) if good else style("✗", "31", sys.stderr)
        print(f"{mark} {self._name}: {what}, after {took(time.monotonic() - self._began)}", file=sys.stderr, flush=True)

    def _print(self, head: str, what: str) -> None:
        print(f"{head}{time.monotonic() - self._began:5.0f} s  {what}", file=sys.stderr, flush=True)
