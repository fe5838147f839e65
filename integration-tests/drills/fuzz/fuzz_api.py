"""Follow the links of both APIs' OpenAPI documents with valid and invalid requests, and check every response.

    make drills DRILL=fuzz_api [ARGS="--cases 10000 --seed 1"]

The local stack runs behind a real NGINX. Schemathesis generates sequences of requests that use the accounts,
transactions and holds of earlier responses. Responses must be documented and not 5xx, and errors problem documents;
afterwards the ledger's invariants must hold and the history must equal the ledger. Prints cases and responses; exits 1
on a failure, or if fewer cases were sent than requested.
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
from harness.local_stack import LocalBank

from shared.testing import lab_keys
from shared.testing.local_stack import SERVICES, LocalStack, Setting
from shared.testing.ports import free_port
from shared.testing.contract import LinkWalk, follow_links
from shared.testing.fixtures import Lab

WALKS, LENGTH = 20, 10


def fuzz(job: tuple[str, Path, str, int, int, float]) -> tuple[LinkWalk, str]:
    """Walk until enough cases are sent; return the walk and the failure, if any."""
    api_url, secrets, service, cases, seed, minutes = job
    url, lab = f"{api_url}/docs/{service}/openapi.json", Lab(lab_keys.ensure(secrets))
    walked, number, started = LinkWalk(), seed, time.monotonic()
    while walked.cases < cases and time.monotonic() - started < minutes * 60:
        try:
            part = follow_links(url, lab, WALKS, LENGTH, number)
        except BaseException:  # pylint: disable=broad-exception-caught  # any error is a failure of the API
            return walked, f"{traceback.format_exc()}\nFAILURE in {service}; reproduce with: --cases 1 --seed {number}"
        number += 1
        walked.cases += part.cases
        walked.linked += part.linked
        walked.answers += part.answers
        print(f"  {service}: {walked.cases} cases, {time.monotonic() - started:.0f} s", flush=True)
    return walked, ""


def report(service: str, walked: LinkWalk, finding: str, cases: int) -> bool:
    """Print the result of a service; return whether the threshold is met."""
    if finding:
        print(finding)
    met = not finding and walked.cases >= cases
    responses = ", ".join(f"{count} × {status}" for status, count in sorted(walked.answers.items()))
    return check(met, f"{service}: {walked.cases} cases, {walked.linked} through links; {responses}")


def is_consistent(bank: LocalBank) -> bool:
    """Print and return whether ledger and history are consistent."""
    try:
        bank.assert_ledger_is_sound()
        broken = ""
    except AssertionError as error:
        broken = str(error)
    reconciliation = bank.reconciliation()
    met = not broken and not reconciliation["mismatches"] and not reconciliation["pending"]
    counts = ", ".join(f"{reconciliation[name]} {name}" for name in ("checked", "mismatches", "pending"))
    return check(met, f"ledger: {broken or 'all invariants hold'}; history: {counts}")


def main() -> int:
    """Start a stack, fuzz both services concurrently, and check ledger and history."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="requests to each service (default 10000)")
    parser.add_argument("--seed", type=int, default=1, help="first seed (default 1)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit in minutes (default: none)")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        first = free_port(2)
        stack = LocalStack(
            Path(folder) / "var",
            http_port=free_port(),
            account=Setting(first),
            transaction=Setting(first + 1),
        )
        with stack:
            bank = LocalBank(stack)
            target = stack.api_url, stack.var_dir / "secrets"
            jobs = [(*target, name, options.cases, options.seed, options.minutes) for name in SERVICES]
            with ProcessPoolExecutor(len(jobs)) as pool:
                found = list(pool.map(fuzz, jobs))
            met = [report(name, *service, options.cases) for name, service in zip(SERVICES, found)]
            met.append(is_consistent(bank))
            bank.client.close()
    cases = sum(walked.cases for walked, _ in found)
    print(f"{cases} cases in total (threshold: {options.cases} to each service); {time.monotonic() - started:.0f} s")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
