"""No command in a pipe stops reading early: under pipefail, the SIGPIPE of the command before it fails the script."""

import re
import subprocess
from pathlib import Path

import pytest

from shared.testing.paths import ROOT

_EARLY = {
    # Except those that limit the size of untrusted output: more of it is an error.
    "head": re.compile(r"head\b(?! *(-n *|--lines[= ])[\"']?-| --bytes)"),
    "grep -q, -m": re.compile(r"[efz]?grep\b(?=[^|;&]*\s(-[a-zA-Z]*[qm]|--quiet|--silent|--max-count))"),
    "awk with exit": re.compile(r"[gm]?awk\b(?=[^|]*\bexit\b)"),
    "sed with q": re.compile(r"sed\b(?=[^|]*[\s'\"0-9;{/]q(?=[\s'\";}]|$))"),
    "read": re.compile(r"read\b"),
}
# A pipe with a command behind it, over line breaks; `||` is none.
_PIPE = re.compile(r"(?<!\|)\|(?![|&])\s*(?:\\?\n\s*)?")
_FILES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.sh", ".ci/run", "Makefile", ".github/*.yml", "*/tasks/*.yml", "docker-compose.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
)


def early_readers(text: str) -> list[str]:
    """Return the commands behind a pipe that may stop before they have read everything."""
    found = []
    for pipe in _PIPE.finditer(re.sub(r"(?m)^\s*#.*$", "", text)):
        rest = re.sub(r"(?m)^\s*#.*$", "", text)[pipe.end() :].split("\n", 1)[0]
        found += [rest for pattern in _EARLY.values() if pattern.match(rest)]
    return found


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pipes_are_read_to_the_end(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    without = path.suffix == ".sh" and "pipefail" not in text and "# shellcheck shell" not in text
    assert without or early_readers(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "docker ps | head -n 1",
        "docker ps |\n    head -1",
        "docker ps | grep -q x",
        "docker ps | grep --invert-match -qF x",
        "docker ps | grep -m 1 x",
        "docker ps | awk '{ print; exit }'",
        "docker ps | sed -n '/x/{p;q}'",
        "docker ps | sed 5q",
        "docker ps | read -r first",
    ],
)
def test_an_early_end_is_found(text: str) -> None:
    assert early_readers(text)


@pytest.mark.parametrize(
    "text",
    [
        "ls | head -n -2",
        "ls || head -n 1 x",
        "ls | grep x",
        "ls | awk '!n++'",
        "ls | sed 's/q/x/'",
        "# ls | head",
        "head x",
    ],
)
def test_a_pipe_that_is_read_to_the_end_is_accepted(text: str) -> None:
    assert not early_readers(text)


def test_a_command_that_prints_more_than_a_pipe_holds(tmp_path: Path) -> None:
    """pin-images.sh reads all of what the registry prints about an image of many platforms."""
    (tmp_path / "scripts/images").mkdir(parents=True)
    (tmp_path / "scripts/images/pin-images.sh").write_bytes((ROOT / "scripts/images/pin-images.sh").read_bytes())
    (tmp_path / ".env").write_text("NGINX_IMAGE=nginx:1\n", encoding="utf-8")
    docker = tmp_path / "docker"
    lines = "seq 200000 | sed 's/^/Name: /'"
    docker.write_text(f"#!/bin/sh\necho 'Digest: sha256:{'a' * 64}'\n{lines} || exit 1\n", encoding="utf-8")
    docker.chmod(0o755)
    command = ["bash", str(tmp_path / "scripts/images/pin-images.sh")]
    done = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".env").read_text(encoding="utf-8") == f"NGINX_IMAGE=nginx:1@sha256:{'a' * 64}\n"
