"""The contract probe: which responses count as a difference, and which differences roll a canary back."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from app import contract, contract_probe
from app.contract import Probe, ProbeResult, Response
from app.contract_probe import SKIPPED, ContractProbe
from app.prometheus import CONTRACT_FAILURES
from app.state_machine import Rollout
from shared.testing.timing import BUSY_SECONDS, StoppedClock

NAMES = {"run": "r1", "source": "s1"}
EXPECTED = {
    "id": "<uuid>",
    "owner": "{source}",
    "balance": 750,
    "frozen": False,
    "at": "<time>",
    "next": None,
    "on": [1],
}
GIVEN = {
    **{"id": "01a220e0-0dee-73f1-9179-abaf6d5ba3cf", "owner": "s1", "balance": 750, "frozen": False},
    **{"at": "2026-11-28T06:38:04.270713Z", "next": None, "on": [1]},
}
HEADERS = {"x-app-track": "canary", "x-app-version": "2", "content-type": "application/json"}
PROBE = Probe(
    "account", "account-service", "GET", "/x", 200, EXPECTED, response_headers={"Content-Type": "application/json"}
)


def difference(status: int = 200, headers: dict[str, str] | None = None, **changes: Any) -> str | None:
    """Return the difference of a response with changed fields; a field set to Ellipsis is left out."""
    body = {name: value for name, value in {**GIVEN, **changes}.items() if value is not ...}
    return contract.compare(PROBE, "canary", Response(status, headers or HEADERS, body), NAMES).difference


def test_the_expected_response_has_no_difference() -> None:
    assert difference() == ""


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"balance": 751}, "body/balance: expected 750, got 751"),
        ({"balance": 750.0}, "body/balance: expected 750, got 750.0"),
        ({"balance": "750"}, 'body/balance: expected 750, got "750"'),
        ({"frozen": 0}, "body/frozen: expected false, got 0"),
        ({"next": 0}, "body/next: expected null, got 0"),
        ({"balance": ...}, "body/balance: missing"),
        ({"extra": 1}, "body/extra: unexpected"),
        ({"on": []}, "body/on: expected [1], got []"),
        ({"on": [2]}, "body/on/0: expected 1, got 2"),
        ({"owner": "s2"}, 'body/owner: expected "s1", got "s2"'),
        ({"id": "01a220e0-0dee-43f1-9179-abaf6d5ba3cf"}, 'expected "<uuid>"'),
        ({"at": "2026-11-28T06:38:04+00:00"}, 'expected "<time>"'),
        ({"status": 404}, "status: expected 200, got 404"),
        ({"headers": {**HEADERS, "content-type": "text/html"}}, "header Content-Type: expected"),
        ({"headers": {"x-app-track": "canary", "x-app-version": "2"}}, "header Content-Type: expected"),
        ({"headers": {"content-type": "application/json", "x-app-track": "canary"}}, "header x-app-version: missing"),
        ({"headers": {"content-type": "application/json", "x-app-version": "2"}}, "header x-app-track: missing"),
    ],
)
def test_differences_are_named(changes: dict[str, Any], found: str) -> None:
    assert found in (difference(**changes) or "")


@pytest.mark.parametrize(
    "changes", [{"status": 503}, {"status": 429}, {"headers": {**HEADERS, "x-app-track": "stable"}}]
)
def test_responses_that_say_nothing_about_the_contract(changes: dict[str, Any]) -> None:
    assert difference(**changes) is None


def test_a_difference_is_short() -> None:
    surplus: dict[str, Any] = {"y" * 10_000: 1}
    assert len(difference(owner="x" * 10_000) or "") <= 300 and len(difference(**surplus) or "") <= 300


@pytest.mark.parametrize(("stable", "found"), [("", True), ("balance", False), (None, False)])
def test_a_canary_regresses_where_stable_is_as_expected(stable: str | None, found: bool) -> None:
    results = [ProbeResult("s", "stable", "p", stable), ProbeResult("s", "canary", "p", "balance")]
    assert bool(contract.regressions(results)) is found


def test_the_recorded_probes_are_complete() -> None:
    probes = contract.load()
    assert len(probes) > 40 and len({probe.name for probe in probes}) == len(probes)
    assert {probe.service for probe in probes} == {"account-service", "transaction-service"}
    # A history is incomplete while account-service does not respond in time, also in a correct release.
    assert all(probe.eventually for probe in probes if "complete" in json.dumps(probe.response))


# Two of the recorded probes are enough for a bank that answers from memory.
PROBES = tuple(probe for probe in contract.load() if probe.name in ("no-token", "forbidden-flags"))
STEP = Rollout(id="one", phase="canary", steps=(10, 50), step_started_at=1)
Change = Callable[[str, dict[str, Any]], dict[str, Any]]


def bank(change: Change) -> Callable[[], httpx.AsyncClient]:
    """Return clients of a bank whose bodies may be changed, by track."""

    def answer(request: httpx.Request) -> httpx.Response:
        track = {"always": "canary", "never": "stable"}[request.headers["X-Canary"]]
        probe = next(probe for probe in PROBES if probe.path in str(request.url))
        names = {"run": request.headers["X-Request-ID"].removeprefix("contract-")}
        headers = {**probe.response_headers, "X-App-Track": track, "X-App-Version": "1"}
        body = change(track, contract.fill(probe.response, names))
        return httpx.Response(probe.status, content=json.dumps(body), headers=headers)

    return lambda: httpx.AsyncClient(transport=httpx.MockTransport(answer))


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with a token."""
    file = tmp_path / "token"
    file.write_text("t\n", encoding="utf-8")
    return file


