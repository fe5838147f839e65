"""Runs the contract probe on both tracks in each step; python -m app.contract_probe URL TOKEN_FILE checks stable."""

import asyncio
import logging
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from app import contract
from app.contract import Probe, ProbeResult, Response
from app.prometheus import CONTRACT_FAILURES
from app.state_machine import Rollout

log = logging.getLogger(__name__)

# NGINX's choice of the track, by which testers get the canary's own response.
_CHOICES = {"stable": "never", "canary": "always"}
_TIMEOUT_SECONDS = 5.0
_POLL_SECONDS = 0.5
_LAG_SECONDS = 3.0
# A round opens accounts and counts as requests of the step, so there are few: at the start of a step and later in it.
_ROUND_AT_SECONDS = (0.0, 30.0)
SKIPPED = "skipped: no synthetic token"


class ContractProbe:
    """Probes both tracks in each step of a rollout.

    `difference` is set once a canary has differed twice in a row; `requests` is how many requests of the step, per
    service and track, were probes.
    """

    def __init__(
        self,
        url: str,
        token_file: Path | None,
        probes: tuple[Probe, ...],
        connect: Callable[[], httpx.AsyncClient] = httpx.AsyncClient,
    ) -> None:
        self._url = url
        self._token_file = token_file
        self._probes = probes
        self._connect = connect
        self._step: tuple[str, int] | None = None
        self._begun_at = 0.0
        self._rounds = 0
        self._per_round = max(Counter(probe.service for probe in probes).values(), default=0)
        self.requests = 0
        self.difference = ""
        self.status = ""

    def follow(self, state: Rollout) -> None:
        """Start over when a step of a rollout has begun to serve clients; stop when it has ended."""
        step = (state.id, state.step) if state.phase == "canary" and state.step_started_at else None
        if step != self._step:
            self._step, self._begun_at, self._rounds = step, time.monotonic(), 0
            self.difference, self.status, self.requests = "", "", 0

    async def run(self) -> None:
        """Probe each step until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            due = self._rounds < len(_ROUND_AT_SECONDS)
            if self._step and due and time.monotonic() - self._begun_at >= _ROUND_AT_SECONDS[self._rounds]:
                self._rounds += 1
                await self._probe_step(self._step)

    async def _probe_step(self, step: tuple[str, int]) -> None:
        if not (token := self._token()):
            self.status = SKIPPED
            return
        first = contract.regressions(await self._probe_tracks(token))
        # A single difference may come from a replica that was stopping.
        suspects = {result.probe for result in first}
        second = contract.regressions(await self._probe_tracks(token)) if suspects else []
        confirmed = [result for result in second if result.probe in suspects]
        if step != self._step:
            return
        self.status = f"{len(confirmed)} of {len(self._probes)} responses differ"
        if confirmed:
            worst = confirmed[0]
            self.difference = f"{worst.service} {worst.probe}: {worst.difference}"
            log.warning("contract probe failed", extra={"probe": worst.probe, "difference": worst.difference})

    async def _probe_tracks(self, token: str) -> list[ProbeResult]:
        # New connections: a worker of NGINX from before a reload would choose by the previous configuration.
        async with self._connect() as client:
            tracks = [probe_track(client, self._url, token, track, self._probes) for track in _CHOICES]
            results = [result for found in await asyncio.gather(*tracks) for result in found]
        self.requests += self._per_round
        for result in results:
            CONTRACT_FAILURES.labels(result.service, result.track, result.probe).inc(bool(result.difference))
        return results

    def _token(self) -> str:
        try:
            return self._token_file.read_text(encoding="utf-8").strip() if self._token_file else ""
        except OSError:
            return ""


async def probe_track(
    client: httpx.AsyncClient, url: str, token: str, track: str, probes: tuple[Probe, ...]
) -> list[ProbeResult]:
    """Run all probes on a track; those that depend on a response without the expected fields are unknown."""
    run = uuid.uuid4().hex
    names, results = {"run": run, "request": f"contract-{run}"}, []
    # The history is waited for once: if it has not caught up by then, or differs, further responses are due at once.
    caught_up_at = 0.0
    for probe in probes:
        if probe.eventually:
            caught_up_at = caught_up_at or time.monotonic() + _LAG_SECONDS
        try:
            response = await _send(client, url, token, track, probe, names)
            result = contract.compare(probe, track, response, names)
            while probe.eventually and result.difference and time.monotonic() < caught_up_at:
                await asyncio.sleep(_LAG_SECONDS / 20)
                response = await _send(client, url, token, track, probe, names)
                result = contract.compare(probe, track, response, names)
            if isinstance(response.body, Mapping):
                saved = {name: response.body.get(key) for name, key in probe.save.items()}
                names |= {name: value for name, value in saved.items() if isinstance(value, str)}
        except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, RecursionError):
            result = ProbeResult(probe.service, track, probe.name, None)
        results.append(result)
    return results


async def _send(
    client: httpx.AsyncClient, url: str, token: str, track: str, probe: Probe, names: Mapping[str, str]
) -> Response:
    """Send a probe. Raises httpx.HTTPError, and KeyError if it needs a value that was not saved."""
    headers = {"User-Agent": "bank-rollout", "X-Canary": _CHOICES[track], "X-Request-ID": names["request"]}
    headers |= {"Authorization": f"Bearer {token}"} if probe.token else {}
    given: dict[str, Any] = {"headers": headers | contract.fill(probe.headers, names)}
    if probe.body is not None:
        given["json"] = contract.fill(probe.body, names)
    elif probe.content is not None:
        given["content"] = probe.content
    path = contract.fill(probe.path, names)
    answer = await client.request(probe.method, f"{url}/api/v1{path}", timeout=_TIMEOUT_SECONDS, **given)
    try:
        body = answer.json() if "json" in answer.headers.get("content-type", "") else answer.text
    except ValueError:
        body = answer.text
    return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body)


async def _main(url: str, token_file: Path) -> int:
    async with httpx.AsyncClient() as client:
        token = token_file.read_text(encoding="utf-8").strip()
        results = await probe_track(client, url, token, "stable", contract.load())
    for result in results:
        if result.difference != "":
            print(f"{result.service} {result.probe}: {result.difference or 'no response to compare'}")
    print(f"{sum(result.difference == '' for result in results)} of {len(results)} responses as expected")
    return int(any(result.difference != "" for result in results))


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(sys.argv[1], Path(sys.argv[2]))))
