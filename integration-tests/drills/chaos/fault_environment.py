"""A stack into which clock skew and full disks can be injected: disk images as volumes, libfaketime in the services."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DISK_BYTES = 4 * 1024**3
_DISK_OWNERS = {"postgres": 999, "nats": 0}
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime")
_OVERRIDE = """\
services:
  account-service: &clock-skew
    environment:
      LD_PRELOAD: /opt/faketime/libfaketimeMT.so.1
      FAKETIME_TIMESTAMP_FILE: /tmp/clock
      FAKETIME_CACHE_DURATION: "1"
      # Durations are measured with the monotonic clock, which a clock change does not affect.
      FAKETIME_DONT_FAKE_MONOTONIC: "1"
    volumes: ["{faketime}:/opt/faketime:ro"]
  transaction-service: *clock-skew
"""
_VOLUME = "  {name}: {{driver: local, driver_opts: {{type: none, o: bind, device: {device}}}}}\n"


def run_program(*command: str) -> str:
    """Run a program and return its output; raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def program_works(*command: str) -> bool:
    """Return whether a program succeeds."""
    try:
        run_program(*command)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


class FaultEnvironment:
    """The Compose configuration of a stack whose disks can be filled and whose clocks can be skewed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Kinds of faults that are unavailable, with the reason.
        self.unavailable: dict[str, str] = {}
        self.disks: dict[str, Path] = {}
        self._can_skew_clocks = _FAKETIME.is_dir() or program_works("scripts/local/ensure_packages.sh", "faketime")
        if not self._can_skew_clocks:
            self.unavailable["clock-skew"] = "libfaketime (package faketime) is not installed"

    @contextmanager
    def disks_mounted(self) -> Iterator[None]:
        """Mount a small disk image for PostgreSQL and one for NATS while the block runs."""
        try:
            for name, owner in _DISK_OWNERS.items():
                self._mount(name, owner)
        except (subprocess.SubprocessError, OSError) as error:
            self.unavailable["full-disk"] = f"a disk image cannot be mounted: {error}"
            self._unmount()
        try:
            yield
        finally:
            self._unmount()

    def _mount(self, name: str, owner: int) -> None:
        image, folder = self._folder / f"{name}.img", self._folder / f"{name}-disk"
        folder.mkdir()
        # A second journal, or blocks that are not allocated yet, would make each fsync several times slower.
        run_program("dd", "if=/dev/zero", f"of={image}", "bs=16M", f"count={_DISK_BYTES >> 24}", "status=none")
        run_program("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "nodiscard", str(image))
        run_program("mount", "-o", "loop", str(image), str(folder))
        self.disks[name] = folder
        data = folder / "data"
        data.mkdir(mode=0o700)
        os.chown(data, owner, owner)

    def _unmount(self) -> None:
        for folder in self.disks.values():
            run_program("umount", str(folder))
        self.disks.clear()

    def compose_file(self) -> str:
        """Return the path of the override of docker-compose.yml."""
        content = _OVERRIDE.format(faketime=_FAKETIME) if self._can_skew_clocks else "services: {}\n"
        if self.disks:
            content += "volumes:\n"
            content += "".join(_VOLUME.format(name=name, device=disk / "data") for name, disk in self.disks.items())
        file = self._folder / "faults.yml"
        file.write_text(content, encoding="utf-8")
        return str(file)
