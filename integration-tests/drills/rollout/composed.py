"""Sequential rollouts of faulty releases and A/A rollouts on one composed stack, under the load of customers."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.commands import check_threshold, info
from harness.composed_stack import ComposedBank
from scripts.faults import release
from scripts.faults.customers import Customer, connect, open_accounts
from scripts.faults.faulty import DAMAGING
from scripts.faults.result import RolloutResult, thresholds
from scripts.faults.rollout import Plan, Rollout, roll_out
from scripts.faults.stack import Stack

from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

# Faults that damage the history come last.
FAULTS = (
    *("401-all", "404-all", "422-valid", "409-half", "wrong-balance-field", "leak", "cpu-x3", "slow-1-in-50"),
    *("hang", "no-history", "bad-config", *DAMAGING),
)
AA = "aa"
_AA_ROLLOUTS = 10
# The canary gets 10 % of it: five to ten requests per second.
_RATE = 75
_AA_RATE = 120
_CUSTOMERS = 150
# On a busy machine canaries take a minute to start; a fault that affects few requests takes longer to detect.
_STEP_TIMEOUT_SECONDS = 150
# The default of the role nginx_canary.
_BAKE_SECONDS = 60
_DRIVER = "drill canary"


class ComposedDrill:
    """The stack, its customers, and the thresholds that were missed."""

    def __init__(self, bank: ComposedBank, customers: list[Customer]) -> None:
        self._bank = bank
        self._stack = Stack(bank.environment)
        self._customers = customers
        self.missed: list[str] = []

    def faulty(self, fault: str) -> None:
        """Roll out a release with a fault, and roll it back if the analysis does not."""
        mismatches = self._bank.reconciliation()["mismatches"]
        try:
            plan = Plan(
                _DRIVER, bake_seconds=_BAKE_SECONDS, step_timeout_seconds=_STEP_TIMEOUT_SECONDS, run_all_steps=False
            )
            result = self._run(release.build(self._stack, fault), plan, _RATE)
        finally:
            release.remove(self._stack)
        self._check(fault, thresholds(fault, result))
        self._check_ledger(fault, None if fault in DAMAGING else mismatches)

    def equal(self) -> None:
        """Roll out the running release repeatedly; it must be promoted each time."""
        plan = Plan(_DRIVER, bake_seconds=20, step_timeout_seconds=240)
        for number in range(1, _AA_ROLLOUTS + 1):
            result = self._run(release.running(self._stack), plan, _AA_RATE, promote=True)
            outcome = str(result.state["outcome"])
            promoted = outcome == "promoted" and not result.failed
            reason = f"{outcome}: {result.reason}; {len(result.failed)} of {result.sent} requests failed"
            self._check(f"{AA} {number}", [Threshold("promoted", reason, promoted)])
        self._check_ledger(AA, 0)

    def _run(self, new: release.Release, plan: Plan, rate: float, promote: bool = False) -> RolloutResult:
        """Run one rollout under load to its end."""
        rollout = Rollout(self._stack, new, plan, info)
        result = roll_out(rollout, self._customers, rate, promote)
        for line in [*result.failed[:3], *result.wrong[:3]]:
            info(f"  customer: {line}")
        return result

    def _check(self, name: str, measured: Sequence[Threshold]) -> None:
        named = [threshold._replace(name=f"{name}: {threshold.name}") for threshold in measured]
        self.missed += [threshold.name for threshold in named if not check_threshold(threshold)]

    def _check_ledger(self, name: str, mismatches: int | None) -> None:
        """Check the ledger's invariants, and the reconciliation mismatches unless the fault causes some."""
        self._bank.assert_ledger_is_sound()
        report = self._bank.reconciliation()
        met = mismatches is None or report["mismatches"] == mismatches
        self._check(
            name, [Threshold("ledger invariants hold", f"{report['mismatches']} reconciliation mismatches", met)]
        )


def run_composed(names: Sequence[str]) -> list[str]:
    """Run faults, and A/A rollouts where named, on one stack; return the thresholds that were missed."""
    with tempfile.TemporaryDirectory() as folder:
        bank = ComposedBank(Path(folder))
        try:
            bank.autoscale_cli("pause")
            stack, secrets = Stack(bank.environment), Path(bank.environment["VAR_DIR"]) / "secrets"
            with connect(stack.url, stack.ca_certificate) as client:
                drill = ComposedDrill(bank, open_accounts(client, secrets, _CUSTOMERS))
                progress = Progress("drill canary", len(names))
                for name in names:
                    progress.step(name)
                    started = time.monotonic()
                    if name == AA:
                        drill.equal()
                    else:
                        drill.faulty(name)
                    progress.info(f"{name} took {time.monotonic() - started:.0f} s")
            return drill.missed
        finally:
            bank.close()
