"""Files of the host that containers mount: what a container may have planted there is neither followed nor believed.

    python3 host_files.py FILE

prints a file that a container writes. Needs nothing but Python: Ansible runs it on hosts.
"""

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Of the image of rollout-service, the one container that writes to a folder of the host.
CONTAINER_USER = 10001
_MOST_BYTES = 1024 * 1024
_HERE = os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe would wait for its other end.
_READ = os.O_RDONLY | os.O_NONBLOCK | _HERE


class Suspicious(ValueError):
    """Something is not the plain file or folder that it should be."""


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _HERE)
    try:
        yield folder
    finally:
        os.close(folder)


def _plain(file: int, name: Path) -> None:
    """Raise Suspicious unless a descriptor is a regular file that has one name only."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > _MOST_BYTES:
        raise Suspicious(f"{name} is not a plain file of at most {_MOST_BYTES} bytes")


def read(path: Path) -> str:
    """Return the text of a file that a container may write. Raises Suspicious, FileNotFoundError."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Suspicious(f"{path} is not a plain file: {error.strerror}") from error
    try:
        _plain(descriptor, path)
        content = b""
        while part := os.read(descriptor, _MOST_BYTES + 1 - len(content)):
            content += part
        return content.decode()
    except UnicodeDecodeError as error:
        raise Suspicious(f"{path} is not text") from error
    finally:
        os.close(descriptor)


def write(path: Path, text: str, *, keep_inode: bool = False) -> bool:
    """Write a file that containers can read, whole or not at all; tell whether anything changed.

    With keep_inode a file that exists stays the same one: containers that have it mounted by itself see the new text.
    """
    try:
        if read(path) == text:
            return False
        if keep_inode:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK | _HERE), "w", encoding="utf-8") as file:
                _plain(file.fileno(), path)
                file.truncate()
                file.write(text)
            return True
    except (FileNotFoundError, Suspicious):
        # A new file takes its place.
        pass
    half = f".{path.name}.half"
    with _opened(path.parent) as folder:
        with suppress(FileNotFoundError):
            os.unlink(half, dir_fd=folder)
        created = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _HERE, 0o600, dir_fd=folder)
        with os.fdopen(created, "w", encoding="utf-8") as file:
            file.write(text)
            # Docker mounts it as it is here, and each container has a user of its own. The folder above is closed to
            # others.
            os.fchmod(file.fileno(), 0o644)
        os.rename(half, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def own_folder(path: Path, mode: int) -> None:
    """Make a folder in one of ours that no container writes to. One that a container could write to is replaced."""
    try:
        with _opened(path) as folder:
            found = os.fstat(folder)
            if found.st_uid != CONTAINER_USER and not found.st_mode & 0o022 & ~mode:
                os.fchmod(folder, mode)
                return
    except (FileNotFoundError, NotADirectoryError):
        # A link is no folder, either.
        pass
    _remove(path)
    path.mkdir(mode=0o700)
    path.chmod(mode)


def _remove(path: Path) -> None:
    """Remove what is at a path, if anything; renamed first, so that no container that has it mounted can interfere."""
    gone = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(gone)
        if gone.is_symlink() or not gone.is_dir():
            gone.unlink()
        else:
            shutil.rmtree(gone, ignore_errors=True)


def give_folder(path: Path) -> None:
    """Make a folder that one container writes to, and that is nobody else's to write to or to believe."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _opened(path) as folder:
        if os.geteuid() == 0:
            os.fchown(folder, CONTAINER_USER, CONTAINER_USER)
            os.fchmod(folder, 0o755)  # nosec B103
        else:
            # Who may not give away opens; the folder above is closed to others.
            os.fchmod(folder, 0o777)  # nosec B103


def main() -> int:
    """Print the file that the arguments name; end with 4 where there is none."""
    if len(sys.argv) != 2:
        print("usage: python3 host_files.py FILE", file=sys.stderr)
        return 2
    try:
        sys.stdout.write(read(Path(sys.argv[1])))
    except FileNotFoundError:
        return 4
    except Suspicious as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
