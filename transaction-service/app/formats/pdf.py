"""A statement as a PDF of one page: account, period, balances, totals and the first entries."""

import io
from collections.abc import Sequence

from app.formats.base import Options
from app.statements import Line, Statement, Totals
from shared.currencies import major_units
from shared.ids import rfc3339

MEDIA_TYPE = "application/pdf"
# Number of entries that fit on the page.
MAX_ENTRIES = 40
# A4 in points.
_WIDTH, _HEIGHT = 595, 842
_LEFT, _TOP, _LINE_HEIGHT = 50, 780, 13
_TITLE_SIZE, _TEXT_SIZE = 16, 9
# The fonts that every reader of PDF has. Letters of Courier have the same width, so that columns are aligned.
_FONTS = {"title": "Helvetica-Bold", "text": "Courier"}
_NAME_LENGTH, _REFERENCE_LENGTH = 50, 30


def render(statement: Statement, totals: Totals, options: Options) -> bytes:
    """Return the document; `totals` are those of all entries of the statement.

    The fonts have the characters of Windows-1252. Others become question marks, and long texts are truncated.
    """
    # Here, because only this format needs the library.
    import pydyf  # pylint: disable=import-outside-toplevel

    pdf = pydyf.PDF()
    page = pydyf.Stream(compress=True)
    page.begin_text()
    page.set_font_size("title", _TITLE_SIZE)
    page.move_text_to(_LEFT, _TOP)
    page.show_text_string(_encode(_truncate(options.bank_name, _NAME_LENGTH)))
    page.set_font_size("text", _TEXT_SIZE)
    page.move_text_to(0, -2 * _LINE_HEIGHT)
    for line in _lines(statement, totals, options):
        page.show_text_string(_encode(line))
        page.move_text_to(0, -_LINE_HEIGHT)
    page.end_text()
    pdf.add_object(page)
    fonts = {name: pydyf.Dictionary(_font(base)) for name, base in _FONTS.items()}
    resources = pydyf.Dictionary({"Font": pydyf.Dictionary(fonts)})
    pdf.add_page(
        pydyf.Dictionary(
            {
                "Type": "/Page",
                "Parent": pdf.pages.reference,
                "MediaBox": pydyf.Array([0, 0, _WIDTH, _HEIGHT]),
                "Contents": page.reference,
                "Resources": resources,
            }
        )
    )
    pdf.info["Title"] = pydyf.String(f"Statement of account {statement.account_id}")
    document = io.BytesIO()
    pdf.write(document)
    return document.getvalue()


def _font(base: str) -> dict[str, str]:
    return {"Type": "/Font", "Subtype": "/Type1", "BaseFont": f"/{base}", "Encoding": "/WinAnsiEncoding"}


def _lines(statement: Statement, totals: Totals, options: Options) -> list[str]:
    """Return the lines of the page below the bank's name."""
    currency = statement.currency

    def money(label: str, amount: int) -> str:
        return f"{label:<22}{major_units(amount, currency):>22} {currency}"

    number = [f"Account number        {statement.account_number}"] if statement.account_number else []
    incomplete = [] if statement.complete else ["Incomplete: recent entries may be missing. Request it again later."]
    return [
        "Statement of account",
        "",
        *number,
        f"Account id            {statement.account_id}",
        f"From                  {rfc3339(statement.start)}",
        f"To (exclusive)        {rfc3339(statement.end)}",
        f"Created               {rfc3339(options.created_at)}",
        "",
        money("Opening balance", statement.opening.balance),
        money("Total credits", totals.credits),
        money("Total debits", -totals.debits),
        money("Closing balance", statement.closing.balance),
        f"{'Number of entries':<22}{totals.count:>22}",
        *incomplete,
        "",
        *_table(statement.lines, totals, currency),
    ]


def _table(lines: Sequence[Line], totals: Totals, currency: str) -> list[str]:
    """Return the first entries as a table."""
    rows = [
        f"{line.created_at:%Y-%m-%d}  {line.type:<10}  {major_units(line.amount, currency):>20}  "
        + _truncate(line.reference or "", _REFERENCE_LENGTH)
        for line in lines[:MAX_ENTRIES]
    ]
    if totals.count > len(rows):
        rows += ["", f"The first {len(rows)} of {totals.count} entries. CSV, XML and JSON statements have all of them."]
    return [f"{'Date':<10}  {'Type':<10}  {'Amount':>20}  Reference", *rows] if rows else ["No entries."]


def _truncate(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _encode(text: str) -> bytes:
    return text.encode("cp1252", errors="replace")
