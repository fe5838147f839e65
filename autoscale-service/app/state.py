"""State that outlives the process or is shared by several: the leader lock and the pause marker.

A directory on a volume. The lock is an flock: the kernel releases it when its holder exits, however it ends.
"""

import fcntl
import os
from pathlib import Path


class StateFolder:
    """The directory with both files. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paused = folder / "paused"
        self._lock = os.open(folder / "leader.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_acquire_leadership(self) -> bool:
        """Return whether this process is the leader; acquire the lock if it is free."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release the leadership."""
        os.close(self._lock)

    @property
    def paused(self) -> str | None:
        """Who has paused scaling; None if it is not paused."""
        try:
            return self._paused.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def pause(self, operator: str) -> None:
        """Pause scaling until it is resumed."""
        temporary = self._paused.with_name("paused.tmp")
        temporary.write_text(operator, encoding="utf-8")
        temporary.replace(self._paused)

    def resume(self) -> None:
        """Resume scaling."""
        self._paused.unlink(missing_ok=True)
