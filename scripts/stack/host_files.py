"""Read and write files of the host that containers mount, without following links that a container may have created.

    python3 host_files.py FILE

prints a file that a container writes. Requires only Python: Ansible runs it on hosts.
"""

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# User of rollout-service's image, the only container that writes to a folder of the host.
CONTAINER_USER = 10001
_MAX_BYTES = 1024 * 1024
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a named pipe would block.
_READ = os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW


class UnsafeFile(ValueError):
    """A path is not a regular file of the expected kind."""


@contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW)
    try:
        yield folder
    finally:
        os.close(folder)


def _check_regular(file: int, name: Path) -> None:
    """Raise UnsafeFile unless a descriptor is a regular file without further hard links."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > _MAX_BYTES:
        raise UnsafeFile(f"{name} is not a regular file of at most {_MAX_BYTES} bytes")


def read(path: Path) -> str:
    """Return the text of a file in a folder that a container writes to. Raises UnsafeFile, FileNotFoundError."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnsafeFile(f"{path} is not a regular file: {error.strerror}") from error
    try:
        _check_regular(descriptor, path)
        content = b""
        while part := os.read(descriptor, _MAX_BYTES + 1 - len(content)):
            content += part
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnsafeFile(f"{path} is not text") from error
    finally:
        os.close(descriptor)


def write(path: Path, text: str, *, keep_inode: bool = False) -> bool:
    """Write a file that containers can read atomically; return whether it changed.

    With keep_inode an existing file is overwritten in place, so that containers that mount the file see the new text.
    """
    try:
        if read(path) == text:
            return False
        if keep_inode:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK | _NO_FOLLOW), "w", encoding="utf-8") as file:
                _check_regular(file.fileno(), path)
                file.truncate()
                file.write(text)
            return True
    except (FileNotFoundError, UnsafeFile):
        # A new file replaces it.
        pass
    temporary = f".{path.name}.tmp"
    with _open_folder(path.parent) as folder:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        created = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600, dir_fd=folder)
        with os.fdopen(created, "w", encoding="utf-8") as file:
            file.write(text)
            # Readable for the users of all containers; the parent folder is not accessible to other users of the host.
            os.fchmod(file.fileno(), 0o644)
        os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def make_private_folder(path: Path, mode: int) -> None:
    """Create a folder that no container writes to; an existing one that a container could write to is replaced."""
    try:
        with _open_folder(path) as folder:
            status = os.fstat(folder)
            if status.st_uid != CONTAINER_USER and not status.st_mode & 0o022 & ~mode:
                os.fchmod(folder, mode)
                return
    except (FileNotFoundError, NotADirectoryError):
        # Also raised for a link.
        pass
    _remove(path)
    path.mkdir(mode=0o700)
    path.chmod(mode)


def _remove(path: Path) -> None:
    """Remove a path if it exists; rename it first, so that a container that mounts it cannot interfere."""
    renamed = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(renamed)
        if renamed.is_symlink() or not renamed.is_dir():
            renamed.unlink()
        else:
            shutil.rmtree(renamed, ignore_errors=True)


def make_container_folder(path: Path) -> None:
    """Create a folder that rollout-service's container writes to; its content is untrusted."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _open_folder(path) as folder:
        if os.geteuid() == 0:
            os.fchown(folder, CONTAINER_USER, CONTAINER_USER)
            os.fchmod(folder, 0o755)  # nosec B103
        else:
            # Only root can change the owner; the parent folder is not accessible to other users of the host.
            os.fchmod(folder, 0o777)  # nosec B103


def main() -> int:
    """Print the file named on the command line; exit with 4 if it does not exist."""
    if len(sys.argv) != 2:
        print("usage: python3 host_files.py FILE", file=sys.stderr)
        return 2
    try:
        sys.stdout.write(read(Path(sys.argv[1])))
    except FileNotFoundError:
        return 4
    except UnsafeFile as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
