"""The state file on the host: read by anybody, changed by one process at a time, whole or not at all."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.state_machine import Change, Rollout, from_json, to_dict


class Unreadable(ValueError):
    """The file is no state; nothing is changed until somebody has looked at it."""


class StateFile:
    """`rollout.json` in a folder. Methods raise OSError, and Unreadable for a file that is no state."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "rollout.json"
        self._lock = folder / "rollout.lock"

    def load(self) -> Rollout:
        """Return the state; idle where none was ever written."""
        try:
            return from_json(self._file.read_bytes())
        except FileNotFoundError:
            return Rollout()
        except ValueError as error:
            raise Unreadable(f"{self._file} is no state of a rollout: {' '.join(str(error).split())}") from error

    def change(self, change: Change) -> Rollout:
        """Apply a change to the state as it is now, and return the state after it. Raises what the change raises."""
        with self._locked():
            before = self.load()
            after = change(before)
            if after != before:
                self._write(after)
        return after

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The kernel lets go of it when its holder is gone, whatever ended it.
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, state: Rollout) -> None:
        half = self._file.with_suffix(".half")
        with half.open("w", encoding="utf-8") as file:
            json.dump(to_dict(state), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        half.chmod(0o644)
        half.replace(self._file)
        # Without this a power failure may bring the state before back.
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
