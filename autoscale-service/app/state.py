"""What has to outlive the process or be one for two processes: who leads, and whether an operator has paused.

A folder on a volume. The lock is the kernel's (flock): it is free as soon as its holder is gone, whatever ended it.
"""

import fcntl
import os
from pathlib import Path


class StateFolder:
    """The folder with both files. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paused = folder / "paused"
        self._lock = os.open(folder / "leader.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def lead(self) -> bool:
        """Tell whether this process leads; it becomes the leader when nobody else is."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let another process lead."""
        os.close(self._lock)

    @property
    def paused(self) -> str | None:
        """Who has paused scaling; None while nobody has."""
        try:
            return self._paused.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def pause(self, who: str) -> None:
        """Pause until somebody resumes."""
        half = self._paused.with_name("paused.half")
        half.write_text(who, encoding="utf-8")
        half.replace(self._paused)

    def resume(self) -> None:
        """End the pause."""
        self._paused.unlink(missing_ok=True)
