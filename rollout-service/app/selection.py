"""The selected NGINX configuration: a file of one line that NGINX reads at its start and on SIGHUP."""

import os
import re
from pathlib import Path

# `prepared` is mounted read-only and `selected` writable; NGINX mounts both at the same path, read-only.
FOLDER = Path("/etc/nginx/bank")
NAME = "stable|previous|canary-[1-9][0-9]?"


class UnknownConfiguration(Exception):
    """No prepared configuration has this name."""


class Selection:
    """The folder with the prepared configurations and the selected one."""

    def __init__(self, folder: Path) -> None:
        self._prepared = folder / "prepared"
        self._selected = folder / "selected"

    def select(self, name: str) -> None:
        """Select a prepared configuration for NGINX's next reload. Raises UnknownConfiguration, OSError."""
        if not re.fullmatch(NAME, name) or not (self._prepared / f"{name}.conf").is_file():
            raise UnknownConfiguration(f"{name[:20]!r} is not a prepared configuration")
        if self.is_selected(name):
            return
        try:
            self._replace(self._text(name))
        except OSError:
            self._overwrite(self._text(name))

    def _replace(self, text: str) -> None:
        temporary = self._selected / "nginx.conf.tmp"
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8") as written:
            written.write(text)
            os.fchmod(written.fileno(), 0o644)
            written.flush()
            os.fsync(written.fileno())
        temporary.replace(self._selected / "nginx.conf")

    def _overwrite(self, text: str) -> None:
        """Write over the selected file in place, which needs no space on a full disk."""
        with (self._selected / "nginx.conf").open("r+b") as file:
            # In one call, padded so that nothing of a longer text remains.
            os.pwrite(file.fileno(), text.encode().ljust(os.fstat(file.fileno()).st_size, b"\n"), 0)
            os.fsync(file.fileno())

    def is_selected(self, name: str) -> bool:
        """Return whether a configuration is the selected one."""
        file = self._selected / "nginx.conf"
        return file.is_file() and file.read_text(encoding="utf-8").rstrip() == self._text(name).rstrip()

    def _text(self, name: str) -> str:
        return f"include {self._prepared}/{name}.conf;\n"
