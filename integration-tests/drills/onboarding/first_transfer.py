"""A stranger follows the README in a fresh clone: how long it takes until the first transfer is through.

    make drills DRILL=first_transfer

Clones what is committed into a folder of its own, without .venv, data or a cache of pip, takes the two commands out of
the clone's README, and runs them. Ends with 1 when the first transfer takes longer than promised.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from harness.commands import ENVIRONMENT, run
from harness.documented import on_ports_of_its_own, start_command, started

from shared.testing.documents import examples
from shared.testing.paths import ROOT

MOST_SECONDS = 90.0
# The demo says this when the transfer has been answered.
_TRANSFERRED = "balance after:"


def without_checkout(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment that has nothing of this checkout, and whose pip has to fetch everything."""
    kept = {name: value for name, value in environment.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return {**kept, "PIP_CACHE_DIR": str(folder / "pip"), "PYTHONUNBUFFERED": "1"}


def first_transfer(demo: str, folder: Path, variables: Mapping[str, str]) -> float:
    """Run the demo; return when it said that the transfer had been answered. Fails if a step is not as expected."""
    words = ["bash", "-c", demo]
    with subprocess.Popen(words, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        lines = [(time.monotonic(), line) for line in process.stdout]
        watchdog.cancel()
    assert process.returncode == 0, "".join(line for _, line in lines)
    return next(at for at, line in lines if _TRANSFERRED in line)


def rehearse(folder: Path) -> float:
    """Do all that the README says; return the seconds from the clone to the first transfer."""
    clone = folder / "bank"
    variables = without_checkout(on_ports_of_its_own(clone / "var", ENVIRONMENT), folder)
    began = time.monotonic()
    run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)])
    cloned = time.monotonic()
    readme = (clone / "README.md").read_text(encoding="utf-8")
    start, demo = start_command(readme), examples(readme, "embedded")[0].block.text
    with started(start, clone, variables, folder / "log", 600):
        answering = time.monotonic()
        transferred = first_transfer(demo, clone, variables)
    print(f"clone                    {cloned - began:6.1f} s")
    print(f"{start.strip():<22}   {answering - cloned:6.1f} s   (.venv from nothing, migrations, NGINX)")
    print(f"{demo.strip():<22}   {transferred - answering:6.1f} s   until the transfer was answered")
    return transferred - began


def main() -> int:
    """Rehearse it, and hold the time against what is promised."""
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        print("NGINX is not here yet: installing it counts, too")
    with tempfile.TemporaryDirectory() as folder:
        seconds = rehearse(Path(folder))
    verdict = "kept" if seconds <= MOST_SECONDS else "MISSED"
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"first transfer after {seconds:.1f} s (bar: {MOST_SECONDS:.0f} s): {verdict}; load average {load}")
    return 0 if seconds <= MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
