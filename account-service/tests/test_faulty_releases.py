"""Each injected fault has its symptom in the application, and the application without it does not."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.consumer import FlagHandler
from app.models import entries, outbox
from app.service import AccountService
from app.settings import AccountSettings
from scripts.faults.faulty import DESCRIPTIONS, DAMAGING, SETTINGS, requests, resources
from scripts.faults.faulty.injection import FAULTS, inject
from shared.http.web import Service
from shared.testing.fixtures import Lab
from shared.testing.timing import StoppedClock
from tests.support import key_header


class Bank(NamedTuple):
    """The application, and two accounts with money."""

    client: httpx.AsyncClient
    service: AccountService
    engine: AsyncEngine
    settings: AccountSettings
    source: str
    target: str

    async def pay(self, **headers: str) -> httpx.Response:
        """Transfer 5 from source to target."""
        body = {"from_account": self.source, "to_account": self.target, "amount": 5, "currency": "USD"}
        return await self.client.post("/api/v1/transfers", json=body, headers={**key_header(), **headers})

    async def read(self, path: str = "") -> httpx.Response:
        """Read the source account."""
        return await self.client.get(path or f"/api/v1/accounts/{self.source}")

    async def events(self) -> list[dict[str, Any]]:
        """Return the events of all entries in the outbox."""
        async with self.engine.connect() as connection:
            rows = (await connection.scalars(select(outbox.rows.c.events))).all()
        return [event for row in rows for event in orjson.loads(row) if event["type"] == "bank.entry.posted"]

    async def count_entries(self) -> int:
        """Return the number of entries in the ledger."""
        async with self.engine.connect() as connection:
            return await connection.scalar(select(func.count()).select_from(entries)) or 0


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: the faults are in the code that both share."""
    return sqlite_url


@pytest.fixture
async def bank(application: Service, engine: AsyncEngine, settings: AccountSettings, lab: Lab) -> AsyncIterator[Bank]:
    """A bank whose client does not raise the application's exceptions."""
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://bank", headers=lab.headers("alice")) as client:
        ids = []
        for _ in range(2):
            opened = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=key_header())
            ids.append(opened.json()["id"])
            money = {"amount": 100_000, "currency": "USD"}
            path = f"/api/v1/accounts/{ids[-1]}/deposits"
            assert (await client.post(path, json=money, headers=key_header())).status_code == 201
        yield Bank(client, application.app.state.service, engine, settings, *ids)


async def fails_all(bank: Bank) -> bool:
    """Both requests get 500; one of the two payments has its effect."""
    before = (await bank.count_entries(), [(await bank.pay()).status_code for _ in range(2)])
    return before[1] == [500, 500] and await bank.count_entries() == before[0] + 2


async def fails_sometimes(bank: Bank) -> bool:
    random.seed(1)
    statuses = [(await bank.read()).status_code for _ in range(200)]
    return 1 <= statuses.count(500) <= 30 and statuses.count(200) == 200 - statuses.count(500)


def answers(status: int, code: str, *, reads: bool) -> Callable[[Bank], Awaitable[bool]]:
    """Return a symptom: a problem in response to payments and, if `reads`, to reads."""

    async def symptom(bank: Bank) -> bool:
        before = await bank.count_entries()
        payment, reading = await bank.pay(), await bank.read()
        assert await bank.count_entries() == before or payment.status_code == 201
        rejected = (payment.status_code, payment.json().get("code")) == (status, code)
        return rejected and (reading.status_code == status if reads else reading.status_code == 200)

    return symptom


async def refuses_half(bank: Bank) -> bool:
    statuses = [(await bank.pay()).status_code for _ in range(20)]
    return statuses.count(409) == 10 and statuses.count(201) == 10


async def shows_wrong_balance(bank: Bank) -> bool:
    account = (await bank.read()).json()
    listed = (await bank.read("/api/v1/accounts")).json()["items"]
    wrong = [one["balance"] - one["held"] - one["available"] for one in [account, *listed]]
    assert wrong in ([0] * 3, [1] * 3)
    return any(wrong)


async def publishes_nothing(bank: Bank) -> bool:
    before = await bank.events()
    assert (await bank.pay()).status_code == 201
    return len(await bank.events()) == len(before)


async def publishes_wrong_amounts(bank: Bank) -> bool:
    before = await bank.events()
    assert (await bank.pay()).status_code == 201
    amounts = [event["data"]["amount"] for event in (await bank.events())[len(before) :]]
    assert amounts in ([-5, 5], [-4, 6])
    return amounts == [-4, 6]


