"""Streaming of long statements, on both databases."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from xml.etree import ElementTree

import httpx
import orjson
import pytest
from pypdf import PdfReader
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.ingestion import EventIngestion
from app.domain.completeness import LedgerAccount
from app.formats.base import Format, Options
from app.formats.camt053 import CamtFormat
from app.formats.csv_format import CsvFormat
from app.formats.json_format import JsonFormat
from app.http import streaming
from app.http.streaming import StreamLimiter, statement_response
from app.service import TransactionService
from app.statements import Line, Totals
from app.storage import queries
from shared.http.problems import Problem
from shared.testing.fixtures import Lab
from shared.http.web import Service
from tests.conftest import Balances
from tests.support import ALICE, NOON, Ledger

ENTRIES = 23
OPTIONS = Options("Bank", NOON)
AROUND = {"from": "2026-11-19T00:00:00Z", "to": "2026-11-21T00:00:00Z"}


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> int:
    """Five entries are a page, and eight are added up by one query."""
    monkeypatch.setattr(queries, "PAGE_SIZE", 5)
    monkeypatch.setattr(streaming, "TOTALS_SIZE", 8)
    return 5


@pytest.fixture
async def alices(ingestion: EventIngestion, ledger: Ledger, balances: Balances) -> str:
    """An account with a few pages of entries."""
    account = ledger.open()
    for number in range(ENTRIES):
        ledger.deposit(account, 10 + number, f"salary {number}")
    await ingestion.apply(ledger.events, [])
    balances.ledger = {account: LedgerAccount(account, "alice", "USD", ENTRIES)}
    return account


@pytest.fixture
async def client(application: Service, balances: Balances, lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, with the fake client of account-service."""
    application.app.state.service._ledger = balances  # pylint: disable=protected-access
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://bank", headers=lab.headers("alice")) as client:
        yield client


async def test_a_long_statement_is_one_document(client: httpx.AsyncClient, alices: str):
    answer = await client.get(f"/api/v1/statements/{alices}", params=AROUND)
    shown = answer.json()
    assert "content-length" not in answer.headers and answer.headers["content-type"] == "application/json"
    assert [entry["seq"] for entry in shown["entries"]] == list(range(1, ENTRIES + 1))
    total = sum(10 + number for number in range(ENTRIES))
    assert (shown["opening_balance"], shown["closing_balance"], shown["total_credits"]) == (0, total, total)
    assert shown["complete"]

    answer = await client.get(f"/api/v1/statements/{alices}", params=AROUND, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["seq"] for row in rows] == ["", *map(str, range(1, ENTRIES + 1)), ""]
    assert (rows[-1]["balance_after"], rows[-1]["reference"]) == (str(total), "complete")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8" and answer.headers["vary"] == "Accept"
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_a_long_statement_as_xml_has_the_totals_first(client: httpx.AsyncClient, alices: str):
    answer = await client.get(f"/api/v1/statements/{alices}", params=AROUND, headers={"Accept": "application/xml"})
    assert "content-length" not in answer.headers and answer.headers["content-type"] == "application/xml"
    found = ElementTree.fromstring(answer.content)
    space = "{urn:iso:std:iso:20022:tech:xsd:camt.053.001.08}"
    total = f"{sum(10 + number for number in range(ENTRIES)) / 100:.2f}"
    assert len(list(found.iter(f"{space}Ntry"))) == ENTRIES
    assert found.findtext(f".//{space}TtlNtries/{space}NbOfNtries") == str(ENTRIES)
    assert found.findtext(f".//{space}TtlCdtNtries/{space}Sum") == total
    assert found.findtext(f".//{space}AddtlStmtInf") == "complete"


async def test_a_long_statement_as_pdf_reads_no_pages(
    client: httpx.AsyncClient, application: Service, alices: str, monkeypatch: pytest.MonkeyPatch
):
    async def read(*_: object) -> list[Line]:
        raise AssertionError("a page was read")

    monkeypatch.setattr(TransactionService, "next_lines", read)
    path, pdf = f"/api/v1/statements/{alices}", {"Accept": "application/pdf"}
    answer = await client.get(path, params=AROUND, headers=pdf)
    assert f"{ENTRIES} entries" in PdfReader(io.BytesIO(answer.content)).pages[0].extract_text()
    application.app.state.streams = StreamLimiter(limit=1)
    with application.app.state.streams.slot():
        assert (await client.get(path, params=AROUND, headers=pdf)).status_code == 429


async def test_the_number_of_concurrent_long_statements_is_limited(
    client: httpx.AsyncClient, application: Service, alices: str
):
    application.app.state.streams = StreamLimiter(limit=1)
    with application.app.state.streams.slot():
        answer = await client.get(f"/api/v1/statements/{alices}", params=AROUND)
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "rate-limited", "5")
        short = await client.get(f"/api/v1/statements/{alices}", params={**AROUND, "from": "2026-11-20T13:00:00Z"})
        assert short.status_code == 200
    for _ in range(2):  # a place that was used is free again
        assert (await client.get(f"/api/v1/statements/{alices}", params=AROUND)).status_code == 200


