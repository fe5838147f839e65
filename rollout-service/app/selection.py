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
        text = f"include {self._prepared}/{name}.conf;\n"
        file, half = self._selected / "nginx.conf", self._selected / "nginx.conf.half"
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            return
        half.unlink(missing_ok=True)
        with half.open("x", encoding="utf-8") as written:
            written.write(text)
            os.fchmod(written.fileno(), 0o644)
            written.flush()
            os.fsync(written.fileno())
        half.replace(file)