async def posts_twice(bank: Bank) -> bool:
    """SQLite stores the entries; PostgreSQL's triggers reject them."""
    before = await bank.count_entries()
    assert (await bank.pay()).status_code == 201
    return await bank.count_entries() == before + 4


async def fails_to_consume(bank: Bank) -> bool:
    handler = FlagHandler(bank.engine, bank.service)
    try:
        await handler.dry_run([])
        await handler.process([], [])
    except requests.InjectedError:
        return True
    return False


def delays(seconds: float, least: int, most: int, of: int) -> Callable[[Bank], Awaitable[bool]]:
    """Return a symptom: so many of the requests are delayed by some seconds, according to the clock of the fault."""

    async def symptom(bank: Bank) -> bool:
        waits: list[float] = []

        async def sleep(delay: float) -> None:
            waits.append(delay)

        random.seed(1)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(requests, "asyncio", SimpleNamespace(sleep=sleep))
            for _ in range(of):
                assert (await bank.read()).status_code == 200
        return least <= len(waits) <= most and set(waits) == {seconds}

    return symptom


async def hangs(bank: Bank) -> bool:
    """Reads wait for an event that never comes."""
    waiting = asyncio.Event()

    class Never:
        """An event that is not set."""

        async def wait(self) -> None:
            """Wait for good."""
            waiting.set()
            await asyncio.get_running_loop().create_future()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(requests, "asyncio", SimpleNamespace(Event=Never))
        reading = asyncio.create_task(bank.read())
        await asyncio.wait({reading, hung := asyncio.create_task(waiting.wait())}, return_when="FIRST_COMPLETED")
        reading.cancel()
        hung.cancel()
    return waiting.is_set()


async def leaks(bank: Bank) -> bool:
    """The memory that each request keeps is 20 KB."""
    kept: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resources, "remember", lambda block: kept.append(len(block)))
        for _ in range(10):
            assert (await bank.read()).status_code == 200
    return kept == [resources.LEAKED_BYTES] * 10


class CpuClock(StoppedClock):
    """A clock of CPU time, which reading it takes, too."""

    def process_time(self) -> float:
        """Return the CPU time used so far."""
        self.now += 0.0001
        return self.now


async def burns(bank: Bank) -> bool:
    """The CPU time of requests that take 10 ms, compared with requests to routes that the fault leaves alone."""
    cpu = CpuClock()

    async def cost(path: str) -> float:
        started = cpu.now
        for _ in range(20):
            cpu.now += 0.01
            assert (await bank.read(path)).status_code in (200, 404)
        return cpu.now - started

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resources, "time", cpu)
        other, own = await cost("/nowhere"), await cost("/api/v1/nowhere")
    return own >= 2 * other


async def dies(bank: Bank) -> bool:
    codes: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(requests.os, "_exit", codes.append)
        assert (await bank.pay()).status_code == 201
        await bank.pay(**{"X-Request-ID": "query-of-death"})
    return codes == [137]


async def is_unready(bank: Bank) -> bool:
    return (await bank.client.get("/health/ready")).status_code == 503


SYMPTOMS: dict[str, Callable[[Bank], Awaitable[bool]]] = {
    "errors": fails_all,
    "some-errors": fails_sometimes,
    "401-all": answers(401, "unauthorized", reads=True),
    "404-all": answers(404, "not-found", reads=True),
    "422-valid": answers(422, "validation-failed", reads=False),
    "409-half": refuses_half,
    "wrong-balance-field": shows_wrong_balance,
    "no-events": publishes_nothing,
    "wrong-amount-event": publishes_wrong_amounts,
    "double-post": posts_twice,
    "consumer": fails_to_consume,
    "slow": delays(0.3, 5, 5, of=5),
    "slow-1-in-50": delays(2.0, 2, 12, of=300),
    "hang": hangs,
    "leak": leaks,
    "cpu-x3": burns,
    "death": dies,
    "unready": is_unready,
}


@pytest.mark.parametrize("fault", SYMPTOMS)
async def test_a_fault_has_its_symptom(fault: str, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await SYMPTOMS[fault](bank)
    inject(fault, monkeypatch.setattr)
    assert await SYMPTOMS[fault](bank)


def test_every_fault_is_described_and_tested() -> None:
    # The history is transaction-service's: transaction-service/tests/test_ingestion.py.
    assert FAULTS.keys() == {*SYMPTOMS, "no-history", "none"}
    assert DESCRIPTIONS.keys() == FAULTS.keys() | SETTINGS.keys()
    # The drill rolls these out (integration-tests/drills/rollout); here: they are settings of this service.
    assert all(name.lower() in AccountSettings.model_fields for names in SETTINGS.values() for name in names)
    assert set(DAMAGING) <= FAULTS.keys()
