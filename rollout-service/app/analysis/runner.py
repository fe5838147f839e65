"""Judges the step that a rollout is at, and keeps every verdict with its samples."""

import asyncio
import logging
import math
import shutil
from collections.abc import Mapping
from typing import Any

from app.analysis.model import Policy
from app.analysis.records import Record, write_record
from app.analysis.samples import Moments, PrometheusSamples
from app.analysis.verdict import judge
from app.settings import RolloutSettings
from app.state_machine import Rollout

log = logging.getLogger(__name__)

_KEPT_ROLLOUTS = 20


async def judge_now(
    source: PrometheusSamples, moments: Moments, policy: Policy, about: Mapping[str, Any] | None = None
) -> Record:
    """Return the verdict on a step at `moments.now`, with its samples. Without an answer of Prometheus it is hold."""
    samples = await source.read(moments)
    return Record(moments.now, samples, policy, judge(samples, policy), about or {})


class Judging:
    """The judge that the controller asks."""

    def __init__(self, source: PrometheusSamples, settings: RolloutSettings) -> None:
        self._source = source
        self._settings = settings
        self._folder = settings.state_dir / "verdicts"

    async def verdict(self, state: Rollout, now: float) -> Mapping[str, Any]:
        """Return verdict, reason and figures; they are stored before anything follows from them."""
        policy = Policy(
            bake_seconds=max(state.bake_seconds, 1e-3),
            least_requests=self._settings.min_requests,
            ceiling_seconds=self._settings.latency_ceiling,
        )
        moments = Moments(
            step=state.shifted_at, now=now, rollout=state.started_at, warm_up=self._settings.warm_up_seconds
        )
        about = {"rollout": state.id, "version": state.version, "step": state.step, "weight": state.weight}
        record = await judge_now(self._source, moments, policy, about)
        folder = self._folder / state.id
        if not folder.exists():
            await asyncio.to_thread(self._forget_old)
        try:
            await asyncio.to_thread(write_record, folder, record)
        except OSError as error:
            # A full disk must not keep a bad canary in.
            log.error("the verdict cannot be stored: %s", error)
        verdict = record.verdict
        return {"verdict": verdict.verdict, "reason": verdict.reason, "at": now, "figures": _finite(verdict.figures)}

    def _forget_old(self) -> None:
        folders = sorted((path for path in self._folder.glob("*") if path.is_dir()), key=lambda path: path.name)
        for old in folders[: -(_KEPT_ROLLOUTS - 1)]:
            shutil.rmtree(old, ignore_errors=True)


def _finite(value: Any) -> Any:
    """Return figures that every reader of JSON takes."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
