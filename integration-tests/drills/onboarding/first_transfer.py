"""Follow the README in a fresh clone, as a new user; measure the time to the first transfer.

    make drills DRILL=first_transfer

Clones the committed state without .venv, data or pip cache, extracts the two commands from the clone's README and runs
them. Exits 1 when the first transfer takes longer than the threshold.
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

from harness.commands import ENVIRONMENT, check, run
from harness.documented import on_ports_of_its_own, start_command, started

from shared.testing.documents import examples
from shared.testing.paths import ROOT

MAX_SECONDS = 90.0
# Printed by the demo after the transfer.
_TRANSFERRED = "balance after:"


def without_checkout(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment without this checkout and with an empty pip cache."""
    kept = {name: value for name, value in environment.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return {**kept, "PIP_CACHE_DIR": str(folder / "pip"), "PYTHONUNBUFFERED": "1"}


def first_transfer(demo: str, folder: Path, variables: Mapping[str, str]) -> float:
    """Run the demo; return the time of the first transfer. Fails if a step fails."""
    words = ["bash", "-c", demo]
    with subprocess.Popen(words, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        lines = [(time.monotonic(), line) for line in process.stdout]
        watchdog.cancel()
    assert process.returncode == 0, "".join(line for _, line in lines)
    return next(at for at, line in lines if _TRANSFERRED in line)


def follow_readme(folder: Path) -> float:
    """Follow the README; return the seconds from the clone to the first transfer."""
    clone = folder / "bank"
    variables = without_checkout(on_ports_of_its_own(clone / "var", ENVIRONMENT), folder)
    began = time.monotonic()
    run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)])
    cloned = time.monotonic()
    readme = (clone / "README.md").read_text(encoding="utf-8")
    start, demo = start_command(readme), examples(readme, "embedded")[0].block.text
    with started(start, clone, variables, folder / "log", 600):
        ready = time.monotonic()
        transferred = first_transfer(demo, clone, variables)
    print(f"clone                    {cloned - began:6.1f} s")
    print(f"{start.strip():<22}   {ready - cloned:6.1f} s   (new .venv, migrations, NGINX)")
    print(f"{demo.strip():<22}   {transferred - ready:6.1f} s   until the first transfer")
    return transferred - began


def main() -> int:
    """Run the drill; return 0 only if the threshold is met."""
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        print("NGINX is not installed; the measurement includes its installation")
    with tempfile.TemporaryDirectory() as folder:
        seconds = follow_readme(Path(folder))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    text = f"first transfer after {seconds:.1f} s (threshold: {MAX_SECONDS:.0f} s); load average {load}"
    return 0 if check(seconds <= MAX_SECONDS, text) else 1


if __name__ == "__main__":
    sys.exit(main())
