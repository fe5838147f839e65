"""Which of the prepared configurations NGINX serves by: a file of one line, read at its start and on SIGHUP."""

import os
import re
from pathlib import Path

# `prepared` is read-only here and `selected` writable; NGINX has both at the same place, read-only.
FOLDER = Path("/etc/nginx/bank")
NAME = "stable|previous|canary-[1-9][0-9]?"


class NotPrepared(Exception):
    """There is no prepared configuration of that name."""


class Selection:
    """The folder of NGINX's configurations."""

    def __init__(self, folder: Path) -> None:
        self._prepared = folder / "prepared"
        self._selected = folder / "selected"

    def select(self, name: str) -> None:
        """Have NGINX serve by a prepared configuration from its next reload on. Raises NotPrepared, OSError."""
        if not re.fullmatch(NAME, name) or not (self._prepared / f"{name}.conf").is_file():
            raise NotPrepared(f"{name[:20]!r} is not a prepared configuration")
        if self.is_selected(name):
            return
        half = self._selected / "nginx.conf.half"
        half.unlink(missing_ok=True)
        with half.open("x", encoding="utf-8") as written:
            written.write(self._text(name))
            os.fchmod(written.fileno(), 0o644)
            written.flush()
            os.fsync(written.fileno())
        half.replace(self._selected / "nginx.conf")

    def is_selected(self, name: str) -> bool:
        """Tell whether this is the configuration that NGINX serves by, or will after its next reload."""
        file = self._selected / "nginx.conf"
        return file.is_file() and file.read_text(encoding="utf-8") == self._text(name)

    def _text(self, name: str) -> str:
        return f"include {self._prepared}/{name}.conf;\n"
