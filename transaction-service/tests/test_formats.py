"""Formats of statements, on plain data."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest
from pypdf import PdfReader
from xmlschema import XMLSchema

from app.formats import pdf
from app.formats.base import Format, Options, filename
from app.formats.camt053 import CamtFormat
from app.formats.csv_format import CsvFormat
from app.formats.json_format import JsonFormat
from app.statements import Line, Totals
from shared.ids import new_id
from tests.support import DAY, LINES, NOON, line, statement

OPTIONS = Options("Bank & Sons", NOON + DAY)
START, END = "2026-11-20T12:00:00.000000Z", "2026-11-21T12:00:00.000000Z"
CAMT_RULES = XMLSchema(Path(__file__).parent / "camt053.xsd")
NAMESPACE = {"": "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"}
# Texts of every kind of script, and what XML and PDF treat specially.
TEXTS = ["Zürich & <b>", "家賃 ー 十一月", "إيجار", "Аренда", "🏦\U0001f9fe", "(a\\b)", "]]>", "\ufffe\uffff", "€ 5"]


def totals_of(lines: Sequence[Line]) -> Totals:
    totals = Totals(2)
    totals.add(lines)
    return totals


def written(form: Format, *pages: Sequence[Line]) -> bytes:
    totals = Totals(2)
    content = form.head(totals_of([line for page in pages for line in page]))
    for page in pages:
        totals.add(page)
        content += form.entries(page)
    return content + form.tail(totals)


def as_csv(*lines: Line, covered: bool = True) -> bytes:
    return written(CsvFormat(statement(*lines, covered=covered), OPTIONS), lines)


@pytest.mark.parametrize("pages", [[LINES], [LINES[:1], LINES[1:]], [LINES[:2], [], LINES[2:]]])
def test_json_from_any_number_of_pages(pages: list[list[Line]]):
    shown = orjson.loads(written(JsonFormat(statement(*LINES), OPTIONS), *pages))
    assert shown["entries"][0] == {
        **{"transaction_id": "transaction-3", "type": "transfer", "seq": 3, "amount": 50, "balance_after": 150},
        **{"counterparty": "other", "reference": "salary", "created_at": START},
    }
    assert [entry["seq"] for entry in shown.pop("entries")] == [3, 4, 5]
    assert shown == {
        **{"account_id": "account", "currency": "USD", "from": START, "to": END},
        **{"complete": True, "complete_through": END, "watermark": {"seq": 5, "account_seq": 5, "as_of": END}},
        **{"opening_balance": 100, "closing_balance": 100, "total_credits": 50, "total_debits": 50},
    }


def test_json_of_a_period_without_entries():
    shown = orjson.loads(written(JsonFormat(statement(), OPTIONS)))
    assert (shown["entries"], shown["closing_balance"], shown["complete"]) == ([], 100, True)


def test_csv():
    content = as_csv(line(3, 50, 150, 'a "quoted", reference'), line(4, -30, 120, "Zürich"))
    assert content.endswith(b"\r\n")
    header, opening, *entries, closing = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert header == [
        *("created_at type transaction_id seq counterparty reference currency amount balance_after".split()),
        *("amount_decimal", "balance_after_decimal"),
    ]
    assert opening == [START, "opening-balance", "", "", "", "", "USD", "", "100", "", "1.00"]
    assert [row[5:] for row in entries] == [
        ['a "quoted", reference', "USD", "50", "150", "0.50", "1.50"],
        ["Zürich", "USD", "-30", "120", "-0.30", "1.20"],
    ]
    assert closing == [END, "closing-balance", "", "", "", "complete", "USD", "", "120", "", "1.20"]
    assert as_csv(line(3, 50, 150), covered=False).decode().splitlines()[-1].endswith(",incomplete,USD,,150,,1.50")


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_a_reference_is_never_a_formula(formula: str):
    rows = list(csv.reader(io.StringIO(as_csv(line(3, -5, 95, formula)).decode(), newline="")))
    assert rows[2][5] == f"'{formula}"
    assert rows[2][7] == "-5"  # a number stays one


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_reference_is_no_formula_after_a_semicolon_either(start: str):
    content = as_csv(line(3, -5, 95, f"rent;{start}1+1;;{start}2 a-b=c")).decode()
    assert f"rent;'{start}1+1;;'{start}2 a-b=c" in content
    for row in csv.reader(io.StringIO(content, newline=""), delimiter=";"):
        assert not any(cell.startswith(start) for cell in row)


@pytest.mark.parametrize(
    ("currency", "decimals"), [("JPY", ["-5", "95"]), ("KWD", ["-0.005", "0.095"]), ("CLF", ["-0.0005", "0.0095"])]
)
def test_csv_has_as_many_decimals_as_the_currency(currency: str, decimals: list[str]):
    form = CsvFormat(statement(line(3, -5, 95), currency=currency), OPTIONS)
    rows = list(csv.reader(io.StringIO(written(form, [line(3, -5, 95)]).decode(), newline="")))
    assert rows[2][7:] == ["-5", "95", *decimals]


def test_csv_starts_with_a_byte_order_mark_on_request():
    with_mark = CsvFormat(statement(*LINES), replace(OPTIONS, byte_order_mark=True))
    content = written(with_mark, LINES)
    assert content.startswith(b"\xef\xbb\xbfcreated_at,") and content.count(b"\xef\xbb\xbf") == 1
    assert content[3:] == as_csv(*LINES)


def as_camt(
    *lines: Line, covered: bool = True, options: Options = OPTIONS, currency: str = "USD"
) -> ElementTree.Element:
    """Return the document, after the rules of the standard were checked."""
    content = written(CamtFormat(statement(*lines, covered=covered, currency=currency), options), lines)
    CAMT_RULES.validate(content.decode())
    found = ElementTree.fromstring(content).find("BkToCstmrStmt/Stmt", NAMESPACE)
    assert found is not None
    return found


def texts(element: ElementTree.Element, *paths: str) -> list[str | None]:
    return [element.findtext(path, namespaces=NAMESPACE) for path in paths]


def test_camt_balances_and_totals():
    found = as_camt(*LINES)
    assert texts(found, "FrToDt/FrDtTm", "FrToDt/ToDtTm", "Acct/Ccy", "AddtlStmtInf") == [START, END, "USD", "complete"]
    assert texts(found, "Acct/Id/Othr/Id", "Acct/Svcr/FinInstnId/Nm") == ["account", "Bank & Sons"]
    balances = [
        texts(balance, "Tp/CdOrPrtry/Cd", "Amt", "CdtDbtInd", "Dt/DtTm") for balance in found.iterfind("Bal", NAMESPACE)
    ]
    assert balances == [["OPBD", "1.00", "CRDT", START], ["CLBD", "1.00", "CRDT", END]]
    summary = found.find("TxsSummry", NAMESPACE)
    assert texts(summary, "TtlNtries/NbOfNtries", "TtlNtries/Sum") == ["3", "1.00"]
    assert texts(summary, "TtlNtries/TtlNetNtry/Amt", "TtlNtries/TtlNetNtry/CdtDbtInd") == ["0.00", "CRDT"]
    assert texts(summary, "TtlCdtNtries/Sum", "TtlDbtNtries/Sum") == ["0.50", "0.50"]


def test_camt_entries():
    credit, debit = as_camt(line(3, 50, 150, "salary"), line(4, -200, -50, None, "reversal")).iterfind(
        "Ntry", NAMESPACE
    )
    details = "NtryDtls/TxDtls/"
    assert texts(credit, "NtryRef", "Amt", "CdtDbtInd", "RvslInd", "BookgDt/DtTm") == ["3", "0.50", "CRDT", None, START]
    assert texts(credit, "BkTxCd/Domn/Fmly/Cd", "BkTxCd/Domn/Fmly/SubFmlyCd") == ["RCDT", "BOOK"]
    assert texts(credit, details + "RltdPties/DbtrAcct/Id/Othr/Id", details + "RmtInf/Ustrd") == ["other", "salary"]
    assert credit.find("Amt", NAMESPACE).get("Ccy") == "USD"
    assert texts(debit, "Amt", "CdtDbtInd", "RvslInd", "BkTxCd/Prtry/Cd") == ["2.00", "DBIT", "true", "reversal"]
    assert texts(debit, "BkTxCd/Domn/Fmly/Cd", "BkTxCd/Domn/Fmly/SubFmlyCd") == ["ICDT", "OTHR"]
    assert texts(debit, details + "RltdPties/CdtrAcct/Id/Othr/Id", details + "RmtInf/Ustrd") == ["other", None]


def test_a_negative_balance_is_a_debit_in_camt():
    closing = as_camt(line(3, -150, -50)).findall("Bal", NAMESPACE)[1]
    assert texts(closing, "Amt", "CdtDbtInd") == ["0.50", "DBIT"]


def test_camt_of_a_period_without_entries_and_of_an_incomplete_one():
    assert texts(as_camt(), "TxsSummry/TtlNtries/NbOfNtries", "Ntry/NtryRef") == ["0", None]
    assert texts(as_camt(*LINES, covered=False), "AddtlStmtInf") == ["incomplete"]


@pytest.mark.parametrize("currency", ["JPY", "USD", "KWD", "CLF"])
def test_camt_within_the_lengths_of_the_standard(currency: str):
    largest = Line(new_id(), "withdrawal", 2**62, -(10**15), 8 * 10**15, new_id(), "x" * 140, NOON)
    found = as_camt(largest, options=replace(OPTIONS, bank_name="B" * 140), currency=currency)
    reference = found.findtext("Ntry/AcctSvcrRef", namespaces=NAMESPACE)
    assert reference == largest.transaction_id.replace("-", "")


@pytest.mark.parametrize("text", TEXTS)
def test_camt_has_references_in_any_script(text: str):
    found = as_camt(line(3, 50, 150, text))
    path = "Ntry/NtryDtls/TxDtls/RmtInf/Ustrd"
    assert texts(found, path) == [text.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")]


def test_the_same_statement_has_the_same_id():
    ids = {
        as_camt(*LINES, options=replace(OPTIONS, created_at=time)).findtext("Id", namespaces=NAMESPACE)
        for time in (NOON, NOON + DAY)
    }
    assert len(ids) == 1 and ids != {as_camt(*LINES[:2]).findtext("Id", namespaces=NAMESPACE)}


def test_camt_needs_the_totals_first():
    with pytest.raises(ValueError, match="pass them"):
        CamtFormat(statement(*LINES), OPTIONS).head(None)


def as_pdf(*lines: Line, covered: bool = True, count: int | None = None) -> str:
    """Return the text of the only page; `count` is the number of entries of the whole statement."""
    totals = totals_of(lines)
    totals.count = count or totals.count
    document = PdfReader(io.BytesIO(pdf.render(statement(*lines, covered=covered), totals, OPTIONS)), strict=True)
    (page,) = document.pages
    assert document.metadata is not None and document.metadata.title == "Statement of account account"
    return page.extract_text()


def test_pdf_has_balances_totals_and_entries():
    lines = [" ".join(line.split()) for line in as_pdf(*LINES).splitlines()]
    assert lines[0] == "Bank & Sons"
    assert {
        *("Account number 1234", "Account id account", f"From {START}", f"To (exclusive) {END}"),
        *("Opening balance 1.00 USD", "Closing balance 1.00 USD", "Number of entries 3"),
        *("Total credits 0.50 USD", "Total debits -0.50 USD"),
        *("2026-11-20 transfer 0.50 salary", "2026-11-20 transfer -0.30"),
    } <= set(lines)
    assert not any(line.startswith(("Incomplete", "The first")) for line in lines)


def test_pdf_of_a_long_statement_is_one_page_and_says_so():
    many = [line(seq, 1, 100 + seq, f"salary {seq}") for seq in range(3, 253)]
    shown = as_pdf(*many, covered=False, count=1_000_000)
    assert f"The first {pdf.MAX_ENTRIES} of 1000000 entries." in shown and "Incomplete: " in shown
    assert f"salary {pdf.MAX_ENTRIES + 2}" in shown and f"salary {pdf.MAX_ENTRIES + 3}" not in shown


def test_pdf_of_a_period_without_entries():
    assert "No entries." in as_pdf()


@pytest.mark.parametrize("text", [*TEXTS, "x" * 140])
def test_pdf_with_references_in_any_script(text: str):
    shown = text.encode("cp1252", "replace").decode("cp1252") if len(text) < 140 else "x" * 29 + "…"
    assert shown in as_pdf(line(3, 50, 150, text))


def test_filename():
    assert filename(statement(), "csv") == "statement-account-2026-11-20-2026-11-21.csv"
