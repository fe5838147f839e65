"""A statement as JSON."""

from collections.abc import Sequence
from typing import Any

import orjson

from app.formats.base import Format
from app.statements import Line, Totals, timestamp_or_none
from shared.ids import rfc3339


class JsonFormat(Format):
    """A statement as a JSON object: balances and watermark, then the entries, then their totals."""

    media_type = "application/json"
    _separator = b""

    def head(self, announced: Totals | None) -> bytes:
        """Return the part before the entries."""
        statement, watermark = self._statement, self._statement.watermark
        fields = {
            "account_id": statement.account_id,
            "currency": statement.currency,
            "from": rfc3339(statement.start),
            "to": rfc3339(statement.end),
            "complete": statement.complete,
            "complete_through": timestamp_or_none(watermark.complete_through),
            "watermark": {
                "seq": watermark.seq,
                "account_seq": watermark.account_seq,
                "as_of": timestamp_or_none(watermark.as_of),
            },
            "opening_balance": statement.opening.balance,
            "closing_balance": statement.closing.balance,
        }
        return orjson.dumps(fields)[:-1] + b',"entries":['

    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return a page of entries."""
        if not lines:
            return b""
        content = self._separator + orjson.dumps([_entry(line) for line in lines])[1:-1]
        self._separator = b","
        return content

    def tail(self, totals: Totals) -> bytes:
        """Return the part after the entries."""
        return b"]," + orjson.dumps({"total_credits": totals.credits, "total_debits": totals.debits})[1:]


def _entry(line: Line) -> dict[str, Any]:
    return {
        "transaction_id": line.transaction_id,
        "type": line.type,
        "seq": line.seq,
        "amount": line.amount,
        "balance_after": line.balance_after,
        "counterparty": line.counterparty,
        "reference": line.reference,
        "created_at": rfc3339(line.created_at),
    }