async def run_step(probe: ContractProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the probe run its first round in a step."""
    monkeypatch.setattr(contract_probe, "_POLL_SECONDS", 0)
    probe.update(STEP)
    task = asyncio.create_task(probe.run())
    async with asyncio.timeout(BUSY_SECONDS):
        while not probe.status:
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def drop_code(*tracks: str) -> Change:
    """Drop a field from the responses of tracks."""
    return lambda track, body: {name: value for name, value in body.items() if name != "code" or track not in tracks}


async def test_a_confirmed_difference_rolls_back(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ContractProbe("http://bank", token, PROBES, bank(drop_code("canary")))
    counter = CONTRACT_FAILURES.labels("account-service", "canary", "no-token")
    before = counter._value.get()  # pylint: disable=protected-access
    await run_step(probe, monkeypatch)
    assert probe.difference == "account-service no-token: body/code: missing"
    assert counter._value.get() == before + 2  # pylint: disable=protected-access
    probe.update(replace(STEP, step=1))
    assert not probe.difference, "it belongs to the step"


async def test_a_difference_is_confirmed_before_the_remaining_probes(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def connect() -> httpx.AsyncClient:
        client = bank(drop_code("canary"))()
        client.event_hooks = {"request": [record]}
        return client

    async def record(request: httpx.Request) -> None:
        sent.append(request.url.path)

    probe = ContractProbe("http://bank", token, PROBES, connect)
    await run_step(probe, monkeypatch)
    assert probe.difference and sent == ["/api/v1/accounts"] * 4, "once and again to both tracks"


@pytest.mark.parametrize("tracks", [(), ("canary", "stable"), ("stable",)])
async def test_equal_tracks_are_not_rolled_back(
    tracks: tuple[str, ...], token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = ContractProbe("http://bank", token, PROBES, bank(drop_code(*tracks)))
    await run_step(probe, monkeypatch)
    assert not probe.difference and probe.status == "2 responses as expected"


async def test_a_single_difference_is_not_confirmed(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = [True]

    def change(track: str, body: dict[str, Any]) -> dict[str, Any]:
        return {} if track == "canary" and once and once.pop() else body

    probe = ContractProbe("http://bank", token, PROBES, bank(change))
    await run_step(probe, monkeypatch)
    assert not probe.difference


@pytest.mark.parametrize("file", [None, Path("/missing"), Path("/dev/null")])
async def test_the_probe_is_skipped_without_a_token(file: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ContractProbe("http://bank", file, PROBES, bank(drop_code("canary")))
    await run_step(probe, monkeypatch)
    assert probe.status == SKIPPED and not probe.difference


@pytest.mark.parametrize(("late", "found"), [(3, ""), (19, ""), (10**9, "body/n: expected 1, got 0")])
async def test_the_history_may_lag_for_a_while(late: int, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter(range(10**9))
    headers = {"X-App-Track": "stable", "X-App-Version": "1"}

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"n": int(next(asked) >= late)}, headers=headers)

    clock = StoppedClock()

    async def sleep(seconds: float) -> None:
        clock.sleep(seconds)

    monkeypatch.setattr(contract_probe, "time", clock)
    monkeypatch.setattr(contract_probe, "asyncio", SimpleNamespace(sleep=sleep))
    probe = Probe("history", "transaction-service", "GET", "/x", 200, {"n": 1}, eventually=True)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        result = await contract_probe.TrackProbe(client, "http://bank", "t", "stable").send(probe)
    assert result.difference == found