class Connection:
    """A fake client connection that records messages and reacts to each part."""

    def __init__(self, on_part: Callable[[], Any] = lambda: None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._on_part = on_part

    async def send(self, message: Any) -> None:
        """Record a message."""
        self.sent.append(message)
        if message["type"] == "http.response.body" and (waiting := self._on_part()) is not None:
            await waiting

    async def receive(self) -> dict[str, str]:
        """Wait for the disconnect."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        """The document received so far."""
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def ended(self) -> bool:
        """Whether the document is complete."""
        return bool(self.sent) and self.sent[-1].get("more_body", False) is False


class Sender:
    """Sends one statement to a connection and counts the pages read."""

    def __init__(self, service: TransactionService, account: str) -> None:
        self.service = service
        self.account = account
        self.streams = StreamLimiter(limit=1)
        self.pages = 0

    async def send(self, connection: Connection, form: type[Format] = JsonFormat, **scope: Any):
        """Send the statement."""
        statement = await self.service.statement(ALICE, self.account, None, None)

        async def read(after: int) -> list[Line]:
            self.pages += 1
            return await self.service.next_lines(statement, after)

        async def totals(after: int, last: int) -> Totals:
            return await self.service.totals(statement, after, last)

        response = statement_response(self.streams, statement, form(statement, OPTIONS), read, totals, {})
        scope = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}} | scope
        await response(scope, connection.receive, connection.send)
        with self.streams.slot():  # whatever came of it, its place is free again
            pass


@pytest.fixture
def sender(service: TransactionService, alices: str) -> Sender:
    """Sends the statement of the account."""
    return Sender(service, alices)


async def test_a_long_statement_ignores_entries_posted_meanwhile(
    sender: Sender, ingestion: EventIngestion, ledger: Ledger
):
    def post() -> None:
        ledger.deposit(sender.account, 1)

    connection = Connection(post)
    await sender.send(connection)
    assert len(orjson.loads(connection.body)["entries"]) == ENTRIES and connection.ended

    posted = Connection(lambda: ingestion.apply(ledger.events, []))
    await sender.send(posted)
    assert len(orjson.loads(posted.body)["entries"]) == ENTRIES


@pytest.mark.parametrize("form", [JsonFormat, CsvFormat, CamtFormat])
async def test_an_aborted_statement_is_not_a_valid_document(
    sender: Sender, ingestion: EventIngestion, form: type[Format]
):
    rebuilt = Connection(ingestion.clear_history)
    await sender.send(rebuilt, form)
    assert rebuilt.sent[0]["status"] == 200 and not rebuilt.ended
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(rebuilt.body)
    assert b"closing-balance" not in rebuilt.body and b"</Document>" not in rebuilt.body


async def test_an_entry_that_arrives_after_the_totals_were_sent_aborts_xml(
    sender: Sender, ingestion: EventIngestion, ledger: Ledger
):
    *earlier, late = [event for event in ledger.events if event.data.get("account_id") == sender.account][:-1]
    last = ledger.events[-1]
    await ingestion.clear_history()
    await ingestion.apply([ledger.events[0], *earlier, last], [])
    incomplete = Connection()
    await sender.send(incomplete, CamtFormat)
    assert incomplete.ended and b"<AddtlStmtInf>incomplete" in incomplete.body

    aborted = Connection(lambda: ingestion.apply([late], []))
    await sender.send(aborted, CamtFormat)
    assert not aborted.ended and b"</Document>" not in aborted.body


async def test_a_disconnect_stops_reading(sender: Sender):
    connection = Connection()
    connection._on_part = lambda: connection.gone.set() or asyncio.sleep(0.01)  # pylint: disable=protected-access
    await sender.send(connection)
    assert sender.pages <= 1 and not connection.ended


async def test_a_slow_client_holds_no_database_connection_and_times_out(
    sender: Sender, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streaming, "_SEND_TIMEOUT_SECONDS", 0.05)
    held: list[str] = []

    async def hang() -> None:
        held.append(engine.pool.status())
        await asyncio.Event().wait()

    connection = Connection(hang)
    await sender.send(connection)
    assert not connection.ended and len(held) == 1
    assert "Current Checked out connections: 0" in held[0]


async def test_head_of_a_long_statement_reads_no_pages(
    client: httpx.AsyncClient, alices: str, monkeypatch: pytest.MonkeyPatch
):
    whole = await client.get(f"/api/v1/statements/{alices}", params=AROUND)

    async def read(*_: object) -> list[Line]:
        raise AssertionError("a page was read")

    monkeypatch.setattr(TransactionService, "next_lines", read)
    answer = await client.head(f"/api/v1/statements/{alices}", params=AROUND)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == whole.headers["content-type"]


async def test_pages_are_read_one_at_a_time(service: TransactionService, alices: str):
    statement = await service.statement(ALICE, alices, None, None)
    streams, reading, most = StreamLimiter(), 0, 0

    async def read(after: int) -> list[Line]:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        lines = await service.next_lines(statement, after)
        reading -= 1
        return lines

    async def whole() -> bytes:
        form = JsonFormat(statement, OPTIONS)
        return b"".join(
            [part async for part in streams.parts(statement, form, read, partial(service.totals, statement))]
        )

    found = await asyncio.gather(*(whole() for _ in range(3)))
    assert most == 1 and len(set(found)) == 1 and orjson.loads(found[0])["complete"]


def test_slots_are_limited():
    streams = StreamLimiter(limit=1)
    with streams.slot(), pytest.raises(Problem, match="rate-limited"), streams.slot():
        raise AssertionError("unreachable")
