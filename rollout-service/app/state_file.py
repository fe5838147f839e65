"""The state file on the host: written atomically, by one process at a time."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.state_machine import Transition, Rollout, from_json, to_dict


class InvalidStateFile(ValueError):
    """The file does not hold a valid state; it is left unchanged for an operator to inspect."""


class StateFile:
    """`rollout.json` in a folder. Methods raise OSError and InvalidStateFile."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "rollout.json"
        self._lock = folder / "rollout.lock"

    def load(self) -> Rollout:
        """Return the state; idle when the file does not exist."""
        try:
            return from_json(self._file.read_bytes())
        except FileNotFoundError:
            return Rollout()
        except ValueError as error:
            raise InvalidStateFile(
                f"{self._file} is not a valid rollout state: {' '.join(str(error).split())}"
            ) from error

    def change(self, transition: Transition) -> Rollout:
        """Apply a transition to the current state, and return the new state. Raises what the transition raises."""
        with self._locked():
            before = self.load()
            after = transition(before)
            if after != before:
                self._write(after)
        return after

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The kernel releases the lock when its holder exits, however it ends.
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, state: Rollout) -> None:
        temporary = self._file.with_suffix(".half")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(to_dict(state), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(self._file)
        # Otherwise the previous state may reappear after a power failure.
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
