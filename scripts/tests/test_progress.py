"""Progress output of shell and Python commands: on a terminal, in a file, and with NO_COLOR."""

import os
import pty
import re
import subprocess
import sys
import tempfile

import pytest

from shared.testing.paths import ROOT

SHELL = """
set -euo pipefail
. scripts/lib/progress.sh
# On a terminal the spinner pauses for a moment only, and writes a line before each pause.
sleep() {
    if [ -n "${PAUSES-}" ]; then
        echo >>"$PAUSES"
        command sleep 0.1
    else
        command sleep "$1"
    fi
}
until_it_is_drawn() {
    until [ -z "${PAUSES-}" ] || [ "$(wc -l <"$PAUSES")" -gt 1 ]; do command sleep 0.05; done
}
steps=12
step "one thing"
info "more about it"
with_spinner "still at it" until_it_is_drawn || exit 9
! with_spinner "a failure" false || exit 8
finished some-command "2 of 2"
failed some-command "1 of 2"
"""
PYTHON = """
from shared.testing.paths import ROOT
from shared.testing.progress import Progress
progress = Progress("some-command", 12)
progress.step("one thing")
progress.info("more about it")
progress.finished("2 of 2")
progress.finished("1 of 2", good=False)
"""
COMMANDS = {"shell": ["bash", "-c", SHELL], "Python": [sys.executable, "-c", PYTHON]}
HEADS = (
    r"\[ 1/12\][\d ]{5} s  one thing",
    r" {7}[\d ]{5} s  more about it",
    r"✓ some-command: 2 of 2, after \d+ s",
    r"✗ some-command: 1 of 2, after \d+ s",
)


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | more


def on_a_terminal(command: list[str], **more: str) -> str:
    outer, inner = pty.openpty()
    with tempfile.NamedTemporaryFile() as pauses:
        env = environment(PAUSES=pauses.name, **more)
        subprocess.run(command, cwd=ROOT, env=env, stdout=inner, stderr=inner, check=True)
    os.close(inner)
    text = b""
    while True:
        try:
            text += os.read(outer, 65536)
        except OSError:
            # The other end was closed.
            os.close(outer)
            return text.decode()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_into_a_file_there_are_plain_lines_and_no_colours(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == len(HEADS) and all(map(re.fullmatch, HEADS, lines)), lines
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_terminal_gets_colours_unless_there_shall_be_none(command: list[str]) -> None:
    text = on_a_terminal(command)
    assert "\x1b[1mone thing\x1b[0m" in text and "\x1b[32m✓" in text and "\x1b[31m✗" in text
    assert "\x1b[1m" not in on_a_terminal(command, NO_COLOR="1") and "\x1b[32m" not in on_a_terminal(
        command, NO_COLOR="1"
    )


def test_what_takes_long_is_counted_on_a_terminal_and_leaves_nothing_behind() -> None:
    text = on_a_terminal(COMMANDS["shell"], NO_COLOR="1")
    assert "still at it …" in text
    assert text[: text.index("✓")].endswith("\r\x1b[K")
