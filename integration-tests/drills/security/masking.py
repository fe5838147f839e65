"""Put secrets into every part of 100,000 log records, and search for them in the output.

    make drills DRILL=masking [ARGS="--records 100000"]

The records are those of the Hypothesis test of the logging pipeline (shared/tests/test_logging.py), with the secrets of
shared/tests/secret_forms.py. Exits 1 if a secret is logged, or if fewer records were written than requested.
"""

import argparse
import os
import re
import subprocess
import sys

from harness.commands import check

from shared.testing.paths import ROOT
from shared.tests.test_logging import PLACES


def main() -> int:
    """Run the test with many records; return 0 only if the threshold is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000, help="number of records to write (default 100000)")
    records = parser.parse_args().records
    print(f"writing {records} records that contain a secret each; this takes some minutes", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--timeout", "3600", "--hypothesis-show-statistics"]
    done = subprocess.run(
        [*command, "shared/tests/test_logging.py", "-k", "no_secret_gets_into_a_line"],
        cwd=ROOT,
        env={**os.environ, "MASKING_RECORDS": str(records)},
        capture_output=True,
        text=True,
        check=False,
    )
    phases = re.findall(r"during generate phase .*?(\d+) passing, (\d+) failing", done.stdout, re.DOTALL)
    written = len(PLACES) * sum(int(passing) + int(failing) for passing, failing in phases)
    leaks = sum(int(failing) for _, failing in phases)
    if done.returncode or leaks:
        print(done.stdout[-4000:], done.stderr[-1000:], sep="\n", file=sys.stderr)
    met = done.returncode == 0 and leaks == 0 and written >= records
    return 0 if check(met, f"{written} records, {leaks} leaks (threshold: {records} records, 0 leaks)") else 1


if __name__ == "__main__":
    sys.exit(main())
