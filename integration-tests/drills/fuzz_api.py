"""Walk along the links of both APIs' OpenAPI documents, with right and wrong requests, and check every answer.

    make drills DRILL=fuzz_api [ARGS="--cases 10000 --seed 1"]

The embedded stack runs behind a real NGINX. Schemathesis makes the walks: what one answer gives (an account, a
transaction, a hold) the next request uses. No answer may be a 5xx or other than documented, every error is a problem,
and afterwards the ledger's invariants hold and the history is the ledger's. Prints cases and answers; exits 1 on a finding, or
when fewer cases were sent than asked for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "integration-tests"), str(_ROOT / "integration-tests" / "embedded")]

# pylint: disable=wrong-import-position  # the path comes first
from stack import EmbeddedBank  # noqa: E402

from scripts.embedded import ACCOUNT, SERVICES, EmbeddedStack, Setting  # noqa: E402
from scripts.ports import free_port  # noqa: E402
from shared.contract import Walked, walk_along_its_links  # noqa: E402

WALKS, LENGTH = 20, 10


def fuzz(bank: EmbeddedBank, service: str, cases: int, seed: int) -> tuple[Walked, str]:
    """Walk until there were cases enough; return how far that went, and what was found."""
    url = f"{bank.api_url}/docs/{service}/openapi.json"
    walked, number, began = Walked(), seed, time.monotonic()
    while walked.cases < cases:
        try:
            part = walk_along_its_links(url, bank.lab, WALKS, LENGTH, number)
        except BaseException:  # pylint: disable=broad-exception-caught  # whatever it is, it is what was looked for
            return walked, f"{traceback.format_exc()}\nFOUND with {service}; again: --cases 1 --seed {number}"
        number += 1
        walked.cases += part.cases
        walked.linked += part.linked
        walked.answers += part.answers
        print(f"  {service}: {walked.cases} cases, {time.monotonic() - began:.0f} s", flush=True)
    return walked, ""


def fuzz_apart(bank: EmbeddedBank, cases: int, seed: int) -> list[tuple[str, str, bool]]:
    """Fuzz both services at the same time, each in a process of its own; return name, report and whether it is well."""
    program = [sys.executable, __file__, "--at", str(bank.stack.var_dir), bank.api_url]
    running = {
        service: subprocess.Popen(
            [*program, service, "--cases", str(cases), "--seed", str(seed)], stdout=subprocess.PIPE, text=True
        )
        for service in SERVICES
    }
    return [(name, process.communicate()[0], process.returncode == 0) for name, process in running.items()]
