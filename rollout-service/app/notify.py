"""Notifies operators in Slack of a rollout's progress; a failed notification never stops the rollout."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import httpx

from app.prometheus import FAILURES
from app.state_machine import Rollout

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0
_MAX_QUEUED = 100
_COLOURS = {"rolling-back": "danger", "done": "good"}


def message(state: Rollout, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Slack webhook payload (attachments) for an event of the rollout's history."""
    phase = str(event["phase"])
    colour = _COLOURS.get(phase, "#439fe0")
    if phase == "idle" and state.outcome:
        colour = "good" if state.outcome == "promoted" else "danger"
    if event.get("urgent"):
        colour = "danger"
    lines = [
        str(event["reason"]),
        f"{event['weight']} % of clients on the canary · rollout {state.id} by {state.driver}",
    ]
    if phase in ("canary", "promoting", "rolling-back"):
        lines += _figures(state.verdict.get("figures", {}))
    title = f"[ROLLOUT] {state.version} · {phase}" + (f" · step {event['step'] + 1}" if phase == "canary" else "")
    return {"attachments": [{"color": colour, "title": title, "text": "\n".join(lines), "fallback": title}]}


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each service of the last verdict, and one for each violated invariant."""
    lines = []
    for service, values in figures.items():
        if service == "invariants":
            violated = {name: value for name, value in values.items() if value}
            lines += [f"{name}: {value}" for name, value in violated.items()]
        elif "canary_requests" in values:
            errors = f"{values['canary_errors']:.0f} of {values['canary_requests']:.0f} failed"
            stable = f"stable {values['stable_errors']:.0f} of {values['stable_requests']:.0f}"
            slower = values.get("slower_seconds")
            lines.append(
                f"{service}: {errors} ({stable})" + (f", {slower * 1000:+.0f} ms" if slower is not None else "")
            )
    return lines


class Notifier:
    """Sends messages to a Slack webhook from a queue, so that a slow Slack delays nothing else."""

    def __init__(self, client: httpx.AsyncClient, url: str | None) -> None:
        self._client = client
        self._url = url
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_QUEUED)

    async def notify(self, state: Rollout, event: Mapping[str, Any]) -> None:
        """Log an event and queue the notification; when the queue is full, the oldest one is dropped."""
        level = logging.WARNING if event.get("urgent") else logging.INFO
        log.log(level, "rollout", extra={"rollout": state.id, "release": state.version, **_log_fields(event)})
        if self._url is None:
            return
        if self._queue.full():
            FAILURES.labels("notify").inc()
            self._queue.get_nowait()
        self._queue.put_nowait(message(state, event))

    async def run(self) -> None:
        """Send queued notifications until cancelled."""
        while True:
            await self.send(await self._queue.get())

    async def send(self, content: dict[str, Any]) -> None:
        """Send one message; a failure is counted and logged."""
        try:
            (await self._client.post(str(self._url), json=content, timeout=_TIMEOUT_SECONDS)).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            FAILURES.labels("notify").inc()
            # Without the error's text, which contains the webhook URL: it is a secret.
            log.warning("Slack notification failed: %s", type(error).__name__)


def _log_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "at"}
