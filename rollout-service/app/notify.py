"""Tells people in Slack what a rollout does. That a message does not arrive stops nothing."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import httpx

from app.prometheus import FAILURES
from app.state_machine import Rollout

log = logging.getLogger(__name__)

_SECONDS = 5.0
_MOST_WAITING = 100
_COLOURS = {"rolling-back": "danger", "done": "good"}


def message(state: Rollout, note: Mapping[str, Any]) -> dict[str, Any]:
    """Return a note of the state's history as a message for a Slack webhook (attachments)."""
    phase = str(note["phase"])
    colour = _COLOURS.get(phase, "#439fe0")
    if phase == "idle" and state.outcome:
        colour = "good" if state.outcome == "promoted" else "danger"
    lines = [str(note["reason"]), f"{note['weight']} % of clients on the canary · rollout {state.id} by {state.driver}"]
    if phase in ("canary", "promoting", "rolling-back"):
        lines += _figures(state.verdict.get("figures", {}))
    title = f"[ROLLOUT] {state.version} · {phase}" + (f" · step {note['step'] + 1}" if phase == "canary" else "")
    return {"attachments": [{"color": colour, "title": title, "text": "\n".join(lines), "fallback": title}]}


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each service of the last verdict, and one for invariants that do not hold."""
    lines = []
    for service, of in figures.items():
        if service == "invariants":
            broken = {name: value for name, value in of.items() if value}
            lines += [f"{name}: {value}" for name, value in broken.items()]
        elif "canary_requests" in of:
            errors = f"{of['canary_errors']:.0f} of {of['canary_requests']:.0f} failed"
            stable = f"stable {of['stable_errors']:.0f} of {of['stable_requests']:.0f}"
            slower = of.get("slower_seconds")
            lines.append(
                f"{service}: {errors} ({stable})" + (f", {slower * 1000:+.0f} ms" if slower is not None else "")
            )
    return lines


class Notifier:
    """Sends messages to a Slack webhook, beside whatever else goes on: a Slack that hangs holds up nobody."""

    def __init__(self, client: httpx.AsyncClient, url: str | None) -> None:
        self._client = client
        self._url = url
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MOST_WAITING)

    async def tell(self, state: Rollout, note: Mapping[str, Any]) -> None:
        """Log a note, and have it sent."""
        log.info("rollout", extra={"rollout": state.id, "release": state.version, **_logged(note)})
        if self._url is None:
            return
        if self._waiting.full():
            FAILURES.labels("notify").inc()
            self._waiting.get_nowait()
        self._waiting.put_nowait(message(state, note))

    async def run(self) -> None:
        """Send, one after the other, until cancelled."""
        while True:
            await self.send(await self._waiting.get())

    async def send(self, content: dict[str, Any]) -> None:
        """Send one message; that it does not arrive is counted and no more."""
        try:
            (await self._client.post(str(self._url), json=content, timeout=_SECONDS)).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            FAILURES.labels("notify").inc()
            # Not the error's text: the address is a secret.
            log.warning("Slack was not told: %s", type(error).__name__)


def _logged(note: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in note.items() if name != "at"}
