"""The files of a commit, byte by byte.

    python3 -m scripts.release.commit_tree export COMMIT FOLDER     writes them to a new folder
    python3 -m scripts.release.commit_tree compare COMMIT PATH …    print how the working tree differs there; exit 1

Contents come from git's objects and are checked against their ids. `git archive` and `git status` would go by
attributes (export-ignore, export-subst), filters, line endings, ignored and hidden files and replaced objects, some of
which are settings of this machine and in no commit. Links and submodules are refused. Needs nothing but Python and git.
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
# Python writes it wherever it runs; nothing takes it along.
_CACHE = "__pycache__"


class Refused(Exception):
    """What is wrong, in words for whoever makes or deploys a release."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a commit: its path, permissions and the id of its content."""

    path: str
    mode: int
    blob: str


def _git(root: Path, *arguments: str, given: bytes = b"") -> bytes:
    environment = {**os.environ, "GIT_NO_REPLACE_OBJECTS": "1"}
    try:
        done = subprocess.run(  # nosec B607
            ["git", *arguments], cwd=root, env=environment, input=given, capture_output=True, check=True
        )
    except OSError as error:
        raise Refused(f"git cannot be run: {error}") from error
    except subprocess.CalledProcessError as error:
        raise Refused((error.stderr.decode(errors="replace").strip() or "git failed").splitlines()[-1]) from error
    return done.stdout


def entries(root: Path, commit: str, paths: Sequence[str] = ()) -> list[Entry]:
    """Return the files of a commit at or below some paths, all without any. Raises Refused."""
    found = []
    for line in _git(root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", *paths).split(b"\0")[:-1]:
        facts, _, path = line.decode().partition("\t")
        mode, _, blob = facts.split(" ")
        if mode not in _FILES:
            raise Refused(f"{path} is a link or a submodule; what it leads to is not in the commit")
        found.append(Entry(path, _FILES[mode], blob))
    return found


def contents(root: Path, files: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """Return each file with its content, which has the id that the commit says. Raises Refused."""
    answer = _git(root, "cat-file", "--batch", given="".join(f"{entry.blob}\n" for entry in files).encode())
    position = 0
    for entry in files:
        end = answer.index(b"\n", position)
        words = answer[position:end].split(b" ")
        if len(words) != 3:
            raise Refused(f"{entry.path}: the object is not here; fetch the commit whole")
        position = end + 1 + int(words[2])
        content = answer[end + 1 : position]
        if object_id(content, entry.blob) != entry.blob:
            raise Refused(f"{entry.path}: the object is damaged")
        yield entry, content
        position += 1


def object_id(content: bytes, like: str) -> str:
    """Return git's id of a content, in the kind of hash that another id has."""
    kind = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def export(root: Path, commit: str, folder: Path) -> int:
    """Write the files of a commit to a new folder; return how many there are. Raises Refused, OSError."""
    # Folders are in an image as they are here.
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
    """Return how the working tree differs from a commit at or below some paths. Raises Refused."""
    known = {entry.path: entry for entry in entries(root, commit, paths)}
    present = {file for path in paths for file in _present(root, path)}
    changed = [f"changed: {path}" for path in sorted(known.keys() & present) if not _same(root / path, known[path])]
    missing = [f"missing: {path}" for path in sorted(known.keys() - present)]
    return [*changed, *missing, *(f"not in the commit: {path}" for path in sorted(present - known.keys()))]


def _present(root: Path, path: str) -> Iterator[str]:
    """Return what is at or below a path, links as what they are."""
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


def _same(file: Path, entry: Entry) -> bool:
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode) or bool(mode & 0o100) != bool(entry.mode & 0o100):
        return False
    return object_id(file.read_bytes(), entry.blob) == entry.blob


def main(arguments: Sequence[str]) -> int:
    """Export or compare as the arguments say."""
    try:
        match arguments:
            case ["export", commit, folder]:
                print(f"commit {commit}: {export(ROOT, commit, Path(folder))} files")
                return 0
            case ["compare", commit, *paths] if paths:
                found = differences(ROOT, commit, paths)
            case _:
                print("usage: commit_tree export COMMIT FOLDER | compare COMMIT PATH …", file=sys.stderr)
                return 2
    except (Refused, OSError) as error:
        print(f"commit {arguments[1]}: {error}", file=sys.stderr)
        return 1
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
