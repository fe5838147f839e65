"""The HTTP contract of transaction-service, inside the process."""

import codecs
import csv
import io
from datetime import timedelta

import httpx
import pytest
from pypdf import PdfReader

from app.application.ingestion import EventIngestion
from app.http.negotiation import negotiate
from shared.events import BATCH_MEDIA_TYPE
from shared.ids import new_id
from shared.testing.fixtures import Lab
from shared.http.web import Service
from tests.conftest import NOW
from tests.support import Ledger

WEBHOOK_JOBS = ("webhooks", "webhook-metrics", "webhook-retention")
AROUND = {"from": "2026-11-19T00:00:00Z", "to": "2026-11-21T00:00:00Z"}


def assert_problem(answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> None:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"/problems/{code}" and body["title"] and body["detail"] and body["instance"]
    assert body["request_id"] == answer.headers["x-request-id"]
    if pointer:
        assert [error["pointer"] for error in body["errors"]] == [pointer]


async def test_transactions_are_paged(client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger):
    alices, bobs = ledger.open(), ledger.open("bob")
    made = [ledger.deposit(alices, 100)] + [ledger.move(alices, bobs, 1) for _ in range(4)]
    ledger.deposit(bobs, 5)
    await ingestion.apply(ledger.events, [])

    found, cursor, pages = [], None, 0
    while cursor is not None or pages == 0:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/api/v1/transactions", params=query)).json()
        found += [item["id"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (found, pages) == (made[::-1], 3)

    answer = await client.get(
        "/api/v1/transactions", params={"account_id": alices.upper(), "type": "deposit", **AROUND}
    )
    assert answer.headers["x-app-track"] == "stable" and answer.headers["x-app-version"] == "dev"
    (item,) = answer.json()["items"]
    assert set(item) == {
        *("id", "type", "status", "amount", "currency", "from_account", "to_account", "reference", "reverses"),
        *("entries", "created_at"),
    }
    alone = await client.get(f"/api/v1/transactions/{item['id']}")
    assert alone.json() == item


async def test_other_callers_data_is_not_found(
    client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger, lab: Lab
):
    bobs = ledger.open("bob")
    made = ledger.deposit(bobs, 5)
    await ingestion.apply(ledger.events, [])
    paths = (f"transactions?account_id={bobs}", f"transactions/{made}", f"statements/{bobs}")
    for path in paths:
        assert_problem(await client.get(f"/api/v1/{path}"), 404, "not-found")
        for headers in (lab.headers("bob"), lab.operator()):
            assert (await client.get(f"/api/v1/{path}", headers=headers)).status_code == 200
    page = (await client.get("/api/v1/transactions")).json()
    assert (page["items"], page["next_cursor"]) == ([], None)
    assert_problem(await client.get("/api/v1/transactions/not-an-id"), 404, "not-found")
    assert_problem(await client.post("/api/v1/transactions"), 405, "method-not-allowed")


async def test_flags_and_reconciliation_are_for_operators(
    client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger, lab: Lab
):
    alices = ledger.open()
    ledger.withdraw(alices, 1_000_000)
    ledger.later(60)
    ledger.withdraw(alices, 10_000_001)
    await ingestion.apply(ledger.events, [])
    for path in ("flags", "reconciliation"):
        assert_problem(await client.get(f"/api/v1/{path}"), 403, "forbidden")
    first = (await client.get("/api/v1/flags?limit=1", headers=lab.operator())).json()
    query = {"cursor": first["next_cursor"], "account_id": alices}
    second = (await client.get("/api/v1/flags", params=query, headers=lab.operator())).json()
    assert {flag["rule"] for flag in first["items"] + second["items"]} == {"amount", "large-amount"}
    assert second["next_cursor"] is None
    answer = await client.get("/api/v1/reconciliation", headers=lab.operator())
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_a_valid_token_is_required(application: Service, lab: Lab):
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://bank") as anonymous:
        for path in ("transactions", f"transactions/{new_id()}", f"statements/{new_id()}", "flags", "reconciliation"):
            answer = await anonymous.get(f"/api/v1/{path}")
            assert_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            wrong = {"Authorization": lab.headers("alice")["Authorization"] + "x"}
            assert_problem(await anonymous.get(f"/api/v1/{path}", headers=wrong), 401, "unauthorized")


WRONG_PARAMETERS = [
    ("from=2026-11-20T12:00:00", "/query/from"),
    ("from=2026-11-20", "/query/from"),
    ("from=1763640000", "/query/from"),
    ("to=2026-02-30T00:00:00Z", "/query/to"),
    ("to=0001-01-01T00:00:00%2B01:00", "/query/to"),
    ("to=", "/query/to"),
    ("from=2026-11-20T12:00:00Z&to=2026-11-20T12:00:00Z", "/query/from"),
    ("from=2026-11-20T12:00:00Z&to=2026-11-20T12:00:00%2B02:00", "/query/from"),
    ("type=gift", "/query/type"),
    ("account_id=1", "/query/account_id"),
    ("limit=0", "/query/limit"),
    ("limit=201", "/query/limit"),
    ("limit=x", "/query/limit"),
    ("cursor=%00", "/query/cursor"),
]


async def test_invalid_parameters_are_rejected(client: httpx.AsyncClient):
    for query, pointer in WRONG_PARAMETERS:
        assert_problem(await client.get(f"/api/v1/transactions?{query}"), 422, "validation-failed", pointer)


async def test_an_unencoded_plus_in_a_time_is_accepted(client: httpx.AsyncClient):
    for zone in ("+01:00", "%2B01:00", "-01:00", "Z", "z"):
        answer = await client.get(f"/api/v1/transactions?from=2026-11-20T12:00:00.5{zone}")
        assert answer.status_code == 200, answer.text


async def test_statement_as_json_and_csv(client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger):
    alices = ledger.open()
    ledger.deposit(alices, 100)
    ledger.later(86400)
    ledger.withdraw(alices, 30, "=cmd|' /C calc'!A0")
    await ingestion.apply(ledger.events, [])
    day = {"from": "2026-11-21T00:00:00Z", "to": "2026-11-22T01:00:00+01:00"}
    path = f"/api/v1/statements/{alices}"

    answer = await client.get(path, params=day)
    shown = answer.json()
    assert answer.headers["content-type"] == "application/json" and answer.headers["vary"] == "Accept"
    assert (shown["opening_balance"], shown["closing_balance"]) == (100, 70)
    assert (shown["total_credits"], shown["total_debits"]) == (0, 30)
    # Account-service is not there to ask, and the period ends close to the last entry.
    assert not shown["complete"] and shown["watermark"] == {"seq": 2, "account_seq": None, "as_of": None}
    assert shown["complete_through"] == "2026-11-21T11:50:00.000000Z"
    assert (shown["from"], shown["to"]) == ("2026-11-21T00:00:00.000000Z", "2026-11-22T00:00:00.000000Z")
    assert [(entry["seq"], entry["amount"]) for entry in shown["entries"]] == [(2, -30)]

    answer = await client.get(path, params=day, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="statement-{alices}-2026-11-21-2026-11-22.csv"'
    )
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["type"] for row in rows] == ["opening-balance", "withdrawal", "closing-balance"]
    assert rows[1]["reference"] == "'=cmd|' /C calc'!A0" and rows[1]["amount"] == "-30"


async def test_the_default_period_is_the_current_month(
    client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger
):
    alices = ledger.open()
    for month in (NOW.replace(day=1) - timedelta(days=1), NOW - timedelta(seconds=1)):
        ledger.now = month
        ledger.deposit(alices, 100)
    await ingestion.apply(ledger.events, [])
    shown = (await client.get(f"/api/v1/statements/{alices}")).json()
    assert (shown["opening_balance"], shown["closing_balance"], len(shown["entries"])) == (100, 200, 1)
    assert shown["from"] == f"{NOW:%Y-%m}-01T00:00:00.000000Z"


async def test_a_period_ends_at_the_start_of_the_next_month(
    client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger
):
    alices = ledger.open()
    ledger.deposit(alices, 100)
    await ingestion.apply(ledger.events, [])
    for end, start in (
        ("2026-12-01T00:00:00Z", "2026-11-01T00:00:00.000000Z"),
        ("2026-12-01T00:00:00+02:00", "2026-10-31T22:00:00.000000Z"),
    ):
        shown = (await client.get(f"/api/v1/statements/{alices}", params={"to": end})).json()
        assert (shown["from"], len(shown["entries"])) == (start, 1)


WRONG_PERIODS = [
    ({"from": "2026-11-20T00:00:00Z", "to": "2026-11-20T01:00:00+01:00"}, "/query/from"),
    ({"from": "9999-12-31T23:59:59Z"}, "/query/from"),
    ({"from": "0001-01-01T00:00:00Z"}, "/query/from"),
    ({"to": "0001-01-01T00:00:00Z"}, "/query/to"),
    ({"to": "2026-11-20T24:00:00Z"}, "/query/to"),
    ({"to": "2026-11-20T12:00:00+02:75"}, "/query/to"),
    ({"from": "2026-11-20T12:00:00"}, "/query/from"),
    ({"from": "2026-11-21T00:00:00Z", "to": "2026-11-20T00:00:00Z"}, "/query/from"),
    ({"from": "2025-11-18T23:59:59Z", "to": "2026-11-20T00:00:00Z"}, "/query/from"),
    ({"to": "tomorrow"}, "/query/to"),
]


async def test_invalid_periods_are_rejected(client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger):
    alices = ledger.open()
    await ingestion.apply(ledger.events, [])
    for query, pointer in WRONG_PERIODS:
        answer = await client.get(f"/api/v1/statements/{alices}", params=query)
        assert_problem(answer, 422, "validation-failed", pointer)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/csv", "text/csv"),
        ("TEXT/CSV; charset=utf-8", "text/csv"),
        ("text/csv, */*;q=0.8", "text/csv"),
        ("text/*", "text/csv"),
        ("text/csv;q=0.9, application/json;q=0.5", "text/csv"),
        ("application/xml", "application/xml"),
        ("application/xml, text/xml;q=0.5", "application/xml"),
        ("application/pdf, application/xml;q=0.9", "application/pdf"),
        ("application/*, application/json;q=0.1", "application/xml"),
        ("*/*, application/json;q=0", "text/csv"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json, text/csv", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("text/csv;q=much", "application/json"),
        ("text/csv;q=nan", "application/json"),
        (";,,;=", "application/json"),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("*/*;q=0", None),
    ],
)
def test_accept_selects_the_format(accept: str, media_type: str | None):
    supported = ("application/json", "text/csv", "application/xml", "application/pdf")
    assert negotiate(accept, supported) == media_type


async def test_statement_as_xml_and_pdf(
    application: Service, client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger
):
    application.app.state.bank_name = "Bank of Tests"
    alices = ledger.open()
    ledger.deposit(alices, 100, "salary")
    await ingestion.apply(ledger.events, [])
    path = f"/api/v1/statements/{alices}"
    xml = await client.get(path, headers={"Accept": "application/xml"})
    assert xml.headers["content-type"] == "application/xml" and xml.headers["vary"] == "Accept"
    assert xml.headers["content-disposition"].endswith('.xml"')
    for text in ("<Nm>Bank of Tests</Nm>", "<Ustrd>salary</Ustrd>", "<NbOfNtries>1</NbOfNtries><Sum>1.00</Sum>"):
        assert text in xml.text
    pdf = await client.get(path, headers={"Accept": "application/pdf"})
    assert pdf.headers["content-type"] == "application/pdf"
    assert pdf.headers["content-disposition"].endswith('.pdf"')
    (page,) = PdfReader(io.BytesIO(pdf.content)).pages
    for text in ("Bank of Tests", "1234567890123456", "Closing balance", "salary"):
        assert text in page.extract_text()


async def test_an_unsupported_media_type_is_rejected(
    client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger
):
    alices = ledger.open()
    await ingestion.apply(ledger.events, [])
    answer = await client.get(f"/api/v1/statements/{alices}", headers={"Accept": "text/html"})
    assert_problem(answer, 406, "not-acceptable")
    assert "application/json, text/csv, application/xml, application/pdf" in answer.json()["detail"]


async def test_csv_with_a_byte_order_mark(client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger):
    alices = ledger.open()
    await ingestion.apply(ledger.events, [])
    path, csv_only = f"/api/v1/statements/{alices}", {"Accept": "text/csv"}
    marked = [
        (await client.get(path, params=query, headers=csv_only)).content.startswith(codecs.BOM_UTF8)
        for query in ({"bom": "true"}, {"bom": "false"}, {})
    ]
    assert marked == [True, False, False]
    assert_problem(await client.get(path, params={"bom": "yes"}), 422, "validation-failed", "/query/bom")


async def test_the_openapi_document_is_served(client: httpx.AsyncClient):
    document = (await client.get("/docs/transaction-service/openapi.json")).json()
    assert set(document["paths"]) == {
        "/api/v1/transactions",
        "/api/v1/transactions/{id}",
        "/api/v1/statements/{account_id}",
        "/api/v1/flags",
        "/api/v1/reconciliation",
        *("/api/v1/webhooks", "/api/v1/webhooks/{id}", "/api/v1/webhooks/{id}/deliveries"),
    }
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for status, answer in operation["responses"].items():
            wanted = "application/json" if status in ("200", "201") else "application/problem+json"
            assert status == "204" or wanted in answer["content"], status
        assert operation["security"]
    statement = document["paths"]["/api/v1/statements/{account_id}"]["get"]
    assert {parameter["name"] for parameter in statement["parameters"]} == {"account_id", "from", "to", "bom"}
    media_types = {"application/json", "text/csv", "application/xml", "application/pdf"}
    assert statement["responses"]["200"]["content"].keys() == media_types
    assert (await client.get("/docs/transaction-service/")).status_code == 200


async def test_internal_routes(client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger, lab: Lab):
    ledger.withdraw(ledger.open(), 10_000_001)
    await ingestion.apply(ledger.events, [])
    ready = (await client.get("/health/ready")).json()
    jobs = ("loop-lag", "relay", "reconciliation", "outbox-retention", *WEBHOOK_JOBS)
    assert ready["checks"] == {"database": "ok", **dict.fromkeys(jobs, "ok")}
    metrics = (await client.get("/metrics")).text
    assert 'bank_flags_total{rule="large-amount",' in metrics.replace('service="transaction-service",', "")
    assert "bank_reconciliation_mismatches{" in metrics
    assert_problem(await client.get("/internal/events"), 401, "unauthorized")
    token = {"Authorization": f"Bearer {lab.service_token}"}
    answer = await client.get("/internal/events?wait=30", headers=token)
    assert answer.headers["content-type"] == BATCH_MEDIA_TYPE
    assert [event["data"]["action"] for event in answer.json()] == ["freeze"]
