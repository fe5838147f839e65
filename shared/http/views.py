"""What both services show alike."""

from collections.abc import Iterable
from typing import Any

from shared.ids import rfc3339


def transaction_view(transaction: Any, status: str, entries: Iterable[tuple[Any, bool]]) -> dict[str, Any]:
    """Show a transaction with its entries, each with whether its account may be seen.

    The balance of somebody else's account is nobody's business. `transaction` and the entries have the fields of
    account-service's rows.
    """
    return {
        "id": transaction.id,
        "type": transaction.type,
        "status": status,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "from_account": transaction.from_account,
        "to_account": transaction.to_account,
        "reference": transaction.reference,
        "reverses": transaction.reverses,
        "entries": [
            {
                "account_id": entry.account_id,
                "amount": entry.amount,
                "seq": entry.seq if visible else None,
                "balance_after": entry.balance_after if visible else None,
            }
            for entry, visible in entries
        ],
        "created_at": rfc3339(transaction.created_at),
    }
