-- The first page of an account's statement, as transaction-service selects it.
\set a random(1, :accounts)
SELECT e.transaction_id, t.type, e.seq, e.amount, e.balance_after, e.counterparty, t.reference, e.created_at FROM entries e JOIN transactions t ON t.id = e.transaction_id WHERE e.account_id = bench_account(:a) AND e.seq > 0 ORDER BY e.seq LIMIT 250;
