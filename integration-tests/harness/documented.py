"""Runs the shell blocks of the documentation as a reader would: in order, in one shell, on a running stack."""

import difflib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.testing.documents import Example, blocks, examples
from shared.testing.paths import ROOT
from shared.testing.ports import free_port

# Addresses of the bank and of a replica of account-service in the documents.
DEFAULT_URL = "http://127.0.0.1:8080"
_REPLICA_URL = "http://127.0.0.1:8101"

# Values that differ in each run, and their placeholders.
_DIFFERS = {
    re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"): "ID",
    re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"): "TIME",
    re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"): "TOKEN",
    re.compile(r'(?<="account_number": ")\d+|(?<="account_number":")\d+'): "NUMBER",
    re.compile(r'(?<="request_id": ")[0-9a-f]{32}|(?<="request_id":")[0-9a-f]{32}'): "REQUEST",
}


@dataclass(frozen=True, slots=True)
class ExampleRun:
    """An example and its output."""

    example: Example
    output: str


def start_command(text: str) -> str:
    """Return the command of a document that starts the local stack. Raises StopIteration if there is none."""
    return next(block.text for block in blocks(text) if (block.marker, block.value) == ("starts", "embedded"))


def on_ports_of_its_own(var: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a local stack that runs alongside others, and of its clients."""
    port = str(free_port())
    return {
        **environment,
        "PORT": port,
        "ACCOUNT_PORT": str(free_port()),
        "TRANSACTION_PORT": str(free_port()),
        "BASE_URL": DEFAULT_URL.replace("8080", port),
        "VAR_DIR": str(var),
    }


@contextmanager
def started(command: str, folder: Path, environment: Mapping[str, str], log: Path, seconds: float) -> Iterator[None]:
    """Run a foreground command while the block runs, and stop it like Ctrl-C.

    The block begins when the command reports that it is ready; fails with the end of its output if it ends before.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # pylint: disable=consider-using-with  # waited for below
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + seconds
    try:
        while "Ctrl-C" not in log.read_text(encoding="utf-8"):
            in_time = process.poll() is None and time.monotonic() < deadline
            assert in_time, f"{command}: {log.read_text(encoding='utf-8')[-3000:]}"
            time.sleep(0.1)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(120)


def run(document: str, stack: str, environment: Mapping[str, str], seconds: int) -> list[ExampleRun]:
    """Run the blocks of a document that are marked for a stack; fail at the first error."""
    wanted = examples((ROOT / document).read_text(encoding="utf-8"), stack)
    return run_examples(document, wanted, environment, seconds)


def run_examples(
    document: str, wanted: list[Example], environment: Mapping[str, str], seconds: int, folder: Path = ROOT
) -> list[ExampleRun]:
    """Run examples one after the other in one shell, so that later ones use the variables of earlier ones.

    The environment's BASE_URL and ACCOUNT_PORT replace the default addresses in the document.
    """
    script = ["set -euo pipefail"]
    for number, example in enumerate(wanted):
        script += [f"printf '\\n@@ {number}\\n'", _addressed(example.block.text, environment)]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    outputs = re.split(r"\n@@ \d+\n", f"\n{done.stdout.lstrip()}")[1:]
    place = f"{document}:{wanted[len(outputs) - 1].block.line}" if outputs else document
    assert done.returncode == 0, f"{place} ended with {done.returncode}:\n{outputs[-1:]}\n{done.stderr[-3000:]}"
    return [ExampleRun(example, output) for example, output in zip(wanted, outputs, strict=True)]


def differences(document: str, ran: list[ExampleRun]) -> list[str]:
    """Return the differences between documented and actual output."""
    found = []
    for block in ran:
        if block.example.output is not None and (wrong := difference(block.example.output.text, block.output)):
            found.append(f"{document}:{block.example.output.line}\n{wrong}")
    return found


def difference(shown: str, printed: str) -> str:
    """Return how an output differs from the documented one; empty if it does not.

    JSON is compared by its values. Otherwise the output must contain each documented line in this order: `…` matches
    anything within a line, and a line `…` any number of lines.
    """
    shown, printed = _constant(shown), _constant(printed)
    try:
        expected, found = (json.dumps(json.loads(text), indent=1, ensure_ascii=False) for text in (shown, printed))
    except ValueError:
        expected, found = shown.strip(), printed.strip()
        pieces = [r"\s+".join(map(re.escape, piece.split())) for piece in expected.split("…")]
        if re.fullmatch(r"\s*.*?\s*".join(pieces), found, flags=re.DOTALL):
            return ""
    return "\n".join(difflib.unified_diff(expected.splitlines(), found.splitlines(), "shown", "printed", lineterm=""))


def _addressed(text: str, environment: Mapping[str, str]) -> str:
    replica = _REPLICA_URL.replace("8101", environment.get("ACCOUNT_PORT", "8101"))
    return text.replace(DEFAULT_URL, environment.get("BASE_URL", DEFAULT_URL)).replace(_REPLICA_URL, replica)


def _constant(text: str) -> str:
    for pattern, name in _DIFFERS.items():
        text = pattern.sub(name, text)
    return text
