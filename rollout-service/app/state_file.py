"""The rollout state: in memory for all processes of the container, and stored on the host.

A change is visible to the control loop before anything is written to a disk, so that a full, read-only or hanging disk
does not delay a rollback. The copy in memory is lost when the container stops; `store` writes it to the host.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.state_machine import Transition, Rollout, from_json, to_dict

# Freed for the state when the disk is full.
_RESERVE_BYTES = 512 * 1024


class InvalidStateFile(ValueError):
    """The file does not hold a valid state; it is left unchanged for an operator to inspect."""


class StateFile:
    """`rollout.json` in a folder of the host, and the current state in a folder in memory.

    Methods raise OSError and InvalidStateFile.
    """

    def __init__(self, folder: Path, memory: Path) -> None:
        self._file = folder / "rollout.json"
        self._reserve = folder / "rollout.reserve"
        self._memory = memory / "rollout.json"
        memory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> Rollout:
        """Return the state; idle when none is stored."""
        for file in (self._memory, self._file):
            try:
                return from_json(file.read_bytes())
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise InvalidStateFile(
                    f"{file} is not a valid rollout state: {' '.join(str(error).split())}"
                ) from error
        return Rollout()

    def change(self, transition: Transition) -> Rollout:
        """Apply a transition to the current state in memory, and return the new state. Raises what it raises."""
        with _locked(self._memory.with_suffix(".lock")):
            before = self.load()
            after = transition(before)
            if after != before or not self._memory.exists():
                _write(self._memory, _text(after))
        return after

    def store(self, *, always: bool = False) -> None:
        """Write the state to the host, if it is not stored yet or `always`, and reserve space for the next one."""
        # One process at a time, and not under the lock of `change`: a disk may hang.
        with _locked(self._memory.with_suffix(".storing")):
            text = _text(self.load())
            if always or not self.is_stored():
                try:
                    _write(self._file, text)
                except OSError:
                    self._reserve.unlink(missing_ok=True)
                    _write(self._file, text)
            self._reserve_space()

    def is_stored(self) -> bool:
        """Return whether the host has the current state."""
        try:
            return self._file.read_text(encoding="utf-8") == _text(self.load())
        except (OSError, ValueError):
            return False

    def _reserve_space(self) -> None:
        # On a full disk there is nothing to reserve.
        with suppress(OSError):
            if not self._reserve.exists():
                with self._reserve.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The kernel releases the lock when its holder exits, however it ends.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _text(state: Rollout) -> str:
    return json.dumps(to_dict(state), indent=2)


def _write(path: Path, text: str) -> None:
    """Replace a file atomically."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError:
        # Otherwise it would take the space that the next attempt needs.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    # Otherwise the previous state may reappear after a power failure.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
