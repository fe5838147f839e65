"""Export the exact files of a commit, or compare the working tree with them.

    python3 -m scripts.release.commit_tree export COMMIT FOLDER     writes the files to a new folder
    python3 -m scripts.release.commit_tree compare COMMIT PATH …    prints differences of the working tree; exits 1 then

Contents are read from git's objects and verified against their ids. `git archive` and `git status` depend on attributes
(export-ignore, export-subst), filters, line endings, ignored files and replaced objects, some of which are local
settings. Links and submodules are rejected. Requires only Python and git.
"""

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.testing.paths import ROOT

_FILES = {"100644": 0o644, "100755": 0o755}
# Created by Python when it runs, and part of no image.
_CACHE = "__pycache__"


class TreeError(Exception):
    """The commit cannot be read or contains unsupported files; the message is for operators."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file of a commit: its path, permissions and the id of its content."""

    path: str
    mode: int
    blob: str


def _git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    environment = {**os.environ, "GIT_NO_REPLACE_OBJECTS": "1"}
    try:
        done = subprocess.run(  # nosec B607
            ["git", *arguments], cwd=root, env=environment, input=stdin, capture_output=True, check=True
        )
    except OSError as error:
        raise TreeError(f"git cannot be run: {error}") from error
    except subprocess.CalledProcessError as error:
        raise TreeError((error.stderr.decode(errors="replace").strip() or "git failed").splitlines()[-1]) from error
    return done.stdout


def entries(root: Path, commit: str, paths: Sequence[str] = ()) -> list[TreeEntry]:
    """Return the files of a commit at or below the paths (default: all). Raises TreeError."""
    tree = []
    for line in _git(root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", *paths).split(b"\0")[:-1]:
        metadata, _, path = line.decode().partition("\t")
        mode, _, blob = metadata.split(" ")
        if mode not in _FILES:
            raise TreeError(f"{path} is a link or a submodule: its target is not part of the commit")
        tree.append(TreeEntry(path, _FILES[mode], blob))
    return tree


def contents(root: Path, files: Sequence[TreeEntry]) -> Iterator[tuple[TreeEntry, bytes]]:
    """Yield each file with its content, verified against its id in the commit. Raises TreeError."""
    output = _git(root, "cat-file", "--batch", stdin="".join(f"{entry.blob}\n" for entry in files).encode())
    position = 0
    for entry in files:
        end = output.index(b"\n", position)
        words = output[position:end].split(b" ")
        if len(words) != 3:
            raise TreeError(f"{entry.path}: object not found; fetch the complete commit")
        position = end + 1 + int(words[2])
        content = output[end + 1 : position]
        if object_id(content, entry.blob) != entry.blob:
            raise TreeError(f"{entry.path}: object is corrupt")
        yield entry, content
        position += 1


def object_id(content: bytes, like: str) -> str:
    """Return git's id of a blob, with the hash function of another id."""
    function = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return function(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def export(root: Path, commit: str, folder: Path) -> int:
    """Write the files of a commit to a new folder; return their number. Raises TreeError, OSError."""
    # Images copy the permissions of the folders.
    os.umask(0o022)
    folder.mkdir(parents=True)
    files = entries(root, commit)
    for entry, content in contents(root, files):
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(entry.mode)
    return len(files)


def differences(root: Path, commit: str, paths: Sequence[str]) -> list[str]:
    """Return the differences between the working tree and a commit at or below the paths. Raises TreeError."""
    committed = {entry.path: entry for entry in entries(root, commit, paths)}
    present = {file for path in paths for file in _present(root, path)}
    changed = [
        f"changed: {path}" for path in sorted(committed.keys() & present) if not _same(root / path, committed[path])
    ]
    missing = [f"missing: {path}" for path in sorted(committed.keys() - present)]
    return [*changed, *missing, *(f"not in the commit: {path}" for path in sorted(present - committed.keys()))]


def _present(root: Path, path: str) -> Iterator[str]:
    """Yield the files at or below a path without following links."""
    top = root / path
    if top.is_symlink() or not top.is_dir():
        if os.path.lexists(top):
            yield path
        return
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name != _CACHE]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in [*files, *links]:
            yield Path(folder, name).relative_to(root).as_posix()


def _same(file: Path, entry: TreeEntry) -> bool:
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode) or bool(mode & 0o100) != bool(entry.mode & 0o100):
        return False
    return object_id(file.read_bytes(), entry.blob) == entry.blob


def main(arguments: Sequence[str]) -> int:
    """Export or compare a commit."""
    try:
        match arguments:
            case ["export", commit, folder]:
                print(f"commit {commit}: {export(ROOT, commit, Path(folder))} files")
                return 0
            case ["compare", commit, *paths] if paths:
                changes = differences(ROOT, commit, paths)
            case _:
                print("usage: commit_tree export COMMIT FOLDER | compare COMMIT PATH …", file=sys.stderr)
                return 2
    except (TreeError, OSError) as error:
        print(f"commit {arguments[1]}: {error}", file=sys.stderr)
        return 1
    for line in changes:
        print(line)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
