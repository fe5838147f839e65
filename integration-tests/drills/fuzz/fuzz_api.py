"""Walk along the links of both APIs' OpenAPI documents, with right and wrong requests, and check every answer.

    make drills DRILL=fuzz_api [ARGS="--cases 10000 --seed 1"]

The embedded stack runs behind a real NGINX. Schemathesis makes the walks: what one answer gives (an account, a
transaction, a hold) the next request uses. No answer may be a 5xx or other than documented, every error is a problem,
and afterwards the ledger's invariants hold and the history is the ledger's. Prints cases and answers; exits 1 on a
finding, or when fewer cases were sent than asked for.
"""

import argparse
import math
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from harness.commands import check
from harness.local_stack import EmbeddedBank

from shared.testing import lab_keys
from shared.testing.local_stack import SERVICES, EmbeddedStack, Setting
from shared.testing.ports import free_port
from shared.testing.contract import Walked, walk_along_its_links
from shared.testing.fixtures import Lab

WALKS, LENGTH = 20, 10


def fuzz(job: tuple[str, Path, str, int, int, float]) -> tuple[Walked, str]:
    """Walk until there were cases enough; return how far that went, and what was found."""
    api_url, secrets, service, cases, seed, minutes = job
    url, lab = f"{api_url}/docs/{service}/openapi.json", Lab(lab_keys.ensure(secrets))
    walked, number, began = Walked(), seed, time.monotonic()
    while walked.cases < cases and time.monotonic() - began < minutes * 60:
        try:
            part = walk_along_its_links(url, lab, WALKS, LENGTH, number)
        except BaseException:  # pylint: disable=broad-exception-caught  # whatever it is, it is what was looked for
            return walked, f"{traceback.format_exc()}\nFOUND in {service}; again: --cases 1 --seed {number}"
        number += 1
        walked.cases += part.cases
        walked.linked += part.linked
        walked.answers += part.answers
        print(f"  {service}: {walked.cases} cases, {time.monotonic() - began:.0f} s", flush=True)
    return walked, ""


def report(service: str, walked: Walked, finding: str, cases: int) -> bool:
    """Print what came out for a service; return whether the bar was met."""
    if finding:
        print(finding)
    met = not finding and walked.cases >= cases
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(walked.answers.items()))
    return check(met, f"{service}: {walked.cases} cases, {walked.linked} along a link; {answers}")


def is_sound(bank: EmbeddedBank) -> bool:
    """Print whether ledger and history are what they have to be after all that; return it."""
    try:
        bank.assert_ledger_is_sound()
        broken = ""
    except AssertionError as error:
        broken = str(error)
    reconciliation = bank.reconciled()
    met = not broken and not reconciliation["mismatches"] and not reconciliation["pending"]
    figures = ", ".join(f"{reconciliation[name]} {name}" for name in ("checked", "mismatches", "pending"))
    return check(met, f"ledger: {broken or 'all invariants hold'}; history: {figures}")


def main() -> int:
    """Start a stack, fuzz both services at the same time, and look at what is left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="requests to each service (default 10000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first walks (default 1)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit in minutes (default: none)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        first = free_port(2)
        stack = EmbeddedStack(
            Path(folder) / "var",
            http_port=free_port(),
            account=Setting(first),
            transaction=Setting(first + 1),
        )
        with stack:
            bank = EmbeddedBank(stack)
            where = stack.api_url, stack.var_dir / "secrets"
            jobs = [(*where, name, options.cases, options.seed, options.minutes) for name in SERVICES]
            with ProcessPoolExecutor(len(jobs)) as pool:
                found = list(pool.map(fuzz, jobs))
            met = [report(name, *one, options.cases) for name, one in zip(SERVICES, found)]
            met.append(is_sound(bank))
            bank.client.close()
    cases = sum(walked.cases for walked, _ in found)
    print(f"{cases} cases in all (bar: {options.cases} to each service); {time.monotonic() - began:.0f} s")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
