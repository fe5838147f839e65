"""Analyzes the current step of a rollout, and stores a record of each analysis."""

import asyncio
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.analysis.model import Policy, Samples
from app.analysis.outcome_mix import outcome_mix
from app.analysis.records import AnalysisRecord, write_record
from app.analysis.queries import AnalysisWindow
from app.analysis.samples import PrometheusSamples
from app.analysis.verdict import evaluate
from app.prometheus import FAILURES
from app.settings import RolloutSettings
from app.state_machine import Rollout

log = logging.getLogger(__name__)

_MAX_ROLLOUTS = 20
_STORE_TIMEOUT_SECONDS = 1.0
_CONTRACT_READ_TIMEOUT_SECONDS = 1.0


async def analyze(
    source: PrometheusSamples,
    window: AnalysisWindow,
    policy: Policy,
    about: Mapping[str, Any] | None = None,
    contract: str = "",
) -> AnalysisRecord:
    """Return the verdict on a step at `window.now`, with its samples; hold while Prometheus is unavailable.

    `contract` is the contract probe's confirmed difference.
    """
    try:
        # A confirmed difference needs no metrics, so a busy Prometheus must not delay the rollback.
        async with asyncio.timeout(_CONTRACT_READ_TIMEOUT_SECONDS if contract else None):
            samples = await source.read(window)
    except TimeoutError:
        samples = Samples(window.now - window.step, (), {}, outcomes=None, resources=None)
    samples = replace(samples, contract=contract)
    return AnalysisRecord(window.now, samples, policy, evaluate(samples, policy), about or {})


class Analyzer:
    """Runs the analyses of one host's rollouts."""

    def __init__(self, source: PrometheusSamples, settings: RolloutSettings) -> None:
        self._source = source
        self._settings = settings
        self._folder = settings.state_dir / "verdicts"
        self._writing: asyncio.Task[None] | None = None

    async def run(self, state: Rollout, now: float, probed: int = 0, contract: str = "") -> Mapping[str, Any]:
        """Analyze the current step, store the record, and return verdict, reason, figures and the mix of outcomes.

        `probed` requests of each service and track were contract probes, which do not replace clients' requests;
        `contract` is the difference that they confirmed.
        """
        policy = Policy(
            bake_seconds=max(state.bake_seconds, 1e-3),
            min_requests=self._settings.min_requests + probed,
            ceiling_seconds=self._settings.max_p95_latency_seconds,
        )
        window = AnalysisWindow(
            step=state.step_started_at, now=now, rollout=state.started_at, warm_up=self._settings.warm_up_seconds
        )
        about = {"rollout": state.id, "version": state.version, "step": state.step, "weight": state.weight}
        record = await analyze(self._source, window, policy, about, contract)
        # A disk that hangs must not delay a rollback, nor occupy more than one of the few threads.
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(asyncio.to_thread(self._store, self._folder / state.id, record))
            await asyncio.wait({self._writing}, timeout=_STORE_TIMEOUT_SECONDS)
        verdict = record.verdict
        return {
            **{"verdict": verdict.verdict, "reason": verdict.reason, "detail": verdict.detail, "at": now},
            "figures": _json_safe(verdict.figures),
            "outcomes": outcome_mix(record.samples),
        }

    def _store(self, folder: Path, record: AnalysisRecord) -> None:
        try:
            if not folder.exists():
                self._prune_records()
            write_record(folder, record)
        except Exception:  # pylint: disable=broad-exception-caught
            # Neither a full disk nor figures that cannot be written may prevent the rollback of a bad canary.
            FAILURES.labels("record").inc()
            log.exception("cannot store the analysis record")

    def _prune_records(self) -> None:
        folders = sorted((path for path in self._folder.glob("*") if path.is_dir()), key=lambda path: path.name)
        for old in folders[: -(_MAX_ROLLOUTS - 1)]:
            shutil.rmtree(old, ignore_errors=True)


def _json_safe(value: Any) -> Any:
    """Return the figures as standard JSON values."""
    if isinstance(value, Mapping):
        return {name: _json_safe(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
