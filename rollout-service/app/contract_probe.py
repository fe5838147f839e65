"""Runs the contract probe on both tracks in each step; python -m app.contract_probe URL TOKEN_FILE checks stable."""

import asyncio
import logging
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx

from app import contract
from app.contract import Probe, ProbeResult, Response
from app.prometheus import CONTRACT_FAILURES
from app.state_machine import Rollout

log = logging.getLogger(__name__)

# Values of the header X-Canary, by which testers select the track.
_X_CANARY = {"stable": "never", "canary": "always"}
_TIMEOUT_SECONDS = 5.0
_POLL_SECONDS = 0.5
_MAX_LAG_SECONDS = 3.0
# Seconds after the start of a step. There are few rounds, because each opens accounts and adds requests to the step.
_ROUND_STARTS_SECONDS = (0.0, 30.0)
# Maximum repetitions per round; each repeats all probes up to a difference.
_MAX_REPETITIONS = 3
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
        self._step_started_at = 0.0
        self._rounds = 0
        self._per_round = max(Counter(probe.service for probe in probes).values(), default=0)
        self.requests = 0
        self.difference = ""
        self.status = ""

    def update(self, state: Rollout) -> None:
        """Start new rounds when a step begins to serve clients; stop when it has ended."""
        step = (state.id, state.step) if state.phase == "canary" and state.step_started_at else None
        if step != self._step:
            self._step, self._step_started_at, self._rounds = step, time.monotonic(), 0
            self.difference, self.status, self.requests = "", "", 0

    async def run(self) -> None:
        """Probe each step until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            due = self._rounds < len(_ROUND_STARTS_SECONDS)
            if self._step and due and time.monotonic() - self._step_started_at >= _ROUND_STARTS_SECONDS[self._rounds]:
                self._rounds += 1
                await self._probe_step(self._step)

    async def _probe_step(self, step: tuple[str, int]) -> None:
        if not (token := self._token()):
            self.status = SKIPPED
            return
        regression = await self._find_regression(token)
        if step != self._step:
            return
        self.status = "a response differs" if regression else f"{len(self._probes)} responses as expected"
        if regression:
            self.difference = f"{regression.service} {regression.probe}: {regression.difference}"
            log.warning("contract probe failed", extra={"probe": regression.probe, "difference": regression.difference})

    async def _find_regression(self, token: str) -> ProbeResult | None:
        """Return a regression that shows again when the probes up to it are repeated; None without one."""
        suspects: set[str] = set()
        async with aclosing(self._regressions(token, self._probes)) as regressions:
            async for number, suspect in regressions:
                suspects.add(suspect.probe)
                # A single difference may come from a replica that was stopping; further ones follow from the first.
                if len(suspects) > _MAX_REPETITIONS:
                    continue
                async with aclosing(self._regressions(token, self._probes[:number])) as repeated:
                    async for _, result in repeated:
                        if result.probe in suspects:
                            return result
        return None

    async def _regressions(self, token: str, probes: Sequence[Probe]) -> AsyncGenerator[tuple[int, ProbeResult], None]:
        """Send probes to both tracks in turn; yield each regression of the canary with the number of probes sent."""
        self.requests += self._per_round
        # New connections: a worker of NGINX from before a reload would choose by the previous configuration.
        async with self._connect() as client:
            tracks = [TrackProbe(client, self._url, token, track) for track in _X_CANARY]
            for number, probe in enumerate(probes, start=1):
                results = await asyncio.gather(*(track.send(probe) for track in tracks))
                for result in results:
                    CONTRACT_FAILURES.labels(result.service, result.track, result.probe).inc(bool(result.difference))
                for result in contract.regressions(results):
                    yield number, result

    def _token(self) -> str:
        try:
            return self._token_file.read_text(encoding="utf-8").strip() if self._token_file else ""
        except OSError:
            return ""


class TrackProbe:
    """Sends probes to a track in their order; those that need a value which no response contained are unknown."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: str, track: str) -> None:
        self._client = client
        self._url = url
        self._token = token
        self._track = track
        run = uuid.uuid4().hex
        self._names = {"run": run, "request": f"contract-{run}"}
        # Wait for the history only once: if it has not caught up by this time, further probes do not wait.
        self._history_deadline = 0.0

    async def send(self, probe: Probe) -> ProbeResult:
        """Send a probe, until the history has caught up, and compare the response."""
        if probe.eventually:
            self._history_deadline = self._history_deadline or time.monotonic() + _MAX_LAG_SECONDS
        try:
            response = await self._request(probe)
            result = contract.compare(probe, self._track, response, self._names)
            while probe.eventually and result.difference and time.monotonic() < self._history_deadline:
                await asyncio.sleep(_MAX_LAG_SECONDS / 20)
                response = await self._request(probe)
                result = contract.compare(probe, self._track, response, self._names)
        except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, RecursionError):
            return ProbeResult(probe.service, self._track, probe.name, None)
        if isinstance(response.body, Mapping):
            saved = {name: response.body.get(key) for name, key in probe.save.items()}
            self._names |= {name: value for name, value in saved.items() if isinstance(value, str)}
        return result

    async def _request(self, probe: Probe) -> Response:
        """Send a request. Raises httpx.HTTPError, and KeyError if it needs a value that was not saved."""
        names = self._names
        headers = {"User-Agent": "bank-rollout", "X-Canary": _X_CANARY[self._track], "X-Request-ID": names["request"]}
        headers |= {"Authorization": f"Bearer {self._token}"} if probe.token else {}
        content: dict[str, Any] = {"headers": headers | contract.fill(probe.headers, names)}
        if probe.body is not None:
            content["json"] = contract.fill(probe.body, names)
        elif probe.content is not None:
            content["content"] = probe.content
        url = f"{self._url}/api/v1{contract.fill(probe.path, names)}"
        received = await self._client.request(probe.method, url, timeout=_TIMEOUT_SECONDS, **content)
        try:
            body = received.json() if "json" in received.headers.get("content-type", "") else received.text
        except ValueError:
            body = received.text
        return Response(received.status_code, {name.lower(): value for name, value in received.headers.items()}, body)


async def _main(url: str, token_file: Path) -> int:
    async with httpx.AsyncClient() as client:
        token = token_file.read_text(encoding="utf-8").strip()
        track = TrackProbe(client, url, token, "stable")
        results = [await track.send(probe) for probe in contract.load()]
    for result in results:
        if result.difference != "":
            print(f"{result.service} {result.probe}: {result.difference or 'no response to compare'}")
    print(f"{sum(result.difference == '' for result in results)} of {len(results)} responses as expected")
    return int(any(result.difference != "" for result in results))


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(sys.argv[1], Path(sys.argv[2]))))
