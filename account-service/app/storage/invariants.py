"""The invariants of the ledger, checked by SQL over the whole ledger."""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# By violation: a query for what violates the invariant, which must find nothing.
VIOLATION_QUERIES: Mapping[str, str] = {
    "entries of a transaction do not sum to zero": """
        SELECT transaction_id FROM entries GROUP BY transaction_id HAVING sum(amount) <> 0 OR count(*) < 2""",
    "a transaction has no entries": """
        SELECT t.id FROM transactions t WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.transaction_id = t.id)""",
    "a balance differs from the sum of its entries": """
        SELECT a.id FROM accounts a LEFT JOIN (SELECT account_id, sum(amount) AS total, count(*) AS n, max(seq) AS last
        FROM entries GROUP BY account_id) e ON e.account_id = a.id
        WHERE a.balance <> coalesce(e.total, 0) OR a.seq <> coalesce(e.n, 0) OR a.seq <> coalesce(e.last, 0)""",
    "the balance_after chain is broken": """
        SELECT account_id FROM (SELECT account_id, balance_after,
        sum(amount) OVER (PARTITION BY account_id ORDER BY seq) AS running FROM entries) chain
        WHERE balance_after <> running""",
    # Of an account with an overdraft only the current balance: its limit may have been lowered.
    "a customer's balance is below the overdraft limit": """
        SELECT a.id FROM accounts a LEFT JOIN entries e ON e.account_id = a.id
        AND e.balance_after < 0 AND a.overdraft_limit IS NULL
        WHERE a.kind = 'customer' AND (e.seq IS NOT NULL OR a.balance < -coalesce(a.overdraft_limit, 0))""",
    "reversals exceed their transaction": """
        SELECT r.reverses FROM (SELECT reverses, sum(amount) AS total FROM transactions
        WHERE reverses IS NOT NULL GROUP BY reverses) r LEFT JOIN transactions t ON t.id = r.reverses
        WHERE r.total > coalesce(t.amount, 0)""",
    "held money differs from the active holds": """
        SELECT a.id FROM accounts a WHERE a.held <>
        (SELECT coalesce(sum(h.amount), 0) FROM holds h WHERE h.account_id = a.id AND h.status = 'active')""",
    "balances of a currency do not sum to zero": """
        SELECT currency FROM accounts GROUP BY currency HAVING sum(balance) <> 0""",
}


async def broken_invariants(connection: AsyncConnection) -> list[str]:
    """Check the whole ledger; return a line with up to three examples for every violated invariant."""
    broken = []
    for violation, query in VIOLATION_QUERIES.items():
        found = (await connection.scalars(text(query))).fetchmany(3)
        if found:
            broken.append(f"{violation}: {', '.join(str(example) for example in found)}")
    return broken
