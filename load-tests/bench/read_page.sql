-- The newest 50 transactions of an account with their entries, as transaction-service selects them.
\set a random(1, :accounts)
SELECT array_agg(id) AS ids, array_agg(party) AS parties FROM (SELECT t.*, unnest(ARRAY[t.from_account, t.to_account]) AS party FROM (SELECT t.* FROM transactions t JOIN entries e ON e.transaction_id = t.id WHERE e.account_id = bench_account(:a) ORDER BY e.transaction_id DESC LIMIT 50) AS t) AS page \gset
SELECT e.*, a.owner FROM entries e LEFT JOIN accounts a ON a.id = e.account_id JOIN unnest(:parties::uuid[], :ids::uuid[]) AS k (account_id, transaction_id) ON k.account_id = e.account_id AND k.transaction_id = e.transaction_id ORDER BY e.amount;
