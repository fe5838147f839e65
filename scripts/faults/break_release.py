"""`make break-release FAULT=…`: roll a faulty release out on the stack of `make up` while simulated customers use it.

It restores the initial state, also after Ctrl-C: the release is rolled back, its containers and images are removed.
Exits with 1 if requests of customers failed, the release was not rolled back in time, or anything is left behind.
"""

import os
import signal
import sys
import time
from types import FrameType

import httpx

from scripts.faults import customers, release
from scripts.faults.faulty import DESCRIPTIONS, DAMAGING, SETTINGS
from scripts.faults.result import RolloutResult, thresholds
from scripts.faults.rollout import Plan, Rollout, require_idle, roll_out
from scripts.faults.stack import Stack, StackError
from shared.testing import lab_keys
from shared.testing.progress import style
from shared.testing.thresholds import Threshold

_MAX_SECONDS = 180
_CUSTOMERS = 100
_RATE = 75
_DRIVER = "make break-release"
# Nothing would happen: no fault, and one that none of the customers' requests triggers.
_FAULTS = {name: text for name, text in DESCRIPTIONS.items() if name not in ("none", "death")}


class _StopRequested(BaseException):
    """Raised by the signal handler."""


def _request_stop(_sign: int, _frame: FrameType | None) -> None:
    # Ignore further signals: the clean-up takes about 20 seconds.
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    raise _StopRequested


class _Attempt:
    """One rollout of a faulty release."""

    def __init__(self, stack: Stack, fault: str) -> None:
        self._stack = stack
        self._fault = fault
        self._started = time.monotonic()
        self.leftovers: list[str] = []

    def run(self) -> list[Threshold]:
        """Roll the release out and return the thresholds. Raises StackError."""
        stack, fault = self._stack, self._fault
        require_idle(stack)
        self._print(f"{release.version(fault)}: {_FAULTS[fault]}")
        self._print(f"watch it on the operations page: {stack.url}/")
        try:
            faulty = release.build(stack, fault)
            self._print(f"prepared {' and '.join([*faulty.images.values(), *SETTINGS.get(fault, ())])}")
            result = self._roll_out(Rollout(stack, faulty, Plan(_DRIVER), self._print))
        finally:
            self.leftovers += release.remove(stack)
        result.leftovers = self.leftovers
        for line in [*result.failed[:3], *result.wrong[:3]]:
            self._print(f"customer got: {line}")
        seconds = time.monotonic() - self._started
        return [
            *thresholds(fault, result, max_failed=0),
            Threshold(f"total duration, at most {_MAX_SECONDS} s", f"{seconds:.0f} s", seconds <= _MAX_SECONDS),
        ]

    def _roll_out(self, rollout: Rollout) -> RolloutResult:
        with customers.connect(self._stack.url, self._stack.ca_certificate) as client:
            opened = customers.open_accounts(client, lab_keys.var_dir() / "secrets", _CUSTOMERS)
            self._print(f"{len(opened)} customers send {_RATE} requests per second")
            try:
                return roll_out(rollout, opened, _RATE)
            finally:
                self.leftovers += rollout.result.leftovers

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:5.0f} s  {text}", flush=True)


def _usage() -> str:
    width = max(map(len, _FAULTS))
    names = [f"  {name:{width}}  {text}" for name, text in _FAULTS.items()]
    return "\n".join(["usage: make break-release FAULT=NAME, with one of:", *names])


def main(arguments: list[str]) -> int:
    """Roll a faulty release out and return the exit code."""
    fault = arguments[0] if arguments else ""
    if fault not in _FAULTS:
        print(_usage(), file=sys.stderr if fault else sys.stdout)
        return 2 if fault else 0
    if fault in DAMAGING and os.environ.get("DAMAGE") != "1":
        print(
            f"break-release: {fault} leaves the history of its customers wrong for good, and reconciliation reports it;"
            " on a stack whose data you can discard (make down VOLUMES=1), add DAMAGE=1",
            file=sys.stderr,
        )
        return 2
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _request_stop)
    attempt = _Attempt(Stack(os.environ), fault)
    try:
        results = attempt.run()
    except _StopRequested:
        leftovers = (
            f"left behind: {'; '.join(attempt.leftovers)}" if attempt.leftovers else "the initial state is restored"
        )
        print(f"break-release: stopped; {leftovers}", file=sys.stderr)
        return 130
    except httpx.HTTPError as error:
        print(f"break-release: the bank does not serve its customers: {error}; see make ps", file=sys.stderr)
        return 1
    except (StackError, OSError) as error:
        print(f"break-release: {error}", file=sys.stderr)
        return 1
    print()
    for result in results:
        mark = style("met   ", "32", sys.stdout) if result.met else style("missed", "31", sys.stdout)
        print(f"{mark}  {result.name}: {result.value}")
    return 0 if all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
